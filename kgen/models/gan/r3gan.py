"""R3GAN: a relativistic, doubly regularised game of two plain residual networks.

Huang, Gokaslan, Kuleshov and Tompkin, "The GAN is dead; long live the GAN! A modern baseline GAN"
(NeurIPS 2024; arXiv 2501.05441): the relativistic loss with zero-centred penalties of real and of
generated images (section 2), which needs no trick to converge, and so a backbone without any
(section 3): no normalisation, inverted bottlenecks, bilinear resampling, both networks alike. Last
convolutions of residual branches begin at 0, the others smaller with the number of branches: Zhang,
Dauphin and Ma, "Fixup initialization" (ICLR 2019; arXiv 1901.09321), section 3. In the burn-in the
rate, the penalties and beta_2 change along half a cosine wave (the paper's appendix on training).

Unlike the paper's, the 3x3 convolutions are by default depthwise: in groups of 16 filters one takes
90 times as long on TensorFlow's CPU. And the image ends in a tanh, as everywhere in this family.

What the two networks do with each other is in `kgen.models.gan.base`.
"""

import functools
import math

import keras
from keras import layers, ops

from kgen.checks import check_ints
from kgen.configurable import Configurable
from kgen.layers.convolutional import feature_maps
from kgen.layers.vit import check_patches, patchify, unpatchify
from kgen.models.gan.base import AdversarialGenerator
from kgen.models.gan.networks import check_sides, discriminator, doubled, latent_inputs
from kgen.training.schedules import half_cosine

_SLOPE = 0.2


@keras.saving.register_keras_serializable(package="kgen")
class R3GAN(AdversarialGenerator):
    """R3GAN, a generative adversarial network with a convergent loss and a plain backbone.

    Args:
        image_shape: Tuple `(H, W, C)`; the sides are 8 to 128 and divide by 4, and by twice the
            `patch_size`.
        filters: Int, filters at the largest feature map; they double as the sides halve, up to
            eight times.
        blocks: Int, residual blocks at every feature map.
        expansion: Int, how many times wider a block is inside.
        group_size: Int, filters of a group of the 3x3 convolutions; 1 makes them depthwise, the
            paper's 16 are for GPUs.
        patch_size: Int, side of the squares of pixels that are one position of the largest
            feature map: 2 takes a quarter of the time.

    Further arguments and what is logged: as for `AdversarialGenerator`; the loss, its penalties,
    and the steps of the burn-in are other ones by default.

    Example:

    >>> model = kgen.models.R3GAN((32, 32, 3), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, seed=0).shape
    (16, 32, 32, 3)
    """

    tiny_preset = "r3gan_tiny"
    presets = {
        "r3gan_tiny": {"image_shape": (8, 8, 1), "latent_dim": 8, "filters": 8, "blocks": 1},
        "r3gan_28x28": {"image_shape": (28, 28, 1), "filters": 32, "blocks": 1, "patch_size": 2},
        "r3gan_32x32": {"image_shape": (32, 32, 3), "filters": 48, "blocks": 1, "patch_size": 2},
        "r3gan_64x64": {"image_shape": (64, 64, 3), "filters": 48, "blocks": 1, "patch_size": 2},
        "r3gan_128x128": {"image_shape": (128, 128, 3), "filters": 64, "patch_size": 2},
    }

    normalized = False

    def __init__(
        self,
        image_shape,
        num_classes=None,
        latent_dim=64,
        filters=64,
        blocks=2,
        expansion=2,
        group_size=1,
        patch_size=1,
        loss="relativistic",
        burn_in_steps=10_000,
        **kwargs,
    ):
        super().__init__(
            *(image_shape, num_classes),
            latent_dim=latent_dim,
            loss=loss,
            burn_in_steps=burn_in_steps,
            **kwargs,
        )
        check_sides(self)
        check_patches(self.image_shape, patch_size)
        check_ints(1, filters=filters, blocks=blocks, expansion=expansion, group_size=group_size)
        if filters * expansion % group_size:
            raise ValueError(
                "group_size must divide filters * expansion. Received: "
                f"group_size={group_size}, filters={filters}, expansion={expansion}"
            )
        sizes = (filters, patch_size, blocks, expansion, group_size)
        self._build_players(
            functools.partial(build_generator, self.image_shape, num_classes, latent_dim, *sizes),
            functools.partial(
                build_discriminator, self.image_shape, num_classes, *sizes, self.class_head
            ),
        )

    def default_optimizer(self, learning_rate=None, name=None):
        """Adam without momentum whose memory grows in the burn-in, see `BurnInAdam`."""
        rate = 1e-3 if learning_rate is None else learning_rate
        return BurnInAdam(rate, burn_in_steps=self.burn_in_steps, name=name)


