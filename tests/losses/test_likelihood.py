import numpy as np
import pytest
from keras import ops
from scipy import integrate, stats

from kgen.losses import likelihood, pixels


def numpy(x):
    return ops.convert_to_numpy(x)


def images(*values):
    return np.array(values, "float32").reshape(1, 1, -1, 1)


def test_bernoulli_against_hand_computed():
    # p = 0.8: log 0.8 + log 0.2 for the pixels 1 and 0.
    logit = np.log(0.8 / 0.2)
    result = numpy(likelihood.bernoulli(images(1, 0), images(logit, logit)))
    np.testing.assert_allclose(result, [np.log(0.8) + np.log(0.2)], rtol=1e-6)


@pytest.mark.parametrize("logit", [-30.0, -3.0, -1e-3, 0.0, 5e-3, 0.4, 8.0])
def test_continuous_bernoulli_is_normalised(logit):
    x = np.linspace(0, 1, 20_001, dtype="float32").reshape(-1, 1, 1, 1)
    logs = numpy(likelihood.continuous_bernoulli(x, np.full_like(x, logit)))
    mass = integrate.simpson(np.exp(logs.astype("float64")), x=x.ravel())
    assert abs(mass - 1) < 1e-4


@pytest.mark.parametrize("logit", [-80.0, -3.0, -0.51, -0.49, -1e-3, 0.0, 5e-3, 0.4, 8.0, 80.0])
def test_the_mean_of_a_continuous_bernoulli_is_that_of_its_density(logit):
    x = np.linspace(0, 1, 20_001)
    density = np.exp(logit * x - max(logit, 0.0))
    expected = integrate.simpson(x * density, x=x) / integrate.simpson(density, x=x)
    mean = numpy(likelihood.continuous_bernoulli_mean(np.float32(logit)))
    assert mean == pytest.approx(expected, abs=1e-5 if abs(logit) > 50 else 3e-7)


def test_a_continuous_bernoulli_shows_its_mean():
    """A constant grey level is drawn by the logit that makes it most likely."""
    levels = np.arange(1, 255)
    logits = np.linspace(-300, 300, 2_000_001)
    h = np.where(logits == 0, 1, logits / 2)
    means = np.where(logits == 0, 0.5, 0.5 + 0.5 * (1 / np.tanh(h) - 1 / h))
    best = np.interp(levels / 255, means, logits).astype("float32")
    outputs = best.reshape(-1, 1, 1, 1)
    found = numpy(pixels.to_images("continuous_bernoulli", outputs)).ravel()
    np.testing.assert_array_equal(found, levels)
    x = np.full_like(outputs, 180 / 255)
    logs = numpy(likelihood.continuous_bernoulli(x, outputs))
    assert logs.argmax() == 179, "its likelihood is largest where it shows what it saw"


@pytest.mark.parametrize("likelihood_name", pixels.LIKELIHOODS)
def test_drawn_pixels_have_the_likelihoods_distribution(likelihood_name):
    """The mean of the drawn pixels is the shown mean, and their levels occur as often as the
    likelihood says."""
    output, log_scale = {"gaussian": (0.4, -2.3), "discretized_logistic": (-0.2, -3.0)}.get(
        likelihood_name, (0.9, None)
    )
    outputs = np.full((64, 32, 32, 1), output, "float32")
    drawn = numpy(
        pixels.draw_images(likelihood_name, outputs, np.arange(64, dtype="int32"), log_scale)
    )
    shown = numpy(pixels.to_images(likelihood_name, outputs[:1, :1, :1]))
    assert drawn.mean() == pytest.approx(float(shown[0, 0, 0, 0]), abs=1.5)
    levels = np.arange(256).reshape(-1, 1, 1, 1).astype("uint8")
    if likelihood_name == "bernoulli":
        levels = levels[[0, 255]]
    logs = numpy(
        pixels.log_likelihood(
            likelihood_name, levels, np.full_like(levels, output, "float32"), log_scale
        )
    )
    expected = np.exp(logs) / np.exp(logs).sum()
    found = np.array([(drawn == level).mean() for level in levels.ravel()])
    assert found.sum() == pytest.approx(1)
    # 65,536 draws: no distribution function off by more than some standard errors.
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() < 0.01


@pytest.mark.parametrize("logit", [-90.0, -0.3, 0.0, 0.005, 2.0, 90.0])
def test_continuous_bernoulli_quantile(logit):
    share = np.linspace(0.01, 0.99, 9).astype("float32")
    level = numpy(likelihood.continuous_bernoulli_quantile(share, np.float32(logit)))
    if logit == 0:
        below = level
    elif logit > 0:
        below = (np.exp(logit * (level - 1)) - np.exp(-logit)) / (1 - np.exp(-logit))
    else:
        below = np.expm1(logit * level) / np.expm1(logit)
    np.testing.assert_allclose(below, share, rtol=1e-3)


def test_gaussian_against_scipy():
    x, mean, log_variance = images(0.1, 0.9), images(0.3, 0.2), np.float32(-1.0)
    expected = stats.norm.logpdf(x, mean, np.exp(-0.5)).sum()
    result = numpy(likelihood.gaussian(x, mean, log_variance))
    np.testing.assert_allclose(result, [expected], rtol=1e-5)


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 2.0])
@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.02, 0.7, 1.0])
def test_discretized_logistic_sums_to_one(mean, log_scale):
    levels = (np.arange(256, dtype="float32") / 255 * 2 - 1).reshape(256, 1, 1, 1)
    parameters = np.full((256, 1, 1, 1), mean, "float32")
    logs = numpy(likelihood.discretized_logistic(levels, parameters, np.float32(log_scale)))
    assert np.isfinite(logs).all()
    assert abs(np.exp(logs.astype("float64")).sum() - 1) < 1e-4


def test_discretized_logistic_against_scipy():
    x, mean, scale = 10 / 255 * 2 - 1, -0.8, 0.05
    cdf = stats.logistic(mean, scale).cdf
    expected = np.log(cdf(x + 1 / 255) - cdf(x - 1 / 255))
    result = likelihood.discretized_logistic(images(x), images(mean), np.float32(np.log(scale)))
    np.testing.assert_allclose(numpy(result), [expected], rtol=1e-4)


def test_normal_kl_against_hand_computed():
    # 0.5 * (mean^2 + variance - 1 - log variance)
    result = numpy(likelihood.normal_kl(np.array([[2.0, 0.0]]), np.array([[0.0, np.log(4.0)]])))
    np.testing.assert_allclose(result, [[2.0, 0.5 * (4 - 1 - np.log(4.0))]], rtol=1e-6)


def test_normal_log_density_against_scipy():
    x = np.array([[0.5, -1.5]], "float32")
    result = numpy(likelihood.normal_log_density(x, np.float32(0.2), np.float32(np.log(4.0))))
    np.testing.assert_allclose(result, [stats.norm.logpdf(x, 0.2, 2.0).sum()], rtol=1e-6)
