"""Generators with latent variables: what every variational autoencoder shares.

The bound on the likelihood with one sample is that of Kingma and Welling, "Auto-encoding
variational Bayes" (ICLR 2014), equation 2, and with several that of Burda, Grosse and
Salakhutdinov, "Importance weighted autoencoders" (ICLR 2016), equation 8. `beta` is that of
Higgins et al., "beta-VAE" (ICLR 2017), equation 4; free bits are those of Kingma et al.
(NIPS 2016), section 3 and appendix C.8; KL warm-up is that of Sonderby et al., "Ladder
variational autoencoders" (NIPS 2016), section 2.3.
"""

import math

import keras
from keras import ops

from kgen import random
from kgen.checks import Number, check_ints, check_numbers, unknown_name
from kgen.endpoint import TensorSpec, image_spec
from kgen.image_generator import ImageGenerator
from kgen.layers.conditioning import per_row
from kgen.losses import pixels
from kgen.losses.pixels import BINARIZATIONS, LIKELIHOODS
from kgen.training.step import batch_moments

# Streams of noise: 0 the latent variables of training and sampling, 1 binarisation, 2 the
# choice of a component of the prior, 3 the drawing of pixels; from here on one for each
# importance sample.
_FIRST_SAMPLE = 16

# Rows in the decoder at a time, from which on a CPU gains nothing from more.
_ROWS_AT_ONCE = 64


