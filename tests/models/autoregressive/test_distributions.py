import numpy as np
import pytest
from keras import ops

import kgen
from kgen.models.autoregressive import sampling
from kgen.models.autoregressive.distributions import Categorical, LogisticMixture, scale, unscale
from kgen.training.step import input_gradient


def test_categorical_against_numpy():
    """One channel after the other, by Gumbel-max; the others stay as they are."""
    rng = np.random.default_rng(0)
    distribution = Categorical(4, 3)
    assert distribution.passes == 3 and distribution.num_parameters == 12
    parameters = rng.normal(size=(50, 12)).astype("float32")
    noise = rng.gumbel(size=(50, *distribution.noise_shape)).astype("float32")
    x = rng.choice([-1.0, 1.0], (50, 3)).astype("float32")
    logits = parameters.reshape(50, 3, 4)
    for channel in range(3):
        expected = x.copy()
        drawn = (logits[:, channel] / 0.7 + noise[:, channel]).argmax(axis=-1)
        expected[:, channel] = 2 * drawn / 3 - 1
        found = distribution.draw(parameters, noise, ops.convert_to_tensor(x), channel, 0.7)
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-6)
    levels = rng.integers(0, 4, (50, 3))
    each = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = np.take_along_axis(each, levels[..., None], axis=-1).sum(axis=(1, 2))
    np.testing.assert_allclose(log_prob(distribution, levels, parameters), expected, rtol=1e-5)


