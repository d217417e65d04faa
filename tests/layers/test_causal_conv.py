"""`CausalConv2D`: a layer as Keras has them, a masked convolution, and one pixel by pixel."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src import testing

from kgen.layers import CausalConv2D
from kgen.layers.causal_conv import OWN_ROW, channel_groups, held_kernels

GROUPS = {"in_groups": channel_groups(3, 3), "out_groups": channel_groups(6, 3)}


@pytest.mark.parametrize(
    "arguments, num_weights",
    [
        ({"kernel_size": 3}, 3),
        ({"kernel_size": (5, 3), "own_row": "nothing"}, 2),
        ({"kernel_size": (1, 3), "own_row": "all", "use_bias": False}, 1),
        ({"kernel_size": (3, 3), "own_row": "left", "kernel_initializer": "ones", **GROUPS}, 3),
    ],
    ids=["square", "nothing", "all", "left"],
)
def test_as_keras_tests_a_layer(arguments, num_weights):
    testing.TestCase().run_layer_test(
        CausalConv2D,
        init_kwargs={"filters": 6, **arguments},
        input_shape=(2, 4, 5, 3),
        expected_output_shape=(2, 4, 5, 6),
        expected_num_trainable_weights=num_weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=False,
    )


def filled(kernel_size, own_row):
    """A layer with random weights, and images."""
    layer = CausalConv2D(6, kernel_size, own_row, **GROUPS)
    layer.build((None, None, None, 3))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer, rng.normal(size=(2, 6, 7, 3)).astype("float32")


both = pytest.mark.parametrize(
    "kernel_size, own_row", [(size, row) for size in ((3, 5), (5, 3)) for row in OWN_ROW]
)


@both
def test_it_is_a_masked_convolution(kernel_size, own_row):
    """Section 3.4 of the paper: weights right of the pixel and below it are 0, and at the pixel
    those from later channels (mask B) or from its own too (mask A)."""
    layer, x = filled(kernel_size, own_row)
    height, width = kernel_size
    kernel = np.zeros((height, width, 3, 6), "float32")
    kernel[: height // 2] = ops.convert_to_numpy(layer.above_kernel)
    if own_row != "nothing":
        own = ops.convert_to_numpy(layer.own_kernel).reshape(-1, 3, 6).copy()
        inputs, outputs = np.arange(3)[:, None], np.arange(6) // 2
        if own_row == "left":
            own[-1] *= inputs < outputs
        if own_row == "pixel":
            own[-1] *= inputs <= outputs
        kernel[height // 2, : len(own)] = own
    expected = ops.conv(x, kernel, padding="same") + layer.bias
    found = ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, ops.convert_to_numpy(expected), atol=1e-4)


@both
def test_by_rows_and_pixels_it_is_the_same(kernel_size, own_row):
    layer, x = filled(kernel_size, own_row)
    expected = ops.convert_to_numpy(layer(x))
    above, left = kernel_size[0] // 2, kernel_size[1] // 2
    padded = np.pad(x, ((0, 0), (above, 0), (left, 0), (0, 0)))
    for i in range(6):
        rows = padded[:, i : i + above + (own_row == "all"), left:]
        row = ops.convert_to_numpy(layer.rows(rows)).copy()
        if own_row in ("left", "pixel"):
            for j in range(7):
                taps = [padded[:, i + above, j + k] for k in range(left + 1)]
                row[:, j] += ops.convert_to_numpy(layer.pixel(taps, biased=False))
        np.testing.assert_allclose(row, expected[:, i], atol=1e-4)


def test_it_begins_as_glorot_says():
    """Of all taps together, and both weights differ; an initializer is made anew for each."""
    keras.utils.set_random_seed(0)
    layers = [
        CausalConv2D(8, 3),
        CausalConv2D(8, 3, kernel_initializer=keras.initializers.HeNormal()),
    ]
    for layer in layers:
        layer.build((None, 4, 4, 8))
        weights = [ops.convert_to_numpy(w).ravel() for w in (layer.above_kernel, layer.own_kernel)]
        assert (weights[0][:128] != weights[1][:128]).all()
    limit = (6 / (5 * 16)) ** 0.5
    for weight in (layers[0].above_kernel, layers[0].own_kernel):
        largest = np.abs(ops.convert_to_numpy(weight)).max()
        assert 0.95 * limit < largest <= limit
    config = layers[1].get_config()
    assert config["kernel_initializer"]["class_name"] == "HeNormal"
    assert CausalConv2D.from_config(config).get_config() == config


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kernel_size": 4}, "odd int, or two.*Received: kernel_size=4"),
        ({"kernel_size": (3, 2)}, r"odd int, or two.*Received: kernel_size=\(3, 2\)"),
        ({"kernel_size": (3, 3, 3)}, "odd int, or two"),
        ({"kernel_size": 3, "own_row": "lft"}, "Did you mean 'left'"),
        ({"kernel_size": (1, 3), "own_row": "nothing"}, "must have rows above it"),
        ({"kernel_size": 3, "filters": 0}, "Received: filters=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CausalConv2D(**{"filters": 4, **arguments})


def test_a_sampler_holds_what_is_the_same_for_all_pixels():
    layer, x = filled((1, 3), "pixel")
    layer.shares = 3
    taps = [x[:, 0, 0], x[:, 0, 1]]
    expected = ops.convert_to_numpy(layer.pixel(taps))
    weights = layer.own_kernel
    with held_kernels(layer):
        weights.assign(weights + 1)  # what is held was computed before
        np.testing.assert_array_equal(layer.pixel(taps), expected)
        parts = [ops.convert_to_numpy(layer.pixel(taps, share=share)) for share in range(3)]
        np.testing.assert_allclose(np.concatenate(parts, axis=-1), expected, atol=1e-6)
    assert np.abs(ops.convert_to_numpy(layer.pixel(taps)) - expected).max() > 0.1
