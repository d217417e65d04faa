"""What every denoising generator shares: a way between data and noise, and how it is followed.

A subclass is its network, its defaults and its presets. The paths, what a network may say of a
point on one, and the loss are in `kgen.models.diffusion.paths`, the solvers in
`kgen.models.diffusion.solvers`. In the latent space of a VAE it is a latent diffusion model:
Rombach et al., "High-resolution image synthesis with latent diffusion models" (CVPR 2022; arXiv
2112.10752), section 3. Guidance without a classifier: Ho and Salimans (2022), equation 6.
"""

import functools
import inspect
import math

import numpy as np
from keras import ops

from kgen import models, random
from kgen.checks import Number, check_ints, check_mask, check_names, check_shares
from kgen.endpoint import TensorSpec, image_spec, mask_spec
from kgen.image_generator import ImageGenerator
from kgen.layers.conditioning import (
    GUIDANCE,
    check_guidance,
    guidance_in,
    guided,
    hide_labels,
)
from kgen.layers.scaling import choose_pixels, scale_images, unscale_images
from kgen.models.diffusion.likelihood import log_density, variational_bound
from kgen.models.diffusion.paths import Method
from kgen.models.diffusion.solvers import check_solver, solve
from kgen.models.first_stage import known_cells, load_first_stage, untrained
from kgen.models.vae.latent_map import LatentMapVAE
from kgen.training.average import AveragedWeights

# Streams of noise: 0 that of images, 2 hidden labels (see `hide_labels`), 3 the times.
TIME_STREAM = 3


def is_straight(model):
    """Whether a model says velocities of the straight path, or the data, of which they follow."""
    return model.noise_schedule == "rectified" and model.prediction in ("velocity", "x")


