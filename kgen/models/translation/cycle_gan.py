"""Image-to-image translation without pairs.

Zhu, Park, Isola and Efros, "Unpaired image-to-image translation using cycle-consistent adversarial
networks" (ICCV 2017; arXiv 1703.10593): a translator each way, G and F, each judged by a
discriminator of patches (section 3.1, with the least squares of section 4), so that a way and back
ends where it began, lambda = 10 (section 3.2), and what is of the other side already is left alone
(section 5.2, "identity"). The discriminators see some of the last 50 images that were made in place
of the newest (section 4; Shrivastava et al., "Learning from simulated and unsupervised images
through adversarial training", CVPR 2017; arXiv 1612.07828, section 2.3).

The networks are in `kgen.models.translation.networks`.
"""

import functools

import keras
import numpy as np
from keras import ops

from kgen import random
from kgen.checks import Number, check_ints, check_names, check_numbers
from kgen.layers.scaling import scale_images, unscale_images
from kgen.models.gan import diagnosis
from kgen.models.gan import losses as adversarial
from kgen.models.gan.players import Players
from kgen.models.translation import distances, networks
from kgen.models.translation.adversarial import LOSSES, scores, slopes
from kgen.models.translation.convolutional import ConvolutionalTranslator
from kgen.training.average import update_average
from kgen.training.step import whole_batch

# Streams of noise of the two pools, each of two.
_STREAMS = (1, 3)


