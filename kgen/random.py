"""Counter-based noise: row *i* of a result depends on `seeds[i]` alone.

Bits come from Threefry-2x32-20 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
as easy as 1, 2, 3", SC 2011, section 4.2), keyed by (row seed, stream) and counting over
the elements of a row. There is no state, so the same seed gives the same numbers at any
batch size, in Keras on TensorFlow and on JAX, in a SavedModel and in ONNX.

The same *bits* are not enough: `log` and `cos` differ in the last place between runtimes,
and compilers fuse `a * b + c` into one rounding or leave it at two. So the floats are made
only of table look-ups, of sums, and of products that are exact in float32; every runtime
then rounds alike, and `uniform`, `normal` and `gumbel` agree bit for bit.

`stream` tells independent draws for one seed apart: an int, an int32 scalar tensor (the step
of a sampling loop), or an int32 tensor `[B]` with a stream for every row.
"""

import functools
import math
import statistics

import keras
import numpy as np
from keras import ops

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # the key schedule's constant for 32-bit words, as in Random123


def _rotate_left(x, distance):
    left = x * np.uint32(2**distance)  # a shift, which LiteRT has to the right alone
    return ops.bitwise_xor(left, ops.right_shift(x, np.uint32(32 - distance)))


def threefry2x32(key, counter):
    """Threefry-2x32 with 20 rounds: enciphers a counter by a key, both pairs of uint32 tensors."""
    k0, k1 = key
    schedule = (k0, k1, ops.bitwise_xor(ops.bitwise_xor(k0, k1), np.uint32(_PARITY)))
    x0, x1 = counter[0] + k0, counter[1] + k1
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ops.bitwise_xor(_rotate_left(x1, distance), x0)
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