class DenoisingGenerator(AveragedWeights, ImageGenerator):
    """Base class of diffusion and flow matching models, on pixels or on a VAE's latent map.

    A subclass hands `_build_networks` what makes its network: of points `[B, *latent_shape]`, times
    `[B]` from 0, the data, to 1, noise, labels `[B]` or `None` (`num_classes` stands for no class)
    and seeds for dropout or `None`, to what it says of the points, float32 of their shape.

    Args:
        autoencoder: `None` for pixels; or a trained `VAE` or `ViTVAE`, of which a frozen copy
            in float32 is kept; the path of one: its `.keras` file, its run's or its preset's
            folder; or the name of a preset of theirs, fresh, for trials. One with a latent map
            (`latent_channels`, or any `ViTVAE`) leaves the network something to look at.
        noise_schedule, prediction, times, weighting: Strings, see
            `kgen.models.diffusion.paths.Method`.
        label_dropout: Float, see `ImageGPT`.
        ema_decay: Float, 0 to 1, of the exponential moving average of the weights, with which
            the model evaluates, samples and is exported.

    Further arguments: as for `ImageGenerator`.

    Logs `loss`, the mean squared error of what the network says, weighted. A model on latents
    measures their mean and spread when `fit` begins (see `adapt`).
    """

    frozen_networks = ("ema_network", "autoencoder")
    sampling_numbers = {
        "num_steps": Number(least=1, whole=True),
        "guidance_scale": GUIDANCE,
        "guidance_low": Number(least=0, most=1, off=0),
        "guidance_high": Number(least=0, most=1, off=1),
    }
    default_schedule = "cosine"

    #: What a cost curve compares, see `kgen.evaluation.cost_curve`.
    samplers: tuple[str, ...] = ("euler", "multistep", "dpm_solver", "heun")

    #: Whether the network is told the times to go to as well, see `SolutionFlow`.
    told_ends = False

    #: Name of the model with such a network that `distill` gives, or `None`.
    student: str | None = None

    def __init__(
        self,
        image_shape,
        num_classes=None,
        autoencoder=None,
        noise_schedule="rectified",
        prediction="velocity",
        times="logit_normal",
        weighting="none",
        label_dropout=0.1,
        ema_decay=0.999,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        self.method = Method(noise_schedule, prediction, times, weighting)
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

    def _begin_with(self, source):
        transferred = super()._begin_with(source)
        if "autoencoder" in transferred.taken:  # the network has learnt its latents as scaled so
            self.latent_mean.assign(source.latent_mean)
            self.latent_spread.assign(source.latent_spread)
        return transferred

    @property
    def noise_dim(self):
        return math.prod(self.latent_shape)

    # Training -------------------------------------------------------------------------

    def objective(self, batch, training):
        network = self.network if training else self.ema_network
        x = self.from_images(batch.images, batch.labels)
        noise = random.normal(batch.seeds, self.latent_shape)
        times = self.method.draw_times(batch.seeds, TIME_STREAM)
        labels = batch.labels
        if training:
            labels = hide_labels(labels, batch.seeds, self.label_dropout, self.num_classes)
        point = self.method.way.mix(x, noise, times)
        dropout_seeds = batch.seeds if training else None
        said = network(self.method.seen(point, times), times, labels, dropout_seeds)
        loss = ops.mean(self.method.loss(said, x, noise, times))
        return loss, {"loss": loss}

    def diagnose_before(self):
        return [] if self.autoencoder is None else untrained(self.autoencoder, "autoencoder")

    def diagnose(self, logs):
        return self.diagnose_before()

    def distill(self, num_steps=1, **arguments):
        """A model that draws in so few passes of the network what this one draws in many steps.

        It begins with what this one has learnt, and is trained as any model, on the same images,
        see `kgen.models.diffusion.solution`. From the same seed it then draws much the same image.
        By default a whole way is what its own flow makes of it in four steps, which is best where
        a few minutes are all there is; the paper's is `own_steps=0, shares=(0.1, 0.002)`.

        Args:
            num_steps: Int, passes.
            **arguments: Of the model to be, `flow_share` for one, in place of its defaults.

        Returns:
            A `SoFlow`, which is not compiled; of a `DiT` a `SoFlowDiT`.

        Raises:
            ValueError: This model was not trained, or not to follow straight paths.

        Example:

        >>> few = model.distill(num_steps=1)
        >>> few.compile()
        >>> few.fit(data.train, epochs=5)
        """
        name = type(self).__name__
        if self.student is None or not is_straight(self):
            raise ValueError(
                "distill takes a model with noise_schedule='rectified' and prediction='velocity' "
                f"or 'x', such as FlowMatching or DiT. Received: {name} with "
                f"{self.noise_schedule!r} and {self.prediction!r}"
            )
        if not ops.convert_to_numpy(self.training_steps):
            raise ValueError(f"distill takes a trained model, and this {name} has fresh weights.")
        student_class = models.get(self.student)
        known, config = inspect.signature(student_class).parameters, self.get_config()
        config = {name: value for name, value in config.items() if name in known}
        config |= {"passes": num_steps, "dtype": self.dtype_policy}
        config |= {"own_steps": 4, "shares": (1.0, 1.0), "flow_share": 0.25}
        student = student_class(**{**config, **arguments})
        student.begin_with(self)
        return student

    # Sampling -------------------------------------------------------------------------

    def sample(
        self,
        seeds,
        labels=None,
        num_steps=32,
        sampler="multistep",
        guidance_scale=1.0,
        guidance_low=0.0,
        guidance_high=1.0,
    ):
        """Draws noise and follows the path back to the data.

        Args:
            num_steps: Int, steps of the solver.
            sampler: `"euler"`, `"heun"` (two passes of the network per step), `"multistep"` or
                `"dpm_solver"` (one), see `kgen.models.diffusion.solvers.solve`.
            guidance_scale: Float, of what the network says, see `ImageGPT.sample`.
            guidance_low: Float, 0 to 1, from 0, the data, to 1, noise: guidance begins where the
                time is less than `guidance_high` and ends where it is less than this. At much noise
                it harms and at little it is lost: Kynkäänniemi et al., "Applying guidance in a
                limited interval improves sample and distribution quality in diffusion models"
                (NeurIPS 2024; arXiv 2404.07724), equation 4.
            guidance_high: Float, 0 to 1, see `guidance_low`.
        """
        return self._draw(
            seeds,
            labels,
            num_steps=num_steps,
            sampler=sampler,
            guidance_scale=guidance_scale,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
        )

    def _draw(self, seeds, labels, **options):
        x = self._solve(self._end(self._noise(seeds)), labels, seeds=seeds, **options)
        return self.to_images(x, labels)

    def _noise(self, seeds):
        return random.normal(seeds, self.latent_shape)

    def _end(self, noise):
        """Where a path ends: noise alone, as large as it is there."""
        return self.method.way.sigma(ops.ones((1,), "float32")) * noise

    def _solve(
        self,
        x,
        labels,
        num_steps=32,
        sampler="multistep",
        guidance_scale=1.0,
        guidance_low=0.0,
        guidance_high=1.0,
        **way,
    ):
        """Follows the path from `x`; arguments as for `sample` and `solve`."""
        check_guidance(self, guidance_scale)

        def denoise(point, times):
            scale = guidance_in(guidance_scale, guidance_low, guidance_high, times)
            return self._estimates(point, times, labels, scale)

        return solve(denoise, self.method.way, x, num_steps, sampler, **way)

    def _estimates(self, point, times, labels, guidance_scale=1.0):
        """What the averaged network makes of points: their data and their noise."""
        inputs = (self.method.seen(point, times), times)
        said = guided(self.ema_network, inputs, labels, self.num_classes, guidance_scale)
        data, noise = self.method.estimates(said, point, times)
        if self.autoencoder is None and self.prediction == "noise":
            # Where noise is nearly all, a small error of it is a large one of the data.
            data = ops.clip(data, -1.0, 1.0)
            noise = self.method.noise_of(data, point, times)
        return data, noise

    def check_options(self, options, total=None):
        options = super().check_options(options, total)
        given = self._completed(options)
        noise = {name: given[name] for name in ("eta", "churn") if name in given}
        check_solver(self.method.way, given["num_steps"], given["sampler"], **noise)
        return options

    def _completed(self, options):
        """Options, and the defaults of `sample` for those that are not given."""
        parameters = list(inspect.signature(self.sample).parameters.values())[2:]
        return {each.name: each.default for each in parameters} | options

    def encode(self, images, labels=None, num_steps=32, sampler="multistep"):
        """The noise of images, float32 `[B, noise_dim]`: the path followed from the data.

        Song, Meng and Ermon (2021), section 4.3. For uint8 tensors `[B, H, W, C]`; arrays of any
        length go through `run_endpoint("encode", {"image": images}, labels)`. `decode` gives the
        images back, the nearer the more steps both have; noise between two images' draws what is
        between them, see `kgen.evaluation.interpolate`.

        Args:
            num_steps: Int, steps of the solver.
            sampler: One of `kgen.models.diffusion.solvers.REVERSIBLE`.
        """
        x = self.from_images(images, labels)
        x = self._solve(x, labels, num_steps, sampler, reverse=True)
        x = x / self.method.way.sigma(ops.ones((1,), "float32"))
        return ops.reshape(x, (-1, self.noise_dim))

    def decode(self, latents, labels=None, num_steps=32, sampler="multistep"):
        """The images, uint8 `[B, H, W, C]`, of noise; see `encode`."""
        x = self._end(ops.reshape(latents, (-1, *self.latent_shape)))
        return self.to_images(self._solve(x, labels, num_steps, sampler), labels)

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
        known = self.from_images(choose_pixels(mask, image, 128), label)
        noise = self._noise(seed)
        cells = known_cells(mask, *self.latent_shape[:2])[..., None]
        x = self._solve(
            self._end(noise),
            label,
            seeds=seed,
            known=(known, noise, cells),
            **self._completed(options),
        )
        return choose_pixels(mask, image, self.to_images(x, label))

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
        noise = self._noise(seed)
        x = self.method.way.mix(self.from_images(image, label), noise, start)
        return self.to_images(
            self._solve(x, label, seeds=seed, start=start, **self._completed(options)), label
        )

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
        latent = TensorSpec((self.noise_dim,), "float32", description="noise")
        endpoints["encode"] = self.endpoint(
            lambda image, label=None, **options: self.encode(image, label, **options),
            "finds the noise of an image",
            {"latent": latent},
            seeded=False,
            image=image,
        )
        endpoints["decode"] = self.endpoint(
            lambda latent, label=None, **options: self.decode(latent, label, **options),
            "draws the image of noise",
            seeded=False,
            latent=latent,
        )
        if self.autoencoder is not None:
            endpoints["reconstruct"] = self.autoencoder.endpoints()["reconstruct"]
        return endpoints

    # Likelihood -----------------------------------------------------------------------

    def negative_log_likelihood(
        self, x, y=None, method="flow", num_steps=50, seed=0, batch_size=64, progress="auto"
    ):
        """Estimates of -log P(x) of uint8 images, float32 NumPy array `[N]`, in nats.

        On pixels alone: a `ValueError` with an autoencoder.

        Args:
            x, y, seed, batch_size, progress: As for `run_over`.
            method: `"flow"`, by the density of images whose grey levels are spread over their cells
                at random: in expectation an upper bound (Theis, van den Oord and Bethge, "A note on
                the evaluation of generative models", ICLR 2016; arXiv 1511.01844, section 3.1); or
                `"bound"`, with a `noise_schedule` of 1,000 steps, the variational bound. See
                `kgen.models.diffusion.likelihood`.
            num_steps: Int, steps along the flow, or of how many of the 1,000 the bound is taken.
        """
        check_ints(1, num_steps=num_steps)
        check_names(method=(method, ("flow", "bound")))
        path = self.method.way
        if self.autoencoder is not None:
            raise ValueError(
                "A model on latents has no likelihood of images: its autoencoder draws them "
                "without one. Evaluate a model on pixels."
            )
        if method == "bound" and (path.steps is None or num_steps > path.steps):
            raise ValueError(
                "method='bound' takes up to 1,000 steps of noise_schedule='linear' or 'cosine'. "
                f"Received: num_steps={num_steps}, noise_schedule={self.noise_schedule!r}"
            )
        cell = 2 / 255
        dimensions = math.prod(self.image_shape)

        def measure(batch):
            denoise = functools.partial(self._estimates, labels=batch.labels)
            x = scale_images(batch.images)
            if method == "bound":
                return variational_bound(denoise, path, x, num_steps, batch.seeds, cell)
            spread = random.uniform(batch.seeds, self.image_shape) - 0.5
            density = log_density(denoise, path, x + cell * spread, num_steps, batch.seeds)
            return -density - dimensions * math.log(cell)

        return self.run_over(
            ("negative_log_likelihood", method, num_steps),
            measure,
            x,
            y,
            seed,
            batch_size=batch_size,
            progress=progress,
            description="Likelihood",
        )

    def likelihood_protocol(self, importance_samples=None, seed=0):
        """As for `VariationalGenerator`; `None` on latents, which have no likelihood of images.

        `"images"` is of how many it is measured: it takes hundreds of passes of the network each.
        """
        if self.autoencoder is not None:
            return None
        return {
            "kind": "by the flow, dequantised",
            "protocol": "density of grey levels spread over their cells, by the flow in 50 steps "
            f"of Heun's method, its divergence by random signs, seed {seed}; in expectation an "
            "upper bound",
            "images": 64,
            "discrete": True,
        }

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

    def from_images(self, images, labels=None):
        """Images as the path begins with them, float32 `[B, *latent_shape]`: scaled pixels, or
        latents (the posterior's mean), with mean 0 and variance 1.
        """
        if self.autoencoder is None:
            return scale_images(images)
        mean, _ = self.autoencoder.encode(images, self._known(labels))
        mean = ops.reshape(mean, (-1, *self.latent_shape))
        return (mean - self.latent_mean) / ops.maximum(self.latent_spread, 1e-6)

    def to_images(self, x, labels=None):
        """The inverse of `from_images`: uint8 images `[B, H, W, C]`."""
        if self.autoencoder is None:
            return unscale_images(x)
        latents = ops.reshape(x * self.latent_spread + self.latent_mean, (ops.shape(x)[0], -1))
        return self.autoencoder.decode(latents, self._known(labels))

    def _known(self, labels):
        return None if self.autoencoder.num_classes is None else labels

    def call(self, images, labels=None):
        """Images as the autoencoder gives them back, or as they came; uint8 in and out."""
        return self.to_images(self.from_images(images, labels), labels)
