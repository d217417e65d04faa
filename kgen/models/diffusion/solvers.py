"""Solvers: from noise to data, along a path, by what a network says of the points on the way."""

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import check_ints, unknown_name
from kgen.layers.conditioning import per_row

SOLVERS = ("euler", "ddim", "ancestral", "heun", "multistep", "dpm_solver")

#: Beside those of the model's other draws.
_STREAM = 1 << 16


#: Those that can also be followed from data to noise, which draw nothing and need no end.
REVERSIBLE = ("euler", "ddim", "heun", "multistep")

#: Of the stochastic sampler: the levels between which noise is added, and its deviation; those for
#: ImageNet in Karras et al. (2022), table 5.
_CHURNED, _CHURN_DEVIATION = (0.05, 50.0), 1.003


def check_solver(path, num_steps, solver, eta=0.0, churn=0.0, reverse=False):
    """A `ValueError` where a path cannot be followed so."""
    check_ints(1, num_steps=num_steps)
    if solver not in SOLVERS:
        raise ValueError(unknown_name("sampler", solver, SOLVERS))
    if path.steps is not None and num_steps > path.steps:
        raise ValueError(
            f"num_steps must be at most the {path.steps:,} of the path. Received: "
            f"num_steps={num_steps}"
        )
    if np.any(np.not_equal(eta, 0)) and (reverse or solver not in ("ddim", "ancestral")):
        raise ValueError(
            "eta is the noise of the sampler 'ddim', from noise to data. Received: "
            f"eta={eta}, sampler={solver!r}"
        )
    if np.any(np.not_equal(churn, 0)) and (reverse or solver != "heun" or path.time_of is None):
        raise ValueError(
            "churn is the noise of the sampler 'heun' with "
            f"noise_schedule='noise_levels'. Received: churn={churn}, sampler={solver!r}"
        )
    if reverse and solver not in REVERSIBLE:
        raise ValueError(
            f"From data to noise the sampler must be one of {', '.join(REVERSIBLE)}. Received: "
            f"sampler={solver!r}"
        )


def solve(
    denoise,
    path,
    x,
    num_steps,
    solver="multistep",
    eta=0.0,
    churn=0.0,
    seeds=None,
    start=None,
    known=None,
    reverse=False,
):
    """Follows a path back to the data, in steps that are equal in time.

    Of any path:

    - `"euler"`: order 1, one pass of the network a step.
    - `"ddim"`: the same, of which `eta` is the share of the noise that each step draws anew: Song,
      Meng and Ermon, "Denoising diffusion implicit models" (ICLR 2021; arXiv 2010.02502), equation
      12. `"ancestral"` is that with all: Ho et al. (2020), algorithm 2.
    - `"heun"`: order 2, two passes a step, the explicit trapezoidal rule, and Euler's in the last:
      Karras et al. (2022), algorithm 1.
    - `"multistep"`: order 2, one pass a step, the two-step method of Adams and Bashforth (Hairer,
      Norsett and Wanner, "Solving ordinary differential equations I", section III.1), whose first
      step is Euler's.
    - `"dpm_solver"`: order 2, one pass a step: DPM-Solver++(2M) of Lu et al., "DPM-Solver++: fast
      solver for guided sampling of diffusion probabilistic models" (2022; arXiv 2211.01095),
      algorithm 2. Its first and its last step are of order 1.

    Args:
        denoise: Function of points `[B, ...]` and times `[B]` to estimates of their data and noise.
        path: The `kgen.models.diffusion.paths.Path`.
        x: float32 `[B, ...]`, where to begin.
        num_steps: Int, at most those of the path.
        eta: Float, or one for each row, 0 to 1, of `"ddim"`.
        churn: Float, or one for each row, of `"heun"` on noise levels: how much noise
            is added on the way, over all steps (Karras et al., 2022, algorithm 2).
        seeds: int32 tensor `[B]`, for what is drawn anew.
        start: Times `[B]` at which the rows of `x` begin; `None` for 1.
        known: Tuple `(data, noise, mask)` that broadcasts against `x`, which is held on the path
            between the two where the mask is true.
        reverse: Bool, from data to noise, by one of `REVERSIBLE`.
    """
    numbers = [0.0 if ops.is_tensor(value) else value for value in (eta, churn)]
    check_solver(path, num_steps, solver, *numbers, reverse)
    if solver == "ancestral":
        solver, eta = "ddim", 1.0
    elif solver != "ddim":
        eta = 0.0
    if solver != "heun" or path.time_of is None:
        churn = 0.0
    if start is None:
        start = ops.ones((ops.shape(x)[0],), "float32")
    grid = np.linspace(1, 0, num_steps + 1).astype("float32")
    grid = grid[::-1].copy() if reverse else grid

    def at(step):
        return start * ops.take(grid, step)

    def advance(step, carry):
        x, before = carry
        now, later = at(step), at(step + 1)
        if _is_on(churn):
            x, now = _churned(path, x, now, churn / num_steps, seeds, step)
        data, noise = denoise(x, now)
        told = data
        if solver in ("euler", "ddim"):
            x = _euler(path, data, noise, now, later, eta, seeds, step)
        elif solver == "dpm_solver":
            earlier = at(ops.maximum(step - 1, 0))
            x = _dpm_solver(path, x, data, before, (earlier, now, later), step, num_steps)
        else:
            told = path.slope(data, noise, now)
            earlier = at(ops.maximum(step - 1, 0))
            length = per_row(path.clock(later) - path.clock(now), x)
            followed = x / per_row(path.scale(now), x)
            if solver == "heun":
                guess = per_row(path.scale(later), x) * (followed + length * told)
                then = path.slope(*denoise(guess, later), later)
                whole = reverse or step < num_steps - 1  # at the data there is no noise to tell
                slope = ops.where(whole, 0.5 * (told + then), told)
                followed = followed + length * slope
            else:
                before_that = path.clock(now) - path.clock(earlier)
                far = before_that != 0  # neither the first step nor a row that is there already
                share = 0.5 * length / per_row(ops.where(far, before_that, 1.0), x)
                share = ops.where(per_row(far, x), share, 0.0)
                followed = followed + length * (told + share * (told - before))
            x = per_row(path.scale(later), x) * followed
        if known is not None:
            data, noise, mask = known
            x = ops.where(mask, path.mix(data, noise, later), x)
        return x, told

    x, _ = ops.fori_loop(0, num_steps, advance, (x, ops.zeros_like(x)))
    return x


