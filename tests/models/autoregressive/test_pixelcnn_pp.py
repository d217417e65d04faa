import inspect

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.models import PixelCNNpp
from kgen.training.step import Batch, input_gradient


def small(image_shape=(4, 4, 1), **arguments):
    """A model with random, not just initialised, weights."""
    keras.utils.set_random_seed(0)
    sizes = {"filters": 5, "num_blocks": 1, "num_mixtures": 3, "num_resolutions": 1}
    model = PixelCNNpp(image_shape, **{**sizes, **arguments})
    rng = np.random.default_rng(0)
    for variable in model.network.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.25)
    model.ema_network.set_weights(model.network.get_weights())
    return model


def batch_of(model, n=6):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (n, *model.image_shape), "uint8")
    labels = None if model.num_classes is None else np.arange(n, dtype="int32") % model.num_classes
    return images, labels


slow = pytest.mark.slow


# Sampler ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_shape", "arguments", "temperature"),
    [
        pytest.param((8, 12, 1), {"num_resolutions": 3, "num_levels": 4}, 1.0, marks=slow),
        pytest.param((8, 8, 3), {"num_resolutions": 3, "num_classes": 3}, 0.7, marks=slow),
        # Of the coarsest level two rows and three columns: state goes along and down.
        ((4, 6, 3), {"num_resolutions": 2, "num_blocks": 2}, 1.3),
        pytest.param((3, 5, 1), {"num_levels": 2, "num_classes": 2}, 1.0, marks=slow),
        pytest.param((2, 2, 4), {"num_resolutions": 2, "num_mixtures": 1}, 1.0, marks=slow),
    ],
    ids=str,
)
def test_the_cached_sampler_is_the_whole_network(image_shape, arguments, temperature, recompute):
    model = small(image_shape, **arguments)
    seeds = np.arange(5, dtype="int32")
    labels = None if model.num_classes is None else seeds % model.num_classes
    expected = recompute(model, seeds, labels, temperature)
    got = model.generate(seeds=seeds, labels=labels, temperature=temperature)
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(got)) > 1
    if labels is not None:
        others = (labels + 1) % model.num_classes
        other = model.generate(seeds=seeds, labels=others, temperature=temperature)
        assert (other != got).any(), "fifteen black or white pixels may be alike"


TRAIN = """
import sys
import keras, numpy as np
import kgen.models
kgen.models.registered()
model = keras.saving.load_model(sys.argv[1])
seeds = np.arange(5, dtype="int32")
generated = model.generate(seeds=seeds, labels=seeds % 3, temperature=0.7)
images = np.random.default_rng(1).integers(0, 256, (6, *model.image_shape), "uint8")
nats = model.negative_log_likelihood(images, np.arange(6) % 3)
model.fit(images, np.arange(6, dtype="int32") % 3, batch_size=6, epochs=2, verbose=0)
average = [keras.ops.convert_to_numpy(v) for v in model.ema_network.variables]
np.savez(sys.argv[2], *average, generated=generated, nats=nats)
"""


@slow
def test_both_backends_agree(tmp_path, on_backend):
    model = small((4, 4, 3), num_classes=3)  # tests/zoo draws with two resolutions on JAX
    model.compile()
    model.save(tmp_path / "model.keras")
    out = {}
    for backend in ("tensorflow", "jax"):
        path = tmp_path / f"{backend}.npz"
        on_backend(backend, TRAIN, tmp_path / "model.keras", path)
        with np.load(path) as arrays:
            out[backend] = dict(arrays)
    ours, theirs = out["tensorflow"], out["jax"]
    np.testing.assert_array_equal(ours["generated"], theirs["generated"])
    # The same dropout too: after two steps with it the weights are the same.
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


@slow
def test_exported_samplers_agree(tmp_path, tensorflow_only):
    """Of three resolutions and colours; tests/zoo exports two and grey."""
    import onnxruntime

    import export

    model = small((4, 4, 3), num_resolutions=3, filters=4)
    # XLA and the C API are proven in tests/zoo.
    export.export(model, tmp_path / "artifact", formats=["onnx"], progress=False)
    seeds = np.arange(6, dtype="int32")
    session = onnxruntime.InferenceSession(tmp_path / "artifact" / "onnx" / "generate.onnx")
    (images,) = session.run(["image"], {"seed": seeds})
    np.testing.assert_array_equal(images, model.generate(seeds=seeds))


