import keras
import numpy as np
import pytest
from keras import ops

from kgen.models import PixelCNN
from kgen.models.autoregressive.distributions import scale
from kgen.training.step import compile_function


def random_model(image_shape, scale=0.4, **arguments):
    """A model whose outputs depend on everything they can depend on."""
    keras.utils.set_random_seed(0)
    model = PixelCNN(image_shape, **{"filters": 12, "num_layers": 2, **arguments})
    rng = np.random.default_rng(0)
    for weight in model.network.weights:
        weight.assign(rng.normal(size=weight.shape) * scale)
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            {"image_shape": (6, 5, 1), "num_levels": 4, "first_kernel_size": 5},
            marks=pytest.mark.slow,
        ),
        {"image_shape": (3, 4, 3), "num_levels": 3, "num_classes": 3, "kernel_size": 5},
    ],
    ids=["grey", "colour"],
)
def test_the_sampler_draws_what_the_whole_network_would(arguments, recompute):
    model = random_model(**arguments)
    seeds = np.arange(9, dtype="int32")
    labels = None if model.num_classes is None else seeds % model.num_classes
    images = model.generate(seeds=seeds, labels=labels, temperature=0.7)
    np.testing.assert_array_equal(images, recompute(model, seeds, labels, temperature=0.7))
    assert len(np.unique(images)) == model.num_levels


def test_classes_matter_in_every_block():
    model = random_model((4, 4, 1), num_levels=4, num_classes=2)
    x = np.zeros((2, 4, 4, 12), "float32")
    for block in model.network.blocks:
        y = ops.convert_to_numpy(block(x, np.eye(2, dtype="float32")))
        assert (y[0] != y[1]).any()


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_pixel_sees_those_before_it_but_for_the_blind_spot(channels, depends_on):
    """3 x 3 kernels: with every row upwards one column more to the right, and no more."""
    model = random_model(  # of many filters: a ReLU that is 0 lets no gradient through
        (5, 4, channels), filters=24, num_layers=4, num_levels=2, first_kernel_size=3
    )
    found = depends_on(model)
    row, column, channel, i, j, c = np.indices(found.shape)
    up, right = row - i, j - column
    above = (up > 0) & (right <= up)
    left = (up == 0) & ((right < 0) | ((right == 0) & (c < channel)))
    np.testing.assert_array_equal(found, above | left)
    blind = (up > 0) & (right > up)
    assert blind.any() and not found[blind].any()


def test_a_wide_first_kernel_narrows_the_blind_spot(depends_on):
    model = random_model((5, 5, 1), num_layers=5, num_levels=2, first_kernel_size=7)
    found = depends_on(model)
    row, column, _, i, j, _ = np.indices(found.shape)
    up, right = row - i, j - column
    # One column per row beyond the first, which lets it see three.
    expected = ((up > 0) & (right <= up + 2)) | ((up == 0) & (right < 0))
    np.testing.assert_array_equal(found, expected)


def test_every_level_has_its_grey_whoever_rounds():
    """Some levels lie half-way between two greys, such as 7.5: level 1 of 35."""
    model = random_model((2, 2, 1), num_layers=1)
    for num_levels in (2, 11, 31, 35, 256):
        model.num_levels = num_levels
        levels = np.arange(num_levels, dtype="int32")
        expected = [(510 * k + num_levels - 1) // (2 * num_levels - 2) for k in range(num_levels)]
        images = model.to_images(scale(levels, num_levels))
        np.testing.assert_array_equal(ops.convert_to_numpy(images), expected)

        def convert(levels, num_levels=num_levels):
            return model.to_images(scale(levels, num_levels))

        compiled = compile_function(model, convert, jit_compile=True)
        images = compiled(ops.convert_to_tensor(levels))
        np.testing.assert_array_equal(ops.convert_to_numpy(images), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            {"image_shape": (2, 2, 1), "num_levels": 2, "binarization": "threshold"},
            marks=pytest.mark.slow,
        ),
        {"image_shape": (2, 1, 1), "num_levels": 4, "num_classes": 2},
        {"image_shape": (2, 2, 3), "num_levels": 2},
    ],
    ids=["binary", "levels", "colour"],
)
def test_probabilities_sum_to_one(arguments, total_probability):
    np.testing.assert_allclose(total_probability(random_model(**arguments)), 1, atol=1e-5)


@pytest.mark.slow
def test_on_jax(run_tests_on_jax):
    run_tests_on_jax(__file__, "sampler and colour or but_for_the_blind_spot and 3")


@pytest.mark.slow
def test_mixed_precision():
    model = random_model((3, 2, 1), num_levels=4, num_classes=2, dtype="mixed_bfloat16")
    model.compile()
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 2, 1), "uint8")
    history = model.fit(images, np.arange(8) % 2, batch_size=8, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert {weight.dtype for weight in model.trainable_variables} == {"float32"}
    assert model.generate(2, labels=0).dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 7}, "filters must divide by 2. Received: filters=7"),
        ({"filters": 8, "image_shape": (4, 4, 3)}, "must divide by 6. Received: filters=8"),
        ({"kernel_size": 4}, "kernel_size must be odd.*Received: kernel_size=4"),
        ({"first_kernel_size": 1}, "3 or more.*Received: first_kernel_size=1"),
        ({"num_layers": 0}, "Received: num_layers=0"),
        ({"num_levels": 1}, "Received: num_levels=1"),
        ({"num_levels": 4.0}, "2 to 256. Received: num_levels=4.0"),
        ({"num_layers": 1.5}, "Received: num_layers=1.5"),
        ({"binarization": "dynamc"}, "Did you mean 'dynamic'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelCNN(**{"image_shape": (4, 4, 1), **arguments})