def _is_on(value):
    """Whether a share of noise is another than 0; that of a tensor is."""
    return ops.is_tensor(value) or bool(np.any(np.not_equal(value, 0)))


def _churned(path, x, now, churn, seeds, step):
    """A point with more noise, and its time: Karras et al. (2022), algorithm 2, lines 4 to 6."""
    level = path.sigma(now)
    added = ops.minimum(churn, 2**0.5 - 1)
    added = ops.where(ops.logical_and(level > _CHURNED[0], level < _CHURNED[1]), added, 0.0)
    higher = level * (1 + added)
    fresh = _CHURN_DEVIATION * ops.sqrt(ops.maximum(higher**2 - level**2, 0.0))
    drawn = random.normal(seeds, x.shape[1:], stream=_STREAM + step)
    later = ops.where(added > 0, path.time_of(higher), now)
    return x + per_row(fresh, x) * drawn, later


def _euler(path, data, noise, now, later, eta, seeds, step):
    alpha, sigma, next_alpha, next_sigma = _factors(path, data, now, later)
    if not _is_on(eta):
        return next_alpha * data + next_sigma * noise
    # Song et al. (2021), equation 16, of any path.
    kept = alpha * next_sigma / ops.maximum(next_alpha * sigma, 1e-12)
    fresh = per_row(eta, data) * next_sigma * ops.sqrt(ops.maximum(1 - kept**2, 0.0))
    kept = ops.sqrt(ops.maximum(next_sigma**2 - fresh**2, 0.0))
    drawn = random.normal(seeds, data.shape[1:], stream=_STREAM + step)
    return next_alpha * data + kept * noise + fresh * drawn


def _dpm_solver(path, x, data, before, times, step, num_steps):
    earlier, now, later = times

    def log_signal_to_noise(times):
        alpha, sigma = path.alpha(times), path.sigma(times)
        return ops.log(ops.maximum(alpha, 1e-8)) - ops.log(ops.maximum(sigma, 1e-8))

    first, second, third = (log_signal_to_noise(each) for each in (earlier, now, later))
    within = ops.logical_and(second != first, step < num_steps - 1)
    share = 0.5 * (third - second) / ops.where(within, second - first, 1.0)
    share = per_row(ops.where(within, share, 0.0), x)
    alpha, sigma, next_alpha, next_sigma = _factors(path, x, now, later)
    left = next_sigma / ops.maximum(sigma, 1e-12)
    return left * x + (next_alpha - alpha * left) * (data + share * (data - before))


def _factors(path, x, *times):
    return [per_row(factor(each), x) for each in times for factor in (path.alpha, path.sigma)]
