"""Ladder variational autoencoder: latent variables in a hierarchy, from coarse to fine.

Sonderby, Raiko, Maaloe, Sonderby and Winther, "Ladder variational autoencoders" (NIPS 2016;
arXiv 1602.02282): a deterministic way up, and a way down that inference and generation share
(section 2.2), with the posterior as a precision-weighted combination (equations 10 to 12), or
given by both ways at once, as in Kingma et al., "Improved variational inference with inverse
autoregressive flow" (NIPS 2016), section 3.2. The posterior relative to the prior follows
Vahdat and Kautz, "NVAE" (NeurIPS 2020), section 3.2, but its mean counts in the prior's
standard deviations; bounded log-variances are theirs too.
"""

import math

import keras
from keras import layers, ops

from kgen.checks import check_ints, unknown_name
from kgen.layers.conditioning import class_input, joined, with_class
from kgen.layers.convolutional import feature_maps, residual_block
from kgen.layers.scaling import scale_images
from kgen.losses import likelihood as likelihoods
from kgen.models.vae.base import VariationalGenerator

INFERENCES = ("bidirectional", "precision_weighted")

# Log-variances stay between minus and plus this, whatever a network says.
LOG_VARIANCE = 5.0


@keras.saving.register_keras_serializable(package="kgen")
class LadderVAE(VariationalGenerator):
    """Hierarchical variational autoencoder with latent vectors and latent feature maps.

    At the top is a latent vector; below it, on every feature map from the smallest to half the
    image's sides, come groups of latent feature maps, each of which knows all above it.

    The model counts its latent variables relative to their prior: `encode` gives and `decode`
    takes numbers that are standard normal under it, whatever the groups above say. So the KL
    divergence is one from the standard normal, and `decode` on normal noise is `sample`.

    Args:
        latent_dim: Int, dimensions of the latent vector at the top.
        latent_channels: Int, latent feature maps in a group.
        num_groups: Int, groups on each feature map.
        filters: Int, filters at half the image's sides; they double per level up to four
            times.
        num_blocks: Int, residual blocks per level on the way up and per group on the way down.
        units: Int, width of the dense layers beside the latent vector.
        inference: `"bidirectional"`, where a network gives the posterior from both ways, or
            `"precision_weighted"`, where the way up gives a normal that is combined with the
            prior.

    Further arguments and what is logged: as for `VariationalGenerator`. A unit is a number of the
    latent vector or a whole latent feature map; active are those whose KL is over 0.01 on the
    mean of the batch.

    Example:

    >>> model = kgen.models.LadderVAE((28, 28, 1))
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.negative_log_likelihood(data.test, importance_samples=500).mean()
    """

    tiny_preset = "ladder_vae_tiny"
    presets = {
        "ladder_vae_tiny": {
            "image_shape": (8, 8, 1),
            "latent_dim": 4,
            "latent_channels": 2,
            "num_groups": 1,
            "filters": 8,
            "num_blocks": 0,
            "units": 32,
        },
        "ladder_vae_8x8": {
            "image_shape": (8, 8, 1),
            "latent_dim": 8,
            "latent_channels": 2,
            "units": 128,
        },
        "ladder_vae_28x28": {"image_shape": (28, 28, 1)},
        "ladder_vae_32x32": {
            "image_shape": (32, 32, 3),
            "latent_dim": 64,
            "filters": 48,
            "num_groups": 2,
            "likelihood": "discretized_logistic",
        },
    }

    # The way up and the way down ------------------------------------------------------

    def infer(self, images, labels=None):
        """The way up: the top's statistics, and feature maps from coarse to fine."""
        return self.way_up(with_class(scale_images(images), labels, self.num_classes))

    def _way_down(self, noise, labels=None, features=None):
        """Draws latent variables, group by group, and makes the image's distribution of them.

        From a `noise` `[B, *shape]` per group and what `infer` returns, or `None` to draw from the
        prior. Returns outputs `[B, H, W, C]` and every group's mean and log-variance, relative to
        its prior.
        """
        statistics = []

        def draw(noise, mean, log_variance):
            statistics.append((mean, log_variance))
            return mean + ops.exp(0.5 * log_variance) * noise

        latents = noise[0]
        if features is not None:
            latents = draw(latents, *_statistics(features[0]))
        x = self.top(with_class(latents, labels, self.num_classes))
        for group, latents in enumerate(noise[1:]):
            mean, log_variance = _statistics(self.priors[group](x))
            if features is not None:
                feature = features[1 + group // self.num_groups]
                latents = draw(latents, *self._posterior(group, x, feature, mean, log_variance))
            x = self.merges[group]([x, mean + ops.exp(0.5 * log_variance) * latents])
            level, more = divmod(group + 1, self.num_groups)
            if not more and level <= len(self.upsamplings):
                x = self.upsamplings[level - 1](x)
        return self.to_image(x), statistics

    def _posterior(self, group, x, feature, prior_mean, prior_log_variance):
        """Mean and log-variance of a group's posterior, relative to its prior."""
        if self.inference == "bidirectional":
            return _statistics(self.posteriors[group]([x, feature]))
        mean, log_variance = _statistics(self.posteriors[group](feature))
        mean = (mean - prior_mean) * ops.exp(-0.5 * prior_log_variance)
        # Equations 10 to 12, with a prior whose precision is 1.
        log_ratio = log_variance - prior_log_variance
        return mean * ops.sigmoid(-log_ratio), -ops.softplus(-log_ratio)

    def evidence(self, posterior, prior, noise, labels=None, exact=True):
        noise = self._parts(noise)
        outputs, statistics = self._way_down(noise, labels, posterior)
        divergences = []
        for (mean, log_variance), drawn in zip(statistics, noise, strict=True):
            if exact:
                divergence = likelihoods.normal_kl(mean, log_variance)
            else:
                latents = mean + ops.exp(0.5 * log_variance) * drawn
                divergence = likelihoods.normal_log_ratio(latents, drawn, log_variance)
            axes = tuple(range(1, len(drawn.shape) - 1))  # of a feature map
            divergences.append(ops.sum(divergence, axis=axes) if axes else divergence)
        return outputs, ops.concatenate(divergences, axis=1)

    def _parts(self, x):
        """(B, noise_dim) to one tensor (B, *shape) for every group, from the top down."""
        parts, start = [], 0
        for shape in self.latent_shapes:
            end = start + math.prod(shape)
            parts.append(ops.reshape(x[:, start:end], (-1, *shape)))
            start = end
        return parts

    def _num_units(self):
        return sum(shape[-1] for shape in self.latent_shapes)

    # Sampling, and between images and latent variables --------------------------------

    def encode(self, images, labels=None):
        """As for `LatentMapVAE`, `[B, noise_dim]`, relative to the prior, from the top down.

        The posterior of a group depends on what was drawn in those above: here their means.
        """
        features = self.infer(images, labels)
        noise = [ops.zeros((ops.shape(images)[0], *shape)) for shape in self.latent_shapes]
        _, statistics = self._way_down(noise, labels, features)
        flat = [[ops.reshape(x, (-1, math.prod(x.shape[1:]))) for x in s] for s in statistics]
        mean, log_variance = (ops.concatenate(x, axis=1) for x in zip(*flat, strict=True))
        return mean, log_variance

    def decode_outputs(self, latents, labels=None):
        """As for every VAE, of latent variables `[B, noise_dim]` relative to their prior."""
        return self._way_down(self._parts(latents), labels)[0]

    # Construction ---------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        latent_dim=32,
        latent_channels=4,
        num_groups=1,
        filters=32,
        num_blocks=1,
        units=256,
        inference="bidirectional",
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        if inference not in INFERENCES:
            raise ValueError(unknown_name("inference", inference, INFERENCES))
        check_ints(
            1,
            latent_dim=latent_dim,
            latent_channels=latent_channels,
            num_groups=num_groups,
            filters=filters,
            units=units,
        )
        check_ints(0, num_blocks=num_blocks)
        sides = feature_maps(self.image_shape)[1:]
        widths = [min(filters * 2**level, 4 * filters) for level in range(len(sides))]
        #: The shapes of the latent variables, from the top down.
        self.latent_shapes = [(latent_dim,)]
        self.priors, self.posteriors, self.merges, self.upsamplings = [], [], [], []
        with self.dtype_policy_scope():
            self.way_up = build_way_up(
                self.image_shape, num_classes, latent_dim, widths, num_blocks, units
            )
            self.top = build_top(num_classes, latent_dim, units, sides[-1], widths[-1])
            for level in reversed(range(len(sides))):
                shape = (*sides[level], widths[level])
                for group in range(num_groups):
                    name = f"{level}_{group}"
                    self.priors.append(build_prior(shape, latent_channels, f"prior_{name}"))
                    ways = 2 if inference == "bidirectional" else 1
                    self.posteriors.append(
                        build_posterior(shape, latent_channels, ways, f"posterior_{name}")
                    )
                    self.merges.append(
                        build_merge(shape, latent_channels, num_blocks, f"merge_{name}")
                    )
                    self.latent_shapes.append((*sides[level], latent_channels))
                if level:
                    self.upsamplings.append(
                        build_upsampling(shape, widths[level - 1], f"upsampling_{level}")
                    )
            self.to_image = build_image(shape, self.image_shape[-1])
        for name in ("priors", "posteriors", "merges", "upsamplings"):
            setattr(self, name, tuple(getattr(self, name)))  # of which none can be replaced
        self.noise_dim = sum(math.prod(shape) for shape in self.latent_shapes)
        self._build_log_scale()


# Networks -----------------------------------------------------------------------------


def _statistics(outputs):
    """A network's outputs to a mean and a bounded log-variance, float32."""
    mean, log_variance = ops.split(ops.cast(outputs, "float32"), 2, axis=-1)
    return mean, LOG_VARIANCE * ops.tanh(log_variance / LOG_VARIANCE)


def build_way_up(image_shape, num_classes, latent_dim, widths, num_blocks, units):
    """(B, H, W, C) scaled pixels, and (B, num_classes), to (B, 2 * latent_dim) statistics of the
    top and feature maps from coarse to fine, (B, height, width, filters), all but the image's own.
    """
    image = keras.Input(image_shape, name="pixels")
    x, features = image, []
    for width in widths:
        x = layers.Conv2D(width, 4, strides=2, padding="same")(x)
        for _ in range(num_blocks):
            x = residual_block(x, width)
        features.insert(0, x)
        x = layers.Activation("silu")(x)
    x = layers.Flatten()(x)
    one_hot = class_input(num_classes)
    if one_hot:
        x = layers.Concatenate()([x, *one_hot])
    x = layers.Dense(units, activation="silu")(x)
    x = layers.Dense(2 * latent_dim, kernel_initializer="zeros")(x)
    return keras.Model(joined(image, one_hot), [x, *features], name="way_up")


def build_top(num_classes, latent_dim, units, side, width):
    """(B, latent_dim), and (B, num_classes), to (B, *side, width): the first step down."""
    latent, one_hot = keras.Input((latent_dim,), name="latent"), class_input(num_classes)
    x = layers.Concatenate()([latent, *one_hot]) if one_hot else latent
    x = layers.Dense(units, activation="silu")(x)
    x = layers.Dense(math.prod(side) * width)(x)
    x = layers.Reshape((*side, width))(x)
    return keras.Model(joined(latent, one_hot), x, name="top")


def build_prior(shape, channels, name):
    """Feature map of the way down to statistics (B, height, width, 2 * channels)."""
    x = keras.Input(shape)
    y = layers.Activation("silu")(x)
    y = layers.Conv2D(2 * channels, 1, kernel_initializer="zeros")(y)
    return keras.Model(x, y, name=name)


def build_posterior(shape, channels, ways, name):
    """Feature maps of one way or both to statistics (B, height, width, 2 * channels)."""
    inputs = [keras.Input(shape) for _ in range(ways)]
    x = layers.Add()(inputs) if ways > 1 else inputs[0]
    x = layers.Activation("silu")(x)
    x = layers.Conv2D(shape[-1], 3, padding="same", activation="silu")(x)
    x = layers.Conv2D(2 * channels, 1, kernel_initializer="zeros")(x)
    return keras.Model(joined(inputs[0], inputs[1:]), x, name=name)


def build_merge(shape, channels, num_blocks, name):
    """Feature map and latent variables (B, height, width, channels) to the next feature map."""
    x, z = keras.Input(shape), keras.Input((*shape[:2], channels))
    y = layers.Add()([x, layers.Conv2D(shape[-1], 1)(z)])
    for _ in range(num_blocks):
        y = residual_block(y, shape[-1])
    return keras.Model([x, z], y, name=name)


def build_upsampling(shape, width, name):
    """(B, height, width, filters) to (B, 2 * height, 2 * width, width)."""
    x = keras.Input(shape)
    y = layers.Activation("silu")(x)
    y = layers.Conv2DTranspose(width, 4, strides=2, padding="same")(y)
    return keras.Model(x, y, name=name)


def build_image(shape, channels):
    """(B, H / 2, W / 2, filters) to the likelihood's parameters (B, H, W, channels).

    At once, since features at the image's own sides would cost as much as all the others.
    """
    x = keras.Input(shape)
    y = layers.Activation("silu")(x)
    y = layers.Conv2DTranspose(channels, 6, strides=2, padding="same")(y)
    return keras.Model(x, y, name="image")
