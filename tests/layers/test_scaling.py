"""The scaling that networks expect, as layers of plain Keras models."""

import keras
import numpy as np
import pytest

import kgen
from kgen.layers import ScaleImages, UnscaleImages

LEVELS = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1)


def test_there_and_back():
    scaled = ScaleImages()(LEVELS)
    assert keras.backend.standardize_dtype(scaled.dtype) == "float32"
    np.testing.assert_allclose(scaled, LEVELS / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(UnscaleImages()(scaled), LEVELS)
    np.testing.assert_array_equal(UnscaleImages()(np.array([-2.0, 2.0], "float32")), [0, 255])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_half_precision_blurs_no_level(policy):
    images = UnscaleImages(dtype=policy)(ScaleImages(dtype=policy)(LEVELS))
    np.testing.assert_array_equal(images, LEVELS)


def test_levels_are_those_of_autoregressive_models():
    model = kgen.models.PixelCNN.from_preset("pixelcnn_tiny")
    scaled = ScaleImages(model.num_levels)(LEVELS)
    assert len(np.unique(scaled)) == model.num_levels == 4
    np.testing.assert_array_equal(scaled, model.to_levels(LEVELS))


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_around_the_networks_of_a_vae(tmp_path, likelihood):
    """As one Keras model from images to images, which is saved and loaded."""
    model = kgen.models.VAE.from_preset("vae_tiny", likelihood=likelihood)
    image = keras.Input(model.image_shape, dtype="uint8")
    mean = model.encoder(ScaleImages()(image))[:, : model.latent_dim]
    autoencoder = keras.Model(image, UnscaleImages(likelihood)(model.decoder(mean)))
    autoencoder.save(tmp_path / "autoencoder.keras")
    loaded = keras.saving.load_model(tmp_path / "autoencoder.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, *model.image_shape), "uint8")
    expected = keras.ops.convert_to_numpy(model(images))
    assert expected.dtype == np.uint8
    for either in (autoencoder, loaded):
        difference = np.abs(keras.ops.convert_to_numpy(either(images)).astype(int) - expected)
        assert difference.max() <= 1 and (difference == 0).mean() > 0.99


def test_arguments():
    with pytest.raises(ValueError, match="num_levels must be 2 to 256"):
        ScaleImages(512)
    with pytest.raises(ValueError, match="Unknown likelihood 'bernouli'"):
        UnscaleImages("bernouli")
