"""Diffusion transformer, trained and sampled as a rectified flow.

The network is that of Peebles and Xie, "Scalable diffusion models with transformers" (ICCV
2023; arXiv 2212.09748): an image in patches, blocks conditioned by adaLN-Zero (section 3.2),
sizes S to XL (table 1), guidance without a classifier (Ho and Salimans 2022, equation 6). What
it learns is the velocity of a rectified flow: Liu, Gong and Liu, "Flow straight and fast" (ICLR
2023; arXiv 2209.03003), equation 1, and Lipman et al., "Flow matching for generative modeling"
(ICLR 2023; arXiv 2210.02747), with the times of training drawn from a logit-normal distribution
as in Esser et al., "Scaling rectified flow transformers" (ICML 2024; arXiv 2403.03206),
section 3.1. In the latent space of a VAE it is a latent diffusion model: Rombach et al. (CVPR
2022; arXiv 2112.10752), section 3.

Time runs from 0, the data, to 1, standard normal noise: x_t = (1 - t) x + t noise, and the
velocity is noise - x. Sampling goes the other way, from 1 to 0.
"""

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import Number, check_ints, check_mask, check_names, check_shares
from kgen.endpoint import TensorSpec, image_spec, mask_spec
from kgen.image_generator import ImageGenerator
from kgen.layers.conditioning import GUIDANCE, check_guidance, guided, hide_labels
from kgen.layers.network import Network
from kgen.layers.scaling import choose_pixels, scale_images, unscale_images
from kgen.layers.transformer import (
    TransformerSpec,
    grid_positions,
    modulate,
    normalization,
    run_blocks,
    transformer_optimizer,
)
from kgen.layers.vit import patchify, unpatchify
from kgen.models.diffusion import flow
from kgen.models.first_stage import known_cells, load_first_stage, untrained
from kgen.models.vae.latent_map import LatentMapVAE
from kgen.training.average import AveragedWeights

TIMES = ("logit_normal", "uniform")

# Streams of noise: 0 that of images, 2 hidden labels (see `hide_labels`), 3 the times.
_TIME_STREAM = 3


