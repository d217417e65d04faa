"""Checks of arguments, and the texts of their errors."""

import dataclasses
import difflib
import math
import numbers
import operator

import numpy as np

#: How many channels an image may have: grey, RGB, RGBA.
CHANNELS = (1, 3, 4)

#: And one that is translated to another: grey with alpha, too.
INPUT_CHANNELS = (1, 2, 3, 4)


def unknown_name(kind, name, known):
    """The message for a name that is not known, with the nearest one that is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    known = sorted(known)
    if len(known) > 20:  # one line holds the nearest of them
        nearest = difflib.get_close_matches(name, known, n=8, cutoff=0)
        more = f" and {len(known) - len(nearest)} more"
        return f"Unknown {kind} '{name}'.{hint} Known: {', '.join(nearest)}{more}."
    return f"Unknown {kind} '{name}'.{hint} Known: {', '.join(known) or 'none'}."


def check_image_shape(image_shape, name="image_shape", channels=CHANNELS):
    """`image_shape` as a tuple of ints; `ValueError` unless it is `(height, width, channels)`."""
    try:
        shape = tuple(int(side) for side in image_shape)
    except (TypeError, ValueError):
        shape = ()
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in channels:
        *some, last = map(str, channels)
        raise ValueError(
            f"{name} must be (height, width, channels) with {', '.join(some)} or {last} channels. "
            f"Received: {name}={image_shape!r}"
        )
    return shape


@dataclasses.dataclass(frozen=True)
class Number:
    """What a number may be: finite in float32, no bool, within bounds; or `None`, if `optional`.

    Args:
        least: Int or float, the smallest that it may be, and
        above: what it must be above; `None` for no bound, as are
        most: the largest that it may be, and
        below: what it must be below.
        whole: Bool, an int.
        optional: Bool, `None` is right too.
        off: Of an option of sampling: at this value it does nothing, so that what is compiled
            leaves it out.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    whole: bool = False
    optional: bool = False
    off: float | None = None

    def check(self, name, value):
        """`value` as a Python number, also from NumPy's and from an array without axes.

        A `ValueError` that names the argument where it is none.
        """
        if value is None and self.optional:
            return None
        array = np.asarray(value)
        if array.shape != () or array.dtype.kind not in ("iu" if self.whole else "iuf"):
            raise self._error(name, value, "a number, ")
        number = array.item()
        with np.errstate(over="ignore"):  # as a graph has it, in which 1e-50 is 0
            single = number if self.whole else float(np.float32(number))
        if not math.isfinite(single):
            raise self._error(name, value, "a finite number, ")
        if self._outside(number) or self._outside(single):
            raise self._error(name, value)
        return number

    def _outside(self, number):
        return (
            (self.least is not None and number < self.least)
            or (self.above is not None and number <= self.above)
            or (self.most is not None and number > self.most)
            or (self.below is not None and number >= self.below)
        )

    def _error(self, name, value, kind=""):
        if None not in (self.least, self.most):
            bounds = [f"{self.least} to {self.most}"]
        else:
            words = {"least": "{} or more", "above": "above {}", "most": "at most {}"}
            words["below"] = "below {}"
            bounds = [
                text.format(getattr(self, bound))
                for bound, text in words.items()
                if getattr(self, bound) is not None
            ]
        if self.whole:
            kind = "" if self.least == 1 and self.most is None else "an int of "
            bounds = bounds if kind else ["a positive int"]
        text = (kind + " and ".join(bounds)).removesuffix(", ")
        none = ", or None" if self.optional else ""
        return ValueError(f"{name} must be {text}{none}. Received: {name}={value!r}")


def check_numbers(number, **arguments):
    """Raises a ValueError that names an argument which is not what a `Number` may be."""
    for name, value in arguments.items():
        number.check(name, value)


def as_int(value):
    """An integer of any kind, 3.0 and `np.int64(3)` too, as an int; `None` for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        pass
    if isinstance(value, numbers.Real) and float(value).is_integer():
        return int(value)
    return None


def check_int(least, most=None, **argument):
    """An argument, given by its name, as an int; a ValueError where it is none in these bounds.

    >>> check_int(1, n=np.float32(3))
    3
    """
    ((name, value),) = argument.items()
    number = as_int(value)
    allowed = Number(least=least, most=most, whole=True)
    return allowed.check(name, value if number is None else number)


def check_ints(least, **arguments):
    """Raises a ValueError that names an argument which is no int of `least` or more."""
    check_numbers(Number(least=least, whole=True), **arguments)


def check_shares(**arguments):
    """Raises a ValueError that names an argument which is not 0 or more and below 1."""
    check_numbers(Number(least=0, below=1), **arguments)


def check_names(**arguments):
    """Raises a ValueError where an argument, given as a pair, is none of its known names."""
    for name, (value, known) in arguments.items():
        if value not in known:
            raise ValueError(unknown_name(name, value, known))


def check_seed(seed):
    """`seed` as an int; a ValueError where it is none in 0 to 2**31 - 1."""
    number = as_int(seed)
    if number is None or not 0 <= number < 2**31:
        raise ValueError(f"A seed must be an integer in 0 to 2**31 - 1. Received: {seed!r}")
    return number


def check_mask(mask, images):
    """What is known of `images`, uint8 `[N, H, W]`, from a mask.

    The mask is bool or 0 and 1, 1 where a pixel is known, `[H, W]`, `[N, H, W]` or
    `[N, H, W, 1]`; else a `ValueError`.
    """
    mask = np.asarray(mask)
    if mask.ndim == 4 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.shape not in (images.shape[1:3], images.shape[:3]):
        raise ValueError(
            f"mask must have shape {images.shape[1:3]} or {images.shape[:3]}, 1 where a pixel is "
            f"known. Received: {mask.shape}"
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            "mask must be 1 (or True) where a pixel is known and 0 where it is to be drawn. "
            f"Received: values from {mask.min()} to {mask.max()}"
        )
    return np.broadcast_to(mask.astype("uint8"), images.shape[:3])
