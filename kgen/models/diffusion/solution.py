"""The solution of a flow, learnt from scratch: from noise to data in one pass of a network, or few.

Luo, Yuan and Liu, "SoFlow: Solution flow models for one-step generative modeling" (2025; arXiv
2512.15657). The network F(x, t, s) says the mean velocity between a time t and a time s before it,
so that x + (s - t) F is where the flow is at s; or, with `prediction="x"`, the image to which that
velocity points, as in Lu et al., "One-step latent-free image generation with pixel mean flows"
(2026; arXiv 2601.22158), so that one pass from noise gives it as it is. Where s is t it is the
velocity itself, which is taught as in flow matching. Elsewhere it is to agree with itself: a short
way along the straight line that was drawn, and on by what the network says from there. That takes
neither the integral of a trained flow nor a Jacobian, and so both backends.

Where the network begins with the weights of a trained flow, this is the tuning of Geng et al.,
"Consistency models made easy" (ICLR 2025; arXiv 2406.14548), section 3, with a flow in place of
their denoiser; see `DenoisingGenerator.distill`.
"""

import functools
import math

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import Number, check_ints, check_numbers, check_shares
from kgen.layers.conditioning import check_guidance, guidance_in, guided, hide_labels, per_row
from kgen.models.diffusion.base import TIME_STREAM, DenoisingGenerator, is_straight

# Streams beside those of `DenoisingGenerator`.
_KIND_STREAM, _END_STREAM, _WAY_STREAM = 4, 5, 6