def test_completion_keeps_what_is_known(recompute):
    """Known pixels stay, of all colours, and the others are drawn given these."""
    model = small((3, 4, 3), num_resolutions=1)
    images, _ = batch_of(model)
    seeds = np.arange(6, dtype="int32")
    mask = np.zeros((3, 4), "uint8")
    mask[0], mask[1, :2] = 1, 1
    completed = model.complete(images, mask, seeds=seeds)
    np.testing.assert_array_equal(completed[:, mask == 1], images[:, mask == 1])
    expected = recompute(model, seeds, images=images, mask=mask)
    np.testing.assert_array_equal(completed, expected)


# Likelihood ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_shape", "arguments"),
    [
        ((4, 8, 3), {"num_resolutions": 3, "num_blocks": 2}),
        pytest.param((4, 4, 1), {"num_blocks": 2}, marks=slow),
    ],
    ids=str,
)
def test_a_pixel_depends_on_all_pixels_before_it_and_on_no_other(image_shape, arguments):
    model = small(image_shape, **arguments)
    height, width, channels = image_shape
    count = height * width
    # All pixels at once: row i of the batch asks for the parameters of pixel i.
    x = np.random.default_rng(0).uniform(-1, 1, (1, *image_shape)).astype("float32")
    x = ops.convert_to_tensor(np.repeat(x, count, axis=0))
    weights = np.random.default_rng(1).normal(size=model.distribution.num_parameters)
    pick = np.eye(count).reshape(count, height, width, 1) * weights

    def chosen(x):
        return model.network(x) * pick.astype("float32")

    gradient = ops.convert_to_numpy(input_gradient(chosen, x)).reshape(count, count, channels)
    before = np.tri(count, k=-1, dtype=bool)
    assert (gradient[~before] == 0).all()
    if model.num_resolutions == 3:  # it sees the whole image; else the left ones above are far
        assert (gradient[before] != 0).all()
    near = [(i, i - step) for i in range(count) for step in (1, width) if i % width and i >= step]
    assert all((gradient[i, j] != 0).all() for i, j in near)


@pytest.mark.parametrize(
    ("image_shape", "num_levels", "num_resolutions"), [((2, 2, 1), 4, 2), ((1, 2, 3), 2, 1)]
)
def test_the_probabilities_of_all_images_sum_to_one(
    image_shape, num_levels, num_resolutions, total_probability
):
    model = small(
        image_shape,
        num_levels=num_levels,
        num_resolutions=num_resolutions,
        binarization="threshold",
        num_classes=2,
    )
    np.testing.assert_allclose(total_probability(model), 1, atol=1e-5)


def test_a_label_changes_what_is_likely():
    model = small(num_classes=3)
    images = np.repeat(batch_of(model, 1)[0], 3, axis=0)
    assert len(set(ops.convert_to_numpy(model.log_prob(images, np.arange(3))).tolist())) == 3


# Training -----------------------------------------------------------------------------


def test_dropout_is_for_training_and_follows_the_seeds():
    model = small()
    images, _ = batch_of(model)
    images = ops.convert_to_tensor(images)

    def loss(training, seed):
        batch = Batch(images, None, kgen.random.row_seeds(seed, 6))
        return float(ops.convert_to_numpy(model.objective(batch, training)[0]))

    first, still = loss(True, 0), loss(False, 0)
    assert loss(True, 0) == first and loss(False, 1) == still
    assert len({first, still, loss(True, 1)}) == 3
    model = small(dropout=0.0)
    parts = [
        float(ops.convert_to_numpy(model.objective(Batch(images, None, None), training)[0]))
        for training in (True, False)
    ]
    assert parts[0] == pytest.approx(parts[1], rel=1e-6)


def test_dropout_drops_its_share_and_keeps_the_mean():
    block = small(dropout=0.25).network.level.down_u[0]
    seen = []
    block.second = lambda y: seen.append(ops.convert_to_numpy(y)) or ops.zeros((128, 4, 4, 10))
    x = np.random.default_rng(0).normal(size=(128, 4, 4, 5)).astype("float32")
    seeds = kgen.random.row_seeds(0, 128)
    block.call(x)
    block.call(x, seeds=seeds)
    whole, dropped = seen
    zeros = dropped == 0
    assert zeros.mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(dropped[~zeros], whole[~zeros] / 0.75, rtol=1e-5)


