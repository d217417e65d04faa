import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.layers.quantizers import FSQ, USED, VectorQuantizer
from kgen.training.step import input_gradient


def numpy(x):
    return ops.convert_to_numpy(x)


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def quantizer(*args, **kwargs):
    keras.utils.set_random_seed(0)
    return VectorQuantizer(*args, **kwargs)


def step(layer, z, seed=0):
    """One training step's update; returns the indices before it."""
    indices = layer(z)[1]
    layer.update(ops.convert_to_tensor(z), indices, random.row_seeds(seed, len(z)))
    return numpy(indices)


def test_the_nearest_code_against_numpy():
    layer, z = quantizer(37, 5), vectors(6, 3, 4, 5)
    codebook = numpy(layer.codebook)
    layer.codebook.assign(10 * codebook + 3)  # not close to 0, where it would be easy
    z = 10 * z + 3
    distances = ((z[..., None, :] - numpy(layer.codebook)) ** 2).sum(-1)
    quantized, indices, _ = layer(z)
    assert indices.dtype == "int32" and len(np.unique(numpy(indices))) > 20
    np.testing.assert_array_equal(numpy(indices), distances.argmin(-1))
    np.testing.assert_array_equal(numpy(quantized), numpy(layer.codebook)[numpy(indices)])
    np.testing.assert_array_equal(numpy(layer.lookup(indices)), numpy(quantized))


def test_of_two_equal_codes_the_first():
    layer = quantizer(4, 2)
    layer.codebook.assign([[9, 9], [1, 0], [1, 0], [-9, 9]])
    assert numpy(layer(np.array([[1.0, 0.2]], "float32"))[1]).tolist() == [1]


def test_losses_against_the_paper():
    """Equation 3, in sums over an image."""
    z = vectors(4, 2, 3, 5)
    by_gradient = quantizer(8, 5, commitment=0.5, ema_decay=None)
    _, indices, losses = by_gradient(z)
    squares = ((z - numpy(by_gradient.codebook)[numpy(indices)]) ** 2).sum((1, 2, 3)).mean()
    assert float(losses["codebook_loss"]) == pytest.approx(squares, rel=1e-5)
    assert float(losses["commitment_loss"]) == pytest.approx(0.5 * squares, rel=1e-5)
    assert set(quantizer(8, 5)(z)[2]) == {"commitment_loss"}


@pytest.mark.parametrize("ema_decay", [0.99, None])
def test_the_gradient_goes_straight_through(ema_decay):
    layer, z = quantizer(8, 5, ema_decay=ema_decay), ops.convert_to_tensor(vectors(4, 6, 5))
    weights = vectors(4, 6, 5, seed=1)
    gradient = input_gradient(lambda z: layer(z)[0] * weights, z)
    np.testing.assert_array_equal(numpy(gradient), weights)
    # The commitment loss pulls a vector to its code; the other loss leaves it alone.
    total = input_gradient(lambda z: sum(layer(z)[2].values()), z)
    expected = 2 * 0.25 / 4 * (numpy(z) - numpy(layer(z)[0]))
    np.testing.assert_allclose(numpy(total), expected, atol=1e-6)


def test_moving_averages_against_the_paper():
    """Equations 6 to 8: N and m in counts and sums, in NumPy."""
    decay = 0.8
    layer = quantizer(6, 3, ema_decay=decay, restart_threshold=0.0)
    codebook = numpy(layer.codebook).copy()
    counts, sums = np.zeros(6), np.zeros((6, 3))
    for t in range(5):
        z = vectors(8, 2, 2, 3, seed=t)
        z[..., 0] = np.abs(z[..., 0]) + t  # so that codes fall out of use
        indices = step(layer, z)
        flat = z.reshape(-1, 3)
        np.testing.assert_array_equal(
            indices.reshape(-1), ((flat[:, None] - codebook) ** 2).sum(-1).argmin(-1)
        )
        one_hot = np.eye(6)[indices.reshape(-1)]
        counts = decay * counts + (1 - decay) * one_hot.sum(0)
        sums = decay * sums + (1 - decay) * one_hot.T @ flat
        known = counts > 0
        codebook[known] = sums[known] / counts[known, None]
        np.testing.assert_allclose(numpy(layer.codebook), codebook, rtol=1e-4, atol=1e-5)
    assert 1 < known.sum() < 6, "the case must have codes in use and codes never used"


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_dead_codes_restart_at_encoder_outputs(ema_decay):
    layer = quantizer(4, 2, ema_decay=ema_decay, restart_threshold=0.1)
    layer.codebook.assign([[0, 0], [50, 50], [60, 60], [70, 70]])
    z = vectors(8, 3, 3, 2)
    assert set(step(layer, z).reshape(-1)) == {0}
    codebook, flat = numpy(layer.codebook), z.reshape(-1, 2)
    for code in codebook[1:]:
        assert (code == flat).all(-1).any(), "a restarted code must be one of the batch's vectors"
    assert len(np.unique(codebook[1:], axis=0)) == 3
    alive = [0, 0] if ema_decay is None else flat.mean(0)
    np.testing.assert_allclose(codebook[0], alive, atol=1e-5)
    # What was restarted is not dead at once: it stays where it is until it is used or forgotten.
    before = numpy(layer.codebook)
    far = np.full((8, 1, 2), 1.0, "float32") * before[1]
    step(layer, far)
    np.testing.assert_allclose(numpy(layer.codebook)[2:], before[2:], rtol=1e-5)


