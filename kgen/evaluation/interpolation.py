"""Images between images: along great circles through the latent space."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kgen import random
from kgen.checks import check_int, check_seed

#: More images than this make no picture.
MOST_IMAGES = 2**16


def interpolate(
    model: Any,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    labels: int | Sequence[int] | np.ndarray | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Draws images on the way from one latent vector to another.

    A normal latent vector of many dimensions lies close to a sphere; a straight line would
    leave it in the middle, where the model was never trained, so the way is an arc.

    Args:
        model: `ImageGenerator` with an endpoint `decode` from a latent vector; else a
            `ValueError`.
        pairs: Int, how many ways.
        steps: Int, images on each way, both ends included; 2 or more; 65,536 in all at most.
        seed: Int; the ends are the images that `generate(2 * pairs, seed=seed)` draws.
        labels: For a class-conditional model, one class for all ways or one each.
        batch_size: Int.

    Returns:
        uint8 array `[pairs, steps, H, W, C]`.
    """
    decode = model.endpoints().get("decode")
    if decode is None or "latent" not in decode.inputs:
        raise ValueError(
            f"{type(model).__name__} has no latent vector to go along: among its endpoints "
            f"({', '.join(model.endpoints())}) there is no decode from a latent."
        )
    pairs, steps = check_int(1, pairs=pairs), check_int(2, steps=steps)
    if pairs * steps > MOST_IMAGES:
        raise ValueError(
            f"Interpolation draws at most {MOST_IMAGES:,} images. Received: pairs={pairs}, "
            f"steps={steps}"
        )
    shape = decode.inputs["latent"].shape
    seeds = random.row_seeds(check_seed(seed), 2 * pairs)
    ends = prior_latents(model, seeds).reshape(pairs, 2, -1)
    ways = spherical(ends[:, 0], ends[:, 1], steps)
    inputs = {"latent": ways.reshape(pairs * steps, *shape).astype("float32")}
    labels = model._check_labels(labels, pairs)
    if labels is not None:
        inputs["label"] = np.repeat(labels, steps)
    result = model.run_batched("decode", decode.function, inputs, batch_size=batch_size)
    return result["image"].reshape(pairs, steps, *model.image_shape)


def prior_latents(model, seeds):
    """The latent vectors `[N, ...]` of which a model with an endpoint `decode` draws from seeds."""
    shape = model.endpoints()["decode"].inputs["latent"].shape
    prior = getattr(model, "sample_latents", lambda seeds: random.normal(seeds, shape))
    return keras.ops.convert_to_numpy(prior(keras.ops.convert_to_tensor(seeds)))


def spherical(start, end, steps):
    """Points `[N, steps, D]` on the arcs from `start` to `end`, both `[N, D]` and included
    (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985); the lengths are
    interpolated too.
    """
    start, end = start[:, None], end[:, None]
    t = np.linspace(0, 1, steps)[:, None]
    lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (start, end)]
    cosine = np.sum(start * end, axis=-1, keepdims=True) / (lengths[0] * lengths[1])
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.maximum(np.sin(angle), 1e-6)
    direction = (
        np.sin((1 - t) * angle) / sine * start / lengths[0]
        + np.sin(t * angle) / sine * end / lengths[1]
    )
    arcs = direction * ((1 - t) * lengths[0] + t * lengths[1])
    # sin(angle) is 0 for parallel vectors; the ends are exact in any case.
    return np.concatenate([start, arcs[:, 1:-1], end], axis=1)
