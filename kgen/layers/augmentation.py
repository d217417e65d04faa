"""Augmentation of what a discriminator sees, real and generated alike, within the graph.

Zhao et al., "Differentiable augmentation for data-efficient GAN training" (NeurIPS 2020; arXiv
2006.10738), section 3.3: a generator does not learn to draw what is augmented when both kinds of
images are, in the updates of both players, by operations that have a gradient.

Pixels are float32 `[B, H, W, C]` in -1 to 1, of which 0, grey, is what is put in place of others.
"""

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import unknown_name

#: Apart from the streams of the changes themselves.
_CHOICE_STREAM = 1 << 16


def augmented(pixels, seeds, policy, stream=0, probability=1.0):
    """Pixels changed at random, each image by its own seed.

    Args:
        pixels: Tensor `[B, H, W, C]`.
        seeds: int32 tensor `[B]`.
        policy: Tuple of names of `POLICIES`, applied in their order.
        stream: Int; other streams are independent changes of the same seeds.
        probability: Float, 0 to 1, or such a scalar tensor, of each change of each image.
    """
    for name in policy:
        # Folded in, so that a policy's draws are the same whatever else is in the list.
        own = random.fold_in(seeds, list(POLICIES).index(name))
        chosen = True
        if ops.is_tensor(probability) or probability < 1:
            chosen = random.uniform(own, (), _CHOICE_STREAM + stream) < probability
        pixels = POLICIES[name](pixels, own, chosen, stream)
    return pixels


def check_policy(policy):
    """A tuple of names from names, a name or `None`; a `ValueError` names what is unknown."""
    names = (policy,) if isinstance(policy, str) else tuple(policy or ())
    for name in names:
        if name not in POLICIES:
            raise ValueError(unknown_name("augmentation", str(name), POLICIES))
    if len(set(names)) < len(names):
        raise ValueError(f"augmentation must name each change once. Received: {names}")
    return names


# An image that is not chosen is changed by nothing: to draw that costs less than to choose between
# two images, in the gradient too.


def colour(pixels, seeds, chosen=True, stream=0):
    """Other brightness (-0.5 to 0.5 added), saturation (0 to 2 times) and contrast (0.5 to 1.5).

    Zhao et al., section 3.3 and their appendix. Opacity, a fourth channel, stays.
    """
    drawn = random.uniform(seeds, (3,), stream)
    brightness = ops.where(chosen, drawn[:, 0] - 0.5, 0.0)[:, None, None, None]
    saturation = ops.where(chosen, 2 * drawn[:, 1], 1.0)[:, None, None, None]
    contrast = ops.where(chosen, drawn[:, 2] + 0.5, 1.0)[:, None, None, None]
    pixels, opacity = pixels[..., :3], pixels[..., 3:]
    grey = ops.mean(pixels, axis=-1, keepdims=True)
    mean = ops.mean(grey, axis=(1, 2, 3), keepdims=True)
    # One after the other they are this sum.
    around = (1 - contrast) * mean + brightness
    pixels = contrast * saturation * pixels + (contrast * (1 - saturation) * grey + around)
    return ops.concatenate([pixels, opacity], axis=-1)


def translation(pixels, seeds, chosen=True, stream=0):
    """Moved by up to an eighth of each side, whole pixels; grey comes in at the border."""
    share = random.uniform(seeds, (2,), stream)
    for axis, drawn in ((1, 0), (2, 1)):
        side = pixels.shape[axis]
        most = max(1, round(side / 8))
        shift = ops.cast(ops.floor(share[:, drawn] * (2 * most + 1)), "int32") - most
        shift = ops.where(chosen, shift, 0)
        # As a product of matrices, whose gradient is one too and the same on all devices.
        places = np.arange(side, dtype="int32")
        moves = places[None, :, None] - shift[:, None, None] == places[None, None, :]
        moves = ops.cast(moves, pixels.dtype)
        equation = "bij,bjwc->biwc" if axis == 1 else "bij,bhjc->bhic"
        pixels = ops.einsum(equation, moves, pixels)
    return pixels


def cutout(pixels, seeds, chosen=True, stream=0):
    """A rectangle of half of each side made grey; its centre may lie anywhere in the image."""
    share = random.uniform(seeds, (2,), stream)
    kept = []
    for axis, drawn in ((1, 0), (2, 1)):
        side = pixels.shape[axis]
        half = side // 4
        centre = ops.cast(ops.floor(share[:, drawn] * (side + 1)), "int32")
        away = np.arange(side, dtype="int32") - ops.where(chosen, centre, 3 * side)[:, None]
        kept.append(ops.logical_or(away < -half, away >= side // 2 - half))
    kept = ops.logical_or(kept[0][:, :, None, None], kept[1][:, None, :, None])
    return pixels * ops.cast(kept, pixels.dtype)


#: Dict of name to function of pixels, seeds, whether an image is chosen, bool `[B]`, and a stream.
POLICIES = {"colour": colour, "translation": translation, "cutout": cutout}
