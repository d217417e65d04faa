"""Variational autoencoder.

Kingma and Welling, "Auto-encoding variational Bayes" (ICLR 2014; arXiv 1312.6114), and
Rezende, Mohamed and Wierstra (ICML 2014). `beta` is that of Higgins et al., "beta-VAE"
(ICLR 2017), equation 4; free bits are those of Kingma et al. (NIPS 2016), section 3 and
appendix C.8; KL warm-up is that of Sonderby et al., "Ladder variational autoencoders"
(NIPS 2016), section 2.3; the importance-weighted likelihood is that of Burda, Grosse and
Salakhutdinov (ICLR 2016), equation 8, and so is the count of active units (section 5.1).
"""

import math

import keras
from keras import layers, ops

from kgen import random
from kgen.endpoint import Endpoint, TensorSpec, image_spec, label_spec
from kgen.image_generator import ImageGenerator, unknown_name
from kgen.losses import likelihood as likelihoods
from kgen.losses import pixels
from kgen.losses.pixels import BINARIZATIONS, LIKELIHOODS
from kgen.training.step import Batch, batch_moments


def feature_maps(image_shape):
    """Sides of the feature maps: halved while they stay even and at least 4.

    Args:
        image_shape: Tuple `(H, W, C)`.

    Returns:
        List of `(height, width)`, from the image's to the smallest.
    """
    sides = [tuple(image_shape[:2])]
    while all(side % 2 == 0 and side >= 8 for side in sides[-1]):
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    return sides


def residual_block(x, filters):
    """(B, H, W, filters) to the same: two convolutions around which the input goes on."""
    y = layers.Activation("silu")(x)
    y = layers.Conv2D(filters, 3, padding="same")(y)
    y = layers.Activation("silu")(y)
    y = layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros")(y)
    return layers.Add()([x, y])


def build_encoder(image_shape, num_classes, latent_dim, filters, num_blocks, units):
    """(B, H, W, C) scaled pixels, and (B, num_classes), to (B, 2 * latent_dim)."""
    image = keras.Input(image_shape, name="pixels")
    x = image
    for level in range(len(feature_maps(image_shape)) - 1):
        width = min(filters * 2**level, 4 * filters)
        x = layers.Conv2D(width, 4, strides=2, padding="same")(x)
        for _ in range(num_blocks):
            x = residual_block(x, width)
        x = layers.Activation("silu")(x)
    x = layers.Flatten()(x)
    inputs = [image]
    if num_classes is not None:
        inputs.append(keras.Input((num_classes,), name="one_hot_label"))
        x = layers.Concatenate()([x, inputs[1]])
    x = layers.Dense(units, activation="silu")(x)
    x = layers.Dense(2 * latent_dim)(x)
    return keras.Model(inputs, x, name="encoder")


def build_decoder(image_shape, num_classes, latent_dim, filters, num_blocks, units):
    """(B, latent_dim), and (B, num_classes), to (B, H, W, C) likelihood parameters."""
    maps = feature_maps(image_shape)
    latent = keras.Input((latent_dim,), name="latent")
    inputs, x = [latent], latent
    if num_classes is not None:
        inputs.append(keras.Input((num_classes,), name="one_hot_label"))
        x = layers.Concatenate()(inputs)
    x = layers.Dense(units, activation="silu")(x)
    width = min(filters * 2 ** (len(maps) - 2), 4 * filters)
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
    return keras.Model(inputs, x, name="decoder")


