"""Other numbers of pixels, by layers and functions that take maps of any height and width."""

import functools

import keras
import numpy as np
from keras import layers, ops

from kgen.checks import check_ints
from kgen.configurable import Configurable


@keras.saving.register_keras_serializable(package="kgen")
class PixelShuffle(Configurable, layers.Layer):
    """From `[B, H, W, C * factor**2]` to `[B, H * factor, W * factor, C]`: sub-pixel convolution,
    where a convolution comes before it.

    Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network" (CVPR 2016; arXiv 1609.05158), equation 4.

    Args:
        factor: Int.
    """

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        check_ints(1, factor=factor)

    def compute_output_shape(self, shape):
        batch, height, width, channels = shape
        sides = (side and side * self.factor for side in (height, width))
        return (batch, *sides, channels // self.factor**2)

    def call(self, x):
        factor, channels = self.factor, x.shape[-1] // self.factor**2
        _, height, width, _ = ops.shape(x)
        # One axis after the other, so that no tensor has more than five.
        x = ops.reshape(x, (-1, height, width, factor, factor * channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4))
        return ops.reshape(x, (-1, height * factor, width * factor, channels))


@keras.saving.register_keras_serializable(package="kgen")
class NearestUpsampling(PixelShuffle):
    """From `[B, H, W, C]` to `[B, H * factor, W * factor, C]`, every place repeated.

    As `keras.layers.UpSampling2D`, but for maps of any size it still says how many features there
    are, without which LiteRT knows no convolution.

    Args:
        factor: Int.
    """

    def compute_output_shape(self, shape):
        return super().compute_output_shape((*shape[:-1], shape[-1] * self.factor**2))

    def call(self, x):
        return super().call(ops.concatenate([x] * self.factor**2, axis=-1))


def padded_to(x, multiple):
    """Maps `[B, H, W, C]` whose sides are multiples, by mirroring what is at the right and the
    lower border.
    """
    for axis in (1, 2):
        size = ops.shape(x)[axis]
        if isinstance(size, int) and size % multiple == 0:
            continue
        whole = (size + multiple - 1) // multiple * multiple
        indices = ops.arange(whole, dtype="int32")
        mirrored = ops.maximum(2 * (size - 1) - indices, 0)
        x = ops.take(x, ops.where(indices < size, indices, mirrored), axis=axis)
    return x


def cut_to(x, height, width):
    """The upper left part of maps `[B, H, W, C]`."""
    return x[:, :height, :width]


def enlarged(x, factor):
    """Maps `[B, H, W, C]` as `[B, H * factor, W * factor, C]`, by bicubic interpolation.

    Keys, "Cubic convolution interpolation for digital image processing" (1981), a = -1/2, the
    border repeated: as Pillow enlarges, but for its borders.
    """
    if factor == 1:
        return x
    taps = _cubic_taps(factor)
    for axis in (1, 2):
        size = ops.shape(x)[axis]
        indices = ops.arange(size + 4, dtype="int32") - 2
        padded = ops.take(x, ops.clip(indices, 0, size - 1), axis=axis)
        parts = []
        for number in range(5):
            rows = slice(number, number - 4 or None)
            parts.append(padded[:, rows] if axis == 1 else padded[:, :, rows])
        phases = [
            sum(weight * part for weight, part in zip(phase, parts, strict=True) if weight)
            for phase in taps
        ]
        x = ops.stack(phases, axis=axis + 1)
        shape = [-1, *ops.shape(x)[1:]]
        shape[axis : axis + 2] = [size * factor]
        x = ops.reshape(x, shape)
    return x


@functools.cache
def _cubic_taps(factor):
    """For each of `factor` new pixels in the place of one its weights of five, that in the middle
    the third: a list of lists of floats."""
    places = (np.arange(factor) + 0.5) / factor - 0.5
    distance = np.abs(np.arange(-2, 3) - places[:, None])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights.tolist()
