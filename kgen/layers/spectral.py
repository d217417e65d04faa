"""Layers whose weights are divided by their largest singular value.

Miyato et al., "Spectral normalization for generative adversarial networks" (ICLR 2018; arXiv
1802.05957), section 2.1 and algorithm 1: a layer whose matrix W has the spectral norm 1 stretches
no difference of its inputs, so that a discriminator of such layers has bounded slopes. The norm is
followed by one step of power iteration in every training pass.

`keras.layers.SpectralNormalization` writes the divided weights over the trained ones; here the
division is part of the graph, so that gradients go through it (their equation 10), and the weights
are the optimizer's alone.
"""

import keras
from keras import layers, ops

from kgen.checks import check_ints, check_names
from kgen.configurable import Configurable


class _Spectral(Configurable, layers.Layer):
    """Keeps a kernel and an estimate of its first left singular vector, `u` of the paper."""

    def _add_weights(self, shape):
        # In float32 whatever the layer computes in: a norm is a sum over all weights.
        self.kernel = self.add_weight(
            shape, "glorot_uniform", "float32", name="kernel", autocast=False
        )
        self.u = self.add_weight(
            *((shape[-1], 1), keras.initializers.RandomNormal(), "float32"),
            trainable=False,
            autocast=False,
            name="u",
            aggregation="only_first_replica",  # it follows from the weights, alike on all
        )
        self.bias = self.add_weight(shape[-1:], "zeros", name="bias") if self.use_bias else None

    def normalized_kernel(self, training=False):
        """The kernel over its spectral norm, float32. Training moves `u`."""
        transposed = ops.reshape(self.kernel, (-1, self.kernel.shape[-1]))
        fixed = ops.stop_gradient(transposed)
        v = _unit(ops.matmul(fixed, self.u))
        u = _unit(ops.matmul(ops.transpose(fixed), v))
        if training:
            self.u.assign(u)
        sigma = ops.sum(ops.matmul(transposed, u) * v)
        norm = _initial_norm(*transposed.shape) if self.keep_norm else 1.0
        return self.kernel * (norm / ops.maximum(sigma, 1e-12))

    def _with_bias(self, x):
        return x if self.bias is None else x + ops.cast(self.bias, x.dtype)


def _initial_norm(inputs, units):
    """About the spectral norm of a matrix that Glorot's initializer makes: the edge of its spectrum
    is at (sqrt(inputs) + sqrt(units)) standard deviations (Marchenko and Pastur, 1967).
    """
    return (inputs**0.5 + units**0.5) * (2 / (inputs + units)) ** 0.5


def _unit(vector):
    return vector * ops.rsqrt(ops.sum(ops.square(vector)) + 1e-12)


@keras.saving.register_keras_serializable(package="kgen")
class SpectralDense(_Spectral):
    """A dense layer over the last axis whose matrix has the spectral norm 1.

    Args:
        units: Int.
        use_bias: Bool.
        keep_norm: Bool, whether the spectral norm is that of the weights at the beginning, about,
            in place of 1: Lee et al., "ViTGAN" (ICLR 2022; arXiv 2107.04589), section 3.1.
    """

    def __init__(self, units, use_bias=True, keep_norm=False, **kwargs):
        super().__init__(**kwargs)
        check_ints(1, units=units)

    def build(self, shape):
        self._add_weights((shape[-1], self.units))

    def call(self, x, training=False):
        kernel = ops.cast(self.normalized_kernel(training), self.compute_dtype)
        return self._with_bias(ops.matmul(x, kernel))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)


@keras.saving.register_keras_serializable(package="kgen")
class SpectralConv2D(_Spectral):
    """A convolution whose kernel, as a matrix with a row for each filter, has the spectral norm 1
    (Miyato et al., section 3).

    Args:
        filters: Int.
        kernel_size: Int, side of the kernel.
        strides: Int.
        padding: `"same"` or `"valid"`.
        use_bias: Bool.
        keep_norm: Bool, whether the spectral norm is that of the weights at the beginning, about,
            in place of 1: Lee et al., "ViTGAN" (ICLR 2022; arXiv 2107.04589), section 3.1.
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        strides=1,
        padding="same",
        use_bias=True,
        keep_norm=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_ints(1, filters=filters, kernel_size=kernel_size, strides=strides)
        check_names(padding=(padding, ("same", "valid")))

    def build(self, shape):
        self._add_weights((self.kernel_size, self.kernel_size, shape[-1], self.filters))

    def call(self, x, training=False):
        kernel = ops.cast(self.normalized_kernel(training), self.compute_dtype)
        return self._with_bias(ops.conv(x, kernel, self.strides, self.padding))

    def compute_output_shape(self, shape):
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        sides = [None if side is None else -(-(side - lost) // self.strides) for side in shape[1:3]]
        return (shape[0], *sides, self.filters)
