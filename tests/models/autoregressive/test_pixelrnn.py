import keras
import numpy as np
import pytest
from keras import ops

from kgen.models import PixelRNN
from kgen.models.autoregressive.pixelrnn import DiagonalBiLSTM, RowLSTM, shift_down, skew, unskew

RECURRENCES = ("row_lstm", "diagonal_bilstm")
both = pytest.mark.parametrize("recurrence", RECURRENCES)
slow = pytest.mark.slow


def random_model(image_shape, scale=0.4, **arguments):
    """A model whose outputs depend on everything they can depend on."""
    keras.utils.set_random_seed(0)
    model = PixelRNN(image_shape, **{"filters": 12, "num_layers": 1, **arguments})
    rng = np.random.default_rng(0)
    for weight in model.network.weights:
        weight.assign(rng.normal(size=weight.shape) * scale)
    return model


# Layers -------------------------------------------------------------------------------


def test_skewing_against_numpy():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype("float32")
    expected = np.full((2, 4, 6, 5), 7.0, "float32")
    for i in range(4):
        expected[:, i, i : i + 3] = x[:, i]
    skewed = ops.convert_to_numpy(skew(x, 7.0))
    np.testing.assert_array_equal(skewed, expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(unskew(skewed)), x)
    anything = np.random.default_rng(1).normal(size=(2, 4, 6, 5)).astype("float32")
    unskewed = np.stack([anything[:, i, i : i + 3] for i in range(4)], axis=1)
    np.testing.assert_array_equal(ops.convert_to_numpy(unskew(anything)), unskewed)
    for shape in ((1, 1, 4, 2), (1, 4, 1, 2), (1, 1, 1, 1)):
        x = np.ones(shape, "float32")
        assert skew(x).shape == (1, shape[1], shape[1] + shape[2] - 1, shape[3])
        np.testing.assert_array_equal(ops.convert_to_numpy(unskew(skew(x))), x)


def test_shifting_down():
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    shifted = ops.convert_to_numpy(shift_down(x, axis=1))
    np.testing.assert_array_equal(shifted[:, 1:], x[:, :-1])
    assert not shifted[:, 0].any()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(gates, c):
    """Equation 3, as printed: output, forget, input, content."""
    o, f, i, g = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def filled(layer, *shapes):
    """A layer with random weights, and arrays by the end of their paths."""
    layer(*(np.zeros(shape, "float32") for shape in shapes))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    return {w.path.partition("/")[2]: ops.convert_to_numpy(w) for w in layer.weights}


def test_row_lstm_against_numpy():
    layer = RowLSTM((4, 5, 1), 3, filters=4, kernel_size=3)
    w = filled(layer, (2, 4, 5, 4), (2, 3))
    x = np.random.default_rng(1).normal(size=(2, 4, 5, 4)).astype("float32")
    one_hot = np.eye(3, dtype="float32")[[2, 0]]
    expected = np.zeros_like(x)
    h = c = np.zeros((2, 5, 2))
    for i in range(4):
        row, above = np.pad(x[:, i], ((0, 0), (1, 0), (0, 0))), np.pad(h, ((0, 0), (1, 1), (0, 0)))
        gates = np.zeros((2, 5, 8)) + (one_hot @ w["label/kernel"])[:, None]
        for j in range(5):
            gates[:, j] += w["input_to_state/bias"]
            for k in range(2):  # the pixel to the left and the pixel: mask B
                gates[:, j] += row[:, j + k] @ np.split(w["input_to_state/own_kernel"], 2)[k]
            for k in range(3):
                gates[:, j] += above[:, j + k] @ np.split(w["state_to_state/own_kernel"], 3)[k]
        h, c = step(gates, c)
        expected[:, i] = x[:, i] + h @ w["out/own_kernel"] + w["out/bias"]
    for training in (False, True):
        found = ops.convert_to_numpy(layer(x, one_hot, training=training))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_diagonal_bilstm_against_numpy():
    """Pixel by pixel, without skewing: each from the one beside it and the one above it."""
    height, width = 4, 5
    layer = DiagonalBiLSTM((height, width, 1), 3, filters=4)
    w = filled(layer, (2, height, width, 4), (2, 3))
    x = np.random.default_rng(1).normal(size=(2, height, width, 4)).astype("float32")
    one_hot = np.eye(3, dtype="float32")[[2, 0]]

    def direction(name, x):
        h, c = np.zeros((2, height, width, 2)), np.zeros((2, height, width, 2))
        for i in range(height):
            for j in range(width):
                gates = x[:, i, j] @ w[f"{name}/input_to_state/own_kernel"]
                gates += w[f"{name}/input_to_state/bias"] + one_hot @ w[f"{name}/label/kernel"]
                if j:
                    gates += h[:, i, j - 1] @ w[f"{name}/left/kernel"]
                if i:
                    gates += h[:, i - 1, j] @ w[f"{name}/above/kernel"]
                h[:, i, j], c[:, i, j] = step(gates, c[:, i, j - 1] if j else 0)
        return h

    h = direction("rightwards", x)
    h[:, 1:] += direction("leftwards", x[:, :, ::-1])[:, :-1, ::-1]
    expected = x + h @ w["out/own_kernel"] + w["out/bias"]
    for training in (False, True):
        found = ops.convert_to_numpy(layer(x, one_hot, training=training))
        np.testing.assert_allclose(found, expected, atol=1e-5)


