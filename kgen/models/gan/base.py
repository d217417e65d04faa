"""What every generative adversarial network shares: two players, and the step in which both move.

Goodfellow et al., "Generative adversarial nets" (NIPS 2014; arXiv 1406.2661), section 3 and
algorithm 1. The losses, with their papers, are in `kgen.models.gan.losses`.
"""

import functools

import keras
from keras import ops

from kgen import random
from kgen.checks import Number, check_ints, check_names, check_numbers, check_shares
from kgen.endpoint import TensorSpec, image_spec
from kgen.image_generator import ImageGenerator
from kgen.layers.augmentation import augmented, check_policy
from kgen.layers.conditioning import per_row, with_class
from kgen.layers.network import given_network, rows_of
from kgen.layers.scaling import scale_images, unscale_images
from kgen.layers.transformer import LayerNorm
from kgen.models.gan import diagnosis, inversion
from kgen.models.gan import losses as adversarial
from kgen.models.gan.networks import CLASS_HEADS, features_of
from kgen.models.gan.players import Players
from kgen.training.average import update_average
from kgen.training.schedules import half_cosine
from kgen.training.step import batch_moments, input_gradient, whole_batch

#: How the zero-centred penalties are taken.
PENALTIES = ("exact", "finite_difference")
_DISTANCE = 0.01

# Streams of noise beside those of latent vectors and of augmentation.
_PENALTY_STREAM = 1 << 16
_NOISE_STREAM = 1 << 17

#: Adaptive augmentation aims at so much overfitting (Karras et al., 2020, section 3), and takes at
#: least so many images from none to all; theirs are 500,000, of trainings of 25,000,000.
_OVERFITTING, _ADAPTATION_IMAGES = 0.6, 100_000

#: What is left of the zero-centred penalties' weights after the burn-in.
_LAST_PENALTY = 0.1

#: How often a number of a latent vector is drawn again where it is beyond the truncation.
_REDRAWS = 7


