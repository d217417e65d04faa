"""Paths between data and noise, and what a network says of a point on one.

A point is x_t = alpha(t) x + sigma(t) noise, from the data at time 0 to noise at time 1. The paths:

- `"rectified"`, the straight one, alpha = 1 - t and sigma = t: Liu, Gong and Liu, "Flow straight
  and fast" (ICLR 2023; arXiv 2209.03003), equation 1;
- `"linear"` and `"cosine"`, whose variance stays 1, in 1,000 steps: Ho, Jain and Abbeel, "Denoising
  diffusion probabilistic models" (NeurIPS 2020; arXiv 2006.11239), section 4, and Nichol and
  Dhariwal, "Improved denoising diffusion probabilistic models" (ICML 2021; arXiv 2102.09672),
  equation 17;
- `"noise_levels"`, alpha = 1 and sigma from 0 to 80: Karras et al., "Elucidating the design space
  of diffusion-based generative models" (NeurIPS 2022; arXiv 2206.00364), equation 5, less its
  least level, so that its last step ends at the data and is as long as the others.

Of a point a network says one of `PREDICTIONS`, from which both the data and the noise follow. The
loss is the mean squared error of that; see `Method`.
"""

import dataclasses
import functools
import typing

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import check_names
from kgen.layers.conditioning import per_row

#: Steps of the paths that are tables.
TABLE_STEPS = 1000

#: Of images in -1 to 1: Karras et al. (2022), table 1.
DATA_DEVIATION = 0.5

#: The smallest number that is divided by: Li and He, "Back to basics: let denoising generative
#: models denoise" (2025; arXiv 2511.13720), section 4.
LEAST_DIVISOR = 0.05

#: Hang et al., "Efficient diffusion training via min-SNR weighting strategy" (ICCV 2023; arXiv
#: 2303.09556), section 3.4.
MOST_SIGNAL_TO_NOISE = 5.0

_LEAST_LEVEL, _MOST_LEVEL, _CURVATURE = 0.002, 80.0, 7.0


@dataclasses.dataclass(frozen=True)
class Path:
    """One of `PATHS`.

    Args:
        alpha, sigma: Functions of times, float32 tensors of any shape, to factors of their shape.
        direction: Function of times to the factors of data and noise in a velocity.
        straight: Bool, whether solvers follow x over the time; or x / alpha over sigma / alpha, of
            which the slope is the noise (Song, Meng and Ermon, "Denoising diffusion implicit
            models", ICLR 2021; arXiv 2010.02502, equation 13).
        steps: Int, of how many steps the path is, or `None`.
        time_of: Function of sigmas to their times, or `None`.
        first: Float, the time of the least noise that a network can be asked about.
    """

    alpha: typing.Callable
    sigma: typing.Callable
    direction: typing.Callable
    straight: bool = False
    steps: int | None = None
    time_of: typing.Callable | None = None
    first: float = 1 / TABLE_STEPS

    def mix(self, x, noise, times):
        """The point `[B, ...]` at times `[B]`."""
        times = per_row(times, x)
        return self.alpha(times) * x + self.sigma(times) * noise

    def scale(self, times):
        """What divides x where a solver follows it."""
        return ops.ones_like(times) if self.straight else self.alpha(times)

    def clock(self, times):
        """What a solver counts instead of time."""
        return times if self.straight else self.sigma(times) / self.alpha(times)

    def slope(self, data, noise, times):
        """The derivative of what a solver follows by its clock."""
        return noise - data if self.straight else noise


def _of_table(remaining):
    """A path of constant variance, by the share of the data's variance that remains, `[steps + 1]`
    from 1.
    """
    # Computed exactly: 1 - alpha**2 of a rounded alpha is noise near time 0.
    tables = np.sqrt([remaining, 1 - remaining]).astype("float32")

    def at(table, times):
        return ops.take(table, ops.cast(times * TABLE_STEPS + 0.5, "int32"))

    alpha, sigma = (functools.partial(at, table) for table in tables)
    return Path(alpha, sigma, lambda times: (-sigma(times), alpha(times)), steps=TABLE_STEPS)