# Model --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            {"image_shape": (6, 5, 1), "num_layers": 2, "num_levels": 4, "first_kernel_size": 5},
            marks=slow,
        ),
        {"image_shape": (3, 4, 3), "num_levels": 3, "num_classes": 3, "kernel_size": 5},
    ],
    ids=["grey", "colour"],
)
def test_the_sampler_draws_what_the_whole_network_would(recurrence, arguments, recompute):
    model = random_model(recurrence=recurrence, **arguments)
    seeds = np.arange(9, dtype="int32")
    labels = None if model.num_classes is None else seeds % model.num_classes
    images = model.generate(seeds=seeds, labels=labels, temperature=0.7)
    np.testing.assert_array_equal(images, recompute(model, seeds, labels, temperature=0.7))
    assert len(np.unique(images)) == model.num_levels
    if labels is not None:
        others = model.generate(seeds=seeds, labels=(labels + 1) % 3, temperature=0.7)
        assert (images != others).any()


@pytest.mark.parametrize("channels", [pytest.param(1, marks=slow), 3])
def test_row_lstm_sees_its_triangle(channels, depends_on):
    """One layer, kernels of 3: two columns left, and with every row up one more on each side."""
    model = random_model((4, 6, channels), recurrence="row_lstm", num_levels=2, first_kernel_size=3)
    found = depends_on(model)
    row, column, channel, i, j, c = np.indices(found.shape)
    up, right = row - i, j - column
    above = (up > 0) & (-up - 2 <= right) & (right <= up)
    left = (up == 0) & (right >= -2) & ((right < 0) | ((right == 0) & (c < channel)))
    np.testing.assert_array_equal(found, above | left)


@pytest.mark.parametrize("channels", [pytest.param(1, marks=slow), 3])
def test_diagonal_bilstm_sees_all_before(channels, depends_on):
    """All, but for the last channel of the last pixel of the row above: see `DiagonalBiLSTM`."""
    model = random_model((3, 5, channels), num_levels=2, first_kernel_size=3)
    found = depends_on(model)
    before = np.tri(15 * channels, k=-1, dtype=bool).reshape(found.shape)
    row, column, _, i, j, c = np.indices(found.shape)
    hidden = (row - i == 1) & (j == 4) & (c == channels - 1) & (column < 3)
    np.testing.assert_array_equal(found, before & ~hidden)


@both
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            {"image_shape": (2, 2, 1), "num_levels": 2, "binarization": "threshold"}, marks=slow
        ),
        {"image_shape": (2, 1, 1), "num_levels": 4, "num_classes": 2},
        {"image_shape": (2, 2, 3), "num_levels": 2},
    ],
    ids=["binary", "levels", "colour"],
)
def test_probabilities_sum_to_one(recurrence, arguments, total_probability):
    model = random_model(recurrence=recurrence, **arguments)
    np.testing.assert_allclose(total_probability(model), 1, atol=1e-5)


@slow
def test_on_jax(run_tests_on_jax):
    run_tests_on_jax(__file__, "sampler and colour or sees and 3")


@slow
def test_what_is_exported_draws_the_same_pixels(exported_alike):
    """The Row LSTM; tests/zoo exports the other."""
    arguments = {"recurrence": "row_lstm", "filters": 8, "num_levels": 4}
    equal = exported_alike(random_model((4, 4, 1), **arguments))
    assert {("saved_model", "generate_xla"), ("onnx", "generate")} < set(equal)
    assert set(equal.values()) == {1.0}, equal


@slow
@both
def test_mixed_precision(recurrence):
    arguments = {"num_levels": 4, "num_classes": 2, "dtype": "mixed_bfloat16"}
    model = random_model((3, 2, 1), recurrence=recurrence, **arguments)
    model.compile()
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 2, 1), "uint8")
    history = model.fit(images, np.arange(8) % 2, batch_size=8, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert {weight.dtype for weight in model.trainable_variables} == {"float32"}
    assert model.generate(2, labels=0).dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recurrence": "row"}, "Unknown recurrence 'row'"),
        ({"filters": 7}, "filters must divide by 2. Received: filters=7"),
        ({"kernel_size": 4}, "kernel_size must be odd.*Received: kernel_size=4"),
        ({"num_layers": 0}, "Received: num_layers=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelRNN(**{"image_shape": (4, 4, 1), **arguments})
