import numpy as np
import pytest
from keras import ops

from kgen.models.diffusion import flow


def solve(num_steps, sampler, start=None):
    """dx/dt = -x (1 + 2 t), whose solution is x(0) = x(t) exp(t + t^2)."""
    x = ops.convert_to_tensor(np.array([[1.0], [2.0]], "float32"))

    def velocity(x, times):
        return -x * (1 + 2 * times)[:, None]

    return ops.convert_to_numpy(flow.integrate(velocity, x, num_steps, sampler, start))


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2), ("multistep", 2)])
def test_samplers_converge_at_their_order(sampler, order):
    exact = np.array([[1.0], [2.0]]) * np.exp(2)
    errors = [np.abs(solve(num_steps, sampler) - exact).max() for num_steps in (16, 32, 64)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, order, atol=0.1)
    assert errors[-1] < (0.3 if order == 1 else 0.01)


@pytest.mark.parametrize("sampler", flow.SAMPLERS)
def test_each_row_starts_at_its_own_time(sampler):
    start = ops.convert_to_tensor(np.array([0.25, 0.0], "float32"))
    exact = np.array([[np.exp(0.25 + 0.25**2)], [2.0]])
    np.testing.assert_allclose(solve(200, sampler, start), exact, rtol=2e-3)
    np.testing.assert_array_equal(solve(3, sampler, start)[1], 2.0)  # time 0: where it was


@pytest.mark.parametrize("sampler", flow.SAMPLERS)
def test_a_straight_flow_takes_one_step(sampler):
    rng = np.random.default_rng(0)
    data, noise = (rng.normal(size=(3, 4, 4, 1)).astype("float32") for _ in range(2))
    solved = flow.integrate(lambda x, times: noise - data, ops.convert_to_tensor(noise), 1, sampler)
    np.testing.assert_allclose(ops.convert_to_numpy(solved), data, atol=1e-6)


def test_what_is_known_is_led_along_its_path():
    rng = np.random.default_rng(0)
    data, noise = (rng.normal(size=(3, 4, 4, 1)).astype("float32") for _ in range(2))
    mask = rng.random((3, 4, 4, 1)) < 0.5
    x = ops.convert_to_tensor(noise)
    x = flow.integrate(lambda x, times: ops.zeros_like(x), x, 3, "euler", path=(data, noise, mask))
    expected = np.where(mask, data, noise)
    np.testing.assert_allclose(ops.convert_to_numpy(x), expected, atol=1e-6)
    half = flow.mix(data, noise, np.full(3, 0.25, "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(half), 0.75 * data + 0.25 * noise, atol=1e-6)


def test_bad_input():
    x = ops.zeros((2, 1))
    with pytest.raises(ValueError, match="num_steps must be a positive int"):
        flow.integrate(lambda x, t: x, x, 0)
    with pytest.raises(ValueError, match="Unknown sampler 'huen'"):
        flow.integrate(lambda x, t: x, x, 4, "huen")