def _linear():
    beta = np.linspace(1e-4, 0.02, TABLE_STEPS)
    return _of_table(np.concatenate([[1.0], np.cumprod(1 - beta)]))


def _cosine():
    steps, offset = np.arange(TABLE_STEPS + 1) / TABLE_STEPS, 0.008
    remaining = np.cos((steps + offset) / (1 + offset) * np.pi / 2) ** 2
    beta = np.minimum(1 - remaining[1:] / remaining[:-1], 0.999)
    return _of_table(np.concatenate([[1.0], np.cumprod(1 - beta)]))


def _noise_levels():
    least, most = _LEAST_LEVEL ** (1 / _CURVATURE), _MOST_LEVEL ** (1 / _CURVATURE)

    def time_of(levels):
        rooted = (levels + _LEAST_LEVEL) ** (1 / _CURVATURE)
        return ops.clip((rooted - least) / (most - least), 0.0, 1.0)

    return Path(
        ops.ones_like,
        lambda times: (least + times * (most - least)) ** _CURVATURE - _LEAST_LEVEL,
        lambda times: (ops.zeros_like(times), ops.ones_like(times)),
        time_of=time_of,
        # Where sigma is the least level.
        first=((2 * _LEAST_LEVEL) ** (1 / _CURVATURE) - least) / (most - least),
    )


PATHS = {
    "rectified": Path(
        lambda times: 1 - times,
        lambda times: times,
        lambda times: (-ops.ones_like(times), ops.ones_like(times)),
        straight=True,
    ),
    "linear": _linear(),
    "cosine": _cosine(),
    "noise_levels": _noise_levels(),
}

# What a network says -------------------------------------------------------------------

PREDICTIONS = ("velocity", "noise", "x", "preconditioned")
WEIGHTINGS = ("none", "min_snr")
TIMES = ("logit_normal", "uniform", "log_normal")

#: Mean and deviation of the logarithm of noise levels: Karras et al. (2022), table 1.
_LOG_NORMAL = (-1.2, 1.2)


