"""ViTGAN: vision transformers that play against each other.

Lee et al., "ViTGAN: Training GANs with vision transformers" (ICLR 2022; arXiv 2107.04589). The
generator's tokens are learnt positions, and the latent vector modulates what its blocks normalise
(section 3.3, equations 11 to 13; here by the zoo's blocks, whose modulation also gates and begins
at 0, for which reason the latent vector is added to the tokens too). A small network with sine
activations makes each pixel of a patch from the token and the pixel's place in it (equation 14).

The discriminator is Lipschitz (section 3.1): attention by the distances of tokens, with one matrix
for queries and keys (Kim, Papamakarios and Mnih, "The Lipschitz constant of self-attention", ICML
2021; arXiv 2006.04710, section 3.2), and weights that keep the spectral norm which they begin with.
Its patches overlap (section 3.2). Instead of a token of the class, the mean of all is judged.

Unlike the paper's, the loss is by default R3GAN's, which pairs images, with its penalties every
fourth step: on MNIST at equal CPU minutes it is ahead of the non-saturating one, which stops
getting better (benchmarks/RESULTS.md).

What the two networks do with each other is in `kgen.models.gan.base`.
"""

import functools

import keras
import numpy as np
from keras import layers, ops

from kgen.checks import check_ints
from kgen.configurable import Configurable
from kgen.layers.spectral import SpectralConv2D, SpectralDense
from kgen.layers.transformer import (
    LayerNorm,
    TransformerSpec,
    grid_positions,
    modulate,
    normalization,
    run_blocks,
)
from kgen.layers.vit import GridPositions, check_patches, unpatchify
from kgen.models.gan.base import AdversarialGenerator
from kgen.models.gan.networks import discriminator, latent_inputs


@keras.saving.register_keras_serializable(package="kgen")
class ViTGAN(AdversarialGenerator):
    """Generative adversarial network of two vision transformers.

    Args:
        patch_size: Int, side of a patch in pixels; it divides the sides. The discriminator's
            patches reach half a patch further on every side.
        dim: Int, see `TransformerSpec`, as are `num_layers`, of either network, `num_heads` and
            `mlp`; `dim / num_heads` divides by 4.

    Further arguments and what is logged: as for `AdversarialGenerator`; the loss, how often its
    penalties are taken, and the steps of the burn-in are other ones by default.

    Example:

    >>> model = kgen.models.ViTGAN((32, 32, 3), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, seed=0).shape
    (16, 32, 32, 3)
    """

    tiny_preset = "vit_gan_tiny"
    presets = {
        "vit_gan_tiny": {
            "image_shape": (8, 8, 1),
            "latent_dim": 8,
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        },
        "vit_gan_28x28": {
            "image_shape": (28, 28, 1),
            "patch_size": 7,
            "dim": 64,
            "num_layers": 3,
        },
        "vit_gan_32x32": {"image_shape": (32, 32, 3)},
        "vit_gan_64x64": {"image_shape": (64, 64, 3), "patch_size": 8, "dim": 192},
    }

    normalized = False

    def __init__(
        self,
        image_shape,
        num_classes=None,
        latent_dim=64,
        patch_size=4,
        dim=128,
        num_layers=4,
        num_heads=4,
        mlp="gelu",
        loss="relativistic",
        penalty_interval=4,
        burn_in_steps=10_000,
        **kwargs,
    ):
        super().__init__(
            *(image_shape, num_classes),
            latent_dim=latent_dim,
            loss=loss,
            penalty_interval=penalty_interval,
            burn_in_steps=burn_in_steps,
            **kwargs,
        )
        check_patches(self.image_shape, patch_size)
        spec = TransformerSpec.of(self)
        self._build_players(
            functools.partial(
                build_generator, self.image_shape, num_classes, latent_dim, patch_size, spec
            ),
            functools.partial(
                build_discriminator,
                *(self.image_shape, num_classes, patch_size, spec, self.class_head),
            ),
        )

    def default_optimizer(self, learning_rate=None, name=None):
        """Adam without momentum, as in section 4 of the paper, whose rate is 2e-3."""
        rate = 1e-3 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99, name=name)


# Networks -----------------------------------------------------------------------------


