"""Checks of arguments, and the texts of their errors."""

import difflib
import numbers
import operator

import numpy as np

#: How many channels an image may have: grey, RGB, RGBA.
CHANNELS = (1, 3, 4)


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


def check_image_shape(image_shape):
    """`image_shape` as a tuple of ints; `ValueError` unless it is `(height, width, channels)`."""
    try:
        shape = tuple(int(side) for side in image_shape)
    except (TypeError, ValueError):
        shape = ()
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in CHANNELS:
        raise ValueError(
            "image_shape must be (height, width, channels) with 1, 3 or 4 channels. "
            f"Received: image_shape={image_shape!r}"
        )
    return shape


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


def check_int(least, **argument):
    """An argument, given by its name, as an int; a ValueError where it is none of `least` or more.

    >>> check_int(1, n=np.float32(3))
    3
    """
    ((name, value),) = argument.items()
    number = as_int(value)
    if number is None or number < least:
        raise ValueError(f"{name} must be {_kind(least)}. Received: {name}={value!r}")
    return number


def check_ints(least, **arguments):
    """Raises a ValueError that names an argument which is no int of `least` or more."""
    for name, value in arguments.items():
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{name} must be {_kind(least)}. Received: {name}={value!r}")


def _kind(least):
    return "a positive int" if least == 1 else f"an int of {least} or more"


def check_shares(**arguments):
    """Raises a ValueError that names an argument which is not 0 or more and below 1."""
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be 0 or more and below 1. Received: {name}={value}")


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
