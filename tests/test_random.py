import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from kgen import random

DRAWS = {"bits": random.bits, "uniform": random.uniform, "normal": random.normal}
DRAWS["gumbel"] = random.gumbel


def draw(name, seeds, shape, stream=0):
    seeds = ops.convert_to_tensor(np.asarray(seeds, "int32"))
    return ops.convert_to_numpy(DRAWS[name](seeds, shape, stream))


# Known answers of Threefry-2x32-20 from the authors' Random123, file kat_vectors.
@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_published_vectors(counter, key, expected):
    def word(value):
        return ops.convert_to_tensor(np.array([value], "uint32"))

    result = random.threefry2x32(tuple(map(word, key)), tuple(map(word, counter)))
    assert tuple(int(ops.convert_to_numpy(x)[0]) for x in result) == expected


@pytest.mark.parametrize("stream", [0, 5, 2**31 + 3])
def test_bits_are_those_of_jax(stream):
    threefry_2x32 = pytest.importorskip("jax.extend.random").threefry_2x32
    size = 7
    ours = draw("bits", [0, 1, 12345, 2**31 - 1], (size,), stream)
    half = (size + 1) // 2
    counter = np.concatenate([np.arange(half), np.zeros(half)]).astype("uint32")
    for seed, row in zip([0, 1, 12345, 2**31 - 1], ours, strict=True):
        key = np.array([seed, stream], "uint32")
        np.testing.assert_array_equal(row, np.asarray(threefry_2x32(key, counter))[:size])


@pytest.mark.parametrize("name", DRAWS)
def test_rows_depend_on_their_own_seed_alone(name):
    seeds = np.arange(64) * 7919
    batch = draw(name, seeds, (3, 5), stream=2)
    assert batch.shape == (64, 3, 5)
    for i in (0, 17, 63):
        np.testing.assert_array_equal(draw(name, seeds[i : i + 1], (3, 5), stream=2)[0], batch[i])


def test_stream_as_a_tensor_draws_as_an_int_does():
    stream = ops.convert_to_tensor(np.int32(9))
    np.testing.assert_array_equal(draw("bits", [1, 2], (4,), stream), draw("bits", [1, 2], (4,), 9))


WRITE = """
import sys
import numpy as np
from keras import ops
from kgen import random
seeds = ops.convert_to_tensor(np.arange(32, dtype="int32") * 65537)
np.savez(sys.argv[1], **{
    name: ops.convert_to_numpy(getattr(random, name)(seeds, (1000,), 3))
    for name in ("bits", "uniform", "normal", "gumbel")
})
"""


def test_tensorflow_and_jax_agree_bit_for_bit(tmp_path, on_jax, tensorflow_only):
    on_jax(WRITE, tmp_path / "jax.npz")
    theirs = np.load(tmp_path / "jax.npz")
    for name in DRAWS:
        ours = draw(name, np.arange(32) * 65537, (1000,), 3)
        np.testing.assert_array_equal(ours, theirs[name], err_msg=name)


@pytest.mark.parametrize("name", DRAWS)
def test_compilers_change_no_bit(name):
    """XLA fuses multiplications and additions; the floats are made so that it cannot matter."""
    seeds = np.arange(256, dtype="int32")
    expected = draw(name, seeds, (500,), 1)
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(lambda s: DRAWS[name](s, (500,), 1))
    else:
        import tensorflow as tf

        compiled = tf.function(lambda s: DRAWS[name](s, (500,), 1), jit_compile=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(compiled(seeds)), expected)


