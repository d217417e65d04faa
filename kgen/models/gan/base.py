"""What every generative adversarial network shares: two players, and the step in which both move.

Goodfellow et al., "Generative adversarial nets" (NIPS 2014; arXiv 1406.2661), section 3 and
algorithm 1. The losses, with their papers, are in `kgen.models.gan.losses`.
"""

import functools

import keras
from keras import ops

from kgen import random
from kgen.checks import Number, check_ints, check_names, check_numbers, check_shares
from kgen.endpoint import TensorSpec
from kgen.image_generator import ImageGenerator
from kgen.layers.augmentation import augmented, check_policy
from kgen.layers.conditioning import per_row, with_class
from kgen.layers.scaling import scale_images, unscale_images
from kgen.models.gan import losses as adversarial
from kgen.training.average import update_average
from kgen.training.schedules import scheduled_optimizer
from kgen.training.step import batch_moments, input_gradient

#: How the zero-centred penalties are taken.
PENALTIES = ("exact", "finite_difference")
_DISTANCE = 0.01
_PENALTY_STREAM = 1 << 16


class AdversarialGenerator(ImageGenerator):
    """Base class of generative adversarial networks.

    A subclass builds its networks in `__init__` and gives them to `_set_players`. With classes,
    both take a one-hot label `[B, num_classes]` as a second input:

    - the generator makes pixels `[B, H, W, C]` in -1 to 1 of latent vectors `[B, latent_dim]`
      (to images by `kgen.layers.UnscaleImages`, from images by `kgen.layers.ScaleImages`);
    - the discriminator makes logits `[B, 1]` of pixels.

    Args:
        latent_dim: Int, dimensions of the latent vector.
        loss: `"minimax"`, `"non_saturating"`, `"least_squares"`, `"wasserstein"`,
            `"wasserstein_gp"`, `"hinge"` or `"relativistic"`, see `kgen.models.gan.losses`.
        discriminator_steps: Int, updates of the discriminator for one of the generator,
            all on the same real images, with fresh generated ones; `None` for what the
            loss's paper says: 5 for the Wasserstein losses, 1 for the others.
        label_smoothing: Float, 0 to 1, how much less than 1 the discriminator is to say of real
            images, see `losses.smoothing`; `None` for 0.1 with the cross-entropies of
            `"minimax"` and `"non_saturating"`, and 0 with the others, which have no labels.
        gradient_penalty_weight: Float, for `"wasserstein_gp"`.
        clip_value: Float, for `"wasserstein"`: the discriminator's weights are kept in
            `-clip_value .. clip_value`.
        r1_weight, r2_weight: Floats, weights of the zero-centred gradient penalties of real and of
            generated images, with any loss; `None` for 1 with `"relativistic"`, which needs both to
            converge, and 0, without them, with the others.
        penalty: `"exact"`, by the gradient's own gradient, or `"finite_difference"`, by the logits
            of images moved by 0.01 times normal noise, see `losses.finite_difference_penalty`.
        penalty_interval: Int, the zero-centred penalties are taken every so many updates of the
            discriminator, with as many times their weight: Karras et al., "Analyzing and improving
            the image quality of StyleGAN" (CVPR 2020; arXiv 1912.04958), section 3.1.
        augmentation: Names of the changes with which the discriminator sees images, real and
            generated, in the updates of both players, of `"colour"`, `"translation"` and
            `"cutout"`, see `kgen.layers.augmentation`; `None` or empty for none. It is for data of
            hundreds or thousands of images.
        ema_decay: Float, 0 to 1, of the exponential moving average of the generator's
            weights, from which `generate` draws; 0 draws from the weights as trained.

    Further arguments: as for `ImageGenerator`.

    Logs: `discriminator_loss`, `generator_loss`; `real_accuracy` and `fake_accuracy`, the
    share of real and of generated images that the discriminator tells for what they are
    (by the midpoint between the mean scores for the Wasserstein losses, whose scores have
    no zero); `sample_spread`, the standard deviation of generated pixels over the batch
    relative to that of real ones: about 1 when all is well, near 0 when all images are
    alike; 1 where the real ones have none, as in a batch of one. `evaluate` measures the averaged
    generator, against the discriminator as it is.

    There is no `loss` to monitor: neither player's says how good the images are, and a callback
    that waits for one is refused. `kgen.evaluation.EvaluateSamples` measures images, keeps the best
    model, and logs what `keras.callbacks.EarlyStopping("FD-lenet128", mode="min")` after it can
    monitor.
    """

    metric_names = (
        "discriminator_loss",
        "generator_loss",
        "real_accuracy",
        "fake_accuracy",
        "sample_spread",
    )

    sampling_numbers = {"temperature": Number(least=0)}
    frozen_networks = ("ema_generator",)

    #: Whether the discriminator looks at statistics of its batch, so that real and generated
    #: images must go through it apart.
    normalized = True

    # The two players ------------------------------------------------------------------

    def update(self, batch, minimize):
        # The generator moves first, and the discriminator learns from the very images of that
        # move: each answers the other's last state. That saves a generator's pass per step.
        real = scale_images(batch.images)
        logs = minimize(
            functools.partial(self.generator_objective, batch, real),
            self.generator_optimizer,
            self.generator.trainable_variables,
        )
        fake = logs.pop("generated")
        for step in range(self.discriminator_steps):
            if step > 0:
                fake = self._draw(self.generator, batch, stream=2 * step, training=True)
            logs |= minimize(
                functools.partial(self.discriminator_objective, batch, real, fake, step),
                self.discriminator_optimizer,
                self.discriminator.trainable_variables,
            )
            if self.loss_name == "wasserstein":
                for variable in self.discriminator.trainable_variables:
                    variable.assign(ops.clip(variable, -self.clip_value, self.clip_value))
        update_average(self.ema_generator, self.generator, self.ema_decay, self.training_steps)
        # Keras's callbacks read this count, which only MultiOptimizer.apply would advance.
        self.optimizer.iterations.assign(self.training_steps)
        return logs

    def generator_objective(self, batch, real):
        """What the generator minimises; the images come along for the discriminator."""
        fake = self._draw(self.generator, batch, stream=0, training=True)
        loss, logs = self._generator_loss(batch, real, fake, training=True)
        return loss, {**logs, "generated": fake}

    def _generator_loss(self, batch, real, fake, training):
        players = self.losses_of_players
        sides = (fake, real) if players.paired else (fake,)
        seen = (self._seen(pixels, batch, stream, training) for stream, pixels in enumerate(sides))
        loss = players.generator(*(self._discriminate(pixels, batch.labels) for pixels in seen))
        return loss, {"generator_loss": loss}

    def discriminator_objective(self, batch, real, fake, step, training=True):
        """What the discriminator minimises, given scaled real and generated pixels."""
        spreads = [ops.mean(ops.sqrt(batch_moments(pixels)[1])) for pixels in (real, fake)]
        real = self._seen(real, batch, 2 * step + 2, training)
        fake = self._seen(fake, batch, 2 * step + 3, training)
        if self.normalized:
            # A batch each, as in the authors' code: batch normalisation must not mix them.
            real_logits = self._discriminate(real, batch.labels)
            fake_logits = self._discriminate(fake, batch.labels)
        else:
            twice = None if batch.labels is None else ops.concatenate([batch.labels] * 2)
            logits = self._discriminate(ops.concatenate([real, fake]), twice)
            real_logits, fake_logits = ops.split(logits, 2)
        loss = self.losses_of_players.discriminator(real_logits, fake_logits)
        if self.label_smoothing:
            loss = loss + self.label_smoothing * adversarial.smoothing(real_logits)
        if self.loss_name == "wasserstein_gp":
            share = random.uniform(batch.seeds, (1, 1, 1), stream=2 * step + 1)
            gradients = input_gradient(
                lambda pixels: self._discriminate(pixels, batch.labels),
                real + share * (fake - real),
            )
            penalty = adversarial.gradient_penalty(gradients)
            loss = loss + self.gradient_penalty_weight * penalty
        if training and (self.r1_weight or self.r2_weight):
            loss = loss + self._zero_centred_penalties(
                batch, (real, fake), (real_logits, fake_logits), step
            )
        threshold = self.losses_of_players.threshold
        if threshold is None:
            threshold = (batch_moments(real_logits)[0] + batch_moments(fake_logits)[0]) / 2
        relative = spreads[1] / ops.maximum(spreads[0], 1e-3)
        return loss, {
            "discriminator_loss": loss,
            "real_accuracy": ops.mean(ops.cast(real_logits > threshold, "float32")),
            "fake_accuracy": ops.mean(ops.cast(fake_logits < threshold, "float32")),
            # Where real images have no spread, such as one row, there is nothing to compare.
            "sample_spread": ops.where(spreads[0] > 1e-3, relative, 1.0),
        }

    def test_update(self, batch):
        real = scale_images(batch.images)
        fake = self._draw(self.ema_generator, batch, stream=0, training=False)
        # The discriminator is made to see whole batches, real or generated, and their
        # statistics, not the average of both kinds. The scope forgets what it would update.
        state = [(variable, variable.value) for variable in self.discriminator.variables]
        with keras.StatelessScope(state_mapping=state):
            _, logs = self.discriminator_objective(batch, real, fake, 0, training=False)
            _, generator_logs = self._generator_loss(batch, real, fake, training=False)
        return logs | generator_logs

    def _seen(self, pixels, batch, stream, training):
        """Pixels as the discriminator sees them: in training changed, by draws of their own."""
        if not training:
            return pixels
        return augmented(pixels, batch.seeds, self.augmentation, stream=stream)

    def _zero_centred_penalties(self, batch, pixels, logits, step):
        """R1 of real and R2 of generated images, weighted; now and then if it is lazy."""

        def penalty(kind):
            if self.penalty == "exact":
                gradients = input_gradient(
                    lambda x: self._discriminate(x, batch.labels), pixels[kind]
                )
                return adversarial.zero_centred_penalty(gradients)
            noise = random.normal(
                batch.seeds, self.image_shape, stream=_PENALTY_STREAM + 2 * step + kind
            )
            moved = self._discriminate(pixels[kind] + _DISTANCE * noise, batch.labels)
            return adversarial.finite_difference_penalty(logits[kind], moved, _DISTANCE)

        def both():
            weights = (self.r1_weight, self.r2_weight)
            return sum(weight * penalty(kind) for kind, weight in enumerate(weights) if weight)

        if self.penalty_interval == 1:
            return both()
        update = self.training_steps * self.discriminator_steps + step
        return ops.cond(
            update % self.penalty_interval == 0,
            lambda: self.penalty_interval * both(),
            lambda: ops.zeros((), "float32"),
        )

    def _draw(self, generator, batch, stream, training):
        latents = random.normal(batch.seeds, (self.latent_dim,), stream)
        return generator(with_class(latents, batch.labels, self.num_classes), training=training)

    def _discriminate(self, pixels, labels):
        """(B, H, W, C) in -1 .. 1 to (B,) logits."""
        logits = self.discriminator(with_class(pixels, labels, self.num_classes), training=True)
        return ops.squeeze(logits, -1)

    # Sampling and shipping ------------------------------------------------------------

    def sample(self, seeds, labels=None, temperature=1.0):
        """Draws images.

        Args:
            temperature: Float of 0 or more, times which the latent vector is taken: below 1, images
                are more alike and typical.
        """
        latents = random.normal(seeds, (self.latent_dim,))
        latents = latents * per_row(temperature, latents)
        return self.decode(latents, labels)

    def decode(self, latents, labels=None):
        """The images, uint8, of latent vectors `[B, latent_dim]`, by the averaged generator."""
        inputs = with_class(latents, labels, self.num_classes)
        return unscale_images(self.ema_generator(inputs, training=False))

    def call(self, latents, labels=None):
        """Draws the images of latent vectors, as `decode` does."""
        return self.decode(latents, labels)

    def endpoints(self):
        latent = TensorSpec((self.latent_dim,), "float32", description="latent vector")
        return {
            **super().endpoints(),
            "decode": self.endpoint(
                lambda latent, label=None: self.decode(latent, label),
                "draws the image of a latent vector",
                seeded=False,
                latent=latent,
            ),
        }

    # Training -------------------------------------------------------------------------

    def default_optimizer(self, learning_rate=None, name=None):
        """The optimizer of the loss's paper, for either player, but for the rate of DCGAN's.

        Radford, Metz and Chintala (2016), section 4, take 2e-4; five times as much is ahead of it
        after as many epochs (benchmarks/RESULTS.md).
        """
        if self.loss_name == "wasserstein":  # algorithm 1; momentum made the critic unstable
            rate, kind = 5e-5, keras.optimizers.RMSprop
        elif self.loss_name == "wasserstein_gp":  # algorithm 1
            rate, kind = 1e-4, functools.partial(keras.optimizers.Adam, beta_1=0.0, beta_2=0.9)
        else:
            rate, kind = 1e-3, functools.partial(keras.optimizers.Adam, beta_1=0.5)
        return kind(rate if learning_rate is None else learning_rate, name=name)

    def compile(
        self,
        generator_optimizer=None,
        discriminator_optimizer=None,
        *,
        learning_rate=None,
        schedule=None,
        warmup_steps=None,
        total_steps=None,
        jit_compile="auto",
        steps_per_execution=1,
        run_eagerly=False,
        auto_scale_loss=True,
        **keras_arguments,
    ):
        """Configures training, as `ImageGenerator.compile` does, with two optimizers.

        Args:
            generator_optimizer: A Keras optimizer or its name; `None` for the model's own
                default.
            discriminator_optimizer: Likewise.
            learning_rate, schedule, warmup_steps, total_steps: For the default optimizers. Steps
                are those of training, in each of which a discriminator may make several updates.
            auto_scale_loss: Without effect, because `mixed_float16` is refused.

        Raises:
            ValueError: The optimizers are one and the same, or do not go with
                `learning_rate` or `schedule`, or the dtype policy is `mixed_float16`.
        """
        self._check_keras_arguments(keras_arguments)
        if self.dtype_policy.name == "mixed_float16":
            raise ValueError(
                f"{type(self).__name__} does not train in mixed_float16: its two losses would each "
                "need a loss scale of their own. Received: dtype='mixed_float16'. Use "
                "'mixed_bfloat16'."
            )
        given = (generator_optimizer, discriminator_optimizer)
        rate = {
            "learning_rate": learning_rate,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
        }
        for name, value in rate.items():
            if value is not None and None not in given:
                raise ValueError(
                    f"{name} goes with the default optimizers; give custom ones their own. "
                    f"Received: {name}={value} and two optimizers"
                )
        players = {"generator": 1, "discriminator": self.discriminator_steps}
        generator_optimizer, discriminator_optimizer = (
            scheduled_optimizer(self, **rate, updates=updates, name=name)
            if optimizer is None
            else keras.optimizers.get(optimizer)
            for optimizer, (name, updates) in zip(given, players.items(), strict=True)
        )
        if generator_optimizer is discriminator_optimizer:
            raise ValueError(
                "The generator and the discriminator need an optimizer each: one optimizer keeps "
                "one set of moments and one count of steps. Received the same object twice."
            )
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self._check_optimizer(generator_optimizer, self.generator.trainable_variables)
        self._check_optimizer(discriminator_optimizer, self.discriminator.trainable_variables)
        # By identity: the paths of a functional model's variables do not name the model.
        mine = {id(variable) for variable in self.generator.trainable_variables}
        both = keras.optimizers.MultiOptimizer(
            lambda variable: (
                generator_optimizer if id(variable) in mine else discriminator_optimizer
            )
        )
        self._compile(both, jit_compile, steps_per_execution, run_eagerly, auto_scale_loss)
        self._compile_arguments["generator_optimizer"] = generator_optimizer
        self._compile_arguments["discriminator_optimizer"] = discriminator_optimizer

    def _optimizers(self):
        return [self.generator_optimizer, self.discriminator_optimizer]

    def diagnose(self, logs):
        # Measured on 8x8 and 28x28 digits after 500 steps, before which an untrained generator's
        # images are all alike too: 0.3 (weight clipping, still rising) to 1.0 in good runs, 0.00
        # to 0.06 in collapsed ones.
        if ops.convert_to_numpy(self.training_steps) < 500:
            return []
        warnings = []
        spread = min(logs.get(name, 1.0) for name in ("sample_spread", "val_sample_spread"))
        if spread < 0.2:
            warnings.append(
                f"mode collapse: the spread of generated images is {spread:.2g} times that of real "
                "ones, under 0.2 times: the generator draws nearly one image from all seeds. Try a "
                "smaller learning_rate, loss='wasserstein_gp' or more discriminator_steps."
            )
        accuracy = min(logs.get(name, 0.0) for name in ("real_accuracy", "fake_accuracy"))
        if accuracy > 0.999 and self.losses_of_players.threshold is not None:
            warnings.append(
                f"the discriminator wins: it tells {100 * accuracy:.4g} % of the images right, and "
                "the generator has little to learn from. Try a smaller learning rate in the "
                "discriminator_optimizer, loss='non_saturating' or loss='wasserstein_gp'."
            )
        return warnings

    # Construction ---------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        *,
        latent_dim,
        loss="non_saturating",
        discriminator_steps=None,
        label_smoothing=None,
        gradient_penalty_weight=10.0,
        clip_value=0.01,
        r1_weight=None,
        r2_weight=None,
        penalty="exact",
        penalty_interval=1,
        augmentation=(),
        ema_decay=0.999,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        self.losses_of_players = adversarial.get(loss)
        self.loss_name = loss  # Keras keeps `loss` for itself
        if discriminator_steps is None:
            self.discriminator_steps = 5 if loss in ("wasserstein", "wasserstein_gp") else 1
        check_ints(
            1,
            latent_dim=latent_dim,
            discriminator_steps=self.discriminator_steps,
            penalty_interval=penalty_interval,
        )
        usual = 1.0 if self.losses_of_players.paired else 0.0
        self.r1_weight = usual if r1_weight is None else r1_weight
        self.r2_weight = usual if r2_weight is None else r2_weight
        check_names(penalty=(penalty, PENALTIES))
        self.augmentation = check_policy(augmentation)
        if label_smoothing is None:
            self.label_smoothing = 0.1 if loss in adversarial.CROSS_ENTROPIES else 0.0
        check_shares(ema_decay=ema_decay, label_smoothing=self.label_smoothing)
        if self.label_smoothing and loss not in adversarial.CROSS_ENTROPIES:
            raise ValueError(
                f"label_smoothing is for the losses {' and '.join(adversarial.CROSS_ENTROPIES)}, "
                f"whose discriminator has labels. Received: label_smoothing={label_smoothing}, "
                f"loss={loss!r}"
            )
        check_numbers(Number(above=0), clip_value=clip_value)
        check_numbers(
            Number(least=0),
            gradient_penalty_weight=gradient_penalty_weight,
            r1_weight=self.r1_weight,
            r2_weight=self.r2_weight,
        )

    def get_config(self):
        return {**super().get_config(), "loss": self.loss_name}

    def _set_players(self, generator, ema_generator, discriminator):
        """Keeps the networks, of which the second is the first's averaged twin."""
        self.generator, self.ema_generator = generator, ema_generator
        self.discriminator = discriminator
        self._freeze_networks()
        ema_generator.set_weights(generator.get_weights())
        self.built = True
