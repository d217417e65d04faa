"""`Split`: images with their labels, and how missing splits are made."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np

from kgen.checks import CHANNELS, INPUT_CHANNELS, check_seed


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images of one split, with or without labels.

    Args:
        images: uint8 array `[N, H, W, C]`, 0 to 255, with 1, 3 or 4 channels. It may be
            memory-mapped; batches are then read from disk as they are needed.
        labels: Integer array `[N]`, the class of each image (0 or more), or `None`. It is
            kept as int32.
        horizontal_flip: Boolean, whether shuffled batches mirror each image with
            probability one half. Batches that are not shuffled never do.
        inputs: uint8 array `[N, h, w, c]`, what each image is to be made of, or `None`; grey with
            alpha, 2 channels, is right too. A split with inputs has no labels.
        paired: Boolean, whether input *i* is that of image *i*. Where it is false there may be
            more or fewer inputs than images, and shuffled batches have both in orders of their own.

    Raises:
        ValueError: If `images`, `labels` or `inputs` have another shape, dtype or range.

    Example:

    >>> split = kgen.data.Split(np.zeros((100, 8, 8, 1), "uint8"))
    >>> len(split), split.image_shape
    (100, (8, 8, 1))
    >>> (images,) = split.batches(32)[0]
    >>> images.shape
    (32, 8, 8, 1)
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    horizontal_flip: bool = False
    inputs: np.ndarray | None = None
    paired: bool = True

    _channels: ClassVar[tuple[int, ...]] = CHANNELS

    def __post_init__(self):
        check_images(self.images, "images", self._channels)
        if self.inputs is not None:
            check_images(self.inputs, "inputs", INPUT_CHANNELS)
            if self.labels is not None:
                raise ValueError("A split with inputs has no labels. Received: both.")
            if self.paired and len(self.inputs) != len(self.images):
                raise ValueError(
                    f"There must be one input for each of {len(self.images)} images, unless "
                    f"paired=False. Received: {len(self.inputs)}"
                )
        if self.labels is not None:
            labels = check_labels(self.labels, len(self.images), "labels")
            object.__setattr__(self, "labels", labels)

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        labels = None if self.labels is None else f"int32 {list(self.labels.shape)}"
        inputs = "" if self.inputs is None else f", inputs=uint8 {list(self.inputs.shape)}"
        return f"Split(images=uint8 {list(self.images.shape)}, labels={labels}{inputs})"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Tuple `(H, W, C)`."""
        return tuple(self.images.shape[1:])

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Tuple `(h, w, c)`, or `None` without inputs."""
        return None if self.inputs is None else tuple(self.inputs.shape[1:])

    def part(self, rows: slice | np.ndarray) -> Self:
        """A split of some rows, a slice or an array of their numbers; a `ValueError` where inputs
        and images are no pairs.
        """
        if not self.paired:
            raise ValueError("Inputs and images that are no pairs have no rows in common.")
        arrays = {
            name: array[rows]
            for name in ("images", "labels", "inputs")
            if (array := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **arrays)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """What a batch holds: `(images,)`, `(images, labels)`, or `(inputs, images)`."""
        if self.inputs is not None:
            return (self.inputs, self.images)
        return (self.images,) if self.labels is None else (self.images, self.labels)

    def binarized(self, seed: int = 0) -> Self:
        """A copy in memory whose pixels are 0 or 255, drawn with the grey level as probability.

        Likelihoods of binarised images compare only on one fixed draw of the test set: state
        `seed` (0 or more) beside the figure. (This is not Larochelle's static binarisation of
        MNIST.)
        """
        rng = np.random.default_rng(check_seed(seed))
        ones = rng.random(self.images.shape, "float32") < self.images / np.float32(255)
        return dataclasses.replace(self, images=255 * ones.astype("uint8"))

    def batches(
        self,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_remainder: bool = True,
        epoch: int = 0,
    ) -> Any:
        """Cuts the split into batches that `fit`, `evaluate` and `predict` take.

        Args:
            batch_size: Positive integer.
            shuffle: Boolean, whether every epoch has its own order. The order, and with
                `horizontal_flip` the flips, depend on `seed` and the epoch alone.
            seed: Integer, 0 or more.
            drop_remainder: Boolean, whether a last, smaller batch is left out. A split
                with fewer images than `batch_size` gives one batch in any case.
            epoch: Integer, the epoch to begin with.
        """
        from kgen.data.batches import Batches  # imports Keras

        return Batches(self, batch_size, shuffle, seed, drop_remainder, epoch)


class Inputs(Split):
    """What images are to be made of, as it is loaded: grey with alpha, 2 channels, is right too."""

    _channels = INPUT_CHANNELS


def check_images(images, what, channels=CHANNELS):
    """Raises `ValueError` unless `images` is uint8 `[N, H, W, C]`, N at least 1."""
    dtype, shape = getattr(images, "dtype", type(images).__name__), getattr(images, "shape", ())
    if dtype != np.uint8:
        raise ValueError(f"{what} must be uint8 with values 0 to 255, received {dtype}.")
    if len(shape) != 4 or 0 in shape or shape[3] not in channels:
        *some, last = map(str, channels)
        raise ValueError(
            f"{what} must have shape [N, H, W, C] with at least one image and {', '.join(some)} "
            f"or {last} channels (last), received {list(shape)}."
        )


def check_labels(labels, count, what):
    """Returns `labels` (`[N]` or `[N, 1]`) as int32 `[N]`; `ValueError` if they do not fit."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{what} must be integers, one class per image, received {labels.dtype}.")
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"{what} must have shape [{count}], one class per image, received {list(labels.shape)}."
        )
    if labels.min() < 0:
        raise ValueError(f"{what} must be 0 or more, received {labels.min()}.")
    if labels.max() >= 2**31:  # they are kept as int32
        raise ValueError(f"{what} must be less than 2**31, received {labels.max()}.")
    return labels.reshape(count).astype(np.int32)


def check_fractions(validation_fraction, test_fraction):
    """Raises `ValueError` unless both fractions leave something to train on."""
    for name, fraction in (
        ("validation_fraction", validation_fraction),
        ("test_fraction", test_fraction),
    ):
        if not 0 <= fraction < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, received {fraction}.")
    if validation_fraction + test_fraction >= 1:
        raise ValueError(
            f"validation_fraction + test_fraction must be less than 1, received "
            f"{validation_fraction} + {test_fraction}."
        )


def carve(name, count, fractions, seed, groups=None):
    """Assigns the `count` images of a split to it and to missing splits: their names, `[count]`.

    Each missing split gets its fraction of the images (`fractions`, by name), rounded, at
    least one; which ones is drawn uniformly from `seed`, without regard to the classes. Images of
    one of `groups` (`[count]`) go together: the fraction is one of the groups.
    """
    groups = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    of_groups = np.full(groups.max(initial=-1) + 1, name, dtype=object)
    order = np.random.default_rng(seed).permutation(len(of_groups))
    begin = 0
    for missing in sorted(fractions):
        if fractions[missing] > 0:
            end = begin + max(1, round(len(order) * fractions[missing]))
            of_groups[order[begin:end]] = missing
            begin = end
    if begin >= len(order):
        raise ValueError(
            f"{count} training images are too few to make {' and '.join(sorted(fractions))} from; "
            "give more images or set validation_fraction and test_fraction to 0."
        )
    return of_groups[groups]
