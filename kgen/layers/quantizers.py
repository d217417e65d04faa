"""Quantizers: from a vector at every place of a feature map to one of finitely many codes.

`VectorQuantizer` learns a code book: van den Oord, Vinyals and Kavukcuoglu, "Neural discrete
representation learning" (NIPS 2017; arXiv 1711.00937). `FSQ` needs none: Mentzer, Minnen,
Agustsson and Tschannen, "Finite scalar quantization: VQ-VAE made simple" (ICLR 2024; arXiv
2309.15505).

Both have `num_codes`, `dim`, `call`, `lookup`, and `update`, which a training step calls
after its gradient step: what it learns and counts is the same on any number of devices.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import Number, check_ints, check_numbers
from kgen.configurable import Configurable
from kgen.training.step import batch_moments, whole_batch

#: How slowly the running use of the codes forgets: over some 100 steps.
USAGE_DECAY = 0.99

#: A code counts as used when it is chosen at least so often, in shares of the average code.
USED = 0.01

#: Apart from the streams in which models draw from a batch's seeds.
RESTART_STREAM = 64


class Quantizer(Configurable, layers.Layer):
    """What both share: a running count of how often each code is chosen in training.

    A subclass has `num_codes`, K, and `dim`, D, the length of the vectors.
    """

    def _count_usage(self):
        self.usage = self._state((self.num_codes,), "usage")
        self.built = True

    def _state(self, shape, name, initializer="zeros", trainable=False):
        # Every device computes the same, so any one's is right.
        return self.add_weight(
            shape,
            initializer,
            "float32",
            trainable=trainable,
            name=name,
            aggregation="only_first_replica",
        )

    def call(self, z):
        """The nearest codes of vectors `[..., D]`.

        Returns the codes' vectors, float32 `[..., D]`, with the gradient of `z` (straight through:
        van den Oord et al., section 3.2); their indices, int32 `[...]`; and a dict of float32
        scalars, losses in sums over an image, means over the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement call")

    def lookup(self, indices):
        """The vectors, float32 `[..., D]`, of codes, int32 `[...]`, 0 to K - 1."""
        raise NotImplementedError(f"{type(self).__name__} must implement lookup")

    def update(self, z, indices, seeds):
        """Learns what no gradient teaches, of `z` `[B, ..., D]` and `indices` `[B, ...]`."""
        shares = self.shares(indices)
        self.usage.assign(USAGE_DECAY * self.usage + (1 - USAGE_DECAY) * shares)

    def shares(self, indices):
        """How often each code occurs in the whole batch, float32 `[K]` with sum 1."""
        counts = _totals(ops.ones_like(ops.reshape(indices, (-1, 1))), indices, self.num_codes)
        return counts[:, 0] / ops.sum(counts)

    def codes_used(self):
        """Share of the codes that are in use: those that, over about the last 100 steps,
        were chosen at least `USED` times as often as the average code. float32 scalar.
        """
        usage = ops.convert_to_tensor(self.usage)
        used = usage > USED / self.num_codes * ops.sum(usage)
        return ops.mean(ops.cast(used, "float32"))

    def draw(self, noise):
        """Codes, by uniform noise, as often as training chose them lately; untrained, alike."""
        # Cumulated in integers, which no runtime rounds. The 1 is for what was never chosen.
        ends = ops.cumsum(ops.cast(self.usage * 2.0**22, "int32") + 1)
        place = ops.cast(noise * ops.cast(ends[-1], "float32"), "int32")
        passed = ops.cast(ends <= place[..., None], "int32")
        return ops.minimum(ops.sum(passed, axis=-1), self.num_codes - 1)