def build_generator(image_shape, num_classes, latent_dim, patch_size, spec, name):
    """(B, latent_dim), and (B, num_classes), to (B, H, W, C) in -1 .. 1."""
    height, width, channels = image_shape
    grid = (height // patch_size, width // patch_size)
    inputs, latent = latent_inputs(latent_dim, num_classes)
    style = layers.Dense(spec.dim)(latent)
    # By the modulation alone, which begins at 0, all images would long be alike.
    x = layers.Add()([GridTokens(*grid, spec.dim)(latent), style[:, None]])
    x = run_blocks(spec.blocks(grid_positions(*grid), conditional=True), x, style)
    shift_and_scale = layers.Dense(2 * spec.dim, kernel_initializer="zeros")(ops.silu(style))
    shift, scale = ops.split(shift_and_scale[:, None], 2, axis=-1)
    x = modulate(normalization(spec.norm, scale=False)(x), shift, scale)
    x = PatchFunction(patch_size, channels, spec.dim)(x)
    x = layers.Activation("tanh", dtype="float32")(unpatchify(x, patch_size, height, width))
    return keras.Model(inputs, x, name=name)


def build_discriminator(image_shape, num_classes, patch_size, spec, class_head):
    """(B, H, W, C) in -1 .. 1, and (B, num_classes), to logits (B, 1)."""
    grid = [side // patch_size for side in image_shape[:2]]
    image = keras.Input(image_shape, name="pixels")
    x = SpectralConv2D(spec.dim, 2 * patch_size, patch_size, keep_norm=True)(image)
    x = GridPositions(*grid)(layers.Reshape((grid[0] * grid[1], spec.dim))(x))
    x = run_blocks(spec.blocks(grid_positions(*grid), lipschitz=True), x)
    # What is added to all images' features or logits is nothing to a loss of pairs.
    x = ops.mean(LayerNorm(epsilon=1e-6, center=False)(x), axis=1)
    dense = functools.partial(SpectralDense, keep_norm=True, use_bias=False)
    return discriminator(image, x, num_classes, class_head, dense)


@keras.saving.register_keras_serializable(package="kgen")
class GridTokens(Configurable, layers.Layer):
    """A learnt token for every place of a grid, `[B, height * width, dim]`, alike in all rows.

    It is called with the latent vectors `[B, ...]`, which say how many rows there are.
    """

    def __init__(self, height, width, dim, **kwargs):
        super().__init__(**kwargs)
        check_ints(1, height=height, width=width, dim=dim)

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.tokens = self.add_weight((self.height * self.width, self.dim), normal, name="tokens")

    def compute_output_shape(self, shape):
        return (shape[0], self.height * self.width, self.dim)

    def call(self, latent):
        rows = ops.zeros_like(latent[:, :1, None])
        return rows + self.tokens


@keras.saving.register_keras_serializable(package="kgen")
class PatchFunction(Configurable, layers.Layer):
    """A patch of pixels from every token: an implicit function of the place in the patch.

    `[B, T, D]` to `[B, T, patch_size**2 * channels]`, rows, columns and channels. The pixel at a
    place with the Fourier features e is W_2 sin(W_1 [y, e]) for a token y (Lee et al., 2022,
    equation 14).

    Args:
        patch_size: Int, side of a patch.
        channels: Int, channels of a pixel.
        hidden: Int, sines.
    """

    def __init__(self, patch_size, channels, hidden, **kwargs):
        super().__init__(**kwargs)
        check_ints(1, patch_size=patch_size, channels=channels, hidden=hidden)
        place = (np.arange(patch_size) + 0.5) / patch_size
        waves = np.pi * place[:, None] * 2.0 ** np.arange(max(1, patch_size.bit_length() - 1))
        axis = np.concatenate([np.sin(waves), np.cos(waves)], axis=-1)
        size = (patch_size, patch_size, axis.shape[-1])
        features = [np.broadcast_to(part, size) for part in (axis[:, None], axis[None])]
        features = np.concatenate(features, axis=-1)
        self.places = features.reshape(patch_size**2, -1).astype("float32")
        self.of_token = layers.Dense(hidden, name="of_token", dtype=self.dtype_policy)
        self.of_place = layers.Dense(
            hidden, use_bias=False, name="of_place", dtype=self.dtype_policy
        )
        self.out = layers.Dense(channels, name="out", dtype=self.dtype_policy)

    def build(self, shape):
        self.of_token.build(shape)
        self.of_place.build(self.places.shape)
        self.out.build((*shape[:-1], self.hidden))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.patch_size**2 * self.channels)

    def call(self, x):
        places = self.of_place(ops.convert_to_tensor(self.places))
        x = ops.sin(self.of_token(x)[:, :, None] + places)
        return ops.reshape(self.out(x), (-1, x.shape[1], self.patch_size**2 * self.channels))
