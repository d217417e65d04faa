"""Generators that draw an image pixel by pixel, in raster order.

The likelihood is exact: log p(x) is the sum over pixels of log p(pixel | pixels before it). One
sampler serves all of them. It keeps what the network has computed, so that a new pixel costs
one column of the network and not the network, and it is one graph: a loop over rows, in it
one over columns.
"""

import math

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import Number, check_mask, check_numbers, unknown_name
from kgen.endpoint import TensorSpec, image_spec, mask_spec
from kgen.image_generator import ImageGenerator
from kgen.layers.scaling import choose_pixels, scale_images
from kgen.models.autoregressive import distributions
from kgen.models.autoregressive.sampling import CHOICE, draw

BINARIZATIONS = ("dynamic", "threshold")


class AutoregressiveGenerator(ImageGenerator):
    """Base class of models with an exact likelihood and a cached sampler.

    A subclass sets `distribution` (see `distributions.py`) and `network`, an object with

    - `network(x, labels, training, seeds)`: the parameters of all pixels `[B, H, W, P]` from
      scaled images `[B, H, W, C]`, those of a pixel from the pixels before it alone; `seeds`
      `[B]` are for its noise in training,

    and the same by rows and columns, in `ops` on tensors or nested tuples of them, whose dtypes
    stay as they start; pixels and outputs come as float32:

    - `output_sizes`: tuple of ints, F of each of a pixel's outputs; none where it is missing;
    - `start(batch_size)`: what is kept from row to row, before the first;
    - `begin_row(rows, row, labels)`: `(context, rows)`; `context` is what the rows above say of
      this one, as tensors `[W, B, ...]`;
    - `start_columns(batch_size)`: what is kept from pixel to pixel, before a row's first;
    - `pixel(context, columns, column, last, x, step)`: `(parameters, columns, outputs)` at one
      pixel: `context` at its column, `last` and `x` `[B, C]` are the scaled pixel to its left
      (0 at the border) and as much of itself as is drawn. The parameters are those of the pass
      `step`, `[B, P / passes]`; `outputs`, a tuple of `[B, F]`, is what the next row must know
      of it;
    - `end_row(rows, context, x, outputs)`: `rows` for the next row, from the whole row of
      scaled pixels `[W, B, C]` and of outputs `[W, B, F]`.

    Args:
        num_levels: Int, 2 to 256, how many grey levels a pixel can have. Images are cut to
            them; two are black and white.
        binarization: For two levels: `"dynamic"` draws 0 or 1 with the grey level as
            probability, anew in every step; `"threshold"` cuts at one half.

    Further arguments: as for `ImageGenerator`.

    Logs `loss`, the negative log-likelihood in nats per image, and `bits_per_dimension`.
    """

    metric_names = ("loss", "bits_per_dimension")
    sampling_numbers = {"temperature": CHOICE["temperature"]}
    place_by_place = True

    def objective(self, batch, training):
        x = self._training_levels(batch)
        nats = -ops.mean(self._log_prob(x, batch.labels, training, batch.seeds))
        return nats, {"loss": nats, "bits_per_dimension": self._bits(nats)}

    def _log_prob(self, x, labels, training=False, seeds=None):
        network = self.network if training else self.final_network
        parameters = network(x, labels, training=training, seeds=seeds)
        return self.distribution.log_prob(x, parameters)

    def sample(self, seeds, labels=None, temperature=1.0):
        """Draws images pixel by pixel, in raster order.

        Args:
            temperature: Float above 0, what logits are divided by (and scales multiplied by);
                below 1, likelier pixels.
        """
        return self._draw(seeds, labels, temperature=temperature)

    def _draw(self, seed, label=None, image=None, mask=None, **options):
        """uint8 images `[B, H, W, C]`, of which the pixels in the mask stay as they came."""
        known = None if image is None else self.to_levels(image)
        x = self._draw_levels(seed, label, known, mask, **options)
        if image is None:
            return self.to_images(x)
        # As they came: byte for byte, also where they lie between two levels.
        return choose_pixels(mask, image, self.to_images(x))

    def _draw_levels(self, seeds, labels, known, mask, temperature=1.0):
        """Scaled levels `[B, H, W, C]`; where they are known, those. See `draw`."""
        return draw(
            *(self.final_network, self.distribution, self.image_shape),
            *(seeds, labels, temperature, known, mask),
        )

    # Likelihood -----------------------------------------------------------------------

    def log_prob(self, images, labels=None):
        """Exact log-probability of uint8 images, cut to the nearest levels: float32 `[B]`, nats."""
        return self._log_prob(self.to_levels(images), labels)

    def negative_log_likelihood(self, x, y=None, seed=0, batch_size=64, progress="auto"):
        """Exact -log p(x) of each image, a float32 NumPy array `[N]`, in nats.

        Arguments are as for `run_over`. A model of two levels that binarises dynamically draws
        them once, from `seed`.
        """

        def measure(batch):
            return -self._log_prob(self._training_levels(batch), batch.labels)

        run = {"batch_size": batch_size, "progress": progress, "description": "Likelihood"}
        return self.run_over("negative_log_likelihood", measure, x, y, seed, **run)

    def likelihood_protocol(self, importance_samples=None, seed=0):
        """As for `VariationalGenerator`, but exact, whatever `importance_samples`."""
        if self.num_levels > 2:
            pixels = f"probability of {self.num_levels} grey levels, not dequantised"
        elif self.binarization == "dynamic":
            pixels = f"pixels drawn once as 0 or 1, the grey level as probability, seed {seed}"
        else:
            pixels = "pixels cut at one half to 0 or 1"
        return {"kind": "exact", "protocol": f"{pixels}; exact, no bound", "discrete": True}

    def _bits(self, nats):
        return nats / (math.log(2) * math.prod(self.image_shape))

    # Completion -----------------------------------------------------------------------

    def complete(self, images, mask, labels=None, seed=0, *, strict=True, **options):
        """Keeps the known pixels of images and draws the others.

        A pixel is drawn from its exact conditional given all pixels before it in raster order
        (row by row, from left to right), known or drawn. Known pixels that come after it
        cannot bear on it: such masks are refused unless `strict` is `False`.

        Args:
            images: uint8 array `[N, H, W, C]`; known pixels are levels of the model (see
                `cut_to_levels`) and stay byte for byte, the others are not looked at.
            mask: Bool or 0/1 array `[H, W]`, `[N, H, W]` or `[N, H, W, 1]`, 1 where a pixel
                is known.
            labels: For a class-conditional model, one class for all images or one each.
            seed: Int; image *i* is drawn from the *i*-th seed derived from it.
            strict: Bool, refuse masks with a known pixel after one to draw. With `False` it
                stays, and nothing before it is conditioned on it.
            **options: Further arguments of `sample`, such as `temperature`, and `seeds`,
                `batch_size` and `progress` of `generate`.

        Returns:
            uint8 NumPy array `[N, H, W, C]`.

        Raises:
            ValueError: The mask or an option is wrong, the mask asks for what the order cannot
                condition on, or a known pixel is no level of the model.
        """
        images = self.check_split(images, self._check_labels(labels, len(images))).images
        mask = self._check_known(check_mask(mask, images), images, strict)
        return self.run_endpoint(
            "complete", {"image": images, "mask": mask}, labels, seed, **options
        )

    def _check_known(self, mask, images, strict):
        """The mask; a ValueError where it, or a known pixel, is none that `complete` takes."""
        flat = mask.reshape(len(mask), -1)
        late = np.logical_and(flat, np.minimum.accumulate(flat, axis=1) == 0)
        if strict and late.any():
            image, pixel = np.argwhere(late)[0]
            row, column = divmod(pixel, self.image_shape[1])
            raise ValueError(
                f"The mask keeps pixels that come after pixels to draw in raster order, on which "
                f"these cannot be conditioned (image {image}, row {row}, column {column} is the "
                "first). Keep only what comes before, or pass strict=False: they stay, but do not "
                "bear on what is drawn before them."
            )
        wrong = np.logical_and(mask[..., None], images != self.cut_to_levels(images))
        if wrong.any():
            raise ValueError(
                f"Known pixels must be levels of the model ({self._spell_levels()}). "
                f"Received: {images[wrong][0]}. model.cut_to_levels(images) makes them so."
            )
        return mask

    def _spell_levels(self):
        levels = np.unique(self.cut_to_levels(np.arange(256, dtype="uint8")))
        if len(levels) < 6:
            return ", ".join(map(str, levels))
        return f"{len(levels)} from 0 to 255"

    def cut_to_levels(self, images):
        """Images with each pixel cut to the nearest of the model's levels; uint8, of any shape."""
        return ops.convert_to_numpy(self.to_images(self.to_levels(np.asarray(images))))

    # Levels ---------------------------------------------------------------------------

    def to_levels(self, images):
        """uint8 images to scaled levels, each pixel to the level nearest to it."""
        return scale_images(images, self.num_levels)

    def to_images(self, x):
        """Scaled levels to uint8 images, each level to the grey nearest to it."""
        # In integers: half of a grey, as in 255 / 34, goes up on every runtime.
        parts = self.num_levels - 1
        levels = distributions.unscale(x, self.num_levels)
        return ops.cast((510 * levels + parts) // (2 * parts), "uint8")

    def _training_levels(self, batch):
        if self.num_levels > 2 or self.binarization == "threshold":
            return self.to_levels(batch.images)
        threshold = random.uniform(batch.seeds, self.image_shape, stream=1)
        return 2 * ops.cast(ops.cast(batch.images, "float32") / 255 > threshold, "float32") - 1

    # Building and shipping ------------------------------------------------------------

    def __init__(
        self, image_shape, num_classes=None, num_levels=256, binarization="dynamic", **kwargs
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        check_numbers(Number(least=2, most=256, whole=True), num_levels=num_levels)
        if binarization not in BINARIZATIONS:
            raise ValueError(unknown_name("binarization", binarization, BINARIZATIONS))

    @property
    def final_network(self):
        """The network that evaluates, samples and is exported; others may average weights."""
        return self.network

    def endpoints(self):
        image = image_spec(self.image_shape)
        figure = TensorSpec((), "float32")
        return {
            **super().endpoints(),
            "score": self.endpoint(
                self._score,
                "gives the exact log-probability of an image, in nats and in bits per dimension",
                {"log_prob": figure, "bits_per_dimension": figure},
                seeded=False,
                image=image,
            ),
            "complete": self.endpoint(
                self._draw,
                "keeps the known pixels and draws the others, each given all pixels before it in "
                "raster order, known or drawn; known pixels after it stay, but do not bear on it",
                image=image,
                mask=mask_spec(self.image_shape),
            ),
        }

    def _score(self, image, label=None):
        log_prob = self.log_prob(image, label)
        return {"log_prob": log_prob, "bits_per_dimension": -self._bits(log_prob)}