def test_every_block_drops_others():
    model = small(num_blocks=2, num_classes=2, num_resolutions=2)
    blocks = [
        layer for layer in model.network._flatten_layers() if type(layer).__name__ == "GatedBlock"
    ]
    assert len(blocks) == 2 * (2 * 2 + 2 + 3)
    assert len({block.stream for block in blocks}) == len(blocks)
    assert min(block.stream for block in blocks) > 1, "stream 1 binarises"


def test_all_but_training_uses_the_average():
    model = small(dropout=0.0)
    images, _ = batch_of(model)
    batch = Batch(ops.convert_to_tensor(images), None, kgen.random.row_seeds(0, 6))

    def results():
        loss = [float(ops.convert_to_numpy(model.objective(batch, t)[0])) for t in (True, False)]
        return *loss, model.negative_log_likelihood(images).sum(), model.generate(3)

    before = results()
    model.network.set_weights([0.5 * w for w in model.network.get_weights()])
    trained = results()
    assert trained[0] != before[0] and trained[1:3] == before[1:3]
    np.testing.assert_array_equal(trained[3], before[3])
    model.ema_network.set_weights(model.network.get_weights())
    averaged = results()
    assert averaged[1] != before[1] and averaged[2] != before[2]
    assert (averaged[3] != before[3]).any()


@slow
def test_it_learns():
    """Two images, told apart by their first pixel, are learned by heart."""
    keras.utils.set_random_seed(0)
    model = PixelCNNpp(
        (4, 4, 1), filters=8, num_blocks=1, num_mixtures=2, num_resolutions=2, dropout=0.0
    )
    images = np.zeros((2, 4, 4, 1), "uint8")
    images[1] = np.arange(0, 256, 17, dtype="uint8").reshape(4, 4, 1)
    images = np.repeat(images, 8, axis=0)
    model.compile(learning_rate=1e-2)
    before = model.evaluate(images, verbose=0, return_dict=True)["bits_per_dimension"]
    model.fit(images, batch_size=16, epochs=100, verbose=0)
    after = model.evaluate(images, verbose=0, return_dict=True)["bits_per_dimension"]
    assert before > 4 and after < 0.6 * before


@slow
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_precision(dtype):
    model = small((4, 4, 1), num_resolutions=2, num_classes=3, dtype=dtype)
    images, labels = batch_of(model)
    model.compile()
    history = model.fit(images, labels, batch_size=6, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert model.generate(2, labels=0).dtype == np.uint8


# Arguments ----------------------------------------------------------------------------


def test_config():
    arguments = {
        "image_shape": [2, 2, 3],
        "num_classes": 3,
        "filters": 4,
        "num_blocks": 2,
        "num_mixtures": 3,
        "num_resolutions": 1,
        "dropout": 0.25,
        "ema_decay": 0.5,
        "num_levels": 8,
        "binarization": "threshold",
        "seed": 7,
    }
    assert arguments.keys() == inspect.signature(PixelCNNpp).parameters.keys() - {"kwargs"}
    config = PixelCNNpp(**arguments).get_config()
    assert {name: config[name] for name in arguments} == arguments
    assert PixelCNNpp.from_config(config).get_config() == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (6, 8, 1)}, r"num_resolutions=3 .* divide by 4.*\(6, 8, 1\)"),
        ({"image_shape": (8, 7, 1), "num_resolutions": 2}, "divide by 2"),
        ({"filters": 0}, "positive int. Received: filters=0"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"num_mixtures": 0.5}, "num_mixtures=0.5"),
        ({"num_resolutions": 0}, "num_resolutions=0"),
        ({"dropout": 1.0}, "below 1. Received: dropout=1.0"),
        ({"ema_decay": -0.1}, "ema_decay=-0.1"),
        ({"num_levels": 1}, "2 to 256. Received: num_levels=1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelCNNpp(**{"image_shape": (8, 8, 1), **arguments})
