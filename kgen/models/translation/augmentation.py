"""Augmentation of pairs in the graph: what changes an image changes what it is made of alike.

Of few pairs a network learns by heart which image belongs to which input, and then says little of
others. What is true of a pair stays true where both are mirrored, turned, moved, or have their
colours exchanged.
"""

import itertools

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import unknown_name

# What tells these draws from a model's and from a degradation's, of the same seeds.
_FOLD = 0x61756770


def check_augmentation(names, image_shape, input_shape):
    """A tuple of names from names, a name or `None`; a `ValueError` where one is unknown, or does
    nothing with images of such shapes.
    """
    names = (names,) if isinstance(names, str) else tuple(names or ())
    for name in names:
        if name not in CHANGES:
            raise ValueError(unknown_name("augmentation", str(name), CHANGES))
    if "turn" in names and image_shape[0] != image_shape[1]:
        raise ValueError(f"'turn' is for square images. Received: image_shape={image_shape}")
    if "colours" in names and min(image_shape[2], input_shape[2]) < 3:
        raise ValueError(
            "'colours' is for inputs and images with colours. Received: "
            f"input_shape={input_shape}, image_shape={image_shape}"
        )
    return names


def augmented(images, seeds, names, scale=1):
    """uint8 images `[B, H, W, C]` changed at random, each by its own seed of int32 `[B]`.

    Images that are partners, of the same seeds, are changed alike; `scale` is how many times as
    large they are as the inputs.
    """
    x = ops.cast(images, "float32")
    for name in names:
        own = random.fold_in(random.fold_in(seeds, _FOLD), list(CHANGES).index(name))
        x = CHANGES[name](x, own, scale)
    return ops.cast(x, "uint8")


def mirror(x, seeds, scale):
    """Left is right, in half of them."""
    coin = random.uniform(seeds, (1, 1, 1)) < 0.5
    return ops.where(coin, ops.flip(x, axis=2), x)


def turn(x, seeds, scale):
    """By none, one, two or three quarters."""
    number = random.uniform(seeds, (1, 1, 1)) * 4
    quarter = ops.flip(ops.transpose(x, (0, 2, 1, 3)), axis=1)
    x = ops.where(ops.logical_and(number >= 1, number < 2), quarter, x)
    half = ops.flip(x, axis=(1, 2))
    x = ops.where(number >= 3, ops.flip(ops.flip(quarter, axis=1), axis=2), x)
    return ops.where(ops.logical_and(number >= 2, number < 3), half, x)


def shift(x, seeds, scale):
    """By up to an eighth of each side, whole pixels of the input; the border is repeated."""
    share = random.uniform(seeds, (2,))
    for axis, drawn in ((1, 0), (2, 1)):
        side = x.shape[axis]
        most = max(1, round(side / scale / 8))
        moved = ops.cast(ops.floor(share[:, drawn] * (2 * most + 1)), "int32") - most
        places = np.arange(side, dtype="int32")
        source = ops.clip(places - scale * moved[:, None], 0, side - 1)
        chosen = ops.cast(source[:, :, None] == places, "float32")
        x = ops.einsum("bij,bjwc->biwc" if axis == 1 else "bij,bhjc->bhic", chosen, x)
    return x


_ORDERS = np.stack([np.eye(3, dtype="float32")[list(o)] for o in itertools.permutations(range(3))])


def colours(x, seeds, scale):
    """Red, green and blue in any order. Opacity stays."""
    number = ops.cast(ops.floor(random.uniform(seeds, ()) * len(_ORDERS)), "int32")
    exchanged = ops.einsum("bhwc,bcd->bhwd", x[..., :3], ops.take(_ORDERS, number, axis=0))
    return ops.concatenate([exchanged, x[..., 3:]], axis=-1)


CHANGES = {"mirror": mirror, "turn": turn, "shift": shift, "colours": colours}
