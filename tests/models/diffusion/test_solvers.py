"""Solvers on data whose best denoiser, and so every step, is known: one normal distribution."""

import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.models.diffusion import solvers
from kgen.models.diffusion.paths import PATHS
from kgen.training.step import compile_function

MEAN, DEVIATION = 0.3, 0.5


def numpy(x):
    return ops.convert_to_numpy(x)


def factors(path, times):
    times = ops.convert_to_tensor(np.asarray(times, "float32"))
    return [numpy(f(times)).astype("float64") for f in (PATHS[path].alpha, PATHS[path].sigma)]


def best(path):
    """What a network that has learnt all says: the data's and the noise's mean given the point."""

    def denoise(x, times):
        alpha, sigma = (f(times)[:, None] for f in (PATHS[path].alpha, PATHS[path].sigma))
        variance = alpha**2 * DEVIATION**2 + sigma**2
        away = (x - alpha * MEAN) / variance
        return MEAN + alpha * DEVIATION**2 * away, sigma * away

    return denoise


def exact(path, x, start=1.0):
    """The end of the flow: a point stays as many deviations from the mean as it is."""
    alpha, sigma = factors(path, start)
    away = (x - alpha * MEAN) / np.sqrt(alpha**2 * DEVIATION**2 + sigma**2)
    return MEAN + DEVIATION * away


def solve(path, num_steps, solver, x, **way):
    x = ops.convert_to_tensor(np.asarray(x, "float32"))
    seeds = ops.arange(len(x), dtype="int32")

    def run(x, seeds):
        return solvers.solve(best(path), PATHS[path], x, num_steps, solver, seeds=seeds, **way)

    # Eagerly hundreds of steps would take a minute.
    return numpy(compile_function(keras.Sequential(), run)(x, seeds)).astype("float64")


def errors(path, solver, counts):
    x = factors(path, 1.0)[1] * np.array([[1.0], [-0.7]])
    return [np.abs(solve(path, n, solver, x) - exact(path, x)).max() for n in counts]


@pytest.mark.parametrize(
    ("path", "solver", "order"),
    [
        ("rectified", "euler", 1),
        ("rectified", "heun", 2),
        ("rectified", "multistep", 2),
        ("noise_levels", "euler", 1),
        ("noise_levels", "heun", 2),
        ("noise_levels", "multistep", 2),
        ("noise_levels", "dpm_solver", 2),
    ],
)
def test_order(path, solver, order):
    found = errors(path, solver, (32, 64, 128))
    orders = np.log2(np.divide(found[:-1], found[1:]))
    np.testing.assert_allclose(orders, order, atol=0.2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ["euler", "heun", "multistep", "dpm_solver"])
def test_convergence(path, solver):
    """Near the data the tables' steps are no smooth function of time, and lower the order."""
    few, many = errors(path, solver, (50, 500))
    assert many < few / 7 and many < (0.004 if solver == "euler" else 0.0005)


@pytest.mark.parametrize("solver", [s for s in solvers.SOLVERS if s != "ancestral"])
@pytest.mark.parametrize("path", ["rectified", "noise_levels"])
def test_each_row_starts_at_its_own_time(path, solver):
    start = np.array([0.25, 0.0], "float32")
    x = np.array([[0.4], [0.1]])
    solved = solve(path, 200, solver, x, start=ops.convert_to_tensor(start))
    expected = [exact(path, x[0], 0.25), x[1]]
    np.testing.assert_allclose(solved, expected, atol=5e-3)


@pytest.mark.parametrize("solver", [s for s in solvers.SOLVERS if s != "ancestral"])
def test_a_straight_flow_takes_one_step(solver):
    rng = np.random.default_rng(0)
    data, noise = (rng.normal(size=(3, 4, 4, 1)).astype("float32") for _ in range(2))
    path, x = PATHS["rectified"], ops.convert_to_tensor(noise)
    solved = solvers.solve(lambda x, times: (data, noise), path, x, 1, solver)
    np.testing.assert_allclose(numpy(solved), data, atol=1e-6)


