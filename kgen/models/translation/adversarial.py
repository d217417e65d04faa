"""What the translators with a discriminator share: its judgement beside the distance to the truth.

Where the answer is open, the nearest image to all that are right is a blurred one. A discriminator
tells such an image from real ones, so that the translator has to choose: Isola et al. (2017),
section 3.1; Ledig et al. (2017), section 2.2. The losses of the two players, with their papers, are
in `kgen.models.gan.losses`.
"""

import functools

import keras
from keras import ops

from kgen import random
from kgen.checks import Number, check_ints, check_names, check_numbers
from kgen.layers import perceptual
from kgen.layers.scaling import scale_images
from kgen.models.gan import diagnosis
from kgen.models.gan import losses as adversarial
from kgen.models.gan.players import Players
from kgen.models.translation import distances, networks
from kgen.models.translation.convolutional import ConvolutionalTranslator
from kgen.training.average import update_average

# How far slopes are taken, and streams of noise for it.
_DISTANCE, _SLOPE_STREAM = 0.1, 1 << 16

#: Losses that need nothing of a discriminator but its logits.
LOSSES = ("non_saturating", "least_squares", "hinge", "relativistic")


class AdversarialTranslator(Players, ConvolutionalTranslator):
    """Base class of translators that a discriminator judges, patch by patch.

    Args:
        loss: `"non_saturating"`, `"least_squares"`, `"hinge"` or `"relativistic"`, see
            `kgen.models.gan.losses`.
        adversarial_weight: Float, of what the discriminator says in the generator's loss.
        pixel_weight: Float, of the distance to the truth.
        pixel_loss: `"l1"`, `"charbonnier"` or `"l2"`, see `kgen.models.translation.distances`.
        perceptual_weight: Float, of the distance to the truth by perceptual features, see
            `kgen.layers.perceptual.distance`; 0 for none.
        features: String, what perceptual features are taken from, see
            `kgen.layers.perceptual.PerceptualFeatures`.
        feature_layers: Tuple of names of its layers; `None` for its own.
        conditional: Bool, whether the discriminator sees the input beside the image.
        pixel_steps: Int, over so many first steps the generator learns from the distance by pixels
            alone.
        slope_weight: Float, of the penalties of the discriminator's slopes at real and at generated
            images, see `slopes`; 0 for none.
        discriminator_filters: Int, of the discriminator's first layer.
        discriminator_layers: Int, of its layers that halve the sides: 2 has it judge patches of 34
            pixels a side.

    Further arguments: as for `ConvolutionalTranslator` and `Translator`.

    Logs: `generator_loss`, all of it; `discriminator_loss`; `pixel_error`, the distance to the
    truth; `psnr`, in dB, and `gain`, by how many it is above the first guess's; `real_accuracy`,
    `fake_accuracy`, `real_score` and `fake_score`, see `AdversarialGenerator`;
    `generator_gradient_norm` and `discriminator_gradient_norm`, of training alone.
    """

    metric_names = (
        "generator_loss",
        "discriminator_loss",
        "pixel_error",
        "psnr",
        "gain",
        "real_accuracy",
        "fake_accuracy",
        "real_score",
        "fake_score",
    )
    training_metric_names = ("generator_gradient_norm", "discriminator_gradient_norm")

    def __init__(
        self,
        image_shape,
        input_shape=None,
        degradation=None,
        *,
        loss="non_saturating",
        adversarial_weight=1.0,
        pixel_weight=10.0,
        pixel_loss="l1",
        perceptual_weight=1.0,
        features="general_cnn",
        feature_layers=None,
        conditional=True,
        pixel_steps=0,
        slope_weight=0.1,
        discriminator_filters=32,
        discriminator_layers=2,
        **kwargs,
    ):
        super().__init__(image_shape, input_shape, degradation, **kwargs)
        check_names(loss=(loss, LOSSES), pixel_loss=(pixel_loss, distances.DISTANCES))
        check_numbers(
            Number(least=0),
            adversarial_weight=adversarial_weight,
            pixel_weight=pixel_weight,
            perceptual_weight=perceptual_weight,
            slope_weight=slope_weight,
        )
        check_ints(1, discriminator_filters=discriminator_filters)
        check_ints(0, pixel_steps=pixel_steps, discriminator_layers=discriminator_layers)
        self.losses_of_players = adversarial.get(loss)
        self.loss_name = loss  # Keras keeps `loss` for itself
        self._features = None
        with self.dtype_policy_scope():
            self.discriminator = self._discriminator("discriminator")

    def _discriminator(self, name):
        channels = self.image_shape[-1] * (2 if self.conditional else 1)
        sizes = (self.discriminator_filters, self.discriminator_layers)
        return networks.patch_discriminator(channels, *sizes, name)

    def get_config(self):
        return {**super().get_config(), "loss": self.loss_name}

    def _compile(self, *arguments):
        # Here, so that who only translates needs none of it.
        if self.perceptual_weight and self._features is None:
            self._features = perceptual.PerceptualFeatures(self.features, self.feature_layers)
        super()._compile(*arguments)

    def _players(self):
        return self.network.trainable_variables, self.discriminator.trainable_variables

    def default_optimizer(self, learning_rate=None, name=None):
        """Adam as of Isola et al. (2017), section 3.3, at a higher rate, for either player."""
        rate = 1e-3 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_1=0.5, global_clipnorm=10.0, name=name)

    def update(self, batch, minimize):
        logs = minimize(
            functools.partial(self._generator_objective, batch, self.network, True),
            self.generator_optimizer,
            self.network.trainable_variables,
        )
        said = logs.pop("said")
        logs["generator_gradient_norm"] = logs.pop("gradient_norm")
        logs |= minimize(
            functools.partial(self._discriminator_objective, batch, said, True),
            self.discriminator_optimizer,
            self.discriminator.trainable_variables,
        )
        logs["discriminator_gradient_norm"] = logs.pop("gradient_norm")
        update_average(self.ema_network, self.network, self.ema_decay, self.training_steps)
        self._count_step()
        return logs

    def test_update(self, batch):
        _, logs = self._generator_objective(batch, self.ema_network, False)
        return logs | self._discriminator_objective(batch, logs.pop("said"), False)[1]

    def _generator_objective(self, batch, network, training):
        truth, guess = scale_images(batch.images), self.first_guess(batch.inputs)
        said = self.pixels(network, batch.inputs, training)
        error = distances.DISTANCES[self.pixel_loss](said, truth)
        loss = self.pixel_weight * error

        def judged():
            logits = [self._judge(said, guess)]
            if self.losses_of_players.paired:
                logits.append(self._judge(truth, guess))
            judgement = self.adversarial_weight * self.losses_of_players.generator(*logits)
            if self._features is None:
                return judgement
            far = perceptual.distance(self._features, said, truth)
            return judgement + self.perceptual_weight * ops.mean(far)

        loss = loss + self._once_it_plays(judged)
        psnr = distances.psnr(said, truth)
        gain = psnr - distances.psnr(guess, truth)
        logs = {"generator_loss": loss, "pixel_error": error}
        logs |= {"psnr": ops.mean(psnr), "gain": ops.mean(gain)}
        return loss, {**logs, "said": said}

    def _discriminator_objective(self, batch, said, training):
        truth, guess = scale_images(batch.images), self.first_guess(batch.inputs)

        def played():
            real, fake = (self._judge(pixels, guess) for pixels in (truth, said))
            loss = self.losses_of_players.discriminator(real, fake)
            if training and self.slope_weight:
                for stream, (pixels, logits) in enumerate(((truth, real), (said, fake))):
                    judge = functools.partial(self._judge, guess=guess)
                    slope = slopes(judge, pixels, logits, batch.seeds, stream)
                    loss = loss + self.slope_weight * slope
            return ops.stack([loss, *scores(real, fake, self.losses_of_players.threshold)])

        names = ("discriminator_loss", "real_accuracy", "fake_accuracy", "real_score", "fake_score")
        found = ops.unstack(self._once_it_plays(played, len(names)))
        return found[0], dict(zip(names, found, strict=True))

    def _judge(self, pixels, guess):
        """Logits of patches, `[B, h, w, 1]`."""
        if self.conditional:
            pixels = ops.concatenate([pixels, guess], axis=-1)
        return self.discriminator(pixels)

    def _once_it_plays(self, function, size=None):
        """A function's scalar, or its `size` numbers; zeros in the first `pixel_steps`."""
        if not self.pixel_steps:
            return function()
        zeros = ops.zeros(() if size is None else (size,), "float32")
        steps = ops.convert_to_tensor(self.training_steps)
        return ops.cond(steps > self.pixel_steps, function, lambda: zeros)

    def diagnose(self, logs):
        if self.steps_trained < max(diagnosis.FIRST_STEP, 2 * self.pixel_steps):
            return []
        return diagnosis.warnings_of(logs, self.losses_of_players.threshold is not None)


def slopes(judge, pixels, logits, seeds, stream):
    """The penalty of a discriminator's slope at images, a scalar: of the mean of their logits.

    By finite differences, of normal noise, see `kgen.models.gan.losses.finite_difference_penalty`:
    with it a discriminator of few images learns their looks and not each of them.
    """
    noise = random.normal(seeds, pixels.shape[1:], _SLOPE_STREAM + stream)
    moved = judge(pixels + _DISTANCE * noise)
    means = (ops.mean(each, axis=(1, 2, 3)) for each in (logits, moved))
    return adversarial.finite_difference_penalty(*means, _DISTANCE)


def scores(real, fake, threshold):
    """Accuracies and mean logits, scalars: of real, of generated, of real, of generated."""
    if threshold is None:
        threshold = (ops.mean(real) + ops.mean(fake)) / 2
    right = (ops.mean(ops.cast(each, "float32")) for each in (real > threshold, fake < threshold))
    return (*right, ops.mean(real), ops.mean(fake))
