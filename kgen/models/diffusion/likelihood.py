"""How likely a denoising model holds data: by its flow, or by the bound of its steps.

`log_density` follows the flow to noise, and counts how it stretches what lies around: Song et al.,
"Score-based generative modeling through stochastic differential equations" (ICLR 2021; arXiv
2011.13456), appendix D.2. `variational_bound` is what denoising diffusion is derived from: Ho, Jain
and Abbeel (2020), equation 5.
"""

import math

import numpy as np
from keras import ops

from kgen import random
from kgen.layers.conditioning import per_row
from kgen.training.step import input_gradient

# Streams beside those of the solvers.
_PROBES = 1 << 17
_NOISE = 1 << 18


def log_density(denoise, path, x, num_steps, seeds):
    """An estimate of log p(x) of every row, float32 `[B]`, in nats.

    The flow is followed as a turn from the data to the noise, with points divided by the root of
    `alpha**2 + sigma**2` and `atan(sigma / alpha)` as the angle: so its slope is bounded on every
    path. Heun's method, order 2, two passes of the network and its gradient a step.

    The divergence of the slope is estimated by the gradient of its product with random signs, new
    ones in each step (Song et al., equation 40, after Skilling and Hutchinson), which leaves the
    estimate without bias, and with noise.

    Args:
        denoise: Function of points `[B, ...]` and times `[B]` to estimates of their data and noise.
        path: The `kgen.models.diffusion.paths.Path`. It is followed from its `first` time, where
            the data is taken for the point: the estimate is that of data with so much noise.
        x: float32 `[B, ...]`, data.
        num_steps: Int.
        seeds: int32 tensor `[B]`, for the signs.
    """
    grid = np.linspace(path.first, 1, num_steps + 1).astype("float32")
    inner = tuple(range(1, len(x.shape)))
    dimensions = math.prod(x.shape[1:])

    def at(step):
        return ops.ones((ops.shape(x)[0],)) * ops.take(grid, step)

    def turn(times):
        """The angle, its cosine and sine, and the length of points that are divided by it."""
        alpha, sigma = path.alpha(times), path.sigma(times)
        length = ops.sqrt(alpha**2 + sigma**2)
        return ops.arctan2(sigma, alpha), alpha / length, sigma / length, length

    def rate(point, times, signs):
        _, cosine, sine, length = (per_row(part, x) for part in turn(times))

        def slope(point):
            data, noise = denoise(length * point, times)
            return cosine * noise - sine * data

        stretched = input_gradient(lambda point: ops.sum(slope(point) * signs, axis=inner), point)
        return slope(point), ops.sum(stretched * signs, axis=inner)

    def advance(step, carry):
        point, change = carry
        now, later = at(step), at(step + 1)
        along = turn(later)[0] - turn(now)[0]
        signs = ops.sign(random.uniform(seeds, x.shape[1:], _PROBES + step) - 0.5)
        slope, divergence = rate(point, now, signs)
        then, divergence_then = rate(point + per_row(along, x) * slope, later, signs)
        point = point + 0.5 * per_row(along, x) * (slope + then)
        return point, change + 0.5 * along * (divergence + divergence_then)

    cosine = turn(at(0))[1]
    point, change = ops.fori_loop(
        0, num_steps, advance, (x * per_row(cosine, x), ops.zeros_like(cosine))
    )
    squares = ops.sum(ops.square(point), axis=inner)
    of_noise = -0.5 * (squares + dimensions * math.log(2 * math.pi))
    return of_noise + change + dimensions * ops.log(cosine)


def variational_bound(denoise, path, x, num_samples, seeds, cell):
    """An estimate of a bound from above on -log P(x) of every row, float32 `[B]`, in nats.

    The sum of Ho et al.'s equation 5 over the steps of a path of constant variance, of which
    `num_samples` are taken, one from each part of as many equal ones; the posterior's variance is
    that of their equation 7. Its terms are those of Kingma et al., "Variational diffusion models"
    (NeurIPS 2021; arXiv 2107.00630), equation 13: what the ratio of signal to noise loses in a
    step, times the squared error of the data, halved. The last is that of a normal distribution
    around the data, cut to the cells of the grey levels (Ho et al., equation 13).

    Args:
        denoise, path, x, seeds: As for `log_density`; `x` is scaled grey levels, -1 to 1.
        num_samples: Int, at most the steps of the path.
        cell: Float, the distance of two grey levels.
    """
    inner = tuple(range(1, len(x.shape)))
    part = path.steps / num_samples

    def signal_to_noise(times):
        return ops.square(path.alpha(times) / ops.maximum(path.sigma(times), 1e-6))

    def add(sample, total):
        drawn = random.uniform(seeds, (), _NOISE + 2 * sample)
        step = ops.minimum(
            ops.floor((ops.cast(sample, "float32") + drawn) * part) + 1, float(path.steps)
        )
        times, before = step / path.steps, (step - 1) / path.steps
        noise = random.normal(seeds, x.shape[1:], _NOISE + 2 * sample + 1)
        data, _ = denoise(path.mix(x, noise, times), times)
        lost = signal_to_noise(ops.maximum(before, 1 / path.steps)) - signal_to_noise(times)
        divergence = 0.5 * lost * ops.sum(ops.square(x - data), axis=inner)
        deviation = per_row(path.sigma(times) / path.alpha(times), x)
        said = -ops.sum(_log_cell(x - data, deviation, cell, x), axis=inner)
        return total + ops.where(step > 1, divergence, said)

    total = ops.fori_loop(0, num_samples, add, ops.zeros_like(ops.cast(seeds, "float32")))
    end = ops.ones((1,))
    alpha, sigma = path.alpha(end), path.sigma(end)
    prior = 0.5 * ops.sum(
        ops.square(alpha[0] * x) + ops.square(sigma[0]) - 1 - 2 * ops.log(sigma[0]), axis=inner
    )
    return prior + part * total


def _log_cell(error, deviation, cell, x):
    """The logarithm of what a normal distribution has in the cell of a grey level; the outermost
    cells are open.
    """

    def below(error):
        return 0.5 * (1 + ops.erf(error / (deviation * math.sqrt(2))))

    upper = ops.where(x > 1 - cell / 2, 1.0, below(error + cell / 2))
    lower = ops.where(x < cell / 2 - 1, 0.0, below(error - cell / 2))
    return ops.log(ops.maximum(upper - lower, 1e-12))