@keras.saving.register_keras_serializable(package="kgen")
class BurnInAdam(keras.optimizers.Adam):
    """Adam with beta_1 0, whose beta_2 rises from 0.9 to 0.99 over the first `burn_in_steps`.

    The rate meanwhile falls to a quarter, unless it is a schedule already, or `burn_in_rate` is
    false: a run of minutes moves it by the clock.
    """

    def __init__(
        self, learning_rate=1e-3, burn_in_steps=None, burn_in_rate=True, name=None, **kwargs
    ):
        kwargs = {"beta_1": 0.0, "beta_2": 0.99, **kwargs}
        super().__init__(learning_rate, name=name, **kwargs)
        self.burn_in_steps, self.burn_in_rate = burn_in_steps, burn_in_rate

    def update_step(self, gradient, variable, learning_rate):
        last = self.beta_2
        share = half_cosine(self.iterations, self.burn_in_steps)
        try:
            self.beta_2 = last + share * (0.9 - last)
            scheduled = keras.optimizers.schedules.LearningRateSchedule
            if self.burn_in_rate and not isinstance(self._learning_rate, scheduled):
                learning_rate = learning_rate * (1 + 3 * share) / 4
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.beta_2 = last

    def get_config(self):
        own = {"burn_in_steps": self.burn_in_steps, "burn_in_rate": self.burn_in_rate}
        return {**super().get_config(), **own}


# Networks -----------------------------------------------------------------------------


def build_generator(
    image_shape, num_classes, latent_dim, filters, patch_size, blocks, expansion, group_size, name
):
    """(B, latent_dim), and (B, num_classes), to (B, H, W, C) in -1 .. 1."""
    height, width, channels = image_shape
    sides = feature_maps((height // patch_size, width // patch_size))
    *narrower, widest = doubled(sides, filters)
    inputs, x = latent_inputs(latent_dim, num_classes)
    x = Basis(*sides[-1])(layers.Dense(widest, use_bias=False)(x))
    block = functools.partial(
        residual, expansion=expansion, group_size=group_size, branches=blocks * len(sides)
    )
    for level in reversed(range(len(sides))):
        for _ in range(blocks):
            x = block(x)
        if level > 0:
            x = pointwise(narrower[level - 1], 1.0)(x)
            x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = pointwise(patch_size**2 * channels, 1.0, use_bias=True)(x)
    x = unpatchify(layers.Reshape((-1, x.shape[-1]))(x), patch_size, height, width)
    x = layers.Activation("tanh", dtype="float32")(x)
    return keras.Model(inputs, x, name=name)


def build_discriminator(
    image_shape, num_classes, filters, patch_size, blocks, expansion, group_size, class_head
):
    """(B, H, W, C) in -1 .. 1, and (B, num_classes), to logits (B, 1)."""
    height, width, _ = image_shape
    sides = feature_maps((height // patch_size, width // patch_size))
    widths = doubled(sides, filters)
    image = keras.Input(image_shape, name="pixels")
    x = patchify(image, patch_size)
    x = layers.Reshape((*sides[0], x.shape[-1]))(x)
    x = pointwise(filters, 1.0, use_bias=True)(x)
    block = functools.partial(
        residual, expansion=expansion, group_size=group_size, branches=blocks * len(sides)
    )
    for level in range(len(sides)):
        if level > 0:
            x = layers.AveragePooling2D(2)(x)
            x = pointwise(widths[level], 1.0)(x)
        for _ in range(blocks):
            x = block(x)
    # What the basis is to the generator: each feature is weighed by its place.
    x = layers.DepthwiseConv2D(
        sides[-1], use_bias=False, depthwise_initializer=_scaled(1.0, x.shape[-1])
    )(x)
    # What is added to all logits is nothing to a loss of their differences.
    dense = functools.partial(layers.Dense, use_bias=False)
    return discriminator(image, layers.Flatten()(x), num_classes, class_head, dense)


def residual(x, expansion, group_size, branches):
    """(B, H, W, C) to the same: an inverted bottleneck of 1x1, 3x3 and 1x1 convolutions."""
    channels = x.shape[-1]
    wide = expansion * channels
    # After two rectifiers of three layers; Fixup, section 3, rule 2.
    gain = 2 / (1 + _SLOPE**2) / math.sqrt(branches)
    y = layers.LeakyReLU(_SLOPE)(pointwise(wide, gain, use_bias=True)(x))
    if group_size == 1:
        y = layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=_scaled(gain, wide))(y)
    else:
        y = layers.Conv2D(
            *(wide, 3),
            padding="same",
            groups=wide // group_size,
            kernel_initializer=_scaled(gain),
        )(y)
    y = layers.LeakyReLU(_SLOPE)(y)
    y = layers.Conv2D(channels, 1, use_bias=False, kernel_initializer="zeros")(y)
    return layers.Add()([x, y])


def pointwise(channels, gain, use_bias=False):
    """A 1x1 convolution whose outputs have `gain` times the variance of its inputs."""
    return layers.Conv2D(channels, 1, use_bias=use_bias, kernel_initializer=_scaled(gain))


def _scaled(gain, channels=1):
    # Keras takes a depthwise kernel's channels for inputs of every filter.
    return keras.initializers.VarianceScaling(gain * channels, "fan_in", "untruncated_normal")


@keras.saving.register_keras_serializable(package="kgen")
class Basis(Configurable, layers.Layer):
    """Spreads features `[B, C]` over a map `[B, height, width, C]`, each by a pattern it learns."""

    def __init__(self, height, width, **kwargs):
        super().__init__(**kwargs)
        check_ints(1, height=height, width=width)

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.patterns = self.add_weight((self.height, self.width, shape[-1]), normal, name="basis")

    def compute_output_shape(self, shape):
        return (shape[0], self.height, self.width, shape[-1])

    def call(self, x):
        return x[:, None, None, :] * ops.cast(self.patterns, x.dtype)
