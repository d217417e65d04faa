"""The one network of translators: convolutions alone, so that it takes images of any size.

Residual blocks (He et al., "Deep residual learning", CVPR 2016; arXiv 1512.03385) at several sizes
of feature maps, each joined to its mirror image: Ronneberger, Fischer and Brox, "U-Net" (MICCAI
2015; arXiv 1505.04597). With no maps but the largest it is the residual network of Ledig et al.
(CVPR 2017; arXiv 1609.04802), with two and most blocks at the smallest that of Zhu et al. (ICCV
2017; arXiv 1703.10593). Images larger than what comes in are made by sub-pixel convolutions at the
end, as there in section 2.1.1.

Nothing is normalised over a map, so that a pixel depends on what is around it and on nothing else:
normalisation over maps would show where two tiles meet, and restoration is better without any (Lim
et al., "Enhanced deep residual networks for single image super-resolution", CVPR workshops 2017;
arXiv 1707.02921, section 3.1). Residual branches begin at 0 in its place.
"""

import keras
from keras import layers

from kgen.layers.convolutional import residual_block
from kgen.layers.resampling import NearestUpsampling, PixelShuffle

#: Filters of a map, at most, as a multiple of those of the largest.
_WIDEST = 4


def network(
    input_channels,
    output_channels,
    filters,
    blocks,
    middle_blocks,
    num_downsamplings,
    scale,
    name,
):
    """A Keras model from `[B, h, w, input_channels]` to `[B, h * scale, w * scale, channels]`.

    The sides divide by `2 ** num_downsamplings`. `blocks` residual blocks at every map, down and
    up, and `middle_blocks` at the smallest. It gives 0 at first.
    """
    widths = [filters * min(2**level, _WIDEST) for level in range(num_downsamplings + 1)]
    x = pixels = keras.Input((None, None, input_channels), name="pixels")
    x = layers.Conv2D(filters, 3, padding="same")(x)
    joined = []
    for width in widths[1:]:
        for _ in range(blocks):
            x = residual_block(x, x.shape[-1])
        joined.append(x)
        x = layers.Conv2D(width, 2, 2)(x)
    for _ in range(middle_blocks):
        x = residual_block(x, widths[-1])
    for width in reversed(widths[:-1]):
        x = NearestUpsampling()(layers.Conv2D(width, 1)(x))
        x = layers.Concatenate()([x, joined.pop()])
        x = layers.Conv2D(width, 1)(x)
        for _ in range(blocks):
            x = residual_block(x, width)
    left = scale
    while left > 1:
        factor = 2 if left % 2 == 0 else left
        x = layers.Activation("silu")(x)
        x = PixelShuffle(factor)(layers.Conv2D(filters * factor**2, 3, padding="same")(x))
        left //= factor
    x = layers.Activation("silu")(x)
    x = layers.Conv2D(
        output_channels, 3, padding="same", kernel_initializer="zeros", dtype="float32"
    )(x)
    return keras.Model(pixels, x, name=name)


def reach(blocks, middle_blocks, num_downsamplings, scale):
    """How many pixels of its input around a place `network` looks at, at most, an int."""
    pixels = 1
    for level in range(num_downsamplings):
        # Blocks of two convolutions, down and up; a square of four becomes one, and four again.
        pixels += 2 * 2 * blocks * 2**level + 2 * 2**level
    pixels += 2 * middle_blocks * 2**num_downsamplings
    # One for the last convolution, and one for each that enlarges; two for bicubic interpolation.
    return pixels + 1 + scale.bit_length() + 2


def patch_discriminator(channels, filters, num_layers, name="discriminator"):
    """A Keras model from pixels `[B, H, W, channels]` to a logit for each of its patches.

    Isola et al. (2017), section 3.2.2: convolutions of 4x4, of which `num_layers` halve the sides,
    here without normalisation, for penalties of slopes keep it in bounds. Logits are
    `[B, h, w, 1]`; each sees a square of 16 pixels with one layer, 34 with two, 70 with three.
    """
    x = pixels = keras.Input((None, None, channels), name="pixels")
    for level in range(num_layers):
        x = layers.Conv2D(filters * min(2**level, 8), 4, 2, "same")(x)
        x = layers.LeakyReLU(0.2)(x)
    x = layers.Conv2D(filters * min(2**num_layers, 8), 4, padding="same")(x)
    x = layers.LeakyReLU(0.2)(x)
    x = layers.Conv2D(1, 4, padding="same", dtype="float32")(x)
    return keras.Model(pixels, x, name=name)
