"""Blocks of convolutional encoders and decoders."""

import keras
from keras import layers, ops


def feature_maps(image_shape):
    """Sides of the feature maps, the largest first: halved while they stay even and at least 4."""
    sides = [tuple(image_shape[:2])]
    while all(side % 2 == 0 and side >= 8 for side in sides[-1]):
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    return sides


def residual_block(x, filters):
    """(B, H, W, filters) to the same: two convolutions around which the input goes on."""
    y = layers.Activation("silu")(x)
    y = layers.Conv2D(filters, 3, padding="same")(y)
    y = layers.Activation("silu")(y)
    y = layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros")(y)
    return layers.Add()([x, y])


@keras.saving.register_keras_serializable(package="kgen")
class GroupNorm(layers.GroupNormalization):
    """Group normalisation of maps `[B, H, W, C]`, with a condition's shift and scale in one pass.

    Wu and He (ECCV 2018; arXiv 1803.08494). Each feature's mean and square over its map come first,
    those of a group from them, and all that follows is one factor and one summand for a feature: on
    a CPU much faster than Keras's layer, which lays the map out by groups.
    """

    def call(self, x, shift=None, scale=None):
        """`x * (1 + scale) + shift` of normalised `x`, where these, `[B, C]`, are given."""
        wide = ops.cast(x, "float32")
        features = x.shape[-1]
        mean, square = (
            ops.reshape(ops.mean(each, axis=(1, 2)), (-1, self.groups, features // self.groups))
            for each in (wide, ops.square(wide))
        )
        mean, square = (ops.mean(each, axis=-1, keepdims=True) for each in (mean, square))
        variance = ops.maximum(square - ops.square(mean), 0.0)  # rounding may put it below
        factor = ops.rsqrt(variance + self.epsilon)
        ones = ops.ones((features // self.groups,), "float32")
        factor, summand = (
            ops.reshape(each * ones, (-1, features)) for each in (factor, -mean * factor)
        )
        if self.scale:
            factor, summand = (each * ops.cast(self.gamma, "float32") for each in (factor, summand))
        if self.center:
            summand = summand + ops.cast(self.beta, "float32")
        if scale is not None:
            scale = 1 + ops.cast(scale, "float32")
            factor, summand = factor * scale, summand * scale
        if shift is not None:
            summand = summand + ops.cast(shift, "float32")
        wide = wide * factor[:, None, None] + summand[:, None, None]
        return ops.cast(wide, self.compute_dtype)