def test_onnx_runtime_agrees_bit_for_bit(tensorflow_only):
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(
        tf.function(lambda seed: {name: DRAWS[name](seed, (1000,), 1) for name in DRAWS}),
        input_signature=[tf.TensorSpec([None], tf.int32, name="seed")],
        opset=18,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    seeds = np.arange(128, dtype="int32") * 104729
    results = session.run(list(DRAWS), {"seed": seeds})
    for name, result in zip(DRAWS, results, strict=True):
        np.testing.assert_array_equal(result, draw(name, seeds, (1000,), 1), err_msg=name)


def test_row_seeds_are_distinct_and_do_not_overlap():
    zero, one = (ops.convert_to_numpy(random.row_seeds(seed, 1000)) for seed in (0, 1))
    assert len(np.unique(np.concatenate([zero, one]))) == 2000
    assert zero.dtype == np.int32 and zero.min() >= 0
    many = ops.convert_to_numpy(random.row_seeds(0, 200_000))
    # The hashes of some indices are equal, which only the later ones of them may feel.
    hashes = ops.convert_to_numpy(random.fold_in([0], np.arange(200_000, dtype="int32")))
    assert len(np.unique(many)) == 200_000 > len(np.unique(hashes))
    np.testing.assert_array_equal(many[:1000], zero)
    assert (many == hashes).sum() == len(np.unique(hashes))
    np.testing.assert_array_equal(random.row_seeds(0, 10, offset=5), zero[5:15])


# Statistics: the seeds are fixed, so these either hold or do not.

DISTRIBUTIONS = {"uniform": stats.uniform, "normal": stats.norm, "gumbel": stats.gumbel_r}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distribution(name):
    sample = draw(name, np.arange(1000), (1000,)).astype("float64").ravel()
    reference = DISTRIBUTIONS[name]
    n = sample.size
    mean, variance, skew, kurtosis = map(float, reference.stats(moments="mvsk"))
    assert abs(sample.mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(sample.var() / variance - 1) < 4 * np.sqrt((kurtosis + 2) / n)
    assert abs(stats.skew(sample) - skew) < 0.02
    assert abs(stats.kurtosis(sample) - kurtosis) < 0.1
    assert stats.kstest(sample, reference.cdf).pvalue > 0.01


def test_normal_tails():
    sample = draw("normal", np.arange(2000), (2000,)).ravel()
    for limit in (2.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(limit) * sample.size
        assert abs(np.sum(np.abs(sample) > limit) - expected) < 4 * np.sqrt(expected)


def test_gumbel_max_draws_from_the_softmax():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.049, 0.001]))
    choices = np.argmax(logits + draw("gumbel", np.arange(100_000), (5,)), axis=1)
    counts = np.bincount(choices, minlength=5)
    assert stats.chisquare(counts, np.exp(logits) * 100_000).pvalue > 0.01


@pytest.mark.parametrize("num_choices", [5, 32, 33, 50, 256])
def test_categorical_draws_from_the_softmax(num_choices):
    """In groups too, also where one is incomplete or has next to no share."""
    n = 50_000
    logits = np.random.default_rng(0).normal(size=num_choices).astype("float32")
    logits[1:4], logits[-1] = -200, 1.5
    noise = draw("gumbel", np.arange(n), (random.categorical_size(num_choices),))
    rows = np.broadcast_to(logits, (n // 2, 2, num_choices))
    choices = random.categorical(
        ops.convert_to_tensor(rows), ops.convert_to_tensor(noise.reshape(n // 2, 2, -1))
    )
    assert tuple(choices.shape) == (n // 2, 2)
    counts = np.bincount(ops.convert_to_numpy(choices).ravel(), minlength=num_choices)
    kept = logits > -100
    assert counts[~kept].sum() == 0 and len(counts) == num_choices
    expected = np.exp(logits[kept].astype("float64"))
    assert stats.chisquare(counts[kept], expected / expected.sum() * n).pvalue > 0.01


def test_the_largest_logit_is_drawn_when_all_others_are_far_below():
    noise = draw("gumbel", np.arange(500), (random.categorical_size(256),))
    logits = -1e4 * (np.arange(256) != np.arange(500)[:, None] % 256).astype("float32")
    drawn = random.categorical(ops.convert_to_tensor(logits), ops.convert_to_tensor(noise))
    np.testing.assert_array_equal(ops.convert_to_numpy(drawn), np.arange(500) % 256)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_neighbouring_seeds_streams_and_elements_are_independent(name):
    n = 500_000
    sample = draw(name, np.arange(501), (1000,))
    other = draw(name, np.arange(500), (1000,), stream=1)
    pairs = {
        "seeds": (sample[:-1], sample[1:]),
        "streams": (sample[:-1], other),
        "elements": (sample[:-1, :-1], sample[:-1, 1:]),
        "halves": (sample[:-1, :500], sample[:-1, 500:]),
    }
    for which, (a, b) in pairs.items():
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(min(n, a.size)), which


def test_every_bit_is_fair():
    words = draw("bits", np.arange(300), (1000,)).ravel()
    share = [(words >> np.uint32(bit) & 1).mean() for bit in range(32)]
    assert np.abs(np.array(share) - 0.5).max() < 5 * 0.5 / np.sqrt(words.size)


def test_logarithm():
    x = np.exp(np.linspace(-20, 20, 100_001)).astype("float32")
    exact = np.log(x.astype("float64"))
    error = np.abs(ops.convert_to_numpy(random._log(ops.convert_to_tensor(x))) - exact)
    assert (error / np.maximum(np.spacing(np.abs(exact).astype("float32")), 6e-8)).max() < 2


def test_a_stream_for_every_row():
    seeds, streams = np.array([7, 7, 9], "int32"), np.array([0, 3, 3], "int32")
    found = ops.convert_to_numpy(random.normal(seeds, (5,), stream=ops.convert_to_tensor(streams)))
    for row, seed, stream in zip(found, seeds, streams, strict=True):
        alone = ops.convert_to_numpy(random.normal(np.array([seed]), (5,), stream=int(stream)))
        np.testing.assert_array_equal(row, alone[0])
