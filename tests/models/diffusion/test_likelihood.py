"""Likelihoods of data whose density is known: a mixture of normal distributions."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special, stats

from kgen.models import DDPM, DiT, FlowMatching
from kgen.models.diffusion.likelihood import log_density, variational_bound
from kgen.models.diffusion.paths import PATHS
from kgen.training.step import compile_function

RNG = np.random.default_rng(0)
MEANS = np.array([[0.5, -0.4, 0.2], [-0.6, 0.1, 0.7]])
DEVIATIONS = np.array([0.3, 0.15])
SHARES = np.array([0.3, 0.7])
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), "uint8")


def numpy(x):
    return ops.convert_to_numpy(x)


def compiled(function):
    """Of tensors; eagerly a thousand steps would take a minute."""
    return compile_function(keras.Sequential(), function)


def draw(n):
    kind = (RNG.random(n) > SHARES[0]).astype(int)
    return MEANS[kind] + DEVIATIONS[kind, None] * RNG.normal(size=(n, 3))


def exact(x):
    terms = [
        np.log(share) + stats.norm.logpdf(x, mean, deviation).sum(1)
        for share, mean, deviation in zip(SHARES, MEANS, DEVIATIONS, strict=True)
    ]
    return special.logsumexp(terms, axis=0)


def best(path):
    """What a network that has learnt all says of a point: its data's and its noise's mean."""
    means, deviations = MEANS.astype("float32"), DEVIATIONS.astype("float32")

    def denoise(point, times):
        alpha, sigma = (f(times)[:, None, None] for f in (path.alpha, path.sigma))
        variance = alpha**2 * deviations[:, None] ** 2 + sigma**2  # (B, 2, 1)
        away = (point[:, None] - alpha * means) / variance  # (B, 2, 3)
        terms = -0.5 * (away * (point[:, None] - alpha * means)) - 0.5 * ops.log(variance)
        weight = ops.softmax(ops.sum(terms, axis=-1) + np.log(SHARES).astype("float32"), axis=-1)
        data = ops.sum(
            weight[..., None] * (means + alpha * deviations[:, None] ** 2 * away), axis=1
        )
        return data, ops.sum(weight[..., None] * sigma * away, axis=1)

    return denoise


@pytest.mark.parametrize("name", PATHS)
def test_the_density_of_a_mixture(name):
    """Within its standard error of the exact one."""
    path, x = PATHS[name], draw(4000)
    found = compiled(lambda x, seeds: log_density(best(path), path, x, 200, seeds))(
        ops.convert_to_tensor(x.astype("float32")), ops.arange(4000, dtype="int32")
    )
    wrong = numpy(found).astype("float64") - exact(x)
    error = wrong.std() / np.sqrt(len(x))
    assert error < 0.05
    assert abs(wrong.mean()) < 3 * error + 0.005, (wrong.mean(), error)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_variational_bound_against_the_paper(name):
    """Ho et al. (2020), equations 5 to 8 and 13, of all 1,000 steps, with other noise."""
    path, rows = PATHS[name], 1000
    levels = np.clip(np.round((draw(rows) + 1) * 127.5), 0, 255)
    x, cell = levels / 127.5 - 1, 2 / 255
    found = compiled(lambda x, seeds: variational_bound(best(path), path, x, 1000, seeds, cell))(
        ops.convert_to_tensor(x.astype("float32")), ops.arange(rows, dtype="int32")
    )
    steps = ops.convert_to_tensor((np.arange(1001) / 1000).astype("float32"))
    remaining = numpy(path.alpha(steps)).astype("float64") ** 2
    beta = 1 - remaining[1:] / remaining[:-1]
    denoise = compiled(lambda point, times: best(path)(point, times)[0])
    bound = 0.5 * (remaining[-1] * (x**2 - 1) - np.log(1 - remaining[-1])).sum(1)
    for t in range(1, 1001):
        noise = RNG.normal(size=x.shape)
        point = np.sqrt(remaining[t]) * x + np.sqrt(1 - remaining[t]) * noise
        point = ops.convert_to_tensor(point.astype("float32"))
        data = numpy(denoise(point, ops.full((rows,), t / 1000))).astype("float64")
        if t == 1:
            deviation = np.sqrt(1 / remaining[1] - 1)
            upper = np.where(levels == 255, 1, stats.norm.cdf((x - data + cell / 2) / deviation))
            lower = np.where(levels == 0, 0, stats.norm.cdf((x - data - cell / 2) / deviation))
            bound -= np.log(upper - lower).sum(1)
            continue
        variance = (1 - remaining[t - 1]) / (1 - remaining[t]) * beta[t - 1]
        weight = np.sqrt(remaining[t - 1]) * beta[t - 1] / (1 - remaining[t])
        bound += ((weight * (x - data)) ** 2 / (2 * variance)).sum(1)
    wrong = numpy(found).astype("float64") - bound
    error = wrong.std() / np.sqrt(rows)
    assert error < 0.2 and abs(wrong.mean()) < 3.5 * error, (wrong.mean(), error)
    # It is a bound: above what is known of these levels, their cells' volume times the density.
    assert (bound + exact(x) + 3 * np.log(cell)).mean() > 3 * error


@pytest.mark.parametrize("model_class", [DDPM, FlowMatching])
def test_of_images(model_class):
    model = model_class.from_preset(model_class.tiny_preset, num_classes=2)
    labels = np.arange(6) % 2
    nats = model.negative_log_likelihood(IMAGES, labels, num_steps=5, batch_size=4)
    assert nats.shape == (6,) and np.isfinite(nats).all()
    again = model.negative_log_likelihood(IMAGES, labels, num_steps=5, batch_size=3)
    np.testing.assert_allclose(nats, again, rtol=1e-4)
    # Nothing is learnt: noise is no likelier than one of 256 levels.
    assert nats.mean() / np.log(2) / 64 > 7
    if model_class is DDPM:
        bound = model.negative_log_likelihood(IMAGES, labels, "bound", num_steps=500)
        assert bound.shape == (6,) and bound.mean() / np.log(2) / 64 > 7


def test_bad_input():
    model = FlowMatching.from_preset("flow_matching_tiny")
    latent = DiT((8, 8, 1), autoencoder="vae_tiny", patch_size=1, dim=8, num_heads=2)
    assert latent.likelihood_protocol() is None
    for call, message in [
        (lambda: model.negative_log_likelihood(IMAGES, method="elbo"), "Unknown method 'elbo'"),
        (lambda: model.negative_log_likelihood(IMAGES, num_steps=0), "num_steps must be"),
        (lambda: model.negative_log_likelihood(IMAGES, method="bound"), "noise_schedule='linear'"),
        (lambda: latent.negative_log_likelihood(IMAGES), "A model on latents has no likelihood"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