class VariationalGenerator(ImageGenerator):
    """Base class of variational autoencoders.

    A subclass builds its networks in `__init__`, sets `noise_dim` and states

    - `infer(images, labels)`, all that the posterior takes from the images;
    - `evidence(posterior, prior, noise, labels, exact)`, the decoder's outputs and the
      divergence of the posterior from the prior, of latent variables made from `noise`;
    - `prior_parameters()`, when the prior has any;
    - `encode`, `sample_latents` and `decode_outputs`.

    It ends its `__init__` with `_build_log_scale`. All VAEs of one latent vector or map, with a
    normal posterior, have that from `LatentMapVAE`.

    Args:
        image_shape: Tuple `(H, W, C)`; the sides are 8 to 512 and divide by 4.
        likelihood: `"bernoulli"`, `"continuous_bernoulli"`, `"gaussian"` or
            `"discretized_logistic"`, the decoder's distribution of a pixel. The last is a
            probability of the 256 levels, so its loss is comparable in bits per dimension. `None`
            for the first of grey images and the last of colours.
        binarization: For `"bernoulli"`: `"dynamic"` draws 0 or 1 with the grey level as
            probability, anew in every step (Salakhutdinov and Murray, 2008);
            `"threshold"` cuts at one half; `"none"` keeps the grey levels.
        variance: For `"gaussian"`, on the scale 0 to 1: a float, which makes the loss the
            mean squared error of the textbooks up to a factor and a constant, or
            `"learned"` for one learned variance per channel (Rybkin et al., "sigma-VAE",
            ICML 2021).
        beta: Float, weight of the KL divergence.
        kl_warmup_steps: Int, steps over which `beta` rises from 0.
        free_bits: Float, nats per latent unit below which the KL is not reduced.
        importance_samples: Int, samples per image in the bound that is trained. 1 is the
            ELBO; above 1, `beta`, `kl_warmup_steps` and `free_bits` have no meaning.

    Further arguments: as for `ImageGenerator`. A `ValueError` where one is out of range or
    unknown, or does not go with another.

    Logs, in nats per image: `loss`, `reconstruction_loss`, `kl_loss`; and `active_units`. In
    evaluation `loss` is the negative ELBO: `beta`, warm-up and free bits do not count. With
    several importance samples `loss`, in training and in evaluation, is the bound of that many,
    which is tighter, and `kl_loss` an estimate.
    """

    metric_names = ("loss", "reconstruction_loss", "kl_loss", "active_units")
    sampling_numbers = {"temperature": Number(least=0)}

    #: How many standard normal numbers one image's latent variables are made from.
    noise_dim = None

    def default_optimizer(self, learning_rate=None):
        # Nats per image have gradients about as long as there are pixels; a posterior far from the
        # others makes them a hundred times longer, which Adam would remember for a thousand steps.
        return keras.optimizers.Adam(
            1e-3 if learning_rate is None else learning_rate,
            global_clipnorm=float(math.prod(self.image_shape)),
        )

    # The bound ------------------------------------------------------------------------

    def objective(self, batch, training):
        images = self._binarize(batch)
        posterior, prior = self.infer(images, batch.labels), self.prior_parameters()
        samples = self.importance_samples
        if samples == 1:
            noise = random.normal(batch.seeds, (self.noise_dim,), stream=0)
            outputs, divergences = self.evidence(posterior, prior, noise, batch.labels)
            log_likelihood = self._log_likelihood(images, outputs)
        else:
            rows = _repeat((images, batch.labels, batch.seeds, posterior), samples)
            log_likelihood, divergences = self._weigh(rows, prior, _numbers(batch.seeds, samples))
        reconstruction = -ops.mean(log_likelihood)
        kl, _ = batch_moments(divergences)
        if samples > 1:
            weights = log_likelihood - ops.sum(divergences, axis=-1)
            bounds = ops.logsumexp(ops.reshape(weights, (-1, samples)), axis=1)
            loss = math.log(samples) - ops.mean(bounds)
        elif training:
            beta = self.beta
            if self.kl_warmup_steps:
                step = ops.cast(self.training_steps, "float32")
                beta = beta * ops.minimum(1.0, step / self.kl_warmup_steps)
            # Without free bits no maximum: an estimated KL may be negative.
            kept = ops.maximum(kl, self.free_bits) if self.free_bits else kl
            loss = reconstruction + beta * ops.sum(kept)
        else:
            loss = reconstruction + ops.sum(kl)
        return loss, {
            "loss": loss,
            "reconstruction_loss": reconstruction,
            "kl_loss": ops.sum(kl),
            "active_units": ops.sum(ops.cast(self._active_units(posterior, kl), "float32")),
        }

    # What a subclass states -----------------------------------------------------------

    def infer(self, images, labels=None):
        """All that the posterior takes from images, tensors `[B, ...]`, whatever the sample."""
        raise NotImplementedError(f"{type(self).__name__} must implement infer")

    def prior_parameters(self):
        """What the prior takes from the weights; the same for all rows and samples."""
        return ()

    def evidence(self, posterior, prior, noise, labels=None, exact=True):
        """Decodes latent variables from the posterior.

        Returns the decoder's outputs `[B, H, W, C]` and float32 divergences `[B, units]`, nats, by
        standard normal `noise` `[B, noise_dim]`: with `exact` the KL divergence where it is known,
        rather than its estimate log q(z|x) - log p(z) from the sample.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement evidence")

    # Likelihood -----------------------------------------------------------------------

    def _binarize(self, batch):
        return pixels.binarize(self.likelihood, self.binarization, batch, self.image_shape)

    def _log_likelihood(self, images, outputs):
        """float32 `[B]`, nats, of uint8 images under the decoder's outputs."""
        return pixels.log_likelihood(self.likelihood, images, outputs, self._log_scale())

    def _log_scale(self):
        if self.likelihood == "gaussian" and self.variance != "learned":
            return 0.5 * math.log(self.variance)
        return getattr(self, "log_scale", None)

    def _weigh(self, rows, prior, numbers):
        """log p(x|z), `[B]`, and log q(z|x) - log p(z), `[B, units]`, of one sample per row."""
        images, labels, seeds, posterior = rows
        noise = random.normal(seeds, (self.noise_dim,), stream=numbers + _FIRST_SAMPLE)
        outputs, divergences = self.evidence(posterior, prior, noise, labels, exact=False)
        return self._log_likelihood(images, outputs), divergences

    def negative_log_likelihood(
        self,
        x,
        y=None,
        importance_samples=500,
        seed=0,
        batch_size=64,
        samples_at_once="auto",
        progress="auto",
    ):
        """Importance-weighted estimate of -log p(x), an upper bound that tightens with K.

        Burda, Grosse and Salakhutdinov (ICLR 2016), equation 8: the weights of all samples
        are combined by log-sum-exp, in memory that does not grow with their number. A float32 NumPy
        array `[N]`, nats per image.

        Args:
            x: uint8 images or a `kgen.data.Split`. Grey levels are binarised, if at all, once,
                from `seed`.
            y: Integer labels `[N]` for a class-conditional model, when `x` is an array.
            importance_samples: Int, K, samples per image.
            seed: Int.
            batch_size: Int, images at a time; each goes through the decoder for every sample.
            samples_at_once: Int, samples of each image that go through the decoder
                together, or `"auto"`. It changes speed and memory, and the result by no
                more than rounding: every sample has its own noise.
            progress: Bool or `"auto"`.
        """
        check_ints(1, importance_samples=importance_samples)
        split = self.check_split(x, y)
        if samples_at_once == "auto":
            samples_at_once = _ROWS_AT_ONCE // max(1, min(batch_size, len(split)))
        at_once = max(1, min(int(samples_at_once), importance_samples))
        steps = -(-importance_samples // at_once)

        def estimate(batch):
            labels, seeds = batch.labels, batch.seeds
            images = self._binarize(batch)
            posterior, prior = self.infer(images, labels), self.prior_parameters()
            rows = _repeat((images, labels, seeds, posterior), at_once)
            numbers = _numbers(seeds, at_once)

            def body(step, state):
                largest, total = state
                number = numbers + step * at_once
                log_likelihood, divergences = self._weigh(rows, prior, number)
                weight = log_likelihood - ops.sum(divergences, axis=-1)
                if steps * at_once > importance_samples:
                    weight = ops.where(number < importance_samples, weight, -1e30)
                weight = ops.reshape(weight, (-1, at_once))
                peak = ops.maximum(largest, ops.max(weight, axis=1))
                added = ops.sum(ops.exp(weight - peak[:, None]), axis=1)
                return peak, total * ops.exp(largest - peak) + added

            zeros = ops.zeros_like(ops.cast(seeds, "float32"))
            largest, total = ops.fori_loop(0, steps, body, (zeros - 1e30, zeros))
            return math.log(importance_samples) - largest - ops.log(total)

        return self.run_over(
            ("negative_log_likelihood", importance_samples, at_once),
            estimate,
            split,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            description="Importance-weighted likelihood",
        )

    def likelihood_protocol(self, importance_samples=500, seed=0):
        """What `negative_log_likelihood` measures, in words that stand beside the number.

        A dict of `"kind"`, `"protocol"`, `"importance_samples"`, and `"discrete"`, whether it is a
        probability, so that bits per dimension mean something.
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
            f"(of {self._num_units()}), under 0.1 nats per unit, so the decoder ignores the latent "
            "variables. Try a smaller beta, kl_warmup_steps, or free_bits=0.1."
        ]

    def _active_units(self, posterior, divergences):
        return divergences > 0.01

    def _num_units(self):
        return self.noise_dim

    # Sampling and shipping ------------------------------------------------------------

    def sample(self, seeds, labels=None, temperature=1.0, draw=False):
        """Draws latent variables and gives the mean of every pixel.

        Args:
            temperature: Float of 0 or more, times which the noise of the latent variables is taken:
                below 1, likelier images.
            draw: Bool, draw every pixel from its distribution, as a likelihood has it, in place of
                its mean, which people rather look at.
        """
        if draw not in (True, False):
            raise ValueError(f"draw must be True or False. Received: draw={draw!r}")
        outputs = self.decode_outputs(self.sample_latents(seeds, temperature), labels)
        if draw:
            return pixels.draw_images(self.likelihood, outputs, seeds, self._log_scale())
        return pixels.to_images(self.likelihood, outputs)

    def decode(self, latents, labels=None):
        """The images, uint8, of latent variables `[B, noise_dim]`: the mean of every pixel."""
        return pixels.to_images(self.likelihood, self.decode_outputs(latents, labels))

    def sample_latents(self, seeds, temperature=1.0):
        """Latent variables from the prior, float32 `[B, noise_dim]`, see `sample`."""
        noise = random.normal(seeds, (self.noise_dim,))
        return noise * per_row(temperature, noise)

    def decode_outputs(self, latents, labels=None):
        """What the decoder says of latent variables: `[B, H, W, C]`, see `kgen.losses.pixels`."""
        raise NotImplementedError(f"{type(self).__name__} must implement decode_outputs")

    def call(self, images, labels=None):
        """Reconstructs images through the posterior's mean, uint8 in and out."""
        return self.decode(self.encode(images, labels)[0], labels)

    def endpoints(self):
        image = image_spec(self.image_shape)
        latent = TensorSpec((self.noise_dim,), "float32", description="latent variables")
        posterior = {"mean": latent, "log_variance": latent}
        return {
            **super().endpoints(),
            "encode": self.endpoint(
                lambda image, label=None: dict(
                    zip(posterior, self.encode(image, label), strict=True)
                ),
                "gives the approximate posterior of the latent variables",
                posterior,
                seeded=False,
                image=image,
            ),
            "decode": self.endpoint(
                lambda latent, label=None: self.decode(latent, label),
                "draws the image of latent variables",
                seeded=False,
                latent=latent,
            ),
            "reconstruct": self.endpoint(
                lambda image, label=None: self.call(image, label),
                "encodes an image and decodes the posterior's mean",
                seeded=False,
                image=image,
            ),
        }

    # Construction ---------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        *,
        likelihood=None,
        binarization="dynamic",
        variance="learned",
        beta=1.0,
        kl_warmup_steps=0,
        free_bits=0.0,
        importance_samples=1,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        if any(side % 4 or not 8 <= side <= 512 for side in self.image_shape[:2]):
            raise ValueError(
                f"{type(self).__name__} takes images whose sides divide by 4 and are 8 to 512 "
                f"pixels. Received: image_shape={self.image_shape}"
            )
        if likelihood is None:
            grey = self.image_shape[-1] == 1
            likelihood = self.likelihood = "bernoulli" if grey else "discretized_logistic"
        if likelihood not in LIKELIHOODS:
            raise ValueError(unknown_name("likelihood", likelihood, LIKELIHOODS))
        if binarization not in BINARIZATIONS:
            raise ValueError(unknown_name("binarization", binarization, BINARIZATIONS))
        if variance != "learned":
            check_numbers(Number(above=0), variance=variance)
        check_numbers(Number(least=0), beta=beta, free_bits=free_bits)
        check_ints(0, kl_warmup_steps=kl_warmup_steps)
        check_ints(1, importance_samples=importance_samples)
        if importance_samples > 1 and (beta != 1 or kl_warmup_steps or free_bits):
            raise ValueError(
                "The bound of several importance samples has no KL term that beta, "
                "kl_warmup_steps or free_bits could weigh: leave them at 1, 0 and 0, or set "
                f"importance_samples=1. Received: importance_samples={importance_samples}, "
                f"beta={beta}, kl_warmup_steps={kl_warmup_steps}, free_bits={free_bits}"
            )

    def _build_log_scale(self):
        """The spread of the pixels, where it is learnt: the last weight that a subclass builds."""
        if self.likelihood == "discretized_logistic" or (
            self.likelihood == "gaussian" and self.variance == "learned"
        ):
            self.log_scale = self.add_weight(
                (self.image_shape[-1],), keras.initializers.Constant(-2.0), name="log_scale"
            )
        self.built = True


def _repeat(rows, times):
    """Every row of a structure of tensors `times` times, one after the other."""
    if times == 1:
        return rows
    return keras.tree.map_structure(
        lambda x: None if x is None else ops.repeat(x, times, axis=0), rows
    )


def _numbers(seeds, times):
    """int32 `[B * times]`: 0 to `times - 1` for every row."""
    counts = ops.expand_dims(ops.zeros_like(seeds), 1) + ops.arange(times, dtype="int32")
    return ops.reshape(counts, (-1,))