def test_restarts_do_not_depend_on_the_order_of_the_rows():
    """So several devices restart the same codes to the same vectors."""
    z, seeds = vectors(8, 3, 3, 2), numpy(random.row_seeds(0, 8))
    codebooks = []
    for order in (np.arange(8), np.random.default_rng(0).permutation(8)):
        layer = quantizer(32, 2)
        rows = ops.convert_to_tensor(z[order])
        layer.update(rows, layer(rows)[1], ops.convert_to_tensor(seeds[order]))
        codebooks.append(numpy(layer.codebook))
    np.testing.assert_allclose(*codebooks, rtol=1e-5)


def test_without_a_threshold_nothing_restarts():
    layer = quantizer(4, 2, restart_threshold=0.0)
    layer.codebook.assign([[0, 0], [50, 50], [60, 60], [70, 70]])
    for seed in range(3):
        step(layer, vectors(8, 3, 3, 2, seed=seed))
    np.testing.assert_array_equal(numpy(layer.codebook)[1:], [[50, 50], [60, 60], [70, 70]])


def test_codes_used_and_drawn():
    layer = quantizer(4, 2, restart_threshold=0.0)
    layer.codebook.assign([[-9, 0], [9, 0], [0, 90], [0, -90]])
    assert float(layer.codes_used()) == 0.0
    noise = (np.arange(4000, dtype="float32") + 0.5) / 4000
    before = np.bincount(numpy(layer.draw(noise)), minlength=4) / 4000
    np.testing.assert_allclose(before, 0.25, atol=1e-3)
    z = np.array([[-9, 0], [-9, 0], [-9, 0], [9, 0]], "float32")
    step(layer, z[None])
    assert float(layer.codes_used()) == 0.5
    drawn = np.bincount(numpy(layer.draw(noise)), minlength=4) / 4000
    np.testing.assert_allclose(drawn, [0.75, 0.25, 0, 0], atol=1e-3)
    # Forgotten when its share is under a hundredth of the average code's.
    first, then = numpy(layer.usage), np.array([1, 0, 0, 0], "float32")
    for steps in (60, 80):
        before, after = (0.99**n * first + (1 - 0.99**n) * then for n in (steps - 1, steps))
        layer.usage.assign(before)
        step(layer, z[None, :3])
        np.testing.assert_allclose(numpy(layer.usage), after, rtol=1e-4)
        forgotten = after[1] < USED * after.sum() / 4
        assert float(layer.codes_used()) == (0.25 if forgotten else 0.5)
    assert forgotten and before[1] > 0


@pytest.mark.parametrize("levels", [(3,), (5, 4), (8, 5, 5), (7, 6, 5, 4)])
def test_fsq_round_trip_of_all_codes(levels):
    layer = FSQ(levels)
    assert layer.num_codes == np.prod(levels) and layer.dim == len(levels)
    indices = np.arange(layer.num_codes, dtype="int32")
    codes = numpy(layer.lookup(indices))
    digits = np.stack(np.unravel_index(indices, levels[::-1]))[::-1].T  # the first is the lowest
    np.testing.assert_allclose(codes, (digits - np.array(levels) // 2) / (np.array(levels) // 2))
    # Whoever is asked for the numbers that a code is rounded from gets the code.
    half = np.array(levels) // 2
    even = np.array(levels) % 2 == 0
    scale = (np.array(levels) - 1) * (1 - 1e-3) / 2
    inside = np.clip((codes * half + 0.5 * even) / scale, -0.9999, 0.9999)
    z = np.arctanh(inside) - np.arctanh(0.5 * even / scale)
    quantized, again, losses = layer(z.astype("float32"))
    np.testing.assert_array_equal(numpy(again), indices)
    np.testing.assert_array_equal(numpy(quantized), codes)
    assert losses == {}
    assert numpy(layer(np.zeros((1, layer.dim), "float32"))[0]).tolist() == [[0] * layer.dim]


def test_fsq_gradient_is_that_of_the_bound():
    levels, z = (7, 4), vectors(5, 2)
    layer = FSQ(levels)
    gradient = numpy(input_gradient(lambda z: layer(z)[0], ops.convert_to_tensor(z)))
    half = (np.array(levels) - 1) * (1 - 1e-3) / 2
    shift = np.arctanh(np.array([0, 0.5]) / half)
    expected = half * (1 - np.tanh(z + shift) ** 2) / (np.array(levels) // 2)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


def test_fsq_levels_it_cannot_take():
    wrong = [((64, 64, 64), "65536|2\\*")]
    wrong += [(levels, "ints of 3 or more") for levels in ((8, 2), (), (8.5, 5), "ab", 8)]
    for levels, message in wrong:
        with pytest.raises(ValueError, match=message):
            FSQ(levels)


@pytest.mark.parametrize("layer", [FSQ((5, 4)), VectorQuantizer(7, 3, 0.1, None, 0.2)])
def test_config(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.num_codes, again.dim) == (layer.num_codes, layer.dim)


def test_vectors_that_are_no_numbers_get_a_code_and_a_loss_that_is_none():
    """So that a training which diverges stops at its loss, which says what is wrong."""
    layer = quantizer(4, 2)
    z = np.full((1, 3, 3, 2), np.nan, "float32")
    _, indices, losses = layer(z)
    assert (numpy(indices) < 4).all()
    assert np.isnan(float(losses["commitment_loss"]))
    step(layer, z)
