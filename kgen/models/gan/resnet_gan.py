"""Residual generative adversarial network with a spectrally normalised discriminator: SNGAN.

Miyato et al., "Spectral normalization for generative adversarial networks" (ICLR 2018; arXiv
1802.05957), with the residual networks of their appendix B.4, tables 4 and 5: batch normalisation
in the generator, none in the discriminator, whose layers are divided by their spectral norms;
the hinge loss, and Adam with a first momentum of 0.

A class condition scales and shifts what the generator normalises (Dumoulin, Shlens and Kudlur,
"A learned representation for artistic style", ICLR 2017; arXiv 1610.07629, equation 5) and is
judged by projection (Miyato and Koyama, "cGANs with projection discriminator", ICLR 2018; arXiv
1802.05637, section 5).

What the two networks do with each other is in `kgen.models.gan.base`.
"""

import functools

import keras
from keras import layers, ops

from kgen.checks import check_ints
from kgen.layers.conditioning import class_input, joined, modulated_by_class
from kgen.layers.convolutional import feature_maps
from kgen.layers.spectral import SpectralConv2D, SpectralDense
from kgen.models.gan.base import AdversarialGenerator
from kgen.models.gan.networks import check_sides, discriminator, doubled


@keras.saving.register_keras_serializable(package="kgen")
class ResNetGAN(AdversarialGenerator):
    """Residual generative adversarial network with spectral normalisation (SNGAN).

    Args:
        image_shape: Tuple `(H, W, C)`; the sides are 8 to 128 and divide by 4.
        filters: Int, filters at the largest feature map, the image's own; they double as the
            sides halve, up to eight times.

    Further arguments and what is logged: as for `AdversarialGenerator`.

    Example:

    >>> model = kgen.models.ResNetGAN((32, 32, 3), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, seed=0).shape
    (16, 32, 32, 3)
    """

    tiny_preset = "resnet_gan_tiny"
    presets = {
        "resnet_gan_tiny": {"image_shape": (8, 8, 1), "latent_dim": 8, "filters": 8},
        "resnet_gan_28x28": {"image_shape": (28, 28, 1), "filters": 16},
        "resnet_gan_32x32": {"image_shape": (32, 32, 3), "filters": 32},
        "resnet_gan_64x64": {"image_shape": (64, 64, 3), "filters": 32},
        "resnet_gan_128x128": {"image_shape": (128, 128, 3), "filters": 32},
    }

    normalized = False

    def __init__(
        self, image_shape, num_classes=None, latent_dim=128, filters=64, loss="hinge", **kwargs
    ):
        super().__init__(image_shape, num_classes, latent_dim=latent_dim, loss=loss, **kwargs)
        check_sides(self)
        check_ints(1, filters=filters)
        shape = (self.image_shape, num_classes)
        self._build_players(
            functools.partial(build_generator, *shape, latent_dim, filters),
            functools.partial(build_discriminator, *shape, filters, self.class_head),
        )

    def default_optimizer(self, learning_rate=None, name=None):
        """Adam with the momenta 0 and 0.9: Miyato et al., section 4, table 1, settings C."""
        rate = 5e-4 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.9, name=name)


# Networks -----------------------------------------------------------------------------


def build_generator(image_shape, num_classes, latent_dim, filters, name):
    """(B, latent_dim), and (B, num_classes), to (B, H, W, C) in -1 .. 1."""
    sides = feature_maps(image_shape)
    *narrower, widest = doubled(sides, filters)
    latent, one_hot = keras.Input((latent_dim,), name="latent"), class_input(num_classes)
    # What is added to a feature everywhere is taken away where it is normalised: no biases.
    conv = functools.partial(layers.Conv2D, padding="same", use_bias=False)
    x = layers.Dense(sides[-1][0] * sides[-1][1] * widest, use_bias=False)(latent)
    x = layers.Reshape((*sides[-1], widest))(x)
    for channels in reversed(narrower):
        y = layers.UpSampling2D(2)(layers.ReLU()(normalized(x, one_hot)))
        y = conv(channels, 3)(y)
        y = layers.ReLU()(normalized(y, one_hot))
        y = conv(channels, 3)(y)
        # Narrowed before it is enlarged: the same image for a quarter of the work.
        x = layers.Add()([y, layers.UpSampling2D(2)(conv(channels, 1)(x))])
    x = layers.ReLU()(normalized(x))
    x = layers.Conv2D(image_shape[-1], 3, padding="same")(x)
    x = layers.Activation("tanh", dtype="float32")(x)
    return keras.Model(joined(latent, one_hot), x, name=name)


def normalized(x, one_hot=()):
    """Batch normalisation, scaled and shifted by the class where there is one."""
    own = not one_hot
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, center=own, scale=own)(x)
    return x if own else modulated_by_class(x, *one_hot)


def build_discriminator(image_shape, num_classes, filters, class_head):
    """(B, H, W, C) in -1 .. 1, and (B, num_classes), to logits (B, 1)."""
    image = x = keras.Input(image_shape, name="pixels")
    widths = doubled(feature_maps(image_shape), filters)
    for level, channels in enumerate(widths[:-1]):
        y = x if level == 0 else layers.ReLU()(x)  # no pixel is cut off
        y = layers.ReLU()(SpectralConv2D(channels)(y))
        y = layers.AveragePooling2D(2)(SpectralConv2D(channels)(y))
        x = layers.Add()([y, SpectralConv2D(channels, 1)(layers.AveragePooling2D(2)(x))])
    y = layers.ReLU()(SpectralConv2D(channels)(layers.ReLU()(x)))
    x = layers.ReLU()(layers.Add()([x, SpectralConv2D(channels)(y)]))
    return discriminator(image, ops.sum(x, axis=(1, 2)), num_classes, class_head, SpectralDense)