def parameters_of(distribution, shape, seed=0, log_scale=None):
    """Random parameters `[*shape, P]` of every kind: scales from tiny to huge, means outside."""
    rng = np.random.default_rng(seed)
    m, c = distribution.num_mixtures, distribution.channels
    parts = [
        rng.normal(size=(*shape, m)) * 2,
        rng.normal(size=(*shape, c * m)) * 0.8,
        rng.uniform(-9, 3, size=(*shape, c * m))
        if log_scale is None
        else np.full((*shape, c * m), log_scale),
        rng.normal(size=(*shape, distribution.num_coefficients * m)),
    ]
    return np.concatenate(parts, axis=-1).astype("float32")


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def reference(levels, parameters, num_mixtures, num_levels):
    """Equations 1 to 3 of the paper, pixel by pixel in float64: levels `[N, C]` to `[N]`."""
    levels, parameters = np.asarray(levels), np.asarray(parameters, "float64")
    channels = levels.shape[1]
    x = 2 * levels / (num_levels - 1) - 1
    half = 1 / (num_levels - 1)
    split = np.split(parameters, parameters.shape[-1] // num_mixtures, axis=-1)
    weights = split[0] - np.logaddexp.reduce(split[0], axis=-1, keepdims=True)
    means, log_scales = split[1 : 1 + channels], split[1 + channels : 1 + 2 * channels]
    coefficients = iter(np.tanh(split[1 + 2 * channels :]))
    total = weights
    for c in range(channels):
        mean = means[c]
        for earlier in range(c):  # alpha r; then beta r + gamma g; and so on
            mean = mean + next(coefficients) * x[:, earlier, None]
        s = np.exp(np.maximum(log_scales[c], -7))
        upper = (x[:, c, None] + half - mean) / s
        lower = (x[:, c, None] - half - mean) / s
        # On the side where both sigmoids are small, so that float64 loses nothing.
        flip = lower > 0
        a = np.where(flip, -lower, upper)
        b = np.where(flip, -upper, lower)
        with np.errstate(divide="ignore"):
            inside = log_sigmoid(a) + np.log(-np.expm1(log_sigmoid(b) - log_sigmoid(a)))
        probability = np.where(
            levels[:, c, None] == 0,
            log_sigmoid(upper),
            np.where(levels[:, c, None] == num_levels - 1, log_sigmoid(-lower), inside),
        )
        total = total + probability
    return np.logaddexp.reduce(total, axis=-1)


def log_prob(distribution, levels, parameters):
    """Levels `[N, C]` and parameters `[N, P]` to log-probabilities `[N]`."""
    x = scale(ops.convert_to_tensor(levels[:, None, None]), distribution.num_levels)
    return ops.convert_to_numpy(distribution.log_prob(x, parameters[:, None, None]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_number_of_parameters(channels):
    distribution = LogisticMixture(10, channels)
    assert distribution.num_parameters == {1: 30, 3: 100, 4: 150}[channels]
    assert distribution.noise_shape == (10 + 2 * channels,)
    assert distribution.passes == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("num_levels", [256, 5, 2])
def test_log_prob_is_the_papers_formula(channels, num_levels):
    distribution = LogisticMixture(5, channels, num_levels)
    levels = np.random.default_rng(1).integers(0, num_levels, (400, channels))
    levels[:40], levels[40:80] = 0, num_levels - 1
    parameters = parameters_of(distribution, (400,))
    expected = reference(levels, parameters, 5, num_levels)
    got = log_prob(distribution, levels, parameters)
    # A grey level in float32 is off by 6e-8, and the smallest scale makes 1100 times of it.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("log_scale", [-20.0, -7.0, -5.0, -3.0, -1.0, 0.0, 2.0, 10.0])
def test_log_prob_at_one_scale(log_scale):
    """From means far to the left to far to the right, at the edges and inside."""
    distribution = LogisticMixture(1, 1)
    means = np.linspace(-3, 3, 61, dtype="float32")
    for level in (0, 1, 100, 254, 255):
        parameters = np.zeros((61, 3), "float32")
        parameters[:, 1], parameters[:, 2] = means, log_scale
        levels = np.full((61, 1), level)
        expected = reference(levels, parameters, 1, 256)
        got = log_prob(distribution, levels, parameters)
        atol = 2e-7 * np.exp(-max(log_scale, -7.0)) + 1e-6
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("log_scale", [None, -7.0, -3.0, 0.0, 5.0])
def test_probabilities_of_all_levels_sum_to_one(log_scale):
    distribution = LogisticMixture(4, 1)
    parameters = parameters_of(distribution, (30,), log_scale=log_scale)
    levels = np.tile(np.arange(256), 30)[:, None]
    got = log_prob(distribution, levels, np.repeat(parameters, 256, axis=0))
    sums = np.exp(got.astype("float64")).reshape(30, 256).sum(1)
    np.testing.assert_allclose(sums, 1, atol=3e-4 if log_scale in (None, -7.0) else 1e-5)


@pytest.mark.parametrize("channels", [3, 4])
def test_probabilities_of_all_colours_sum_to_one(channels):
    distribution = LogisticMixture(3, channels, num_levels=3)
    colours = np.array(list(np.ndindex(*[3] * channels)))
    for seed in range(3):
        parameters = parameters_of(distribution, (1,), seed)
        got = log_prob(distribution, colours, np.repeat(parameters, len(colours), axis=0))
        assert np.exp(got.astype("float64")).sum() == pytest.approx(1, abs=1e-5)


def test_gradients_are_finite_at_every_scale():
    distribution = LogisticMixture(2, 3)
    parameters = parameters_of(distribution, (50,))
    parameters[:, 8:14] = np.linspace(-100, 80, 50, dtype="float32")[:, None]
    levels = np.random.default_rng(0).integers(0, 256, (50, 3))
    levels[:10], levels[10:20] = 0, 255
    x = scale(ops.convert_to_tensor(levels[:, None, None]), 256)
    gradient = ops.convert_to_numpy(
        input_gradient(
            lambda p: distribution.log_prob(x, p), ops.convert_to_tensor(parameters[:, None, None])
        )
    )
    assert np.isfinite(gradient).all() and (gradient != 0).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_follow_the_probabilities(channels):
    """Counts of 200,000 draws against the probabilities of all colours."""
    n, q = 200_000, 3
    distribution = LogisticMixture(2, channels, num_levels=q)
    parameters = parameters_of(distribution, (1,), seed=3)
    parameters[:, 2 + 2 * channels : 2 + 4 * channels] = -0.7
    noise = kgen.random.gumbel(kgen.random.row_seeds(0, n), distribution.noise_shape)
    drawn = distribution.draw(
        np.repeat(parameters, n, axis=0), noise, ops.zeros((n, channels)), 0, 1.0
    )
    levels = ops.convert_to_numpy(unscale(drawn, q))
    colours = np.array(list(np.ndindex(*[q] * channels)))
    expected = np.exp(log_prob(distribution, colours, np.repeat(parameters, len(colours), axis=0)))
    index = levels @ (q ** np.arange(channels)[::-1])
    counts = np.bincount(index, minlength=len(colours)) / n
    deviations = (counts - expected) / np.sqrt(expected * (1 - expected) / n)
    assert np.abs(deviations).max() < 4.5


def test_temperature():
    """It divides the logits of the mixture and multiplies the scales."""
    distribution = LogisticMixture(2, 1)
    n = 4000
    noise = kgen.random.gumbel(kgen.random.row_seeds(0, n), distribution.noise_shape)
    # Two far, narrow components, the odds of the first 1 to 3.
    parameters = np.array([[0.0, np.log(3), -0.5, 0.5, -3.0, -3.0]], "float32")

    def draw(temperature):
        p = np.repeat(parameters, n, axis=0)
        return ops.convert_to_numpy(distribution.draw(p, noise, None, 0, temperature))[:, 0]

    x, cold = draw(1.0), draw(0.5)
    assert (x > 0).mean() == pytest.approx(3 / 4, abs=0.03)
    assert (cold > 0).mean() == pytest.approx(9 / 10, abs=0.03)
    assert x[x > 0].std() == pytest.approx(np.exp(-3) * np.pi / 3**0.5, rel=0.1)
    assert cold[cold > 0].std() == pytest.approx(x[x > 0].std() / 2, rel=0.1)


@pytest.mark.slow
def test_draws_are_alike_on_both_backends(tmp_path, run_python):
    code = """
import sys
import numpy as np
from keras import ops
import kgen
from kgen.models.autoregressive.distributions import LogisticMixture
distribution = LogisticMixture(5, 3)
parameters = np.random.default_rng(0).normal(size=(2000, 50)).astype("float32")
noise = kgen.random.gumbel(kgen.random.row_seeds(0, 2000), distribution.noise_shape)
np.save(sys.argv[1], ops.convert_to_numpy(distribution.draw(parameters, noise, None, 0, 0.9)))
"""
    for backend in ("tensorflow", "jax"):
        pytest.importorskip(backend)
        run_python(code, tmp_path / f"{backend}.npy", backend=backend)
    ours, theirs = (np.load(tmp_path / f"{name}.npy") for name in ("tensorflow", "jax"))
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 200


def test_noise_is_the_same_at_once_and_row_by_row(monkeypatch):
    """Small images take theirs before the loop over rows, large ones in it."""
    seeds, shape = ops.convert_to_tensor(np.int32([5, -1, 2**31 - 1])), (4, 2, 3)
    at_once = sampling.noise_by_rows(seeds, 3, shape)
    monkeypatch.setattr(sampling, "_MOST_AT_ONCE", 3 * 4 * 2 * 3 - 1)
    one_by_one = sampling.noise_by_rows(seeds, 3, shape)
    for row in range(3):
        received = ops.convert_to_numpy(at_once(row))
        assert received.shape == (4, 3, 2, 3)
        np.testing.assert_array_equal(received, ops.convert_to_numpy(one_by_one(row)))
