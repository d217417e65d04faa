"""Variational autoencoder of convolutions.

Kingma and Welling, "Auto-encoding variational Bayes" (ICLR 2014; arXiv 1312.6114), and
Rezende, Mohamed and Wierstra (ICML 2014); see `kgen.models.vae.latent_map` for what is not about
its networks or its second prior. The mixture prior is that of Tomczak and Welling, "VAE with a
VampPrior" (AISTATS 2018; arXiv 1705.07120), equation 9. Latent feature maps in place of a vector,
in which another generator can work, are those of Rombach et al., "High-resolution image synthesis
with latent diffusion models" (CVPR 2022; arXiv 2112.10752), section 3.1.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import check_ints, unknown_name
from kgen.layers.conditioning import add_class, class_input, joined, with_class
from kgen.layers.convolutional import feature_maps, residual_block
from kgen.layers.network import given_network, rows_of
from kgen.losses import likelihood as likelihoods
from kgen.models.vae.latent_map import LatentMapVAE, flatten_statistics

PRIORS = ("standard", "vamp")


@keras.saving.register_keras_serializable(package="kgen")
class VAE(LatentMapVAE):
    """Convolutional variational autoencoder.

    Args:
        latent_dim: Int, dimensions of the latent vector, 32 if `None`; or `None`, where
            `latent_channels` says how many there are.
        latent_channels: Int for a latent map in place of a vector: so many numbers at every
            place of the smallest feature map. It is meant for a second generator that draws
            maps (Rombach et al. 2022), such as `DiT`: drawn from the prior here, its places
            know nothing of each other.
        num_downsamplings: Int, how often the sides are halved for a latent map: 3 make an eighth
            of the sides, 64x64 of 512x512. `None` for as often as they can be, down to 4.
        filters: Int, filters at the first level; they double per level up to four times.
        num_blocks: Int, residual blocks per level.
        units: Int, width of the dense layer beside the latent vector, if there is one.
        prior: `"standard"`, a standard normal, or `"vamp"`, the mixture of the posteriors of
            learned pseudo-inputs, each with the same weight. The KL is then estimated from
            the sample. In a class-conditional model the pseudo-inputs are of all classes in
            turn, and the prior is the same for every class.
        num_pseudo_inputs: Int, components of the prior `"vamp"`, each of which goes through
            the encoder in every step.
        encoder: A Keras model in place of that of `filters`, `num_blocks` and `units`, see
            `LatentMapVAE`; it is saved with the model.
        decoder: Likewise.

    Further arguments: as for `VariationalGenerator`; above one `importance_samples` the model is
    an IWAE. What is logged: as for `LatentMapVAE`.

    Example:

    >>> model = kgen.models.VAE((28, 28, 1), latent_dim=32)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.negative_log_likelihood(data.test, importance_samples=500).mean()
    """

    tiny_preset = "vae_tiny"
    presets = {
        "vae_tiny": {
            "image_shape": (8, 8, 1),
            "latent_dim": 4,
            "filters": 8,
            "num_blocks": 0,
            "units": 32,
        },
        "vae_8x8": {"image_shape": (8, 8, 1), "latent_dim": 8, "filters": 32, "units": 128},
        "vae_28x28": {"image_shape": (28, 28, 1), "latent_dim": 32},
        "vae_32x32": {
            "image_shape": (32, 32, 3),
            "latent_dim": 128,
            "units": 512,
            "likelihood": "discretized_logistic",
        },
        "vae_64x64": {
            "image_shape": (64, 64, 3),
            "latent_dim": 256,
            "units": 512,
            "likelihood": "discretized_logistic",
        },
    }

    # The prior ------------------------------------------------------------------------

    def prior_parameters(self):
        if self.prior == "standard":
            return ()
        return self._components(np.arange(self.num_pseudo_inputs, dtype="int32"))

    def _components(self, indices):
        """The posteriors of some pseudo-inputs: mean and log-variance, `[n, latent_dim]`."""
        pixels = 2 * ops.sigmoid(ops.take(self.pseudo_inputs, indices, axis=0)) - 1
        labels = None
        if self.num_classes is not None:
            labels = ops.take(
                np.arange(self.num_pseudo_inputs, dtype="int32") % self.num_classes, indices
            )
        return self._posterior(with_class(pixels, labels, self.num_classes))

    def _divergences(self, posterior, prior, latents, noise, exact):
        if self.prior == "standard":
            return super()._divergences(posterior, prior, latents, noise, exact)
        density = likelihoods.normal_log_density(noise) - 0.5 * ops.sum(posterior[1], axis=-1)
        return ops.expand_dims(density - self._log_prior(latents, prior), -1)

    def _log_prior(self, latents, components):
        """Log-density of latent vectors under the mixture (equation 9), `[B]`."""
        densities = likelihoods.normal_log_density(ops.expand_dims(latents, 1), *components)
        return ops.logsumexp(densities, axis=1) - math.log(self.num_pseudo_inputs)

    def sample_latents(self, seeds, temperature=1.0):
        noise = super().sample_latents(seeds, temperature)
        if self.prior == "standard":
            return noise
        gumbel = random.gumbel(seeds, (self.num_pseudo_inputs,), stream=2)
        mean, log_variance = self._components(random.argmax(gumbel))
        return mean + ops.exp(0.5 * log_variance) * noise

    # Construction ---------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        latent_dim=None,
        latent_channels=None,
        num_downsamplings=None,
        filters=32,
        num_blocks=1,
        units=256,
        prior="standard",
        num_pseudo_inputs=500,
        encoder=None,
        decoder=None,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        if prior not in PRIORS:
            raise ValueError(unknown_name("prior", prior, PRIORS))
        if prior == "vamp" and self.free_bits:
            raise ValueError(
                "free_bits are nats per latent dimension, and prior='vamp' does not part into "
                f"dimensions: set free_bits=0. Received: free_bits={self.free_bits}"
            )
        check_ints(1, filters=filters, units=units, num_pseudo_inputs=num_pseudo_inputs)
        check_ints(0, num_blocks=num_blocks)
        if latent_dim is not None:
            check_ints(1, latent_dim=latent_dim)
        maps = feature_maps(self.image_shape)
        if num_downsamplings is not None:
            if latent_channels is None or num_downsamplings not in range(1, len(maps)):
                raise ValueError(
                    f"num_downsamplings, 1 to {len(maps) - 1} for these images, make a latent map: "
                    f"give latent_channels. Received: num_downsamplings={num_downsamplings}, "
                    f"latent_channels={latent_channels}"
                )
            maps = maps[: num_downsamplings + 1]
        if latent_channels is not None:
            check_ints(1, latent_channels=latent_channels)
            shape = (*maps[-1], latent_channels)
            if latent_dim not in (None, math.prod(shape)):
                raise ValueError(
                    "latent_channels say how many dimensions there are: set latent_dim=None. "
                    f"Received: latent_dim={latent_dim}, latent_channels={latent_channels}"
                )
        else:
            shape = (1, 1, 32 if latent_dim is None else latent_dim)
        self._set_latent_shape(shape)
        image_shape, latent_dim = self.image_shape, self.latent_dim
        shape = (image_shape, maps, num_classes, latent_dim, latent_channels)
        shape += (filters, num_blocks, units)
        with self.dtype_policy_scope():
            self.encoder = given_network(
                *("encoder", encoder, lambda: build_encoder(*shape)),
                *(rows_of(image_shape, num_classes), (2 * latent_dim,)),
            )
            self.decoder = given_network(
                *("decoder", decoder, lambda: build_decoder(*shape)),
                *(rows_of((latent_dim,), num_classes), image_shape),
            )
        if prior == "vamp":
            # Logits of grey levels around 0.05, as the paper's for its black backgrounds.
            self.pseudo_inputs = self.add_weight(
                (num_pseudo_inputs, *self.image_shape),
                keras.initializers.RandomNormal(-3.0, 0.2),
                name="pseudo_inputs",
            )
        self._build_log_scale()


# Networks -----------------------------------------------------------------------------


def build_encoder(
    image_shape, maps, num_classes, latent_dim, latent_channels, filters, num_blocks, units
):
    """(B, H, W, C) scaled pixels, and (B, num_classes), to (B, 2 * latent_dim), through feature
    maps of the sides `maps`.
    """
    image = keras.Input(image_shape, name="pixels")
    one_hot = class_input(num_classes)
    x = image
    for level in range(len(maps) - 1):
        if level > 0:
            x = layers.Activation("silu")(x)
        width = min(filters * 2**level, 4 * filters)
        x = layers.Conv2D(width, 4, strides=2, padding="same")(x)
        for _ in range(num_blocks):
            x = residual_block(x, width)
    if latent_channels is not None:
        x = layers.Activation("silu")(add_class(x, *one_hot))
        x = flatten_statistics(layers.Conv2D(2 * latent_channels, 1)(x))
    else:
        x = layers.Flatten()(layers.Activation("silu")(x))
        if one_hot:
            x = layers.Concatenate()([x, *one_hot])
        x = layers.Dense(units, activation="silu")(x)
        x = layers.Dense(2 * latent_dim)(x)
    return keras.Model(joined(image, one_hot), x, name="encoder")


def build_decoder(
    image_shape, maps, num_classes, latent_dim, latent_channels, filters, num_blocks, units
):
    """(B, latent_dim), and (B, num_classes), to (B, H, W, C) likelihood parameters."""
    width = min(filters * 2 ** (len(maps) - 2), 4 * filters)
    latent = x = keras.Input((latent_dim,), name="latent")
    one_hot = class_input(num_classes)
    if latent_channels is not None:
        x = layers.Reshape((*maps[-1], latent_channels))(x)
        x = add_class(layers.Conv2D(width, 3, padding="same")(x), *one_hot)
    else:
        if one_hot:
            x = layers.Concatenate()([x, *one_hot])
        x = layers.Dense(units, activation="silu")(x)
        x = layers.Dense(math.prod(maps[-1]) * width)(x)
        x = layers.Reshape((*maps[-1], width))(x)
    for level in reversed(range(len(maps) - 1)):
        for _ in range(num_blocks):
            x = residual_block(x, width)
        x = layers.Activation("silu")(x)
        width = min(filters * 2 ** max(level - 1, 0), 4 * filters)
        x = layers.Conv2DTranspose(width, 4, strides=2, padding="same")(x)
    x = layers.Activation("silu")(x)
    x = layers.Conv2D(image_shape[-1], 3, padding="same")(x)
    return keras.Model(joined(latent, one_hot), x, name="decoder")
