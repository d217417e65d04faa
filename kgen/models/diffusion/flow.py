"""Rectified flow: the straight way between data and noise, and solvers that follow it.

Liu, Gong and Liu, "Flow straight and fast" (ICLR 2023; arXiv 2209.03003). Time 0 is the data,
time 1 standard normal noise.
"""

import numpy as np
from keras import ops

from kgen.checks import check_ints, unknown_name
from kgen.layers.conditioning import per_row

SAMPLERS = ("euler", "heun", "multistep")


def mix(x, noise, times):
    """The point at times `[B]` on the straight way from data to noise: (1 - t) x + t noise."""
    times = per_row(times, x)
    return (1 - times) * x + times * noise


def integrate(velocity, x, num_steps, sampler="multistep", start=None, path=None):
    """Solves dx/dt = velocity(x, t) back in time to 0, in equal steps.

    - `"euler"`: order 1, one velocity per step.
    - `"heun"`: order 2, two velocities per step, the explicit trapezoidal rule.
    - `"multistep"`: order 2, one velocity per step, the two-step method of Adams and Bashforth,
      whose first step is Euler's.

    (Hairer, Norsett and Wanner, "Solving ordinary differential equations I", sections II.1 and
    III.1.)

    The rows of `x`, float32 `[B, ...]`, begin at the times `start` `[B]`, or at 1; `velocity` takes
    times `[B]`. With a `path`, a tuple `(data, noise, mask)` that broadcasts against `x`, `x` is
    held on the straight way between the two where the mask is true.
    """
    check_ints(1, num_steps=num_steps)
    if sampler not in SAMPLERS:
        raise ValueError(unknown_name("sampler", sampler, SAMPLERS))
    if start is None:
        start = ops.ones((ops.shape(x)[0],), "float32")
    grid = np.linspace(1, 0, num_steps + 1).astype("float32")

    def advance(step, carry):
        x, before = carry
        times, later = start * ops.take(grid, step), start * ops.take(grid, step + 1)
        length = per_row(later - times, x)
        now = velocity(x, times)
        if sampler == "euler":
            x = x + length * now
        elif sampler == "heun":
            x = x + length * 0.5 * (now + velocity(x + length * now, later))
        else:
            share = ops.where(step > 0, np.float32(0.5), np.float32(0))
            x = x + length * (now + share * (now - before))
        if path is not None:
            data, noise, mask = path
            x = ops.where(mask, mix(data, noise, later), x)
        return x, now

    x, _ = ops.fori_loop(0, num_steps, advance, (x, ops.zeros_like(x)))
    return x