@keras.saving.register_keras_serializable(package="kgen")
class DiT(AveragedWeights, ImageGenerator):
    """Diffusion transformer with rectified flow, on pixels or on a VAE's latent map.

    Args:
        autoencoder: `None` for pixels; or a trained `VAE` or `ViTVAE`, of which a frozen copy
            in float32 is kept; the path of one: its `.keras` file, its run's or its preset's
            folder; or the name of a preset of theirs, fresh, for trials. One with a latent map
            (`latent_channels`, or any `ViTVAE`) leaves the transformer something to attend to.
        patch_size: Int, side of a patch of pixels, or of the latent map; divides its sides.
        dim: Int, see `TransformerSpec`, as are `num_layers`, `num_heads`, `rotary`, `mlp`, `norm`,
            `qk_norm` and `dropout`.
        times: `"logit_normal"` trains most in the middle of the way, `"uniform"` all over.
        label_dropout: Float, see `ImageGPT`.
        ema_decay: Float, 0 to 1, of the exponential moving average of the weights, with which
            the model evaluates, samples and is exported.

    Further arguments: as for `ImageGenerator`.

    Logs `loss`, the mean squared error of the velocity. A model on latents measures their mean
    and spread when `fit` begins (see `adapt`).

    Example:

    >>> model = kgen.models.DiT((28, 28, 1), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, guidance_scale=2.0, num_steps=16, sampler="heun")
    """

    frozen_networks = ("ema_network", "autoencoder")
    sampling_numbers = {"num_steps": Number(least=1, whole=True), "guidance_scale": GUIDANCE}
    default_schedule = "cosine"
    tiny_preset = "dit_tiny"
    presets = {
        "dit_tiny": {
            "image_shape": (8, 8, 1),
            "patch_size": 4,
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        },
        "dit_8x8": {"image_shape": (8, 8, 1), "patch_size": 2, "num_layers": 4},
        "dit_28x28": {"image_shape": (28, 28, 1), "patch_size": 4},
        "dit_32x32": {
            "image_shape": (32, 32, 3),
            "patch_size": 4,
            "dim": 256,
            "num_layers": 8,
            "num_heads": 8,
        },
        "dit_s": {
            "image_shape": (32, 32, 3),
            "dim": 384,
            "num_layers": 12,
            "num_heads": 6,
            "ema_decay": 0.9999,
        },
        "dit_b": {
            "image_shape": (32, 32, 3),
            "dim": 768,
            "num_layers": 12,
            "num_heads": 12,
            "ema_decay": 0.9999,
        },
        "dit_l": {
            "image_shape": (32, 32, 3),
            "dim": 1024,
            "num_layers": 24,
            "num_heads": 16,
            "ema_decay": 0.9999,
        },
        "dit_xl": {
            "image_shape": (32, 32, 3),
            "dim": 1152,
            "num_layers": 28,
            "num_heads": 16,
            "ema_decay": 0.9999,
        },
    }

    def objective(self, batch, training):
        network = self.network if training else self.ema_network
        x = self.encode(batch.images, batch.labels)
        noise = random.normal(batch.seeds, self.latent_shape)
        times = self._draw_times(batch.seeds)
        labels = batch.labels
        if training:
            labels = hide_labels(labels, batch.seeds, self.label_dropout, self.num_classes)
        dropout_seeds = batch.seeds if training else None
        velocity = network(flow.mix(x, noise, times), times, labels, dropout_seeds)
        loss = ops.mean(ops.square(velocity - (noise - x)))
        return loss, {"loss": loss}

    def _draw_times(self, seeds):
        if self.times == "uniform":
            return random.uniform(seeds, (), stream=_TIME_STREAM)
        return ops.sigmoid(random.normal(seeds, (), stream=_TIME_STREAM))

    def sample(self, seeds, labels=None, num_steps=32, sampler="multistep", guidance_scale=1.0):
        """Draws noise and follows the flow back to the data.

        Args:
            num_steps: Int, steps of the solver.
            sampler: `"euler"`, `"heun"` (two passes of the network per step) or `"multistep"`
                (one), see `kgen.models.diffusion.flow.integrate`.
            guidance_scale: Float, of velocities, see `ImageGPT.sample`.
        """
        noise = random.normal(seeds, self.latent_shape)
        options = {"num_steps": num_steps, "sampler": sampler}
        return self.decode(self._solve(noise, labels, guidance_scale, **options), labels)

    def _solve(self, x, labels, guidance_scale=1.0, num_steps=32, sampler="multistep", **arguments):
        """Follows the flow from `x`; arguments as for `sample` and `flow.integrate`."""
        check_guidance(self, guidance_scale)

        def velocity(*inputs):
            return guided(self.ema_network, inputs, labels, self.num_classes, guidance_scale)

        return flow.integrate(velocity, x, num_steps, sampler, **arguments)

    def inpaint(self, images, mask, labels=None, seed=0, **options):
        """Keeps the known pixels of images and draws the others.

        Arguments are as for `AutoregressiveGenerator.complete`; any mask and any pixels will do.

        On the way from noise to data the known part is led along its own straight path, so that
        what is drawn sees it at every step, wherever it lies (as in Lugmayr et al., "RePaint",
        CVPR 2022, section 4.1, without its repetitions). This is an approximation of the
        conditional distribution. On latents, what is known of a map is what only known pixels
        have made; around it the drawn part is made anew and known pixels are put back at the end.
        """
        images = self.check_split(images, self._check_labels(labels, len(images))).images
        inputs = {"image": images, "mask": check_mask(mask, images)}
        return self.run_endpoint("inpaint", inputs, labels, seed, **options)

    def _inpaint(self, image, mask, seed, label=None, **options):
        # Grey, so that nothing unknown is looked at.
        known = self.encode(choose_pixels(mask, image, 128), label)
        noise = random.normal(seed, self.latent_shape)
        cells = known_cells(mask, *self.latent_shape[:2])[..., None]
        x = self._solve(noise, label, path=(known, noise, cells), **options)
        return choose_pixels(mask, image, self.decode(x, label))

    def vary(self, images, strength=0.5, labels=None, seed=0, **options):
        """Draws variations of images: noise takes them a part of the way, the flow back.

        Meng et al., "SDEdit" (ICLR 2022; arXiv 2108.01073), section 3. With another label it
        edits an image's class.

        Args:
            images: uint8 array `[N, H, W, C]`.
            strength: Float, or one for each image, 0 to 1: how much of the way. 0 gives the image
                back (as the autoencoder does, where there is one), 1 draws a new one. A
                `ValueError` where it is neither.

        Further arguments: as for `AutoregressiveGenerator.complete`.
        """
        images = self.check_split(images, self._check_labels(labels, len(images))).images
        strength = np.asarray(strength, "float32")
        right = strength.shape in ((), images.shape[:1])
        if not right or not np.logical_and(strength >= 0, strength <= 1).all():
            raise ValueError(
                f"strength must be 0 to 1, one for all images or {len(images)}, one for each. "
                f"Received: {strength}"
            )
        inputs = {"image": images, "strength": np.broadcast_to(strength, images.shape[:1])}
        return self.run_endpoint("vary", inputs, labels, seed, **options)

    def _vary(self, image, seed, label=None, strength=0.5, **options):
        start = ops.clip(strength, 0.0, 1.0) * ops.ones((ops.shape(image)[0],))
        noise = random.normal(seed, self.latent_shape)
        x = flow.mix(self.encode(image, label), noise, start)
        return self.decode(self._solve(x, label, start=start, **options), label)

    def endpoints(self):
        image = image_spec(self.image_shape)
        endpoints = {
            **super().endpoints(),
            "inpaint": self.endpoint(
                self._inpaint,
                "keeps the known pixels and draws the others",
                image=image,
                mask=mask_spec(self.image_shape),
            ),
            "vary": self.endpoint(
                self._vary,
                "draws a variation of an image",
                image=image,
                strength=TensorSpec((), "float32", 0, 1, "how far from the image", 0.5),
            ),
        }
        if self.autoencoder is not None:
            endpoints["reconstruct"] = self.autoencoder.endpoints()["reconstruct"]
        return endpoints

    # Training -------------------------------------------------------------------------

    def diagnose_before(self):
        return [] if self.autoencoder is None else untrained(self.autoencoder, "autoencoder")

    def diagnose(self, logs):
        return self.diagnose_before()

    # Latents --------------------------------------------------------------------------

    def needs_adapting(self):
        return self.autoencoder is not None and not ops.convert_to_numpy(self.latent_spread).all()

    def adapt(self, images, labels=None):
        """Measures the latents' mean and deviation, channel by channel, on up to 2,000 images.

        Labels, one for all images or one each, are those that a class-conditional autoencoder is
        told, a `ValueError` where it is not; another does not look at them.
        """
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.permutation(len(images))[:2000])
        inputs = {"images": np.asarray(images[chosen])}
        if self.autoencoder.num_classes is not None:
            inputs["labels"] = self._check_labels(labels, len(images))[chosen]
        mean, _ = self.run_batched("encode", self.autoencoder.encode, inputs, progress=False)
        latents = mean.reshape(-1, self.latent_shape[-1])
        self.latent_mean.assign(latents.mean(axis=0))
        self.latent_spread.assign(latents.std(axis=0) + 1e-6)

    def encode(self, images, labels=None):
        """Images as the flow sees them, float32 `[B, *latent_shape]`: scaled pixels, or latents
        (the posterior's mean), with mean 0 and variance 1.
        """
        if self.autoencoder is None:
            return scale_images(images)
        mean, _ = self.autoencoder.encode(images, self._known(labels))
        mean = ops.reshape(mean, (-1, *self.latent_shape))
        return (mean - self.latent_mean) / ops.maximum(self.latent_spread, 1e-6)

    def decode(self, x, labels=None):
        """The inverse of `encode`: uint8 images `[B, H, W, C]`."""
        if self.autoencoder is None:
            return unscale_images(x)
        latents = ops.reshape(x * self.latent_spread + self.latent_mean, (ops.shape(x)[0], -1))
        return self.autoencoder.decode(latents, self._known(labels))

    def _known(self, labels):
        return None if self.autoencoder.num_classes is None else labels

    def call(self, images, labels=None):
        """Images as the autoencoder gives them back, or as they came; uint8 in and out."""
        return self.decode(self.encode(images, labels), labels)

    # Network --------------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        autoencoder=None,
        patch_size=2,
        dim=128,
        num_layers=6,
        num_heads=4,
        rotary=True,
        mlp="gelu",
        norm="layer",
        qk_norm=False,
        dropout=0.0,
        times="logit_normal",
        label_dropout=0.1,
        ema_decay=0.999,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        spec = TransformerSpec.of(self)
        check_ints(1, patch_size=patch_size)
        check_names(times=(times, TIMES))
        check_shares(label_dropout=label_dropout, ema_decay=ema_decay)
        self.autoencoder = None
        self.latent_shape = self.image_shape
        if autoencoder is not None:
            self.autoencoder = load_first_stage(
                autoencoder, LatentMapVAE, "autoencoder", self.image_shape, num_classes
            )
            self.latent_shape = self.autoencoder.latent_shape
            channels = self.latent_shape[-1:]
            # What brings latents to mean 0 and variance 1; unknown, and 0, before `adapt`.
            self.latent_mean, self.latent_spread = (
                self.add_weight(channels, "zeros", "float32", trainable=False, name=name)
                for name in ("latent_mean", "latent_spread")
            )
        if any(side % patch_size for side in self.latent_shape[:2]):
            what = "image" if self.autoencoder is None else "latent map"
            raise ValueError(
                f"patch_size must divide the sides of the {what}, "
                f"{self.latent_shape[0]}x{self.latent_shape[1]}. Received: patch_size={patch_size}"
            )
        shape = self.latent_shape
        self._build_networks(
            lambda name: FlowTransformer(shape, patch_size, num_classes, spec, name=name)
        )

    # Measured on CIFAR-10 (JPEG copy) at equal time of a CPU: 32 images a step beat 128, and a rate
    # of 2e-3 beats 1e-3, which beats 3e-4, with warm-up and a cosine to 1 %.

    @property
    def default_batch_size(self):
        return 32 if self.dim <= 256 else 64

    def default_optimizer(self, learning_rate=None):
        if learning_rate is None:
            learning_rate = min(2e-3, 0.256 / self.dim) if self.dim <= 256 else 0.128 / self.dim
        return transformer_optimizer(learning_rate, self.dim)