@dataclasses.dataclass(frozen=True)
class Method:
    """What a denoising network is taught, and what is made of its answer.

    Args:
        noise_schedule: Name of one of `PATHS`.
        prediction: What the network says of a point, and what the loss is the mean squared error
            of:

            - `"velocity"`: Liu et al. (2023), equation 1, on the straight path; Salimans and Ho,
              "Progressive distillation for fast sampling of diffusion models" (ICLR 2022; arXiv
              2202.00512), appendix D, on those of constant variance;
            - `"noise"`: Ho et al. (2020), equation 14;
            - `"x"`: the data, compared as velocities: Li and He (2025), table 1;
            - `"preconditioned"`: what is left of the data when its share in the point is taken off:
              Karras et al. (2022), equation 7 and table 1.
        times: How times are drawn: `"uniform"`; `"logit_normal"`, most in the middle (Esser et al.,
            "Scaling rectified flow transformers", ICML 2024; arXiv 2403.03206, section 3.1); or
            `"log_normal"`, noise levels of which the logarithm is normal, on the path
            `"noise_levels"` (Karras et al., 2022, table 1).
        weighting: `"none"`, or `"min_snr"`, which counts times with little noise less: Hang et al.
            (2023), equation 8.

    Raises:
        ValueError: One is unknown, or they do not go together.
    """

    noise_schedule: str = "rectified"
    prediction: str = "velocity"
    times: str = "logit_normal"
    weighting: str = "none"

    def __post_init__(self):
        check_names(
            noise_schedule=(self.noise_schedule, PATHS),
            prediction=(self.prediction, PREDICTIONS),
            times=(self.times, TIMES),
            weighting=(self.weighting, WEIGHTINGS),
        )
        if self.times == "log_normal" and self.noise_schedule != "noise_levels":
            raise ValueError(
                "times='log_normal' draws noise levels, which noise_schedule='noise_levels' has. "
                f"Received: noise_schedule={self.noise_schedule!r}"
            )

    @classmethod
    def of(cls, model):
        """That of a model, from its attributes."""
        return cls(*(getattr(model, field.name) for field in dataclasses.fields(cls)))

    @property
    def way(self):
        """The `Path`."""
        return PATHS[self.noise_schedule]

    def draw_times(self, seeds, stream):
        """Times of training, float32 `[B]`, of int32 seeds `[B]`."""
        if self.times == "uniform":
            times = random.uniform(seeds, (), stream)
        elif self.times == "logit_normal":
            times = ops.sigmoid(random.normal(seeds, (), stream))
        else:
            mean, deviation = _LOG_NORMAL
            levels = ops.exp(mean + deviation * random.normal(seeds, (), stream))
            times = self.way.time_of(levels)
        if self.way.steps:  # 1 to the last, never the data itself
            steps = self.way.steps
            times = (ops.minimum(ops.floor(times * steps), steps - 1) + 1) / steps
        return times

    def seen(self, x, times):
        """A point as the network sees it: with variance 1 where it is preconditioned."""
        if self.prediction != "preconditioned":
            return x
        return x / per_row(self._spread(times), x)

    def _spread(self, times):
        """The deviation of points at times."""
        alpha, sigma = self.way.alpha(times), self.way.sigma(times)
        return ops.sqrt((alpha * DATA_DEVIATION) ** 2 + sigma**2)

    def target(self, x, noise, times):
        """What the network is to say, of data and noise."""
        alpha, sigma, towards_data, towards_noise = self._factors(times, x)
        if self.prediction == "velocity":
            return towards_data * x + towards_noise * noise
        if self.prediction == "noise":
            return noise
        if self.prediction == "x":
            return x
        point = alpha * x + sigma * noise
        skip, out = self._preconditioners(times, x)
        return (x - skip * point) / out

    def estimates(self, output, point, times):
        """The data and the noise of a point, of what the network says of it."""
        alpha, sigma, towards_data, towards_noise = self._factors(times, point)
        if self.prediction == "velocity":
            # The inverse of a matrix of determinant 1, on every path.
            data = towards_noise * point - sigma * output
            return data, alpha * output - towards_data * point
        if self.prediction == "noise":
            return (point - sigma * output) / ops.maximum(alpha, 1e-6), output
        if self.prediction == "preconditioned":
            skip, out = self._preconditioners(times, point)
            output = skip * point + out * output
        return output, self.noise_of(output, point, times)

    def noise_of(self, data, point, times):
        """The noise of a point whose data is known."""
        alpha, sigma, *_ = self._factors(times, point)
        return (point - alpha * data) / ops.maximum(sigma, self._least())

    def _least(self):
        return LEAST_DIVISOR if self.prediction == "x" else 1e-6

    def loss(self, output, x, noise, times):
        """The mean squared error `[B]` of what the network says."""
        error = ops.square(output - self.target(x, noise, times))
        error = ops.mean(error, axis=tuple(range(1, len(x.shape))))
        alpha, sigma = self.way.alpha(times), self.way.sigma(times)
        if self.prediction == "x":
            error = error / ops.maximum(sigma, LEAST_DIVISOR) ** 2
        if self.weighting == "none":
            return error
        # How much the loss counts the squared error of the data.
        weight = 1 / ops.maximum(sigma, self._least()) ** 2
        if self.prediction == "noise":
            weight = weight * alpha**2
        elif self.prediction == "preconditioned":
            weight = weight * self._spread(times) ** 2 / DATA_DEVIATION**2
        signal_to_noise = (alpha / ops.maximum(sigma, 1e-6)) ** 2
        return error * ops.minimum(signal_to_noise, MOST_SIGNAL_TO_NOISE) / weight

    def _factors(self, times, x):
        times = per_row(times, x)
        return (self.way.alpha(times), self.way.sigma(times), *self.way.direction(times))

    def _preconditioners(self, times, x):
        """c_skip and c_out of Karras et al. (2022), table 1, for any path."""
        alpha, sigma, *_ = self._factors(times, x)
        spread = per_row(self._spread(times), x)
        return alpha * DATA_DEVIATION**2 / spread**2, sigma * DATA_DEVIATION / spread