@functools.cache
def _in_graphs(function):
    """A function, on TensorFlow as one that graphs call: they hold it once.

    The 140 operations of the cipher are the most of what a small model's graph holds, and each is
    slow to write down; the table of quantiles is the most of its bytes.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, autograph=False, reduce_retracing=True)


def bits(seeds, shape, stream=0):
    """Random bits.

    Args:
        seeds: int32 tensor `[B]`, one seed per row.
        shape: Tuple of ints, the shape of one row.
        stream: Int or int32 tensor, scalar or `[B]`; other streams are independent draws.

    Returns:
        uint32 tensor `[B, *shape]`, uniform over all 2**32 values.
    """
    size = math.prod(shape)
    half = (size + 1) // 2  # one cipher block gives two words
    if ops.is_tensor(stream):
        stream = ops.cast(stream, "uint32")
        stream = ops.expand_dims(stream, 1) if len(stream.shape) else stream
    else:
        stream = np.uint32(stream % 2**32)
    key = (ops.expand_dims(ops.cast(seeds, "uint32"), 1), stream)
    counter = (np.arange(half, dtype="uint32")[None], np.zeros((1, half), "uint32"))
    words = ops.concatenate(_in_graphs(threefry2x32)(key, counter), axis=1)[:, :size]
    return ops.reshape(words, (-1, *shape))


def fold_in(seeds, data):
    """New, independent seeds, one per row, from seeds and an integer.

    Args:
        seeds: int32 tensor `[B]`, or `[1]` or an int to broadcast.
        data: Int, or int32 tensor that broadcasts against `seeds`.

    Returns:
        int32 tensor `[B]`, in 0 to 2**31 - 1.
    """
    key = (ops.cast(seeds, "uint32"), np.uint32(0x6B67656E))  # apart from every other stream
    data = ops.cast(data, "uint32")
    word, _ = threefry2x32(key, (data, ops.zeros_like(data)))
    return ops.cast(ops.right_shift(word, np.uint32(1)), "int32")


def row_seeds(seed, n, offset=0):
    """`n` seeds derived from one, an int, no two of them equal.

    The seed at an index is the same whatever `n`; `offset`, an int, is the index of the first.
    Other seeds give other ones, but for chance. Returns an int32 tensor `[n]`; not for graphs.
    """
    indices = ops.arange(offset + n, dtype="int32")
    seeds = ops.convert_to_numpy(fold_in(ops.expand_dims(seed, 0), indices)).copy()
    if len(np.unique(seeds)) < len(seeds):
        # In 31 bits some of 50,000 are likely equal: a later one takes the next that is free.
        taken = set()
        for index, found in enumerate(seeds.tolist()):
            while found in taken:
                found = (found + 1) % 2**31
            taken.add(found)
            seeds[index] = found
    return ops.convert_to_tensor(seeds[offset:])


def uniform(seeds, shape, stream=0):
    """Uniform noise in the open interval (0, 1), a multiple of 2**-24: float32 `[B, *shape]`.

    Arguments are as for `bits`.
    """
    # 23 bits and a half: the centres of 2**23 cells, all exact, never 0 and never 1.
    cells = ops.cast(ops.right_shift(bits(seeds, shape, stream), np.uint32(9)), "int32")
    return (ops.cast(cells, "float32") + 0.5) * np.float32(2.0**-23)


def normal(seeds, shape, stream=0):
    """Standard normal noise, float32 `[B, *shape]`. Arguments are as for `bits`.

    The sum of two independent normals is normal: each half of a random word picks one of
    65,536 equally likely quantiles, and the two are added. The sum takes 2**31 values, its
    variance is 1, its largest magnitude 5.9.
    """
    words = bits(seeds, shape, stream)
    high = ops.cast(ops.right_shift(words, np.uint32(16)), "int32")
    low = ops.cast(ops.right_shift(words * np.uint32(2**16), np.uint32(16)), "int32")
    table = _in_graphs(_quantiles)()
    return ops.take(table, high) + ops.take(table, low)


def gumbel(seeds, shape, stream=0):
    """Standard Gumbel noise, -log(-log(u)): `argmax(logits + gumbel)` draws from a softmax.

    float32 `[B, *shape]`, from -2.9 to 16.7. Arguments are as for `bits`.
    """
    return -_log(-_log(uniform(seeds, shape, stream)))


#: Up to so many choices, a number for each; beyond, numbers for groups and for those in one.
_MOST_NUMBERS = 32


def _groups(num_choices):
    """How many groups of choices there are, and the size of each."""
    if num_choices <= _MOST_NUMBERS:
        return 1, num_choices
    size = math.isqrt(num_choices - 1) + 1
    return -(-num_choices // size), size


def categorical_size(num_choices):
    """How many numbers `categorical` takes for one of Q choices: about 2 sqrt(Q) of many."""
    groups, size = _groups(num_choices)
    return size if groups == 1 else groups + size


def categorical(logits, noise):
    """Draws from a softmax by Gumbel-max: the index of the largest of `logits + noise`.

    Maddison, Tarlow and Minka, "A* sampling" (NeurIPS 2014), section 2. Of many choices it
    draws first a group, by the logarithm of its total, and then one of the group, so that 256
    choices take 32 numbers. It is alike on every runtime unless two sums are equal up to
    rounding; the inverse of a cumulative sum would take one number, but each of its Q - 1
    borders moves with every rounding before it.

    Takes float32 logits `[B, ..., Q]` and noise `[B, ..., categorical_size(Q)]` from `gumbel`;
    gives int32 `[B, ...]`.
    """
    *_, num_choices = shape = logits.shape
    groups, size = _groups(num_choices)
    if groups == 1:
        return argmax(logits + noise)
    logits = ops.reshape(logits, (-1, num_choices))
    noise = ops.reshape(noise, (-1, groups + size))
    if missing := groups * size - num_choices:  # finite, and never drawn
        logits = ops.pad(logits, ((0, 0), (0, missing)), constant_values=-1e30)
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    totals = ops.log(ops.sum(ops.reshape(weights, (-1, groups, size)), axis=-1))
    group = argmax(totals + noise[:, :groups])
    # The rows of all groups, one after the other: (rows * groups, size).
    rows = ops.arange(ops.shape(group)[0], dtype="int32") * groups + group
    members = ops.take(ops.reshape(logits, (-1, size)), rows, axis=0)
    drawn = group * size + argmax(members + noise[:, groups:])
    return ops.reshape(drawn, (-1, *shape[1:-1]))


def argmax(x):
    """Index of the largest of `[..., Q]`, int32 `[...]`; of equal numbers the first.

    `ops.argmax` as it converts to ONNX.
    """
    count = x.shape[-1]
    largest = ops.equal(x, ops.max(x, axis=-1, keepdims=True))
    indices = ops.where(largest, np.arange(count, dtype="int32"), np.int32(count))
    # Where all is NaN nothing is the largest: an index all the same, and no error in a look-up.
    return ops.minimum(ops.min(indices, axis=-1), np.int32(count - 1))


@functools.cache
def _half_normal_quantiles():
    """float32 `[65536]`: equally likely values of a normal with variance 1/2."""
    inverse = statistics.NormalDist().inv_cdf
    quantiles = np.array([inverse((i + 0.5) / 65536) for i in range(65536)])
    return (quantiles / quantiles.std() * math.sqrt(0.5)).astype("float32")


def _quantiles():
    return ops.convert_to_tensor(_half_normal_quantiles())


_LOG_CELLS = 4096


@functools.cache
def _log_tables():
    """log(m) and 1/m at the grid m = 0.5 + i / 4096, the slopes cut to 12 bits."""
    grid = 0.5 + np.arange(_LOG_CELLS + 1) / (2 * _LOG_CELLS)
    slope = np.round(1 / grid * 2048) / 2048  # between 1 and 2: 12 significant bits
    return np.log(grid).astype("float32"), slope.astype("float32")


def _log(x):
    """Natural logarithm of positive float32 in 2**-31 .. 2**31, alike on every runtime.

    The argument is split as m * 2**k with m in [1/2, 1); log(m) is the tangent at the
    nearest grid point. The distance to it is a multiple of 2**-24 of at most 2**-14, 11
    bits, and the slope has 12 bits: their product is exact, so a fused multiply-add and a
    separate one agree. The error is a unit in the last place of the result; near 1, where
    the result goes to 0, it is under 2e-8 absolute and 1e-4 relative.
    """
    exponent = ops.zeros_like(x)
    for power in (16, 8, 4, 2, 1):  # exact: powers of two
        small = x < 2.0**-power
        x = ops.where(small, x * 2.0**power, x)
        exponent = ops.where(small, exponent - power, exponent)
        large = x >= 2.0 ** (power - 1)
        x = ops.where(large, x * 2.0**-power, x)
        exponent = ops.where(large, exponent + power, exponent)
    cell = ops.floor((x - 0.5) * (2 * _LOG_CELLS) + 0.5)
    distance = x - 0.5 - cell * np.float32(0.5 / _LOG_CELLS)
    values, slopes = _log_tables()
    index = ops.cast(cell, "int32")
    powers = (np.arange(-40, 41) * math.log(2)).astype("float32")
    tangent = ops.take(values, index) + distance * ops.take(slopes, index)
    return tangent + ops.take(powers, ops.cast(exponent, "int32") + 40)
