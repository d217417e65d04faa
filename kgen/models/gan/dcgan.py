"""Deep convolutional generative adversarial network.

Goodfellow et al., "Generative adversarial nets" (NIPS 2014; arXiv 1406.2661), with the
architecture of Radford, Metz and Chintala, "Unsupervised representation learning with
deep convolutional generative adversarial networks" (ICLR 2016; arXiv 1511.06434),
section 3: strided convolutions in place of pooling, batch normalisation everywhere but at
the generator's output and the discriminator's input, ReLU in the generator, LeakyReLU in
the discriminator; section 4: weights from N(0, 0.02), Adam with a momentum of 0.5, here with a
learning rate of 1e-3 in place of 2e-4. The kernels have 4 pixels a side, as in the authors'
Torch code, and not the paper's 5: a multiple of the stride leaves no checkerboard and costs a
third less.

A class condition enters the generator as a one-hot vector beside the latent one (Mirza and
Osindero, "Conditional generative adversarial nets", arXiv 1411.1784), and the discriminator
as the projection of Miyato and Koyama, "cGANs with projection discriminator" (ICLR 2018;
arXiv 1802.05637), equation 3, here of all features and not of their sums.

What the two networks do with each other is in `kgen.models.gan.base`.
"""

import functools

import keras
from keras import layers

from kgen.checks import check_ints
from kgen.models.gan.base import AdversarialGenerator
from kgen.models.gan.networks import check_sides, discriminator, doubled, latent_inputs


@keras.saving.register_keras_serializable(package="kgen")
class DCGAN(AdversarialGenerator):
    """Deep convolutional generative adversarial network.

    Args:
        image_shape: Tuple `(H, W, C)`; the sides are 8 to 128 and divide by 4.
        filters: Int, filters at the largest feature map, half the image's side; they
            double as the sides halve, up to eight times.

    Further arguments and what is logged: as for `AdversarialGenerator`. With
    `loss="wasserstein_gp"`, and with `r1_weight` or `r2_weight`, the discriminator is not
    normalised, because a gradient penalty is each image's own (Gulrajani et al., 2017, section 4).

    Example:

    >>> model = kgen.models.DCGAN((28, 28, 1))
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, seed=0).shape
    (16, 28, 28, 1)
    """

    tiny_preset = "dcgan_tiny"
    presets = {
        "dcgan_tiny": {"image_shape": (8, 8, 1), "latent_dim": 8, "filters": 8},
        "dcgan_8x8": {"image_shape": (8, 8, 1), "latent_dim": 32, "filters": 64},
        "dcgan_28x28": {"image_shape": (28, 28, 1), "filters": 32},
        "dcgan_32x32": {"image_shape": (32, 32, 3), "filters": 32, "loss": "hinge"},
        "dcgan_64x64": {"image_shape": (64, 64, 3), "filters": 32},
    }

    def __init__(self, image_shape, num_classes=None, latent_dim=100, filters=64, **kwargs):
        super().__init__(image_shape, num_classes, latent_dim=latent_dim, **kwargs)
        check_sides(self)
        check_ints(1, filters=filters)
        penalised = self.loss_name == "wasserstein_gp" or self.r1_weight or self.r2_weight
        self.normalized = not penalised
        shape = (self.image_shape, num_classes)
        self._build_players(
            functools.partial(build_generator, *shape, latent_dim, filters),
            functools.partial(
                build_discriminator, *shape, filters, self.normalized, self.class_head
            ),
        )


# Networks -----------------------------------------------------------------------------


def build_generator(image_shape, num_classes, latent_dim, filters, name):
    """(B, latent_dim), and (B, num_classes), to (B, H, W, C) in -1 .. 1."""
    height, width = feature_maps(image_shape)[-1]
    *narrower, widest = widths(image_shape, filters)
    inputs, x = latent_inputs(latent_dim, num_classes)
    units = height * width * widest
    x = layers.Dense(units, use_bias=False, kernel_initializer=initializer())(x)
    x = layers.Reshape((height, width, widest))(x)
    for channels in reversed(narrower):
        x = layers.ReLU()(batch_normalization()(x))
        x = layers.Conv2DTranspose(
            channels, 4, 2, "same", use_bias=False, kernel_initializer=initializer()
        )(x)
    x = layers.ReLU()(batch_normalization()(x))
    x = layers.Conv2DTranspose(image_shape[-1], 4, 2, "same", kernel_initializer=initializer())(x)
    x = layers.Activation("tanh", dtype="float32")(x)
    return keras.Model(inputs, x, name=name)


def build_discriminator(image_shape, num_classes, filters, normalized, class_head):
    """(B, H, W, C) in -1 .. 1, and (B, num_classes), to logits (B, 1)."""
    image = x = keras.Input(image_shape, name="pixels")
    for level, channels in enumerate(widths(image_shape, filters)):
        normalize = normalized and level > 0
        x = layers.Conv2D(
            channels, 4, 2, "same", use_bias=not normalize, kernel_initializer=initializer()
        )(x)
        if normalize:
            x = batch_normalization()(x)
        x = layers.LeakyReLU(0.2)(x)
    return discriminator(image, layers.Flatten()(x), num_classes, class_head, dense)


def feature_maps(image_shape):
    """Sides of the feature maps, largest first: halved twice, then while even and at least 8."""
    sides = [tuple(image_shape[:2])]
    while len(sides) < 3 or all(side % 2 == 0 and side >= 8 for side in sides[-1]):
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    return sides


def widths(image_shape, filters):
    """Filters of the feature maps, the largest first, but for the image's own."""
    return doubled(feature_maps(image_shape)[1:], filters)


def initializer():
    """N(0, 0.02): Radford, Metz and Chintala (2016), section 4."""
    return keras.initializers.RandomNormal(stddev=0.02)


def dense(units, **arguments):
    return layers.Dense(units, kernel_initializer=initializer(), **arguments)


def batch_normalization():
    """Batch normalisation with the constants of the authors' code."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
