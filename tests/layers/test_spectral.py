"""Spectral normalisation against NumPy's singular values."""

import keras
import numpy as np
import pytest
from keras import ops

from kgen.layers.spectral import SpectralConv2D, SpectralDense
from kgen.training.step import input_gradient

RNG = np.random.default_rng(0)


def norm(kernel):
    return np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)


def layer_and_input(kind, **arguments):
    if kind == "dense":
        return SpectralDense(7, **arguments), RNG.normal(size=(4, 3, 12)).astype("float32")
    return (
        SpectralConv2D(6, strides=2, **arguments),
        RNG.normal(size=(4, 9, 8, 5)).astype("float32"),
    )


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_the_largest_singular_value_becomes_1(kind):
    layer, x = layer_and_input(kind)
    layer.build(x.shape)
    kernel = RNG.normal(0, 3, layer.kernel.shape).astype("float32")
    layer.kernel.assign(kernel)
    before = ops.convert_to_numpy(layer.u)
    layer(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.u), before)
    for _ in range(300):
        layer(x, training=True)
    assert (ops.convert_to_numpy(layer.u) != before).any()
    got = ops.convert_to_numpy(layer.normalized_kernel())
    np.testing.assert_allclose(got, kernel / norm(kernel), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.kernel), kernel)
    y = ops.convert_to_numpy(layer(x))
    expected = ops.matmul(x, got) if kind == "dense" else ops.conv(x, got, 2, "same")
    np.testing.assert_allclose(y, ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-5)
    assert tuple(y.shape) == layer.compute_output_shape(x.shape)


def test_gradients_go_through_the_division():
    """Miyato et al., equation 10: (g - (sum of g * W_sn) u v') / sigma."""
    layer, x = layer_and_input("dense", use_bias=False)
    layer.build(x.shape)
    for _ in range(300):
        layer(x, training=True)
    kernel = ops.convert_to_numpy(layer.kernel)
    sigma = norm(kernel)
    left, _, right = np.linalg.svd(kernel)
    weights = RNG.normal(size=kernel.shape).astype("float32")

    def objective(value):
        with keras.StatelessScope(state_mapping=[(layer.kernel, value)]):
            return ops.sum(layer.normalized_kernel() * weights)

    gradient = ops.convert_to_numpy(input_gradient(objective, ops.convert_to_tensor(kernel)))
    along = (weights * kernel / sigma).sum() * np.outer(left[:, 0], right[0])
    np.testing.assert_allclose(gradient, (weights - along) / sigma, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("units", [8, 300])
def test_the_norm_of_the_beginning_can_be_kept(units):
    keras.utils.set_random_seed(0)
    layer = SpectralDense(units, keep_norm=True)
    layer.build((1, 256))
    first = norm(ops.convert_to_numpy(layer.kernel))
    layer.kernel.assign(5 * layer.kernel)
    for _ in range(300):
        layer(np.zeros((1, 256), "float32"), training=True)
    kept = norm(ops.convert_to_numpy(layer.normalized_kernel()))
    assert kept == pytest.approx(first, rel=0.1)


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_configuration_and_precision(kind):
    layer, x = layer_and_input(kind, use_bias=False, keep_norm=True, dtype="mixed_bfloat16")
    assert ops.dtype(layer(x)) == "bfloat16"
    assert {variable.dtype for variable in layer.variables} == {"float32"}
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectralDense(0), "positive int.*units=0"),
        (lambda: SpectralConv2D(4, strides=0), "positive int.*strides=0"),
        (lambda: SpectralConv2D(4, padding="full"), "Unknown padding 'full'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_valid_padding():
    layer = SpectralConv2D(4, 3, padding="valid")
    assert tuple(layer(np.zeros((2, 9, 8, 1), "float32")).shape) == (2, 7, 6, 4)
    assert layer.compute_output_shape((None, 9, None, 1)) == (None, 7, None, 4)
