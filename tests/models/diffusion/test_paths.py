"""Paths, predictions and losses against what the papers write, in NumPy."""

import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.models.diffusion.paths import PATHS, PREDICTIONS, Method

RNG = np.random.default_rng(0)
X, NOISE = (RNG.normal(size=(4, 3, 3, 2)).astype("float32") for _ in range(2))
TIMES = np.array([0.1, 0.35, 0.6, 0.95], "float32")


def numpy(x):
    return ops.convert_to_numpy(x)


def factors(name, times=TIMES):
    path = PATHS[name]
    return [numpy(f(ops.convert_to_tensor(times))) for f in (path.alpha, path.sigma)]


def test_the_schedules():
    np.testing.assert_allclose(factors("rectified"), [1 - TIMES, TIMES])
    steps = (TIMES * 1000).round().astype(int)
    remaining = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[steps - 1]
    np.testing.assert_allclose(factors("linear"), np.sqrt([remaining, 1 - remaining]), rtol=1e-5)
    f = np.cos((TIMES + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(factors("cosine"), np.sqrt([f, 1 - f]), rtol=1e-4)
    # Karras et al. (2022), equation 5, less the least level.
    levels = (0.002 ** (1 / 7) + TIMES * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    np.testing.assert_allclose(factors("noise_levels"), [np.ones(4), levels - 0.002], rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_leads_from_the_data_to_noise(path):
    alpha, sigma = factors(path, np.array([0, 1], "float32"))
    assert alpha[0] == 1 and sigma[0] == pytest.approx(0, abs=1e-6)
    assert alpha[1] / sigma[1] < 0.013
    times = np.linspace(0, 1, 101).astype("float32")
    alpha, sigma = factors(path, times)
    assert (np.diff(sigma / np.maximum(alpha, 1e-9)) > 0).all()
    if path in ("linear", "cosine"):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_is_said_gives_back_data_and_noise(path, prediction):
    method = Method(path, prediction, "uniform")
    times = ops.convert_to_tensor(TIMES)
    point = method.way.mix(X, NOISE, times)
    said = method.target(ops.convert_to_tensor(X), ops.convert_to_tensor(NOISE), times)
    data, noise = method.estimates(said, point, times)
    np.testing.assert_allclose(numpy(data), X, atol=2e-3)
    # Of much noise little is lost, of little much; and "x" divides by no less than 0.05.
    sigma = factors(path)[1][:, None, None, None]
    least = 0.05 if prediction == "x" else 0
    expected = NOISE * sigma**2 / np.maximum(sigma, least)
    np.testing.assert_allclose(numpy(noise) * sigma, expected, atol=2e-3)
    np.testing.assert_allclose(numpy(method.loss(said, X, NOISE, times)), 0, atol=1e-6)


def test_preconditioning_against_karras():
    method = Method("noise_levels", "preconditioned", "log_normal")
    times = ops.convert_to_tensor(TIMES)
    sigma = factors("noise_levels")[1][:, None, None, None]
    said = RNG.normal(size=X.shape).astype("float32")
    point = X + sigma * NOISE
    data, noise = (numpy(part) for part in method.estimates(said, point, times))
    expected = 0.25 / (sigma**2 + 0.25) * point
    expected = expected + sigma * 0.5 / np.sqrt(sigma**2 + 0.25) * said
    np.testing.assert_allclose(data, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(noise, (point - expected) / sigma, rtol=1e-3, atol=1e-4)
    seen = numpy(method.seen(point, times))
    np.testing.assert_allclose(seen, point / np.sqrt(sigma**2 + 0.25), rtol=1e-4)
    # Equation 2 with the weight of table 1.
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    loss = (weight * (expected - X) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(numpy(method.loss(said, X, NOISE, times)), loss, rtol=1e-3)


def test_data_are_compared_as_velocities():
    """Li and He (2025), table 1, with the divisor clamped."""
    method = Method("rectified", "x", "logit_normal")
    times = np.array([0.01, 0.35, 0.6, 0.95], "float32")
    said = RNG.normal(size=X.shape).astype("float32")
    t = times[:, None, None, None]
    point = (1 - t) * X + t * NOISE
    divisor = np.maximum(t, 0.05)
    loss = (((point - said) / divisor - (point - X) / divisor) ** 2).mean(axis=(1, 2, 3))
    found = method.loss(said, X, NOISE, ops.convert_to_tensor(times))
    np.testing.assert_allclose(numpy(found), loss, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weights_are_the_same_for_all_predictions(prediction):
    """All count the data's squared error min(SNR, 5) times (Hang et al., 2023, equation 8)."""
    method = Method("cosine", prediction, "uniform", "min_snr")
    times = ops.convert_to_tensor(TIMES)
    alpha, sigma = (f[:, None, None, None] for f in factors("cosine"))
    wrong = X + RNG.normal(size=X.shape).astype("float32") * 0.1
    point = alpha * X + sigma * NOISE
    # What is said where the data is taken for `wrong`.
    noise = (point - alpha * wrong) / sigma
    said = method.target(ops.convert_to_tensor(wrong), ops.convert_to_tensor(noise), times)
    weight = np.minimum((alpha / sigma) ** 2, 5)
    expected = (weight * (wrong - X) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(numpy(method.loss(said, X, NOISE, times)), expected, rtol=5e-3)


@pytest.mark.parametrize("times", ["uniform", "logit_normal", "log_normal"])
def test_times_of_training(times):
    path = "noise_levels" if times == "log_normal" else "rectified"
    seeds = ops.arange(20_000, dtype="int32")
    drawn = numpy(Method(path, times=times).draw_times(seeds, 3))
    assert drawn.min() > 0 and drawn.max() < 1
    if times == "log_normal":
        levels = np.log(factors(path, drawn)[1])
        assert abs(levels.mean() + 1.2) < 0.03 and abs(levels.std() - 1.2) < 0.03
        return
    middle = np.logical_and(drawn > 0.25, drawn < 0.75).mean()
    expected = 0.5 if times == "uniform" else 0.7281  # P(|Z| < log 3)
    assert abs(middle - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


def test_times_of_a_table_are_its_steps():
    drawn = numpy(Method("linear", "noise", "uniform").draw_times(ops.arange(20_000), 3))
    steps = drawn * 1000
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
    assert steps.min().round() == 1 and steps.max().round() == 1000
    uniform = numpy(random.uniform(ops.arange(20_000, dtype="int32"), (), 3))
    np.testing.assert_allclose(steps, np.floor(uniform * 1000) + 1, atol=1e-3)


def test_bad_input():
    for arguments, message in [
        (("straight",), "Unknown noise_schedule 'straight'"),
        (("linear", "epsilon"), "Unknown prediction 'epsilon'"),
        (("linear", "noise", "log_normal"), "times='log_normal' draws noise levels"),
        (("linear", "noise", "uniform", "snr"), "Unknown weighting 'snr'"),
    ]:
        with pytest.raises(ValueError, match=message):
            Method(*arguments)