class SolutionFlow:
    """Mixed in before a `DenoisingGenerator`, whose network is told where to go as well.

    Args:
        prediction: `"x"` or `"velocity"`, what the network says.
        flow_share: Float, 0 to 1, the share of images that teach the velocity; the others teach
            longer ways.
        shares: Tuple of two floats, 0 to 1: the share of a way that is gone along the line at
            first, and after `share_steps`.
        share_steps: Int, over so many first steps it falls from the one to the other.
        own_steps: Int, steps of a solver in which that share is gone by the velocities that the
            averaged network says itself; 0 for the straight line that was drawn, whose mean they
            are. They want a network that knows them, as after `distill`.
        passes: Int, sampling's passes of the network, the only ones that it learns then; or `None`
            for any number.
    """

    told_ends = True
    samplers = ()
    metric_names = ("loss", "velocity_loss", "solution_loss")
    sampling_numbers = {
        **DenoisingGenerator.sampling_numbers,
        "num_steps": Number(least=1, whole=True, optional=True),
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        autoencoder=None,
        prediction="x",
        flow_share=0.75,
        shares=(0.1, 0.002),
        share_steps=10_000,
        own_steps=0,
        passes=None,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, autoencoder, prediction=prediction, **kwargs)
        check_shares(flow_share=flow_share)
        for i, share in enumerate(self.shares):
            check_numbers(Number(above=0, most=1), **{f"shares[{i}]": share})
        check_ints(1, share_steps=share_steps)
        check_ints(0, own_steps=own_steps)
        check_numbers(Number(least=1, whole=True, optional=True), passes=passes)
        if not is_straight(self):
            raise ValueError(
                f"{type(self).__name__} learns mean velocities of the straight path: leave "
                "noise_schedule='rectified', with prediction='velocity' or 'x'. Received: "
                f"noise_schedule={self.noise_schedule!r}, prediction={self.prediction!r}"
            )

    # Training -------------------------------------------------------------------------

    def objective(self, batch, training):
        network = self.network if training else self.ema_network
        mean_velocity = functools.partial(self._mean_velocity, network)
        x = self.from_images(batch.images, batch.labels)
        noise = random.normal(batch.seeds, self.latent_shape)
        labels = batch.labels
        if training:
            labels = hide_labels(labels, batch.seeds, self.label_dropout, self.num_classes)
        dropout_seeds = batch.seeds if training else None
        at_once = random.uniform(batch.seeds, (), _KIND_STREAM) < self.flow_share
        times = self.method.draw_times(batch.seeds, TIME_STREAM)
        # Half of the ways begin at the end, as sampling does, where few of those times are.
        anywhere = 2 * (1 - random.uniform(batch.seeds, (), _WAY_STREAM))
        times = ops.where(at_once, times, ops.minimum(anywhere, 1.0))
        ends = ops.where(at_once, times, self._draw_ends(times, batch.seeds))
        velocity, point = noise - x, self.method.way.mix(x, noise, times)
        share = self._share()
        between = times + share * (ends - times)
        target = self._follow(point, times, between, labels) if self.own_steps else velocity
        if min(self.shares) < 1:
            further = point + per_row(between - times, x) * target
            rest = mean_velocity(further, between, labels, dropout_seeds, ends)
            target = share * target + (1 - share) * rest
        # What it says from there on is no matter of training.
        target = ops.where(per_row(at_once, x), velocity, ops.stop_gradient(target))
        said = mean_velocity(point, times, labels, dropout_seeds, ends)
        error = ops.mean(ops.square(said - target), axis=tuple(range(1, len(x.shape))))
        # What is left to learn of a way shrinks with the share that is gone along the line.
        loss = ops.mean(ops.where(at_once, error, error / share))
        kinds = ops.cast(at_once, "float32")
        return loss, {
            "loss": loss,
            "velocity_loss": _mean(error, kinds),
            "solution_loss": _mean(error, 1 - kinds) / share,
        }

    def _mean_velocity(self, network, x, times, labels, seeds, ends):
        """That between times and the ends of ways, as a network has it."""
        return self._as_velocity(network(x, times, labels, seeds, ends), x, times)

    def _as_velocity(self, said, x, times):
        return self.method.way.slope(*self.method.estimates(said, x, times), times)

    def _follow(self, x, times, ends, labels):
        """The mean velocity between times by the averaged network's own, in steps of order 2."""
        length, before, mean = (ends - times) / self.own_steps, None, 0.0
        for step in range(self.own_steps):
            now = times + step * length
            velocity = self._mean_velocity(self.ema_network, x, now, labels, None, now)
            # The two-step method of Adams and Bashforth, as `solve` has it.
            slope = velocity if before is None else 1.5 * velocity - 0.5 * before
            x, before = x + per_row(length, x) * slope, velocity
            mean = mean + slope / self.own_steps
        return mean

    def _draw_ends(self, times, seeds):
        """Where ways from some times `[B]` end: anywhere before, or at the next of the passes."""
        if self.passes is None:
            return times * random.uniform(seeds, (), _END_STREAM)
        return (ops.ceil(times * self.passes) - 1) / self.passes

    def _share(self):
        """The share of a way along the line, of the steps that have been taken."""
        taken = ops.cast(self.training_steps, "float32") / self.share_steps
        first, last = self.shares
        return first * ops.exp(math.log(last / first) * ops.minimum(taken, 1.0))

    # Sampling -------------------------------------------------------------------------

    def sample(
        self,
        seeds,
        labels=None,
        num_steps=None,
        guidance_scale=1.0,
        guidance_low=0.0,
        guidance_high=1.0,
    ):
        """Draws noise and takes it to the data.

        Args:
            num_steps: Int, passes of the network, each over an equal part of the way; `None` for
                `passes`, or 1. A model of some `passes` takes no other number.
        """
        return self._draw(
            seeds,
            labels,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
        )

    def _solve(
        self,
        x,
        labels,
        num_steps=None,
        guidance_scale=1.0,
        guidance_low=0.0,
        guidance_high=1.0,
        seeds=None,
        start=None,
        known=None,
    ):
        num_steps = self._check_steps(num_steps)
        check_guidance(self, guidance_scale)
        start = ops.ones((ops.shape(x)[0],), "float32") if start is None else start
        grid = np.linspace(1, 0, num_steps + 1).astype("float32")

        def network(x, times, ends, labels):
            return self.ema_network(x, times, labels, None, ends)

        def advance(step, x):
            now, later = (ops.minimum(start, ops.take(grid, place)) for place in (step, step + 1))
            scale = guidance_in(guidance_scale, guidance_low, guidance_high, now)
            said = guided(network, (x, now, later), labels, self.num_classes, scale)
            x = x + per_row(later - now, x) * self._as_velocity(said, x, now)
            if known is not None:
                data, noise, mask = known
                x = ops.where(mask, self.method.way.mix(data, noise, later), x)
            return x

        return ops.fori_loop(0, num_steps, advance, x)

    def _check_steps(self, num_steps):
        """The number of passes; a `ValueError` where it is not one that the model has learnt."""
        if num_steps is None:
            return self.passes or 1
        check_ints(1, num_steps=num_steps)
        if num_steps != (self.passes or num_steps):
            raise ValueError(
                f"This model has learnt to draw in passes={self.passes} of the network. Received: "
                f"num_steps={num_steps}. Leave it out, or train one of other passes."
            )
        return num_steps

    def decode(self, latents, labels=None, num_steps=None):
        """The images, uint8 `[B, H, W, C]`, of noise `[B, noise_dim]`."""
        x = ops.reshape(latents, (-1, *self.latent_shape))
        return self.to_images(self._solve(x, labels, num_steps), labels)

    def check_options(self, options, total=None):
        options = super(DenoisingGenerator, self).check_options(options, total)
        self._check_steps(options.get("num_steps"))
        return options

    def endpoints(self):
        """As of `DenoisingGenerator`, but one cannot go from data to noise."""
        return {name: each for name, each in super().endpoints().items() if name != "encode"}

    def likelihood_protocol(self, importance_samples=None, seed=0):
        """`None`: the flow itself is not followed."""


def _mean(values, weights):
    return ops.sum(weights * values) / ops.maximum(ops.sum(weights), 1.0)
