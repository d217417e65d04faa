"""The latent vector of a given image: the most likely one, found by Gauss-Newton steps.

Of a generator G it minimises |G(z) - x|**2 / s**2 + |z|**2, the negative logarithm of how likely z
is when x is G(z) with normal noise of standard deviation s (cf. Zhu et al., "Generative visual
manipulation on the natural image manifold", ECCV 2016; arXiv 1609.03552, section 3.1).

The standard deviation s is at least `_NOISE`, and what is missing now.

Derivatives are taken by differences, along a few dimensions of z at a time: a generator's backward
pass does not convert to ONNX, its forward pass does, so that the endpoint runs wherever the model
does. There is no branch on the error: rounding would take another one on another runtime.
"""

import numpy as np
from keras import ops

#: Dimensions of z that a step moves, how often each is moved, by what share of the Gauss-Newton
#: step (a whole one goes to and fro where no image is near), and how far at most.
_BLOCK, _SWEEPS, _FIRST, _LAST, _RADIUS = 16, 16, 0.8, 0.3, 3.0

#: What is added to the curvature, relative to its mean, so that no step is long in a direction that
#: hardly changes the image.
_DAMPING = 0.5

#: The least standard deviation of the noise, of pixels in -1 to 1; the distance of a difference.
_NOISE, _DISTANCE = 0.1, 0.2


def invert(draw, pixels, labels, latent_dim):
    """Latent vectors, float32 `[B, latent_dim]`, of pixels `[B, H, W, C]` in -1 to 1.

    `draw(latents, labels)` gives the generator's pixels, each row by itself; `labels` are int32
    `[B]` or `None`.
    """
    size = min(_BLOCK, latent_dim)
    blocks = -(-latent_dim // size)
    # The last block ends where the vector does, and moves some dimensions once more.
    starts = [min(block * size, latent_dim - size) for block in range(blocks)]
    units = np.stack(
        [np.eye(latent_dim, dtype="float32")[start : start + size] for start in starts]
    )
    many = None if labels is None else ops.repeat(labels, size + 1)
    target = ops.reshape(ops.cast(pixels, "float32"), (-1, 1, int(np.prod(pixels.shape[1:]))))

    def step(i, latents):
        directions = ops.take(units, i % blocks, axis=0)  # (size, latent_dim)
        moved = ops.concatenate([0 * directions[:1], _DISTANCE * directions], axis=0)
        points = ops.reshape(latents[:, None] + moved, (-1, latent_dim))
        drawn = ops.cast(draw(points, many), "float32")
        drawn = ops.reshape(drawn, (-1, size + 1, target.shape[-1]))
        here, slopes = drawn[:, :1], (drawn[:, 1:] - drawn[:, :1]) / _DISTANCE
        transposed = ops.transpose(slopes, (0, 2, 1))
        missing = target - here
        variance = _NOISE**2 + ops.mean(ops.square(missing), axis=-1, keepdims=True)
        curvature = ops.matmul(slopes, transposed) / variance
        usual = ops.sum(ops.square(slopes), axis=(1, 2))[:, None, None] / (size * variance)
        curvature = curvature + (1 + _DAMPING * usual) * np.eye(size, dtype="float32")
        slope = ops.matmul(missing, transposed) / variance
        slope = slope - ops.matmul(latents[:, None], ops.transpose(directions))
        change = _solve(curvature, slope[:, 0])
        length = ops.sqrt(ops.sum(ops.square(change), axis=-1, keepdims=True) + 1e-12)
        share = _FIRST + (_LAST - _FIRST) * ops.cast(i, "float32") / (_SWEEPS * blocks)
        change = change * ops.minimum(share, _RADIUS / length)
        return latents + ops.matmul(change, directions)

    start = ops.zeros_like(target[:, 0, :1]) + np.zeros((1, latent_dim), "float32")
    return ops.fori_loop(0, _SWEEPS * blocks, step, start)


def _solve(matrices, vectors):
    """x of `matrices @ x = vectors`, `[B, K, K]` positive definite and `[B, K]`.

    By conjugate gradients (Hestenes and Stiefel, 1952), which take K steps, of products alone.
    """
    x = ops.zeros_like(vectors)
    rest = direction = vectors
    squared = ops.sum(rest * rest, axis=-1, keepdims=True)
    for _ in range(vectors.shape[-1]):
        image = ops.matmul(matrices, direction[..., None])[..., 0]
        share = squared / (ops.sum(direction * image, axis=-1, keepdims=True) + 1e-20)
        x, rest = x + share * direction, rest - share * image
        before, squared = squared, ops.sum(rest * rest, axis=-1, keepdims=True)
        direction = rest + squared / (before + 1e-20) * direction
    return x