@keras.saving.register_keras_serializable(package="kgen")
class VectorQuantizer(Quantizer):
    """A learnt code book, of which the code nearest to a vector is chosen (equations 1 and 2).

    By gradient the codes follow the vectors as the second term of equation 3 says; by moving
    averages as equations 6 to 8 of appendix A.1 do, with N and m counted from zero, as shares
    of the batch, which leaves m / N as it is.

    Dead codes are restarted: a code whose running use falls under `restart_threshold` times
    the average is set to a random encoder output of the batch (Dhariwal et al., "Jukebox",
    arXiv 2005.00341, section 3.1) and counts as used like the average one from then on. As
    no code has been used before the first step, all that this step does not use begin so.

    Args:
        num_codes: Int, K.
        dim: Int, D.
        commitment: Float, beta of equation 3, the weight of the commitment loss.
        ema_decay: Float below 1, gamma of equation 6, or `None` to learn by gradient.
        restart_threshold: Float; 0 restarts nothing.

    Losses: `"commitment_loss"`, and by gradient `"codebook_loss"`. Both are sums of squares
    over an image, as its negative log-likelihood is a sum over pixels. (The paper has means
    over places, and its code over pixels too.)
    """

    def __init__(
        self, num_codes, dim, commitment=0.25, ema_decay=0.99, restart_threshold=0.1, **kwargs
    ):
        super().__init__(**kwargs)
        check_ints(1, num_codes=num_codes, dim=dim)
        check_numbers(Number(least=0), commitment=commitment, restart_threshold=restart_threshold)
        check_numbers(Number(least=0, below=1, optional=True), ema_decay=ema_decay)
        self._count_usage()
        self.codebook = self._state(
            (num_codes, dim), "codebook", "random_normal", trainable=ema_decay is None
        )
        self.counts = self._state((num_codes,), "counts")  # N of equation 6
        if ema_decay is not None:
            self.sums = self._state((num_codes, dim), "sums")  # m of equation 7

    def nearest(self, z):
        """Index of the nearest code, int32 `[...]`; of two at one distance the first."""
        codebook = ops.convert_to_tensor(self.codebook)
        flat = ops.reshape(ops.cast(z, "float32"), (-1, self.dim))
        # |z - e|^2 = |z|^2 - 2 (z e - |e|^2 / 2): a product of matrices, (places, K).
        closeness = ops.matmul(flat, ops.transpose(codebook))
        closeness = closeness - 0.5 * ops.sum(ops.square(codebook), axis=-1)
        return ops.reshape(random.argmax(closeness), ops.shape(z)[:-1])

    def call(self, z):
        z = ops.cast(z, "float32")
        indices = ops.stop_gradient(self.nearest(z))
        codes = self.lookup(indices)
        fixed = ops.stop_gradient(codes)
        losses = {"commitment_loss": self.commitment * _squares(z - fixed)}
        if self.ema_decay is None:
            losses["codebook_loss"] = _squares(ops.stop_gradient(z) - codes)
        return _straight_through(fixed, z), indices, losses

    def lookup(self, indices):
        return ops.take(self.codebook, indices, axis=0)

    def update(self, z, indices, seeds):
        super().update(z, indices, seeds)
        z = ops.cast(ops.reshape(z, (-1, math.prod(z.shape[1:-1]), self.dim)), "float32")
        flat = ops.reshape(z, (-1, self.dim))
        # In one matrix (K, D + 1), so that devices add up once; in shares of the batch.
        totals = _totals(
            ops.concatenate([flat, ops.ones_like(flat[:, :1])], axis=-1), indices, self.num_codes
        )
        totals = totals / ops.sum(totals[:, -1])
        by_gradient = self.ema_decay is None
        decay = USAGE_DECAY if by_gradient else self.ema_decay
        codebook = ops.convert_to_tensor(self.codebook)
        counts = decay * self.counts + (1 - decay) * totals[:, -1]
        if not by_gradient:
            sums = decay * self.sums + (1 - decay) * totals[:, :-1]
            known = counts > 1e-12
            mean = sums / ops.where(known, counts, 1.0)[:, None]
            codebook = ops.where(known[:, None], mean, codebook)
        if self.restart_threshold:
            average = ops.sum(counts) / self.num_codes
            dead = counts < self.restart_threshold * average
            counts = ops.where(dead, average, counts)
            codebook = ops.where(dead[:, None], self._candidates(z, seeds), codebook)
            if not by_gradient:
                sums = ops.where(dead[:, None], average * codebook, sums)
        self.counts.assign(counts)
        self.codebook.assign(codebook)
        if not by_gradient:
            self.sums.assign(sums)

    def _candidates(self, z, seeds):
        """A random vector of the whole batch for each code: `[B, places, D]` to `[K, D]`."""
        places = z.shape[1]
        z, seeds = whole_batch(z), whole_batch(seeds)
        noise = random.uniform(seeds, (2, self.num_codes), stream=RESTART_STREAM)
        # The image with the largest number, so that it is the same whoever computes it.
        image = ops.argmax(noise[:, 0], axis=0)
        place = ops.take_along_axis(noise[:, 1], image[None], axis=0)[0] * places
        place = ops.minimum(ops.cast(place, "int32"), places - 1)
        flat = ops.reshape(z, (-1, self.dim))
        return ops.take(flat, ops.cast(image, "int32") * places + place, axis=0)


