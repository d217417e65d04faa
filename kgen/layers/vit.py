"""Vision transformers: images as sequences of patches.

Dosovitskiy et al., "An image is worth 16x16 words" (ICLR 2021; arXiv 2010.11929), section 3.1;
as encoder and decoder of latent variables Yu et al., "Vector-quantized image modeling with
improved VQGAN" (ICLR 2022; arXiv 2110.04627), section 3.1.
"""

import keras
from keras import layers, ops

from kgen.checks import check_ints
from kgen.configurable import Configurable
from kgen.layers.conditioning import add_class, class_input
from kgen.layers.transformer import grid_positions, normalization, run_blocks


def patchify(x, patch_size):
    """Cuts images into patches of p pixels a side, in raster order: every patch becomes a token.

    `[B, H/p * W/p, p * p * C]`; within a token rows, columns and channels.
    """
    height, width, channels = x.shape[1:]
    rows, columns = height // patch_size, width // patch_size
    x = ops.reshape(x, (-1, rows, patch_size, columns, patch_size * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, rows * columns, patch_size * patch_size * channels))


def unpatchify(tokens, patch_size, height, width):
    """Puts patches together again to images of `height` and `width` in pixels, see `patchify`."""
    rows, columns = height // patch_size, width // patch_size
    channels = tokens.shape[-1] // patch_size**2
    x = ops.reshape(tokens, (-1, rows, columns, patch_size, patch_size * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, height, width, channels))


@keras.saving.register_keras_serializable(package="kgen")
class GridPositions(Configurable, layers.Layer):
    """Adds to every token of a grid, `[B, height * width, D]`, what is learnt of its place."""

    def __init__(self, height, width, **kwargs):
        super().__init__(**kwargs)
        check_ints(1, height=height, width=width)

    def build(self, shape):
        normal = keras.initializers.RandomNormal
        self.rows = self.add_weight((self.height, 1, shape[-1]), normal(stddev=0.02), name="rows")
        self.columns = self.add_weight((self.width, shape[-1]), normal(stddev=0.02), name="columns")

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return x + ops.reshape(self.rows + self.columns, x.shape[1:])


def build_vit_encoder(image_shape, num_classes, channels, patch_size, spec):
    """(B, H, W, C) scaled pixels, and (B, num_classes), to (B, H/p, W/p, channels)."""
    grid = [side // patch_size for side in image_shape[:2]]
    inputs = [keras.Input(image_shape, name="pixels"), *class_input(num_classes)]
    x = _transformer(patchify(inputs[0], patch_size), grid, inputs[1:], spec)
    x = layers.Dense(channels)(x)
    x = layers.Reshape((*grid, channels))(x)
    return keras.Model(inputs, x, name="encoder")


def build_vit_decoder(image_shape, num_classes, channels, patch_size, spec):
    """(B, H/p, W/p, channels), and (B, num_classes), to (B, H, W, C) likelihood parameters."""
    grid = [side // patch_size for side in image_shape[:2]]
    inputs = [keras.Input((*grid, channels), name="latent_map"), *class_input(num_classes)]
    x = layers.Reshape((grid[0] * grid[1], channels))(inputs[0])
    x = _transformer(x, grid, inputs[1:], spec)
    x = layers.Dense(patch_size**2 * image_shape[-1])(x)
    x = unpatchify(x, patch_size, *image_shape[:2])
    return keras.Model(inputs, x, name="decoder")


def _transformer(x, grid, one_hot, spec):
    """(B, h * w, features) to (B, h * w, dim): what every token makes of all of them."""
    x = GridPositions(*grid)(layers.Dense(spec.dim)(x))
    x = add_class(x, *one_hot)
    x = run_blocks(spec.blocks(grid_positions(*grid)), x)
    return normalization(spec.norm)(x)


def check_patches(image_shape, patch_size):
    """Raises a ValueError where images cannot be cut into patches of such a side."""
    check_ints(1, patch_size=patch_size)
    if any(side % patch_size for side in image_shape[:2]):
        raise ValueError(
            "patch_size must divide the image's sides. Received: "
            f"patch_size={patch_size}, image_shape={tuple(image_shape)}"
        )
