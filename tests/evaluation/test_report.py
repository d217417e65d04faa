import numpy as np
import pytest

import kgen
from kgen.evaluation import report


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (50, 8, 8, 1)).astype("uint8")


@pytest.fixture(scope="module")
def vae():
    return kgen.models.VAE.from_preset("vae_tiny")


def test_figures_of_a_vae(vae, images):
    figures = kgen.evaluation.evaluate(vae, images, importance_samples=3, num_samples=32)
    assert figures["images"] == 50
    assert figures["losses"] == pytest.approx(vae.evaluate(images, verbose=0, return_dict=True))
    nats = vae.negative_log_likelihood(images, importance_samples=3).mean()
    likelihood = figures["likelihood"]
    assert likelihood["nats"] == pytest.approx(nats, rel=1e-6)
    assert likelihood["bits_per_dimension"] == pytest.approx(nats / np.log(2) / 64, rel=1e-6)
    assert likelihood["importance_samples"] == 3
    assert figures["sampling"]["images_per_second"] > 0


def test_reconstruction_error_against_numpy(vae, images, monkeypatch):
    reconstruction = np.asarray(vae(images)).astype("float64")
    error = report.reconstruction_error(vae, images, batch_size=16)
    assert error["mae"] == pytest.approx(np.abs(reconstruction - images).mean())
    assert error["rmse"] == pytest.approx(np.sqrt(np.square(reconstruction - images).mean()))


def test_conditional_model(images):
    model = kgen.models.VAE.from_preset("vae_tiny", num_classes=5)
    split = kgen.data.Split(images, np.arange(50) % 5)
    figures = kgen.evaluation.evaluate(model, split, num_samples=8)
    assert set(figures) == {"images", "losses", "reconstruction", "sampling"}
    with pytest.raises(ValueError, match="needs labels"):
        kgen.evaluation.evaluate(model, images)


def test_model_without_likelihood_or_reconstruction(images):
    model = kgen.models.DCGAN.from_preset("dcgan_tiny")
    assert "reconstruction" not in kgen.evaluation.evaluate(model, images, num_samples=8)
    with pytest.raises(ValueError, match="DCGAN has no likelihood"):
        kgen.evaluation.evaluate(model, images, importance_samples=3)


def test_wrong_arguments(vae, images):
    with pytest.raises(ValueError, match=r"importance_samples must be positive\. Received: 0"):
        kgen.evaluation.evaluate(vae, images, importance_samples=0)
    with pytest.raises(ValueError, match=r"\(8, 8, 1\). Received: \(8, 8, 3\)"):
        kgen.evaluation.evaluate(vae, images.repeat(3, axis=-1))