def test_ancestral_sampling_against_the_posterior():
    """Ho et al. (2020), equations 6 and 7, of two steps of the linear schedule."""
    beta = np.linspace(1e-4, 0.02, 1000)
    remaining = np.cumprod(1 - beta)
    alpha, _ = factors("linear", [1.0, 0.999])
    np.testing.assert_allclose(alpha, np.sqrt(remaining[[-1, -2]]), rtol=1e-6)
    x = ops.convert_to_tensor(np.array([[0.8], [-1.1]], "float32"))
    seeds, step = ops.arange(2, dtype="int32"), 0
    data, noise = best("linear")(x, ops.ones(2))
    times = (ops.ones(2), ops.full((2,), 0.999))
    drawn = numpy(solvers._euler(PATHS["linear"], data, noise, *times, 1.0, seeds, step))
    mean = np.sqrt(remaining[-2]) * beta[-1] / (1 - remaining[-1]) * numpy(data)
    mean += np.sqrt(1 - beta[-1]) * (1 - remaining[-2]) / (1 - remaining[-1]) * numpy(x)
    variance = (1 - remaining[-2]) / (1 - remaining[-1]) * beta[-1]
    z = numpy(random.normal(seeds, (1,), solvers._STREAM))
    np.testing.assert_allclose(drawn, mean + np.sqrt(variance) * z, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_all_noise_leads_to_the_same_distribution(path, eta):
    sigma = factors(path, 1.0)[1]
    x = sigma * np.random.default_rng(0).normal(size=(20_000, 1))
    drawn = solve(path, 200, "ddim", x, eta=eta)
    assert abs(drawn.mean() - MEAN) < 0.02
    assert abs(drawn.std() - DEVIATION) < 0.02


def test_every_row_has_its_own_eta():
    x = np.full((3, 1), 0.7)
    rows = solve("cosine", 20, "ddim", x, eta=ops.convert_to_tensor([0.0, 0.5, 1.0]))
    for row, eta in enumerate((0.0, 0.5, 1.0)):
        np.testing.assert_allclose(
            rows[row], solve("cosine", 20, "ddim", x, eta=eta)[row], rtol=1e-5
        )
    np.testing.assert_array_equal(
        solve("cosine", 20, "ancestral", x), solve("cosine", 20, "ddim", x, eta=1.0)
    )


@pytest.mark.parametrize("path", PATHS)
def test_what_is_known_is_held_on_the_path(path):
    rng = np.random.default_rng(0)
    data, noise = (rng.normal(size=(3, 4, 4, 1)).astype("float32") for _ in range(2))
    mask = rng.random((3, 4, 4, 1)) < 0.5

    def denoise(x, times):
        return ops.zeros_like(x), ops.zeros_like(x)

    way = PATHS[path]
    x = way.mix(data, noise, ops.ones(3))
    solved = solvers.solve(denoise, way, x, 1, "euler", known=(data, noise, mask))
    np.testing.assert_allclose(numpy(solved), np.where(mask, data, 0), atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", solvers.REVERSIBLE)
def test_from_data_to_noise(path, solver):
    """Along the same flow: what is as far from the data's mean becomes as much noise."""
    x = MEAN + DEVIATION * np.array([[1.0], [-0.7]])
    alpha, sigma = factors(path, 1.0)
    spread = np.sqrt(alpha**2 * DEVIATION**2 + sigma**2)
    expected = alpha * MEAN + spread * np.array([[1.0], [-0.7]])
    found = solve(path, 500, solver, x, reverse=True)
    np.testing.assert_allclose(found / sigma, expected / sigma, atol=0.02)


def test_churn_raises_the_noise():
    """Karras et al. (2022), algorithm 2, lines 4 to 6; beyond 0.05 to 50 nothing is added."""
    path, seeds = PATHS["noise_levels"], ops.arange(3, dtype="int32")
    levels = ops.convert_to_tensor(np.array([0.04, 2.0, 60.0], "float32"))
    x = ops.zeros((3, 4))
    churned, times = solvers._churned(path, x, path.time_of(levels), 0.3, seeds, 5)
    np.testing.assert_allclose(numpy(path.sigma(times)), [0.04, 2.6, 60.0], rtol=1e-3)
    drawn = numpy(random.normal(seeds, (4,), solvers._STREAM + 5))
    added = 1.003 * np.sqrt(2.6**2 - 2.0**2) * np.array([[0], [1], [0]])
    np.testing.assert_allclose(numpy(churned), added * drawn, rtol=1e-3)


@pytest.mark.parametrize("churn", [10.0, 40.0])
def test_churn_leads_to_the_same_distribution(churn):
    x = 80 * np.random.default_rng(0).normal(size=(20_000, 1))
    drawn = solve("noise_levels", 100, "heun", x, churn=churn)
    assert abs(drawn.mean() - MEAN) < 0.02
    assert abs(drawn.std() - DEVIATION) < 0.02
    assert np.abs(drawn - solve("noise_levels", 100, "heun", x)).mean() > 0.05


def test_bad_input():
    x, path = ops.zeros((2, 1)), PATHS["linear"]
    for arguments, message in [
        ((0,), "num_steps must be a positive int"),
        ((4, "huen"), "Unknown sampler 'huen'"),
        ((1001, "euler"), "num_steps must be at most the 1,000 of the path"),
        ((4, "heun", 0.5), "eta is the noise of the sampler 'ddim'"),
        ((4, "euler", 0.0, 10.0), "churn is the noise of the sampler 'heun' with"),
    ]:
        with pytest.raises(ValueError, match=message):
            solvers.solve(lambda x, t: (x, x), path, x, *arguments)
    with pytest.raises(ValueError, match="From data to noise the sampler must be one of"):
        solvers.solve(lambda x, t: (x, x), path, x, 4, "dpm_solver", reverse=True)