@keras.saving.register_keras_serializable(package="kgen")
class CycleGAN(Players, ConvolutionalTranslator):
    """Translation learnt from two heaps of images, of which none are partners.

    Args:
        loss: `"least_squares"`, `"non_saturating"`, `"hinge"` or `"relativistic"`, see
            `kgen.models.gan.losses`.
        cycle_weight: Float, of the distance between an image and what becomes of it there and back.
        cycle_loss: `"l2"`, `"charbonnier"` or `"l1"`, that distance and the next, see
            `kgen.models.translation.distances`. The paper's is `"l1"`; here the networks begin by
            leaving all as it is, and it holds them there.
        identity_weight: Float, of the distance between an image and what becomes of it where it is
            of the other side already; 0 where the sides have other shapes.
        pool_size: Int, how many of the last images that were made the discriminators may see again;
            0 for none.
        slope_weight: Float, of the penalties of the discriminators' slopes, see `Pix2Pix`.
        discriminator_filters, discriminator_layers: Ints, see `Pix2Pix`.

    Further arguments: as for `ConvolutionalTranslator` and `Translator`. Inputs and images have the
    same height and width. `translate_back`, and the endpoint of that name, go the other way.

    Logs: `generator_loss`, of both; `discriminator_loss`, of both; `cycle_error` and
    `identity_error`, distances of pixels in -1 to 1; `real_accuracy`, `fake_accuracy`,
    `real_score` and `fake_score` of the images' discriminator; `generator_gradient_norm` and
    `discriminator_gradient_norm`, of training alone.

    Example:

    >>> data = kgen.data.load_pairs("horses", "zebras", (64, 64, 3), paired=False)
    >>> model = kgen.models.CycleGAN((64, 64, 3))
    >>> model.compile()
    >>> model.fit(data.train, epochs=50)
    >>> zebras = model.translate(horses)
    """

    tiny_preset = "cycle_gan_tiny"
    presets = {
        "cycle_gan_tiny": {
            "image_shape": (8, 8, 3),
            "degradation": "grey",
            "filters": 8,
            "num_downsamplings": 1,
            "middle_blocks": 1,
            "pool_size": 6,
            "discriminator_filters": 8,
            "discriminator_layers": 1,
        },
        "cycle_gan_28x28": {"image_shape": (28, 28, 1)},
        "cycle_gan_32x32": {"image_shape": (32, 32, 3)},
        "cycle_gan_64x64": {"image_shape": (64, 64, 3), "discriminator_layers": 3},
    }

    metric_names = (
        "generator_loss",
        "discriminator_loss",
        "cycle_error",
        "identity_error",
        "real_accuracy",
        "fake_accuracy",
        "real_score",
        "fake_score",
    )
    training_metric_names = ("generator_gradient_norm", "discriminator_gradient_norm")
    frozen_networks = ("ema_network", "ema_backward_network")
    paired = False

    def __init__(
        self,
        image_shape,
        input_shape=None,
        degradation=None,
        *,
        loss="least_squares",
        cycle_weight=10.0,
        cycle_loss="l2",
        identity_weight=1.0,
        pool_size=50,
        slope_weight=0.1,
        discriminator_filters=32,
        discriminator_layers=2,
        middle_blocks=4,
        **kwargs,
    ):
        super().__init__(
            image_shape, input_shape, degradation, middle_blocks=middle_blocks, **kwargs
        )
        check_names(loss=(loss, LOSSES), cycle_loss=(cycle_loss, distances.DISTANCES))
        check_numbers(
            Number(least=0),
            cycle_weight=cycle_weight,
            identity_weight=identity_weight,
            slope_weight=slope_weight,
        )
        check_ints(1, discriminator_filters=discriminator_filters)
        check_ints(0, pool_size=pool_size, discriminator_layers=discriminator_layers)
        if self.scale != 1 or (self.degrade is not None and self.degrade.hides):
            raise ValueError(
                "CycleGAN goes there and back between images of one height and width, of which "
                f"nothing is hidden. Received: input_shape={self.input_shape}, image_shape="
                f"{self.image_shape}, degradation={self.degradation!r}"
            )
        self.losses_of_players = adversarial.get(loss)
        self.loss_name = loss  # Keras keeps `loss` for itself
        self.alike = self.input_shape == self.image_shape
        with self.dtype_policy_scope():
            self.backward_network, self.ema_backward_network = (
                self._network(name, self.image_shape, self.input_shape)
                for name in ("backward_network", "ema_backward_network")
            )
            sizes = (discriminator_filters, discriminator_layers)
            self.discriminator, self.backward_discriminator = (
                networks.patch_discriminator(shape[-1], *sizes, name)
                for shape, name in (
                    (self.image_shape, "discriminator"),
                    (self.input_shape, "backward_discriminator"),
                )
            )
        self._freeze_networks()
        self.ema_backward_network.set_weights(self.backward_network.get_weights())
        if pool_size:
            self.pools = [
                self.add_weight(
                    (pool_size, *shape),
                    "zeros",
                    trainable=False,
                    name=f"pool_{name}",
                    aggregation="only_first_replica",
                )
                for name, shape in (("forth", self.image_shape), ("back", self.input_shape))
            ]
            self.pooled = self._counter("pooled")

    def get_config(self):
        return {**super().get_config(), "loss": self.loss_name}

    # Training -------------------------------------------------------------------------

    def _players(self):
        return (
            [*self.network.trainable_variables, *self.backward_network.trainable_variables],
            [
                *self.discriminator.trainable_variables,
                *self.backward_discriminator.trainable_variables,
            ],
        )

    def default_optimizer(self, learning_rate=None, name=None):
        """Adam as of Zhu et al. (2017), section 4, at a higher rate, for either side."""
        rate = 1e-3 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_1=0.5, global_clipnorm=10.0, name=name)

    def update(self, batch, minimize):
        pairs = (self.network, self.backward_network)
        generators, discriminators = self._players()
        logs = minimize(
            functools.partial(self._generator_objective, batch, pairs, True),
            self.generator_optimizer,
            generators,
        )
        logs["generator_gradient_norm"] = logs.pop("gradient_norm")
        made = logs.pop("forth"), logs.pop("back")
        if self.pool_size:
            made = self._from_pools(made, batch.seeds)
        logs |= minimize(
            functools.partial(self._discriminator_objective, batch, *made, training=True),
            self.discriminator_optimizer,
            discriminators,
        )
        logs["discriminator_gradient_norm"] = logs.pop("gradient_norm")
        update_average(self.ema_network, self.network, self.ema_decay, self.training_steps)
        update_average(
            *(self.ema_backward_network, self.backward_network),
            *(self.ema_decay, self.training_steps),
        )
        self._count_step()
        return logs

    def test_update(self, batch):
        pairs = (self.ema_network, self.ema_backward_network)
        _, logs = self._generator_objective(batch, pairs, False)
        return logs | self._discriminator_objective(batch, logs.pop("forth"), logs.pop("back"))[1]

    def _generator_objective(self, batch, pairs, training):
        inputs, images = scale_images(batch.inputs), scale_images(batch.images)
        there, back = (functools.partial(self._go, network, training) for network in pairs)
        forth, returned = there(inputs, self.image_shape), back(images, self.input_shape)
        distance = distances.DISTANCES[self.cycle_loss]
        cycle = distance(back(forth, self.input_shape), inputs)
        cycle = cycle + distance(there(returned, self.image_shape), images)
        loss = self.cycle_weight * cycle
        identity = ops.zeros((), "float32")
        if self.alike and self.identity_weight:
            identity = distance(there(images, self.image_shape), images)
            identity = identity + distance(back(inputs, self.input_shape), inputs)
            loss = loss + self.identity_weight * identity
        sides = (
            (self.discriminator, forth, images),
            (self.backward_discriminator, returned, inputs),
        )
        for discriminator, fake, real in sides:
            logits = [discriminator(fake)]
            if self.losses_of_players.paired:
                logits.append(discriminator(real))
            loss = loss + self.losses_of_players.generator(*logits)
        logs = {"generator_loss": loss, "cycle_error": cycle / 2, "identity_error": identity / 2}
        return loss, {**logs, "forth": forth, "back": returned}

    def _discriminator_objective(self, batch, forth, back, training=False):
        total, logs = 0.0, {}
        sides = (
            (self.backward_discriminator, back, batch.inputs),
            (self.discriminator, forth, batch.images),
        )
        for number, (discriminator, made, images) in enumerate(sides):
            truth = scale_images(images)
            real, fake = discriminator(truth), discriminator(made)
            total = total + self.losses_of_players.discriminator(real, fake)
            if training and self.slope_weight:
                for kind, (pixels, logits) in enumerate(((truth, real), (made, fake))):
                    stream = 2 * number + kind
                    slope = slopes(discriminator, pixels, logits, batch.seeds, stream)
                    total = total + self.slope_weight * slope
            found = scores(real, fake, self.losses_of_players.threshold)
            names = ("real_accuracy", "fake_accuracy", "real_score", "fake_score")
            logs = dict(zip(names, found, strict=True))
        return total, {"discriminator_loss": total, **logs}

    def _go(self, network, training, pixels, shape):
        """What a network makes of pixels, with as many channels as a shape has."""
        have, want = pixels.shape[-1], shape[-1]
        guess = pixels[..., :want]
        if have < want:
            more = ops.mean(pixels, axis=-1, keepdims=True)
            guess = ops.concatenate([pixels, *[more] * (want - have)], axis=-1)
        return guess + network(pixels, training=training)

    def _from_pools(self, made, seeds):
        """What the discriminators see in place of the newest images, which go into the pools.

        While a pool is not full, the newest; then, of every second row, one of the pool, whose
        place the newest takes. Devices that share a batch keep one pool. Of a batch that is larger
        than a pool the first rows take part.
        """
        size, all_seeds = self.pool_size, whole_batch(seeds)
        first = ops.argmax(ops.cast(ops.equal(all_seeds, seeds[:1]), "int32"))
        own = ops.cast(first, "int32") + ops.arange(ops.shape(seeds)[0], dtype="int32")
        count, filled = ops.shape(all_seeds[:size])[0], ops.convert_to_tensor(self.pooled)
        full = filled >= size
        rows = ops.arange(count, dtype="int32")
        seen = []
        for pool, images, stream in zip(self.pools, made, _STREAMS, strict=True):
            everything = whole_batch(images)
            newest, kept = everything[:size], ops.convert_to_tensor(pool)
            # A place of its own for each row.
            order = ops.argsort(random.uniform(all_seeds[:1], (size,), stream)[0])
            order = ops.cast(order, "int32")[:count]
            places = ops.where(full, order, (filled + rows) % size)
            coin = random.uniform(all_seeds[:size], (1, 1, 1), stream + 1) < 0.5
            old = ops.take(kept, places, axis=0)
            stored = ops.where(ops.logical_or(coin, ops.logical_not(full)), newest, old)
            pool.assign(ops.scatter_update(kept, places[:, None], stored))
            shown = ops.where(ops.logical_and(coin, full), old, newest)
            shown = ops.concatenate([shown, everything[size:]])
            seen.append(ops.take(shown, own, axis=0))
        self.pooled.assign(ops.minimum(filled + count, size))
        return seen

    def diagnose(self, logs):
        if self.steps_trained < diagnosis.FIRST_STEP:
            return []
        return diagnosis.warnings_of(logs, self.losses_of_players.threshold is not None)

    # Translating ----------------------------------------------------------------------

    def translate_back(self, images, seed=0, **run):
        """Translates images to what the inputs are like, uint8 `[N, h, w, c]`; as `translate`."""
        images = np.asarray(images)
        self._check_inputs(images, self.image_shape)
        return self.run_endpoint("translate_back", {"image": images}, seed=seed, **run)

    def sample_back(self, seeds, images):
        """The other way of `sample`."""
        return unscale_images(self._whole(self.ema_backward_network, images, self.input_shape))

    def pixels(self, network, inputs, training=False):
        return self._whole(network, inputs, self.image_shape, training)

    def _whole(self, network, images, shape, training=False):
        height, width = ops.shape(images)[1:3]
        padded = scale_images(self._padded(images))
        return self._go(network, training, padded, shape)[:, :height, :width]

    def endpoints(self):
        return {
            **super().endpoints(),
            "translate_back": self.endpoint(
                lambda image, seed, **options: self.sample_back(seed, image, **options),
                "goes the other way",
                {"image": self.input_spec_of(self.input_shape)},
                unused=("seed",),
                image=self.input_spec_of(self.image_shape),
            ),
        }