@keras.saving.register_keras_serializable(package="kgen")
class FSQ(Quantizer):
    """Finite scalar quantization: each number of a vector is bounded and rounded (section 3).

    Number *i* takes `levels[i]` values, evenly spaced in about -1 to 1; a code's index has them
    as its digits, the first the lowest. The bound for even numbers of levels is that of appendix
    A.1, shifted so that 0 stays 0. There is nothing to learn, to commit to or to restart.

    Args:
        levels: Sequence of ints, 3 or more each; the paper advises 5 or more.

    Losses: none.
    """

    def __init__(self, levels, **kwargs):
        given = levels
        try:
            levels = tuple(int(level) for level in given)
        except (TypeError, ValueError):
            levels = ()
        if not levels or min(levels) < 3 or levels != tuple(given):
            raise ValueError(
                "levels must be ints of 3 or more, one for each dimension, such as (8, 5, 5, 5). "
                f"Received: levels={given!r}"
            )
        if math.prod(levels) > 2**16:
            raise ValueError(
                f"levels must multiply to at most 2**16 codes. Received: levels={levels}, which "
                f"multiply to {math.prod(levels)}"
            )
        super().__init__(**kwargs)
        self.levels = levels
        self.num_codes = math.prod(levels)
        self.dim = len(levels)
        self._count_usage()
        self.half = (np.array(levels) // 2).astype("float32")
        self.radix = np.cumprod([1, *levels[:-1]]).astype("int32")

    def bound(self, z):
        """Floats to the range whose integers are the levels."""
        levels = np.array(self.levels)
        half = (levels - 1) * (1 - 1e-3) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.arctanh(offset / half).astype("float32")
        bounded = ops.tanh(ops.cast(z, "float32") + shift) * half.astype("float32")
        return bounded - offset.astype("float32")

    def call(self, z):
        bounded = self.bound(z)
        rounded = ops.stop_gradient(ops.round(bounded))
        digits = ops.cast(rounded + self.half, "int32")
        indices = ops.sum(digits * self.radix, axis=-1)
        return _straight_through(rounded, bounded) / self.half, indices, {}

    def lookup(self, indices):
        digits = ops.expand_dims(indices, -1) // self.radix % np.array(self.levels, "int32")
        return (ops.cast(digits, "float32") - self.half) / self.half


def _straight_through(value, z):
    """`value` to the last bit, with the gradient of `z`."""
    return value + (z - ops.stop_gradient(z))


def _squares(x):
    """Sum of squares over an image, mean over the batch."""
    return ops.sum(ops.mean(ops.square(x), axis=0))


def _totals(rows, indices, num_codes):
    """Sums `[K, F]` of the rows `[places, F]` of each code over the whole batch, up to a factor
    that is the same for all."""
    sums = ops.segment_sum(
        ops.cast(rows, "float32"), ops.reshape(indices, (-1,)), num_segments=num_codes
    )
    return batch_moments(ops.stop_gradient(sums)[None])[0]
