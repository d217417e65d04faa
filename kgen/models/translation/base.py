"""What every translator shares: what it is trained on, and how images go in and come out."""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import INPUT_CHANNELS, check_image_shape, check_int
from kgen.data import Split
from kgen.data.datasets import Takes
from kgen.data.degradation import Degradation
from kgen.endpoint import image_spec
from kgen.generation import row_seeds
from kgen.image_generator import ImageGenerator
from kgen.layers.resampling import enlarged, padded_to
from kgen.layers.scaling import scale_images, unscale_images
from kgen.models.translation.augmentation import augmented, check_augmentation
from kgen.training.step import Batch

#: Images of more pixels than this are translated tile by tile.
MOST_PIXELS = 512**2

#: Side of a tile, where nobody says another.
TILE = 256


class Translator(ImageGenerator):
    """Base class of models from an image to an image.

    It learns from pairs, `fit(inputs, images)` or `fit(data.train)` of what `kgen.data.load_pairs`
    gives; or, with a `degradation`, from clean images alone, `fit(images)`: the inputs are made of
    them in the graph, other ones in every step.

    A subclass states `objective(batch, training)`, whose `batch.inputs` are uint8 `[B, h, w, c]`
    beside `batch.images`, and `sample(seeds, images)`. Where it is `convolutional` it takes images
    of any size, states in `reach` how far its view goes and in `stride` what sides it halves.

    Args:
        image_shape: Tuple `(H, W, C)` of what it gives.
        input_shape: Tuple `(h, w, c)` of what it takes, with 1 (grey), 2 (grey with alpha), 3 or 4
            channels; `None` for what the degradation leaves, and for `image_shape` without one.
        degradation: String, what was done to the images that it takes, such as `"noise:25"`,
            `"bicubic:2"`, `"grey"` or `"blur:0.5-2,jpeg:40-90"`, see
            `kgen.data.DEGRADATIONS`; `None` to learn from pairs. What `"box"` and `"strokes"` leave
            to be seen comes out as it went in, to the last bit.
        augmentation: Tuple of names of changes that training makes to inputs and images alike, of
            `"mirror"`, `"turn"`, `"shift"` and `"colours"`, see
            `kgen.models.translation.augmentation`; for thousands of pairs or fewer.
        seed: Int, 0 to 2**31 - 1, see `ImageGenerator`.

    `scale` is how many times as high and wide the images are as the inputs, an int.

    Raises:
        ValueError: The degradation does not make such inputs of such images, or the images are no
            whole number of times as large as the inputs.
    """

    left_out_arguments: tuple[str, ...] = ("num_classes",)
    num_classes = None
    default_schedule = "cosine"

    #: Whether it takes images of any height and width.
    convolutional = False

    #: Whether other seeds give other answers.
    draws = False

    #: Whether input and image of a row belong together.
    paired = True

    #: What sides of its inputs are multiples of inside of it.
    stride = 1

    def __init__(self, image_shape, input_shape=None, degradation=None, augmentation=(), **kwargs):
        super().__init__(image_shape, **kwargs)
        given = None if input_shape is None else tuple(input_shape)
        self.degrade = None
        if degradation is not None:
            self.degrade = Degradation(degradation)
            self.degradation = str(self.degrade)
            left = self.degrade.output_shape(self.image_shape)
            if given not in (None, left):
                raise ValueError(
                    f"degradation={self.degradation!r} makes {left} of {self.image_shape}. "
                    f"Received: input_shape={given}. Leave it out."
                )
            given = left
        self.input_shape = check_image_shape(
            self.image_shape if given is None else given, "input_shape", INPUT_CHANNELS
        )
        self.scale = self.image_shape[0] // self.input_shape[0]
        whole = tuple(side * self.scale for side in self.input_shape[:2])
        if self.scale < 1 or whole != self.image_shape[:2]:
            raise ValueError(
                "Both sides of image_shape must be those of input_shape, or the same whole number "
                f"of times as long. Received: image_shape={self.image_shape}, "
                f"input_shape={self.input_shape}"
            )
        self.augmentation = check_augmentation(augmentation, self.image_shape, self.input_shape)

    @property
    def reach(self):
        """Int, pixels of the input: further away, nothing has a part in a pixel's result."""
        raise NotImplementedError(f"{type(self).__name__} must implement reach")

    # What it is trained on ------------------------------------------------------------

    def _batch(self, part, step, stream):
        batch = super()._batch(part, step, stream)
        training = stream == 1
        if self.degrade is not None:
            images = self._changed(batch.images, batch.seeds) if training else batch.images
            return batch._replace(images=images, inputs=self.degrade(images, batch.seeds))
        images, inputs = part.labels, part.images
        if training:
            images = self._changed(images, batch.seeds)
            # Of what are no partners, each is changed by itself.
            seeds = batch.seeds if self.paired else random.fold_in(batch.seeds, 1)
            inputs = self._changed(inputs, seeds, 1)
        return batch._replace(images=images, inputs=inputs)

    def _changed(self, images, seeds, scale=None):
        """Images as training shows them, see `augmentation`."""
        if not self.augmentation:
            return images
        return augmented(images, seeds, self.augmentation, self.scale if scale is None else scale)

    def _takes(self):
        shape = None if self.degrade is not None else self.input_shape
        return Takes(type(self).__name__, self.image_shape, None, shape)

    def check_split(self, x, y=None, horizontal_flip=False):
        """A `kgen.data.Split` of what this model takes, from a split or from arrays as for `fit`.

        With a degradation it has images alone; else inputs too. A `ValueError` where they are not
        what the model takes.
        """
        name = type(self).__name__
        if not isinstance(x, Split):
            if self.degrade is not None and y is not None:
                raise ValueError(
                    f"This {name} makes its inputs of clean images, by degradation="
                    f"{self.degradation!r}, and takes nothing else. Received: y of shape "
                    f"{np.shape(y)}. Leave y out."
                )
            images = np.asarray(x if self.degrade is not None else y)
            if self.degrade is None and y is None:
                raise ValueError(
                    f"This {name} learns from pairs: fit(inputs, images), or fit(data.train) of "
                    "kgen.data.load_pairs. Received: one array. To learn from clean images alone, "
                    "build it with a degradation, such as 'noise:25'."
                )
            inputs = None if self.degrade is not None else np.asarray(x)
            x = Split(images, None, horizontal_flip, inputs=inputs, paired=self.paired)
        if x.image_shape != self.image_shape:
            raise ValueError(
                f"{name} takes images of shape {self.image_shape}. Received: {x.image_shape}. Load "
                f"the data with image_shape={self.image_shape}."
            )
        if self.degrade is not None:
            return Split(x.images, horizontal_flip=x.horizontal_flip)
        if x.inputs is None:
            raise ValueError(
                f"This {name} learns from pairs, of kgen.data.load_pairs (kgen train --inputs "
                "FOLDER), or from clean images with a degradation (--degrade noise:25). Received: "
                "images alone"
            )
        if x.input_shape != self.input_shape:
            raise ValueError(
                f"This {name} takes inputs of shape {self.input_shape}. Received: {x.input_shape}. "
                f"Load the data with input_shape={self.input_shape}."
            )
        if self.paired and not x.paired:
            raise ValueError(
                f"{name} learns from pairs. Received: inputs and images that are none. Without "
                "pairs, train a CycleGAN."
            )
        inputs = {"inputs": x.inputs, "paired": x.paired}
        return Split(x.images, horizontal_flip=x.horizontal_flip, **inputs)

    def example_data(self, count, seed=0):
        split = super().example_data(count, seed)
        if self.degrade is not None:
            return split
        rng = np.random.default_rng(seed + 1)
        inputs = rng.integers(0, 256, (count, *self.input_shape), "uint8")
        return Split(split.images, inputs=inputs, paired=self.paired)

    def beside(self, split, n, seed=0):
        """What to look at of the first `n` images of a split: arrays `[n, H, W, C]` of the inputs
        as they are, of what the model makes of them, and of the images.
        """
        split = self.check_split(split)
        n = min(n, len(split) if split.paired else min(len(split), len(split.inputs)))
        inputs = None if split.inputs is None else split.inputs[:n]
        split = Split(split.images[:n], inputs=inputs, paired=split.paired)
        inputs = self.inputs_of(split, seed=seed)
        translated = self.translate(inputs, seed, progress=False)
        return self.guesses(inputs), translated, np.asarray(split.images)

    def guesses(self, inputs):
        """`first_guess` as images: uint8 `[N, h, w, c]` to uint8 `[N, H, W, C]`."""
        return self.run_batched(
            "guesses",
            lambda image: {"image": unscale_images(self.first_guess(image))},
            {"image": inputs},
            progress=False,
        )["image"]

    def inputs_of(self, x, y=None, seed=0):
        """What the model is given of a split, uint8 `[N, h, w, c]`: its inputs, or its images,
        degraded by seeds that are derived from one.
        """
        split = self.check_split(x, y)
        if self.degrade is None:
            return np.asarray(split.inputs)
        return self.run_over(
            "inputs_of", lambda batch: {"image": batch.inputs}, split, seed=seed, progress=False
        )["image"]

    def run_over(self, name, function, x, y=None, seed=0, **run):
        split = self.check_split(x, y)
        tensors = {"images": split.images, "seeds": row_seeds(len(split), seed)}
        if self.degrade is None:
            tensors["inputs"] = split.inputs

        def call(images, seeds, inputs=None):
            inputs = self.degrade(images, seeds) if inputs is None else inputs
            return function(Batch(images, None, seeds, inputs))

        return self.run_batched(name, call, tensors, **run)

    # Between images and what networks see ---------------------------------------------

    def first_guess(self, inputs):
        """What images would be without the model, float32 `[B, H, W, C]` in -1 to 1: the inputs,
        enlarged by bicubic interpolation, grey as grey colours, without the mask.
        """
        x = scale_images(inputs)
        have, want = x.shape[-1], self.image_shape[-1]
        if self.degrade is not None and self.degrade.hides:
            x, have = x[..., :-1], have - 1
        if have == want:
            pass
        elif have == 1:
            grey = ops.concatenate([x] * min(want, 3), axis=-1)
            x = grey if want == 3 else ops.concatenate([grey, ops.ones_like(x)], axis=-1)
        elif have == 2:
            parts = [x[..., :1]] * min(want, 3) + [x[..., 1:]] * (want == 4)
            x = ops.concatenate(parts, axis=-1)
        elif want == 1:
            x = ops.mean(x[..., :3], axis=-1, keepdims=True)
        elif want == 3:
            x = x[..., :3]
        else:
            x = ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)
        return enlarged(x, self.scale)

    def known(self, inputs):
        """float32 `[B, H, W, 1]`, 1 where a pixel is known and comes out as it went in; or `None`
        where none is.
        """
        if self.degrade is None or not self.degrade.keeps_known:
            return None
        return ops.cast(ops.cast(inputs[..., -1:], "int32") > 127, "float32")

    def with_known(self, pixels, inputs):
        """Pixels in -1 to 1, of which those that are known are the inputs' own."""
        known = self.known(inputs)
        if known is None:
            return pixels
        return known * self.first_guess(inputs) + (1 - known) * pixels

    # Translating ----------------------------------------------------------------------

    def sample(self, seeds, images):
        """Translates images: a pure function of tensors, row by row.

        Args:
            seeds: int32 tensor `[B]`, one seed per image.
            images: uint8 tensor `[B, h, w, c]`.

        Returns:
            uint8 tensor `[B, H, W, C]`. Row *i* depends on row *i* of the inputs alone.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement sample")

    def call(self, images):
        """Translates images, all with the seed 0: uint8 in and out."""
        return self.sample(ops.zeros((ops.shape(images)[0],), "int32"), images)

    def generate(self, *args, **kwargs):
        """Refuses: a translator draws nothing without an image."""
        raise ValueError(
            f"{type(self).__name__} makes images of images: call translate(images). (kgen "
            "translate RUN FOLDER at the command line.)"
        )

    def translate(
        self,
        images,
        seed=0,
        *,
        seeds=None,
        batch_size=64,
        tile=None,
        progress="auto",
        jit_compile="auto",
        **options,
    ):
        """Translates images, compiled and in batches.

        A model of convolutions alone takes images of any height and width. Large ones go through
        it in tiles that overlap as far as it sees, so that no seam can be seen: what is put
        together is what the whole would have given, but for rounding.

        Args:
            images: uint8 array `[N, h, w, c]`, or a list of arrays `[h, w, c]` of several sizes.
            seed: Int; image *i* is translated by the *i*-th seed derived from it.
            seeds: Sequence of ints, one seed per image, in place of `seed`.
            batch_size: Int, images (or tiles) per call of the compiled model.
            tile: Int, side of the tiles, more than twice `reach`; `None` for 256, and for images of
                up to 512x512 pixels none.
            progress: Bool, or `"auto"` for a progress bar when there are over 8 batches.
            jit_compile: As for `ImageGenerator.generate`.
            **options: Further arguments of the model's `sample`, as for `ImageGenerator.generate`.

        Returns:
            uint8 array `[N, H, W, C]`, or a list of arrays `[H, W, C]`.

        Raises:
            ValueError: Images are not what the model takes, a tile is too small, or an option is
                unknown or out of range.
        """
        run = {"batch_size": batch_size, "progress": progress, "jit_compile": jit_compile}
        count = len(images)
        if seeds is None:
            seeds = row_seeds(count, seed)
        elif len(seeds) != count:
            raise ValueError(f"seeds must be one per image, {count}. Received: {len(seeds)}")
        if isinstance(images, (list, tuple)):
            translated = []
            for i, image in enumerate(images):
                own = {**run, **self._of_row(options, i, count), "seeds": [seeds[i]], "tile": tile}
                translated.append(self.translate(np.asarray(image)[None], **own)[0])
            return translated
        images = np.asarray(images)
        self._check_inputs(images)
        height, width = images.shape[1:3]
        if tile is None and height * width <= MOST_PIXELS:
            return self.run_endpoint("translate", {"image": images}, seeds=seeds, **run, **options)
        tile = self._check_tile(TILE if tile is None else tile)
        translated = [
            self._in_tiles(image, seeds[i], tile, run, self._of_row(options, i, count))
            for i, image in enumerate(images)
        ]
        return np.stack(translated)

    @staticmethod
    def _of_row(options, row, count):
        """The options of one of several images."""
        return {
            name: value[row] if np.ndim(value) == 1 and len(value) == count else value
            for name, value in options.items()
        }

    def _check_inputs(self, images, taken=None):
        """Refuses what is no batch of images of the shape `taken`, by default the inputs'."""
        taken, shape = taken or self.input_shape, images.shape
        fits = images.ndim == 4 and shape[3] == taken[2] and 0 not in shape[1:]
        sides = "h, w" if self.convolutional else f"{taken[0]}, {taken[1]}"
        if images.dtype != np.uint8 or not fits or not (self.convolutional or shape[1:] == taken):
            raise ValueError(
                f"{type(self).__name__} translates uint8 images [N, {sides}, "
                f"{taken[2]}]. Received: {images.dtype} {list(shape)}"
            )

    def _check_tile(self, tile):
        if not self.convolutional:
            raise ValueError(
                f"tile is for models of convolutions alone. Received: tile={tile} for a "
                f"{type(self).__name__}, which takes images of {self.input_shape}"
            )
        least = 2 * self._overlap + self.stride
        if check_int(1, tile=tile) < least:
            raise ValueError(
                f"tile must be {least} or more: this {type(self).__name__} sees {self.reach} "
                f"pixels around a place. Received: tile={tile}"
            )
        return tile // self.stride * self.stride

    @property
    def _overlap(self):
        """`reach`, as a multiple of `stride`."""
        return math.ceil(self.reach / self.stride) * self.stride

    def _in_tiles(self, image, seed, tile, run, options):
        """One image `[h, w, c]`, put together of tiles of one size, all by its one seed."""
        height, width = image.shape[:2]
        image = ops.convert_to_numpy(padded_to(image[None], self.stride))[0]
        cuts = [_cuts(size, tile, self._overlap) for size in image.shape[:2]]
        places = [(rows, columns) for rows in cuts[0] for columns in cuts[1]]
        tiles = np.stack(
            [image[rows.begin : rows.end, columns.begin : columns.end] for rows, columns in places]
        )
        seeds = [seed] * len(tiles)
        tiles = self.run_endpoint("translate", {"image": tiles}, seeds=seeds, **run, **options)
        scale = self.scale
        whole = np.empty(
            (image.shape[0] * scale, image.shape[1] * scale, self.image_shape[2]), "uint8"
        )
        for (rows, columns), part in zip(places, tiles, strict=True):
            inside, there = zip(rows.inside(scale), columns.inside(scale), strict=True)
            whole[there] = part[inside]
        return whole[: height * scale, : width * scale]

    def variants(self, images, n=4, seed=0, **run):
        """Several translations of every image, by several seeds: uint8 `[N, n, H, W, C]`.

        Their spread, `variants.std(axis=1)`, shows where the answer is open. Further arguments are
        those of `translate`; uint8 images `[N, h, w, c]`.
        """
        n = check_int(1, n=n)
        images = np.asarray(images)
        drawn = self.translate(np.repeat(images, n, axis=0), seed, **run)
        return drawn.reshape(len(images), n, *drawn.shape[1:])

    # Shipping -------------------------------------------------------------------------

    def input_spec_of(self, shape, description="pixels, channels last"):
        """`TensorSpec` of images that go in, of any size where the model takes any."""
        return image_spec(shape, any_size=self.convolutional, description=description)

    def endpoints(self):
        return {
            "translate": self.endpoint(
                lambda image, seed, **options: self.sample(seed, image, **options),
                "makes an image of an image",
                {"image": self.input_spec_of(self.image_shape)},
                unused=() if self.draws else ("seed",),
                image=self.input_spec_of(self.input_shape),
            )
        }


class _Cut(NamedTuple):
    """A tile of a side, from `begin` to `end`, of which `first` to `last` is kept."""

    begin: int
    end: int
    first: int
    last: int

    def inside(self, scale):
        """What is kept, as slices of the tile's result and of the whole one."""
        own = slice((self.first - self.begin) * scale, (self.last - self.begin) * scale)
        return own, slice(self.first * scale, self.last * scale)


def _cuts(size, tile, overlap):
    """Tiles of one length over a side, of which the ends are kept at those of the side alone."""
    if size <= tile:
        return [_Cut(0, size, 0, size)]
    cuts, first = [], 0
    while first < size:
        begin = min(max(first - overlap, 0), size - tile)
        end = begin + tile
        last = size if end == size else end - overlap
        cuts.append(_Cut(begin, end, first, last))
        first = last
    return cuts