#: From one radian to one ten-thousandth for a thousandth of the way, as in Vaswani et al. 2017.
_FREQUENCIES = (10_000.0 ** -(np.arange(128) / 128)).astype("float32")


@keras.saving.register_keras_serializable(package="kgen")
class FlowTransformer(Network):
    """The velocity at every place of a noisy image `[B, H, W, C]`, given the time and the class.

    Times `[B]` are 0 to 1; the label `num_classes` stands for no class.
    """

    def __init__(self, shape, patch_size, num_classes, spec, **kwargs):
        # In half precision many times would be one: the layers inside cast what they are given.
        super().__init__(autocast=False, **kwargs)
        self.spec = spec = TransformerSpec.get(spec)
        self.shape = shape
        self.patch_size = patch_size
        dim = spec.dim
        grid = [side // patch_size for side in shape[:2]]
        positions = grid_positions(*grid)
        self.places = tuple(positions.T.astype("int32"))
        self.patches = layers.Dense(dim, name="patches")
        self.rows = layers.Embedding(grid[0], dim, name="rows")
        self.columns = layers.Embedding(grid[1], dim, name="columns")
        self.time = [
            layers.Dense(dim, activation="silu", name="time_in"),
            layers.Dense(dim, name="time_out"),
        ]
        self.label = None
        if num_classes is not None:
            self.label = layers.Embedding(num_classes + 1, dim, name="label")
        self.blocks = spec.blocks(positions, conditional=True)
        self.norm = normalization(spec.norm, scale=False, name="norm")
        self.modulation = layers.Dense(2 * dim, kernel_initializer="zeros", name="modulation")
        self.velocity = layers.Dense(
            patch_size**2 * shape[-1], kernel_initializer="zeros", dtype="float32", name="velocity"
        )
        labels = None if num_classes is None else np.zeros(1, "int32")
        self(np.zeros((1, *shape), "float32"), np.zeros(1, "float32"), labels)  # builds its weights

    def call(self, x, times, labels=None, seeds=None):
        condition = self._condition(times, labels)
        x = self.patches(patchify(x, self.patch_size))  # (B, T, D)
        x = x + self.rows(self.places[0]) + self.columns(self.places[1])
        x = run_blocks(self.blocks, x, condition, seeds)
        shift, scale = ops.split(self.modulation(ops.silu(condition))[:, None], 2, axis=-1)
        x = self.velocity(modulate(self.norm(x), shift, scale))  # (B, T, P * P * C)
        return unpatchify(x, self.patch_size, *self.shape[:2])

    @staticmethod
    def embed_times(times):
        """Sines and cosines of times `[B]`, float32 `[B, 256]` whatever the precision."""
        angles = 1000 * ops.cast(times, "float32")[:, None] * _FREQUENCIES
        return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)

    def _condition(self, times, labels):
        """What the time and the class say to every block, `[B, D]`."""
        x = self.embed_times(times)
        for layer in self.time:
            x = layer(x)
        return x if self.label is None else x + self.label(labels)
