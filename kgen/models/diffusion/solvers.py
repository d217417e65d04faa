"""Solvers: from noise to data, along a path, by what a network says of the points on the way."""

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import check_ints, unknown_name
from kgen.layers.conditioning import per_row

SOLVERS = ("euler", "ddim", "ancestral", "heun", "multistep", "dpm_solver")

#: Beside those of the model's other draws.
_STREAM = 1 << 16


def solve(denoise, path, x, num_steps, solver="multistep", eta=0.0, seeds=None, **way):
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
        seeds: int32 tensor `[B]`, for what is drawn anew.
        start: Times `[B]` at which the rows of `x` begin; `None` for 1.
        known: Tuple `(data, noise, mask)` that broadcasts against `x`, which is held on the path
            between the two where the mask is true.
    """
    check_ints(1, num_steps=num_steps)
    if solver not in SOLVERS:
        raise ValueError(unknown_name("sampler", solver, SOLVERS))
    if path.steps is not None and num_steps > path.steps:
        raise ValueError(
            f"num_steps must be at most the {path.steps:,} of the path. Received: "
            f"num_steps={num_steps}"
        )
    if solver == "ancestral":
        solver, eta = "ddim", 1.0
    elif solver != "ddim":
        if not ops.is_tensor(eta) and np.any(np.not_equal(eta, 0)):
            raise ValueError(
                f"eta is the noise of the sampler 'ddim'. Received: eta={eta}, sampler={solver!r}"
            )
        eta = 0.0
    return _follow(denoise, path, x, num_steps, solver, eta, seeds, **way)


def _follow(denoise, path, x, num_steps, solver, eta, seeds, start=None, known=None):
    if start is None:
        start = ops.ones((ops.shape(x)[0],), "float32")
    grid = np.linspace(1, 0, num_steps + 1).astype("float32")

    def at(step):
        return start * ops.take(grid, step)

    def advance(step, carry):
        x, before = carry
        now, later = at(step), at(step + 1)
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
                slope = ops.where(step < num_steps - 1, 0.5 * (told + then), told)
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


def _euler(path, data, noise, now, later, eta, seeds, step):
    alpha, sigma, next_alpha, next_sigma = _factors(path, data, now, later)
    if not ops.is_tensor(eta) and np.all(np.equal(eta, 0)):
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