@keras.saving.register_keras_serializable(package="kgen")
class VAE(ImageGenerator):
    """Convolutional variational autoencoder.

    Args:
        image_shape: Tuple `(H, W, C)`; the sides are 8 to 128 and divide by 4.
        num_classes: Int for a class-conditional model, else `None`.
        latent_dim: Int, dimensions of the latent vector.
        filters: Int, filters at the first level; they double per level up to four times.
        num_blocks: Int, residual blocks per level.
        units: Int, width of the dense layer beside the latent vector.
        likelihood: `"bernoulli"`, `"continuous_bernoulli"`, `"gaussian"` or
            `"discretized_logistic"`, the decoder's distribution of a pixel. The last is a
            probability of the 256 levels, so its loss is comparable in bits per dimension.
        binarization: For `"bernoulli"`: `"dynamic"` draws 0 or 1 with the grey level as
            probability, anew in every step (Salakhutdinov and Murray, 2008);
            `"threshold"` cuts at one half; `"none"` keeps the grey levels.
        variance: For `"gaussian"`, on the scale 0 to 1: a float, which makes the loss the
            mean squared error of the textbooks up to a factor and a constant, or
            `"learned"` for one learned variance per channel (Rybkin et al., "sigma-VAE",
            ICML 2021).
        beta: Float, weight of the KL divergence.
        kl_warmup_steps: Int, steps over which `beta` rises from 0.
        free_bits: Float, nats per latent dimension below which the KL is not reduced.
        seed: Int, see `ImageGenerator`.

    Logs, in nats per image: `loss`, `reconstruction_loss`, `kl_loss`; and `active_units`,
    the latent dimensions whose posterior mean varies over the batch by more than 0.01.
    In evaluation `loss` is the negative ELBO: `beta`, warm-up and free bits do not count.

    Example:

    >>> model = kgen.models.VAE((28, 28, 1), latent_dim=32)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.negative_log_likelihood(data.test, importance_samples=500).mean()
    """

    metric_names = ("loss", "reconstruction_loss", "kl_loss", "active_units")
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
        latent_dim=32,
        filters=32,
        num_blocks=1,
        units=256,
        likelihood="bernoulli",
        binarization="dynamic",
        variance="learned",
        beta=1.0,
        kl_warmup_steps=0,
        free_bits=0.0,
        seed=0,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        if any(side % 4 or not 8 <= side <= 128 for side in self.image_shape[:2]):
            raise ValueError(
                "VAE takes images whose sides divide by 4 and are 8 to 128 pixels. Received: "
                f"image_shape={self.image_shape}"
            )
        if likelihood not in LIKELIHOODS:
            raise ValueError(unknown_name("likelihood", likelihood, LIKELIHOODS))
        if binarization not in BINARIZATIONS:
            raise ValueError(unknown_name("binarization", binarization, BINARIZATIONS))
        if variance != "learned" and not (isinstance(variance, (int, float)) and variance > 0):
            raise ValueError(f"variance must be positive or 'learned'. Received: {variance!r}")
        self.latent_dim = latent_dim
        self.filters = filters
        self.num_blocks = num_blocks
        self.units = units
        self.likelihood = likelihood
        self.binarization = binarization
        self.variance = variance
        self.beta = beta
        self.kl_warmup_steps = kl_warmup_steps
        self.free_bits = free_bits
        shape = (self.image_shape, num_classes, latent_dim, filters, num_blocks, units)
        with self.dtype_policy_scope():
            self.encoder = build_encoder(*shape)
            self.decoder = build_decoder(*shape)
        if likelihood == "discretized_logistic" or (
            likelihood == "gaussian" and variance == "learned"
        ):
            self.log_scale = self.add_weight(
                (self.image_shape[-1],), keras.initializers.Constant(-2.0), name="log_scale"
            )
        self.built = True

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "filters": self.filters,
            "num_blocks": self.num_blocks,
            "units": self.units,
            "likelihood": self.likelihood,
            "binarization": self.binarization,
            "variance": self.variance,
            "beta": self.beta,
            "kl_warmup_steps": self.kl_warmup_steps,
            "free_bits": self.free_bits,
        }

    # Network --------------------------------------------------------------------------

    def encode(self, images, labels=None):
        """The approximate posterior of the latent vector.

        Args:
            images: uint8 tensor `[B, H, W, C]`.
            labels: int32 tensor `[B]` for a class-conditional model.

        Returns:
            Tuple of float32 tensors `[B, latent_dim]`: mean and log-variance.
        """
        scaled = ops.cast(images, "float32") * (2 / 255) - 1
        statistics = self.encoder(self._with_class(scaled, labels))
        mean, log_variance = ops.split(ops.cast(statistics, "float32"), 2, axis=-1)
        return mean, ops.clip(log_variance, -20.0, 10.0)

    def decode(self, latents, labels=None):
        """The image that a latent vector stands for: the mean of every pixel.

        Args:
            latents: float32 tensor `[B, latent_dim]`.
            labels: int32 tensor `[B]` for a class-conditional model.

        Returns:
            uint8 tensor `[B, H, W, C]`.
        """
        outputs = self.decoder(self._with_class(latents, labels))
        return pixels.to_images(self.likelihood, outputs)

    def call(self, images, labels=None):
        """Reconstructs images through the posterior's mean, uint8 in and out."""
        return self.decode(self.encode(images, labels)[0], labels)

    def _with_class(self, x, labels):
        if self.num_classes is None:
            return [x]
        return [x, ops.one_hot(labels, self.num_classes, dtype="float32")]

    # Loss -----------------------------------------------------------------------------

    def objective(self, batch, training):
        images = self._binarize(batch)
        mean, log_variance = self.encode(images, batch.labels)
        noise = random.normal(batch.seeds, (self.latent_dim,), stream=0)
        latents = mean + ops.exp(0.5 * log_variance) * noise
        reconstruction = -ops.mean(self.log_likelihood(images, latents, batch.labels))
        kl, _ = batch_moments(likelihoods.normal_kl(mean, log_variance))
        loss = reconstruction + ops.sum(kl)
        if training:
            beta = self.beta
            if self.kl_warmup_steps:
                step = ops.cast(self.training_steps, "float32")
                beta = beta * ops.minimum(1.0, step / self.kl_warmup_steps)
            loss = reconstruction + beta * ops.sum(ops.maximum(kl, self.free_bits))
        active = batch_moments(mean)[1] > 0.01
        return loss, {
            "loss": loss,
            "reconstruction_loss": reconstruction,
            "kl_loss": ops.sum(kl),
            "active_units": ops.sum(ops.cast(active, "float32")),
        }

    def _binarize(self, batch):
        return pixels.binarize(self.likelihood, self.binarization, batch, self.image_shape)

    def log_likelihood(self, images, latents, labels=None):
        """Log-likelihood of images given latent vectors.

        Args:
            images: uint8 tensor `[B, H, W, C]`.
            latents: float32 tensor `[B, latent_dim]`.
            labels: int32 tensor `[B]` for a class-conditional model.

        Returns:
            float32 tensor `[B]`, nats.
        """
        outputs = self.decoder(self._with_class(latents, labels))
        log_scale = getattr(self, "log_scale", None)
        if self.variance != "learned" and self.likelihood == "gaussian":
            log_scale = 0.5 * math.log(self.variance)
        return pixels.log_likelihood(self.likelihood, images, outputs, log_scale)

    def negative_log_likelihood(
        self, x, y=None, importance_samples=500, seed=0, batch_size=64, progress="auto"
    ):
        """Importance-weighted estimate of -log p(x), an upper bound that tightens with K.

        Burda, Grosse and Salakhutdinov (ICLR 2016), equation 8: the weights of all samples
        are combined by log-sum-exp, in memory that does not grow with their number.

        Args:
            x: uint8 images `[N, H, W, C]` or a `kgen.data.Split`. Grey levels are
                binarised, if at all, once, from `seed`.
            y: Integer labels `[N]` for a class-conditional model, when `x` is an array.
            importance_samples: Int, samples per image.
            seed: Int.
            batch_size: Int, images at a time; each goes through the decoder for every
                sample.
            progress: Bool or `"auto"`.

        Returns:
            float32 NumPy array `[N]`, nats per image.
        """
        split = self.check_split(x, y)
        inputs = {
            "images": split.images,
            "seeds": ops.convert_to_numpy(random.row_seeds(seed, len(split))),
        }
        if self.num_classes is not None:
            inputs["labels"] = split.labels

        def estimate(images, seeds, labels=None):
            images = self._binarize(Batch(images, labels, seeds))
            mean, log_variance = self.encode(images, labels)
            deviation = ops.exp(0.5 * log_variance)

            def body(k, state):
                largest, total = state
                noise = random.normal(seeds, (self.latent_dim,), stream=k + 16)
                latents = mean + deviation * noise
                weight = (
                    self.log_likelihood(images, latents, labels)
                    + likelihoods.normal_log_density(latents)
                    - likelihoods.normal_log_density(latents, mean, log_variance)
                )
                peak = ops.maximum(largest, weight)
                return peak, total * ops.exp(largest - peak) + ops.exp(weight - peak)

            start = (ops.full_like(mean[:, 0], -1e30), ops.zeros_like(mean[:, 0]))
            largest, total = ops.fori_loop(0, importance_samples, body, start)
            return math.log(importance_samples) - largest - ops.log(total)

        return self.run_batched(
            ("negative_log_likelihood", importance_samples),
            estimate,
            inputs,
            batch_size=batch_size,
            progress=progress,
            description="Importance-weighted likelihood",
        )

    def likelihood_protocol(self, importance_samples=500, seed=0):
        """What `negative_log_likelihood` measures, in words that stand beside the number.

        Args:
            importance_samples: Int.
            seed: Int.

        Returns:
            Dict: `"kind"`, `"protocol"`, `"importance_samples"`, and `"discrete"`, whether it
            is a probability, so that bits per dimension mean something.
        """
        measured, discrete = pixels.protocol(self.likelihood, self.binarization, seed)
        one = importance_samples == 1
        combined = (
            f"one posterior sample per image (the ELBO), seed {seed}; an upper bound"
            if one
            else f"{importance_samples} importance samples per image combined by log-sum-exp, "
            f"seed {seed}; an upper bound"
        )
        return {
            "kind": "ELBO" if one else "importance-weighted bound",
            "protocol": f"{measured}; {combined}",
            "importance_samples": importance_samples,
            "discrete": discrete,
        }

    def diagnose(self, logs):
        active, kl = logs["active_units"], logs["kl_loss"]
        # At first every posterior is the prior: give it the time to form.
        if kl / max(active, 1.0) >= 0.1 or ops.convert_to_numpy(self.training_steps) < 200:
            return []
        return [
            f"posterior collapse: the KL is {kl:.3g} nats over {active:.0f} active latent units "
            f"(of {self.latent_dim}), under 0.1 nats per unit, so the decoder ignores the latent "
            "vector. Try a smaller beta, kl_warmup_steps, or free_bits=0.1."
        ]

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
        latents = random.normal(seeds, (self.latent_dim,)) * temperature
        return self.decode(latents, labels)

    def endpoints(self):
        image = image_spec(self.image_shape)
        latent = TensorSpec((self.latent_dim,), "float32", description="latent vector")
        label = {} if self.num_classes is None else {"label": label_spec(self.num_classes)}
        return {
            **super().endpoints(),
            "encode": Endpoint(
                lambda image, label=None: dict(
                    zip(("mean", "log_variance"), self.encode(image, label), strict=True)
                ),
                {"image": image, **label},
                {"mean": latent, "log_variance": latent},
                "gives the approximate posterior of the latent vector",
            ),
            "decode": Endpoint(
                lambda latent, label=None: {"image": self.decode(latent, label)},
                {"latent": latent, **label},
                {"image": image},
                "draws the image of a latent vector",
            ),
            "reconstruct": Endpoint(
                lambda image, label=None: {"image": self.call(image, label)},
                {"image": image, **label},
                {"image": image},
                "encodes an image and decodes the posterior's mean",
            ),
        }