class AdversarialGenerator(Players, ImageGenerator):
    """Base class of generative adversarial networks.

    A subclass is its two networks, which it hands to `_build_players`, its defaults and its
    presets. With classes, both take a one-hot label `[B, num_classes]` as a second input:

    - the generator makes pixels `[B, H, W, C]` in -1 to 1 of latent vectors `[B, latent_dim]`
      (to images by `kgen.layers.UnscaleImages`, from images by `kgen.layers.ScaleImages`);
    - the discriminator makes logits `[B, 1]` of pixels; with the auxiliary head, of pixels alone,
      `[B, 1 + num_classes]`.

    Args:
        latent_dim: Int, dimensions of the latent vector.
        generator: A Keras model in place of the class's own; it is saved with the model.
        discriminator: Likewise.
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
        burn_in_steps: Int, over so many first steps, along half a cosine wave, the zero-centred
            penalties fall to a tenth of their weights (Huang et al., arXiv 2501.05441, appendix)
            and instance noise to 0; `None` for constant ones.
        instance_noise: Float, standard deviation of the noise that is added to all that the
            discriminator sees in training, of pixels in -1 to 1: Sønderby et al., "Amortised MAP
            inference for image super-resolution" (ICLR 2017; arXiv 1610.04490), section 3.2.
        lecam_weight: Float, see `losses.lecam`; for small data.
        feature_matching_weight: Float, see `losses.feature_matching`; it needs a discriminator
            with a layer that is named "features".
        class_head: `"projection"` or `"auxiliary"`, how the discriminator judges the class, see
            `kgen.models.gan.networks.discriminator`.
        auxiliary_weight: Float, weight of the classification in both players' losses with the
            auxiliary head.
        augmentation: Names of the changes with which the discriminator sees images, real and
            generated, in the updates of both players, of `"colour"`, `"translation"` and
            `"cutout"`, see `kgen.layers.augmentation`; `None` or empty for none. It is for data of
            hundreds to tens of thousands of images; `kgen train` takes it for up to 50,000.
        augmentation_probability: Float, 0 to 1, with which each change is made to each image; or
            `"adaptive"`, as much as there is overfitting: Karras et al., "Training generative
            adversarial networks with limited data" (NeurIPS 2020; arXiv 2006.06676), section 3.
        ema_decay: Float, 0 to 1, of the exponential moving average of the generator's
            weights, from which `generate` draws; 0 draws from the weights as trained.

    Further arguments: as for `ImageGenerator`.

    Logs: `discriminator_loss`, `generator_loss`; `real_accuracy` and `fake_accuracy`, the
    share of real and of generated images that the discriminator tells for what they are
    (by the midpoint between the mean scores for the Wasserstein losses, whose scores have
    no zero); `real_score` and `fake_score`, the mean logits; `generator_gradient_norm` and
    `discriminator_gradient_norm`, of training alone; `augmentation_probability`, where it is
    adaptive; `sample_spread`, the standard deviation of generated pixels over the batch
    relative to that of real ones: about 1 when all is well, near 0 when all images are
    alike; 1 where the real ones have none, as in a batch of one; `class_spread`, with classes, the
    least such spread within a class. `evaluate` measures the averaged
    generator, against the discriminator as it is.

    There is no `loss` to monitor: neither player's says how good the images are, and a callback
    that waits for one is refused. `kgen.evaluation.EvaluateSamples` measures images, keeps the best
    model, and logs what `keras.callbacks.EarlyStopping("FD-lenet128", mode="min")` after it can
    monitor.
    """

    @property
    def metric_names(self):
        classes = () if self.num_classes is None else ("class_spread",)
        return (
            "discriminator_loss",
            "generator_loss",
            "real_accuracy",
            "fake_accuracy",
            "real_score",
            "fake_score",
            "sample_spread",
            *classes,
        )

    @property
    def training_metric_names(self):
        adaptive = ("augmentation_probability",) if self._adapts else ()
        return ("generator_gradient_norm", "discriminator_gradient_norm", *adaptive)

    sampling_numbers = {
        "temperature": Number(least=0),
        # The largest number that is drawn is 5.9.
        "truncation": Number(above=0, most=6, optional=True, off=6),
    }
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
        logs["generator_gradient_norm"] = logs.pop("gradient_norm")
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
        logs["discriminator_gradient_norm"] = logs.pop("gradient_norm")
        overfitting = logs.pop("overfitting")
        if self._adapts:
            images = ops.cast(ops.shape(whole_batch(batch.seeds))[0], "float32")
            change = ops.sign(overfitting - _OVERFITTING) * images / _ADAPTATION_IMAGES
            self.adapted.assign(ops.clip(self.adapted + change, 0.0, 1.0))
            logs["augmentation_probability"] = ops.convert_to_tensor(self.adapted)
        update_average(self.ema_generator, self.generator, self.ema_decay, self.training_steps)
        self._count_step()
        return logs

    def generator_objective(self, batch, real):
        """What the generator minimises; the images come along for the discriminator."""
        fake = self._draw(self.generator, batch, stream=0, training=True)
        loss, logs = self._generator_loss(batch, real, fake, training=True)
        return loss, {**logs, "generated": fake}

    def _generator_loss(self, batch, real, fake, training):
        players = self.losses_of_players
        fake = self._seen(fake, batch, 0, training)
        logits, classes = self._judge(fake, batch.labels)
        if players.paired or self.feature_matching_weight:
            real = self._seen(real, batch, 1, training)
        if players.paired:
            loss = players.generator(logits, self._discriminate(real, batch.labels))
        else:
            loss = players.generator(logits)
        if classes is not None:
            said = adversarial.class_cross_entropy(classes, batch.labels)
            loss = loss + self.auxiliary_weight * said
        if self.feature_matching_weight:
            features = (self._features(pixels, batch.labels) for pixels in (real, fake))
            means = (batch_moments(each)[0] for each in features)
            loss = loss + self.feature_matching_weight * adversarial.feature_matching(*means)
        return loss, {"generator_loss": loss}

    def discriminator_objective(self, batch, real, fake, step, training=True):
        """What the discriminator minimises, given scaled real and generated pixels."""
        spreads = [ops.mean(ops.sqrt(batch_moments(pixels)[1])) for pixels in (real, fake)]
        within = {}
        if self.num_classes is not None:
            numbers = (batch.labels, self.num_classes)
            within["class_spread"] = diagnosis.class_spread(real, fake, *numbers)
        real = self._seen(real, batch, 2 * step + 2, training)
        fake = self._seen(fake, batch, 2 * step + 3, training)
        if self.normalized:
            # A batch each, as in the authors' code: batch normalisation must not mix them.
            real_logits, real_classes = self._judge(real, batch.labels)
            fake_logits, fake_classes = self._judge(fake, batch.labels)
        else:
            twice = None if batch.labels is None else ops.concatenate([batch.labels] * 2)
            logits, classes = self._judge(ops.concatenate([real, fake]), twice)
            real_logits, fake_logits = ops.split(logits, 2)
            real_classes, fake_classes = (None, None) if classes is None else ops.split(classes, 2)
        loss = self.losses_of_players.discriminator(real_logits, fake_logits)
        means = [batch_moments(logits)[0] for logits in (real_logits, fake_logits)]
        if self.label_smoothing:
            loss = loss + self.label_smoothing * adversarial.smoothing(real_logits)
        if real_classes is not None:
            said = adversarial.class_cross_entropy(real_classes, batch.labels)
            said = said + adversarial.class_cross_entropy(fake_classes, batch.labels)
            loss = loss + self.auxiliary_weight * said
        if self.lecam_weight:
            anchors = ops.unstack(ops.convert_to_tensor(self.anchors))
            regularizer = adversarial.lecam(real_logits, fake_logits, *anchors)
            loss = loss + self.lecam_weight * regularizer
            if training:
                self.anchors.assign(0.99 * self.anchors + 0.01 * ops.stack(means))
        if self.loss_name == "wasserstein_gp":
            share = random.uniform(batch.seeds, (1, 1, 1), stream=2 * step + 1)
            gradients = self._slopes(batch, real + share * (fake - real))
            penalty = adversarial.gradient_penalty(gradients)
            loss = loss + self.gradient_penalty_weight * penalty
        if training and (self.r1_weight or self.r2_weight):
            loss = loss + self._zero_centred_penalties(
                batch, (real, fake), (real_logits, fake_logits), step
            )
        threshold = self.losses_of_players.threshold
        if threshold is None:
            threshold = (means[0] + means[1]) / 2
        right = ops.cast(real_logits > threshold, "float32")
        relative = spreads[1] / ops.maximum(spreads[0], 1e-3)
        return loss, {
            "discriminator_loss": loss,
            "real_accuracy": ops.mean(right),
            "fake_accuracy": ops.mean(ops.cast(fake_logits < threshold, "float32")),
            "real_score": ops.mean(real_logits),
            "fake_score": ops.mean(fake_logits),
            # Where real images have no spread, such as one row, there is nothing to compare.
            "sample_spread": ops.where(spreads[0] > 1e-3, relative, 1.0),
            **within,
            # Karras et al. (2020), equation 1: the mean sign of real logits.
            "overfitting": 2 * batch_moments(right)[0] - 1,
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
        probability = self.augmentation_probability
        if self._adapts:
            probability = ops.convert_to_tensor(self.adapted)
        pixels = augmented(pixels, batch.seeds, self.augmentation, stream, probability)
        if self.instance_noise:
            noise = random.normal(batch.seeds, self.image_shape, _NOISE_STREAM + stream)
            pixels = pixels + self.instance_noise * self._youth() * noise
        return pixels

    def _youth(self):
        """What is left of the burn-in, 1 to 0; 1 where there is none."""
        if self.burn_in_steps is None:
            return 1.0
        return half_cosine(self.training_steps, self.burn_in_steps)

    def _slopes(self, batch, pixels):
        """Gradients of every image's own logit with respect to its pixels."""
        return input_gradient(lambda x: self._discriminate(x, batch.labels, training=False), pixels)

    def _zero_centred_penalties(self, batch, pixels, logits, step):
        """R1 of real and R2 of generated images, weighted; now and then if it is lazy."""

        def penalty(kind):
            if self.penalty == "exact":
                return adversarial.zero_centred_penalty(self._slopes(batch, pixels[kind]))
            noise = random.normal(
                batch.seeds, self.image_shape, stream=_PENALTY_STREAM + 2 * step + kind
            )
            moved = pixels[kind] + _DISTANCE * noise
            moved = self._discriminate(moved, batch.labels, training=False)
            here = logits[kind]
            if self.discriminator.non_trainable_variables:  # it may judge otherwise in training
                here = self._discriminate(pixels[kind], batch.labels, training=False)
            return adversarial.finite_difference_penalty(here, moved, _DISTANCE)

        def both():
            weights = (self.r1_weight, self.r2_weight)
            share = _LAST_PENALTY + (1 - _LAST_PENALTY) * self._youth()
            return share * sum(
                weight * penalty(kind) for kind, weight in enumerate(weights) if weight
            )

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

    def _told(self, x, labels):
        """What the discriminator takes of pixels and labels."""
        if self.class_head == "auxiliary":
            return x
        return with_class(x, labels, self.num_classes)

    def _discriminate(self, pixels, labels, training=True):
        """(B, H, W, C) in -1 .. 1 to (B,) logits.

        A gradient penalty is each image's own, and so not of training: the statistics of a batch
        are no part of it, and nothing that training counts moves.
        """
        return self.discriminator(self._told(pixels, labels), training=training)[:, 0]

    def _judge(self, pixels, labels):
        """The logits of training, and (B, num_classes) of an auxiliary head, or `None`."""
        if self.num_classes is None or self.class_head != "auxiliary":
            return self._discriminate(pixels, labels), None
        logits = self.discriminator(pixels, training=True)
        return logits[:, 0], logits[:, 1:]

    # Sampling and shipping ------------------------------------------------------------

    def sample(self, seeds, labels=None, temperature=1.0, truncation=None):
        """Draws images.

        Args:
            temperature: Float of 0 or more, times which the latent vector is taken: below 1, images
                are more alike and typical.
            truncation: Float above 0: what of the latent vector is larger is drawn again; the
                smaller, the more alike and typical are images. `None` or 6 takes all. Brock,
                Donahue and Simonyan, "Large scale GAN training for high fidelity natural image
                synthesis" (ICLR 2019; arXiv 1809.11096), section 3.1.
        """
        latents = random.normal(seeds, (self.latent_dim,))
        if truncation is not None:
            most = per_row(truncation, latents)
            again = random.normal(seeds, (_REDRAWS, self.latent_dim), stream=1)
            for redraw in range(_REDRAWS):
                latents = ops.where(ops.abs(latents) <= most, latents, again[:, redraw])
            latents = ops.clip(latents, -most, most)  # what was beyond it every time
        latents = latents * per_row(temperature, latents)
        return self.decode(latents, labels)

    def decode(self, latents, labels=None):
        """The images, uint8, of latent vectors `[B, latent_dim]`, by the averaged generator."""
        inputs = with_class(latents, labels, self.num_classes)
        return unscale_images(self.ema_generator(inputs, training=False))

    def call(self, latents, labels=None):
        """Draws the images of latent vectors, as `decode` does."""
        return self.decode(latents, labels)

    def invert(self, images, labels=None):
        """The latent vectors, float32 `[B, latent_dim]`, whose images are nearest to given ones.

        For uint8 tensors `[B, H, W, C]`, see `kgen.models.gan.inversion`; arrays of any length go
        through `run_endpoint("invert", {"image": images}, labels)`.
        """

        def draw(latents, labels):
            inputs = with_class(latents, labels, self.num_classes)
            return self.ema_generator(inputs, training=False)

        return inversion.invert(draw, scale_images(images), labels, self.latent_dim)

    def endpoints(self):
        latent = TensorSpec((self.latent_dim,), "float32", description="latent vector")

        def invert(image, label=None):
            latents = self.invert(image, label)
            return {"latent": latents, "image": self.decode(latents, label)}

        return {
            **super().endpoints(),
            "invert": self.endpoint(
                invert,
                "finds the latent vector of an image, and draws that",
                {"latent": latent, "image": image_spec(self.image_shape)},
                seeded=False,
                image=image_spec(self.image_shape),
            ),
            "decode": self.endpoint(
                lambda latent, label=None: self.decode(latent, label),
                "draws the image of a latent vector",
                seeded=False,
                latent=latent,
            ),
        }

    # Training -------------------------------------------------------------------------

    def _players(self):
        return self.generator.trainable_variables, self.discriminator.trainable_variables

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

    def diagnose(self, logs):
        if self.steps_trained < diagnosis.FIRST_STEP:
            return []
        return diagnosis.warnings_of(logs, self.losses_of_players.threshold is not None)

    # Construction ---------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        *,
        latent_dim,
        generator=None,
        discriminator=None,
        loss="non_saturating",
        discriminator_steps=None,
        label_smoothing=None,
        gradient_penalty_weight=10.0,
        clip_value=0.01,
        r1_weight=None,
        r2_weight=None,
        penalty="exact",
        penalty_interval=1,
        burn_in_steps=None,
        instance_noise=0.0,
        lecam_weight=0.0,
        feature_matching_weight=0.0,
        class_head="projection",
        auxiliary_weight=1.0,
        augmentation=(),
        augmentation_probability=1.0,
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
        check_numbers(Number(least=1, whole=True, optional=True), burn_in_steps=burn_in_steps)
        usual = 1.0 if self.losses_of_players.paired else 0.0
        self.r1_weight = usual if r1_weight is None else r1_weight
        self.r2_weight = usual if r2_weight is None else r2_weight
        check_names(penalty=(penalty, PENALTIES), class_head=(class_head, CLASS_HEADS))
        if class_head == "auxiliary" and num_classes is None:
            raise ValueError(
                "class_head='auxiliary' tells classes apart: give num_classes, or leave it out. "
                "Received: num_classes=None"
            )
        self.augmentation = check_policy(augmentation)
        if augmentation_probability != "adaptive":
            check_numbers(
                Number(least=0, most=1), augmentation_probability=augmentation_probability
            )
        elif not self.augmentation:
            raise ValueError(
                "augmentation_probability='adaptive' needs what is to be adapted: "
                "augmentation=('colour', 'translation', 'cutout'), or some of these. Received: "
                f"augmentation={augmentation!r}"
            )
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
            instance_noise=instance_noise,
            lecam_weight=lecam_weight,
            feature_matching_weight=feature_matching_weight,
            auxiliary_weight=auxiliary_weight,
        )
        if self._adapts:
            self.adapted = self._state((), "adapted_augmentation")
        if lecam_weight:
            self.anchors = self._state((2,), "anchors")

    @property
    def _adapts(self):
        return self.augmentation_probability == "adaptive"

    def _state(self, shape, name):
        """What training keeps beside weights: numbers that begin at 0."""
        return self.add_weight(
            shape, "zeros", trainable=False, name=name, aggregation="only_first_replica"
        )

    def get_config(self):
        return {**super().get_config(), "loss": self.loss_name}

    def _check_second_derivatives(self):
        """Refuses a penalty whose gradient would be wrong, and nothing would show it."""
        exact = (self.r1_weight or self.r2_weight) and self.penalty == "exact"
        if keras.backend.backend() != "tensorflow" or not (
            exact or self.loss_name == "wasserstein_gp"
        ):
            return
        kinds = (keras.layers.LayerNormalization, keras.layers.GroupNormalization)
        for layer in self.discriminator._flatten_layers():
            if isinstance(layer, kinds) and not isinstance(layer, LayerNorm):
                raise ValueError(
                    f"On TensorFlow {type(layer).__name__} has no right second derivatives, which "
                    "a gradient penalty needs: keras.ops.moments stops the gradient at the mean. "
                    "Take kgen.layers.transformer.LayerNorm or keras.layers.RMSNormalization in "
                    "the discriminator, penalty='finite_difference' (with r1_weight or r2_weight), "
                    f"or JAX. Received: a discriminator with the layer {layer.name!r}"
                )

    def _build_players(self, generator, discriminator):
        """Builds the networks: `generator(name)` and `discriminator()` make those not given.

        Of the generator there are two, the second the first's averaged twin.
        """
        given = self._arguments["generator"]
        latents = rows_of((self.latent_dim,), self.num_classes)
        pixels, logits = rows_of(self.image_shape, self.num_classes), 1
        if self.class_head == "auxiliary":
            pixels, logits = self.image_shape, 1 + self.num_classes

        def generate(name, network):
            build = functools.partial(generator, name)
            return given_network("generator", network, build, latents, self.image_shape)

        with self.dtype_policy_scope():
            self.generator = generate("generator", given)
            twin = given and keras.saving.serialize_keras_object(self.generator)
            self.ema_generator = generate("ema_generator", twin)
            judge = self._arguments["discriminator"]
            judge = given_network("discriminator", judge, discriminator, pixels, (logits,))
            self.discriminator = judge
        self._check_second_derivatives()
        self._freeze_networks()
        self.ema_generator.set_weights(self.generator.get_weights())
        if self.feature_matching_weight:
            inside = features_of(judge)
            self._features = lambda pixels, labels: inside(
                keras.tree.flatten(self._told(pixels, labels)), training=True
            )
        self.built = True
