import numpy as np
import pytest

import kgen
from kgen.evaluation.interpolation import spherical


@pytest.mark.parametrize("preset", ["vae_tiny", "dcgan_tiny"])
def test_ends_are_the_images_of_the_seeds(preset):
    model = kgen.ImageGenerator.from_preset(preset)
    ways = kgen.evaluation.interpolate(model, pairs=3, steps=5, seed=4)
    assert ways.shape == (3, 5, 8, 8, 1) and ways.dtype == np.uint8
    np.testing.assert_array_equal(ways[:, [0, -1]].reshape(6, 8, 8, 1), model.generate(6, seed=4))


def test_each_way_has_its_class():
    model = kgen.models.VAE.from_preset("vae_tiny", num_classes=4)
    ways = kgen.evaluation.interpolate(model, pairs=2, steps=3, labels=[1, 3])
    ends = model.generate(4, labels=[1, 1, 3, 3])
    np.testing.assert_array_equal(ways[:, [0, -1]].reshape(4, 8, 8, 1), ends)
    with pytest.raises(ValueError, match="needs labels"):
        kgen.evaluation.interpolate(model)


def test_arcs_stay_on_the_sphere_at_equal_angles():
    rng = np.random.default_rng(0)
    start, end = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 16)))
    arcs = spherical(start, end, 7)
    np.testing.assert_allclose(np.linalg.norm(arcs, axis=-1), 1)
    cosines = np.sum(arcs[:, 1:] * arcs[:, :-1], axis=-1)
    np.testing.assert_allclose(cosines, np.repeat(cosines[:, :1], 6, axis=1))
    np.testing.assert_array_equal(arcs[:, 0], start)
    np.testing.assert_array_equal(arcs[:, -1], end)


def test_parallel_vectors():
    arcs = spherical(np.ones((1, 4)), 3 * np.ones((1, 4)), 3)
    assert np.isfinite(arcs).all()


def test_wrong_arguments():
    model = kgen.models.VAE.from_preset("vae_tiny")
    with pytest.raises(ValueError, match=r"steps must be an int of 2 or more\. Received: steps=1"):
        kgen.evaluation.interpolate(model, pairs=1, steps=1)
    with pytest.raises(ValueError, match=r"at most 65,536 images\. Received: pairs=2147483648"):
        kgen.evaluation.interpolate(model, pairs=2**31)
    model.endpoints = lambda: {"generate": None}
    with pytest.raises(ValueError, match="VAE has no latent vector"):
        kgen.evaluation.interpolate(model)
