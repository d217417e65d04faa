"""Variational autoencoder.

Kingma and Welling, "Auto-encoding variational Bayes" (ICLR 2014; arXiv 1312.6114), and
Rezende, Mohamed and Wierstra (ICML 2014). With several importance samples it is the
importance-weighted autoencoder of Burda, Grosse and Salakhutdinov (ICLR 2016; arXiv
1509.00519), whose is the count of active units, too (section 5.1). The mixture prior is that
of Tomczak and Welling, "VAE with a VampPrior" (AISTATS 2018; arXiv 1705.07120), equation 9.
Latent feature maps in place of a vector, in which another generator can work, are those of
Rombach et al., "High-resolution image synthesis with latent diffusion models" (CVPR 2022;
arXiv 2112.10752), section 3.1.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import check_ints, unknown_name
from kgen.layers.conditioning import add_class, class_input
from kgen.layers.convolutional import feature_maps, residual_block
from kgen.losses import likelihood as likelihoods
from kgen.models.vae.base import VariationalGenerator
from kgen.training.step import batch_moments

PRIORS = ("standard", "vamp")


def build_encoder(
    image_shape, num_classes, latent_dim, latent_channels, filters, num_blocks, units
):
    """(B, H, W, C) scaled pixels, and (B, num_classes), to (B, 2 * latent_dim)."""
    image = keras.Input(image_shape, name="pixels")
    one_hot = class_input(num_classes)
    x = image
    for level in range(len(feature_maps(image_shape)) - 1):
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
    return keras.Model([image, *one_hot], x, name="encoder")


def flatten_statistics(x):
    """(B, h, w, 2 * channels) to (B, 2 * latent_dim): all means, then all log-variances."""
    return layers.Concatenate()([layers.Flatten()(part) for part in ops.split(x, 2, axis=-1)])


def build_decoder(
    image_shape, num_classes, latent_dim, latent_channels, filters, num_blocks, units
):
    """(B, latent_dim), and (B, num_classes), to (B, H, W, C) likelihood parameters."""
    maps = feature_maps(image_shape)
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
    return keras.Model([latent, *one_hot], x, name="decoder")


@keras.saving.register_keras_serializable(package="kgen")
class VAE(VariationalGenerator):
    """Convolutional variational autoencoder.

    Args:
        image_shape: Tuple `(H, W, C)`; the sides are 8 to 128 and divide by 4.
        num_classes: Int for a class-conditional model, else `None`.
        latent_dim: Int, dimensions of the latent vector, 32 if `None`; or `None`, where
            `latent_channels` says how many there are.
        latent_channels: Int for a latent map in place of a vector: so many numbers at every
            place of the smallest feature map. It is meant for a second generator that draws
            maps (Rombach et al. 2022), such as `DiT`: drawn from the prior here, its places
            know nothing of each other.
        filters: Int, filters at the first level; they double per level up to four times.
        num_blocks: Int, residual blocks per level.
        units: Int, width of the dense layer beside the latent vector, if there is one.
        likelihood: String, see `VariationalGenerator`, as are the next six.
        binarization: String.
        variance: Float or `"learned"`.
        beta: Float, weight of the KL divergence.
        kl_warmup_steps: Int, steps over which `beta` rises from 0.
        free_bits: Float, nats per latent dimension below which the KL is not reduced.
        importance_samples: Int; above 1 the model is an IWAE: `loss`, in training and in
            evaluation, is the bound of that many samples, which is tighter than the ELBO,
            and `kl_loss` an estimate.
        prior: `"standard"`, a standard normal, or `"vamp"`, the mixture of the posteriors of
            learned pseudo-inputs, each with the same weight. The KL is then estimated from
            the sample. In a class-conditional model the pseudo-inputs are of all classes in
            turn, and the prior is the same for every class.
        num_pseudo_inputs: Int, components of the prior `"vamp"`, each of which goes through
            the encoder in every step.
        seed: Int, see `ImageGenerator`.

    Latent variables enter and leave as a vector, a map in the order of `latent_shape`: rows,
    columns, channels.

    Logs, in nats per image: `loss`, `reconstruction_loss`, `kl_loss`; and `active_units`,
    the latent dimensions whose posterior mean varies over the batch by more than 0.01.
    In evaluation `loss` is the negative ELBO: `beta`, warm-up and free bits do not count.

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

    def __init__(
        self,
        image_shape,
        num_classes=None,
        latent_dim=None,
        latent_channels=None,
        filters=32,
        num_blocks=1,
        units=256,
        likelihood="bernoulli",
        binarization="dynamic",
        variance="learned",
        beta=1.0,
        kl_warmup_steps=0,
        free_bits=0.0,
        importance_samples=1,
        prior="standard",
        num_pseudo_inputs=500,
        seed=0,
        **kwargs,
    ):
        super().__init__(
            image_shape,
            num_classes,
            likelihood,
            binarization,
            variance,
            beta,
            kl_warmup_steps,
            free_bits,
            importance_samples,
            seed,
            **kwargs,
        )
        if prior not in PRIORS:
            raise ValueError(unknown_name("prior", prior, PRIORS))
        if prior == "vamp" and free_bits:
            raise ValueError(
                "free_bits are nats per latent dimension, and prior='vamp' does not part into "
                f"dimensions: set free_bits=0. Received: free_bits={free_bits}"
            )
        if num_pseudo_inputs < 1:
            raise ValueError(f"num_pseudo_inputs must be positive. Received: {num_pseudo_inputs}")
        if latent_channels is not None:
            check_ints(1, latent_channels=latent_channels)
            shape = (*feature_maps(self.image_shape)[-1], latent_channels)
            if latent_dim not in (None, math.prod(shape)):
                raise ValueError(
                    "latent_channels say how many dimensions there are: set latent_dim=None. "
                    f"Received: latent_dim={latent_dim}, latent_channels={latent_channels}"
                )
        else:
            shape = (1, 1, 32 if latent_dim is None else latent_dim)
        self._set_latent_shape(shape)
        sizes = (self.latent_dim, latent_channels, filters, num_blocks, units)
        with self.dtype_policy_scope():
            self.encoder = build_encoder(self.image_shape, num_classes, *sizes)
            self.decoder = build_decoder(self.image_shape, num_classes, *sizes)
        if prior == "vamp":
            # Logits of grey levels around 0.05, as the paper's for its black backgrounds.
            self.pseudo_inputs = self.add_weight(
                (num_pseudo_inputs, *self.image_shape),
                keras.initializers.RandomNormal(-3.0, 0.2),
                name="pseudo_inputs",
            )
        self._build_log_scale()
        self.built = True

    # Network --------------------------------------------------------------------------

    def _set_latent_shape(self, shape):
        #: Tuple `(h, w, c)` of the latent map; a latent vector has one place.
        self.latent_shape = shape
        self.latent_dim = self.noise_dim = math.prod(shape)

    def encode(self, images, labels=None):
        """The approximate posterior of the latent variables.

        Args:
            images: uint8 tensor `[B, H, W, C]`.
            labels: int32 tensor `[B]` for a class-conditional model.

        Returns:
            Tuple of float32 tensors `[B, latent_dim]`: mean and log-variance.
        """
        return self._posterior(self._with_class(self._scaled(images), labels))

    def _posterior(self, inputs):
        mean, log_variance = ops.split(ops.cast(self.encoder(inputs), "float32"), 2, axis=-1)
        return mean, ops.clip(log_variance, -20.0, 10.0)

    def decode(self, latents, labels=None):
        """The image that a latent vector stands for: the mean of every pixel.

        Args:
            latents: float32 tensor `[B, latent_dim]`.
            labels: int32 tensor `[B]` for a class-conditional model.

        Returns:
            uint8 tensor `[B, H, W, C]`.
        """
        return self._mean_image(self.decoder(self._with_class(latents, labels)))

    # Loss -----------------------------------------------------------------------------

    def infer(self, images, labels=None):
        return self.encode(images, labels)

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
        return self._posterior(self._with_class(pixels, labels))

    def evidence(self, posterior, prior, noise, labels=None, exact=True):
        mean, log_variance = posterior
        latents = mean + ops.exp(0.5 * log_variance) * noise
        outputs = self.decoder(self._with_class(latents, labels))
        if self.prior == "vamp":
            density = likelihoods.normal_log_density(noise) - 0.5 * ops.sum(log_variance, axis=-1)
            return outputs, ops.expand_dims(density - self._log_prior(latents, prior), -1)
        if exact:
            return outputs, likelihoods.normal_kl(mean, log_variance)
        return outputs, likelihoods.normal_log_ratio(latents, noise, log_variance)

    def _log_prior(self, latents, components):
        """Log-density of latent vectors under the mixture (equation 9), `[B]`."""
        densities = likelihoods.normal_log_density(ops.expand_dims(latents, 1), *components)
        return ops.logsumexp(densities, axis=1) - math.log(self.num_pseudo_inputs)

    def _active_units(self, posterior, divergences):
        return batch_moments(posterior[0])[1] > 0.01

    def log_likelihood(self, images, latents, labels=None):
        """Log-likelihood of images given latent vectors.

        Args:
            images: uint8 tensor `[B, H, W, C]`.
            latents: float32 tensor `[B, latent_dim]`.
            labels: int32 tensor `[B]` for a class-conditional model.

        Returns:
            float32 tensor `[B]`, nats.
        """
        return self._log_likelihood(images, self.decoder(self._with_class(latents, labels)))

    # Sampling and shipping ------------------------------------------------------------

    def sample(self, seeds, labels=None, temperature=1.0):
        """Draws images from the prior.

        Args:
            seeds: int32 tensor `[B]`.
            labels: int32 tensor `[B]` for a class-conditional model.
            temperature: Float, scale of the latent vector; below 1, likelier images.

        Returns:
            uint8 tensor `[B, H, W, C]`.
        """
        return self.decode(self.sample_latents(seeds, temperature), labels)

    def sample_latents(self, seeds, temperature=1.0):
        """Draws latent vectors from the prior.

        Args:
            seeds: int32 tensor `[B]`.
            temperature: Float, scale of the standard normal noise.

        Returns:
            float32 tensor `[B, latent_dim]`.
        """
        noise = random.normal(seeds, (self.latent_dim,)) * temperature
        if self.prior == "standard":
            return noise
        gumbel = random.gumbel(seeds, (self.num_pseudo_inputs,), stream=2)
        mean, log_variance = self._components(random.argmax(gumbel))
        return mean + ops.exp(0.5 * log_variance) * noise
