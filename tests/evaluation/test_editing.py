import keras
import numpy as np
import pytest
from keras import layers

import kgen
from kgen.evaluation import editing


class Halves:
    """An extractor with two classes: which half of an image is the lighter."""

    name, sha256, dim, num_classes = "halves", "cd" * 32, 2, 2

    def preprocess(self, images):
        return images / 255

    def __call__(self, images):
        x = self.preprocess(images)
        return np.stack([x[:, :4].mean((1, 2, 3)), x[:, 4:].mean((1, 2, 3))], 1).astype("float32")

    def probabilities(self, features):
        powers = np.exp(20 * features)
        return powers / powers.sum(axis=1, keepdims=True)


def linear(num_classes=None):
    """A GAN whose generator makes the halves light by its first two latent dimensions."""
    keras.utils.set_random_seed(0)
    x = latent = keras.Input((8,))
    x = layers.Dense(64, use_bias=False, name="dense")(x)
    pixels = layers.Activation("tanh")(layers.Reshape((8, 8, 1))(x))
    inputs = latent
    if num_classes:
        label = keras.Input((num_classes,))
        shade = layers.Reshape((1, 1, 1))(layers.Dense(1, name="shade")(label))
        inputs, pixels = [latent, label], layers.Add()([0.5 * pixels, shade])
    generator = keras.Model(inputs, pixels)
    kernel = np.zeros((8, 64), "float32")
    kernel[0, :32] = kernel[1, 32:] = 0.5
    generator.get_layer("dense").set_weights([kernel])
    if num_classes:
        shades = np.linspace(-0.4, 0.4, num_classes, dtype="float32")[:, None]
        generator.get_layer("shade").set_weights([shades, np.zeros(1, "float32")])
    return kgen.models.DCGAN((8, 8, 1), num_classes, latent_dim=8, filters=4, generator=generator)


def test_directions_lead_to_their_class():
    model = linear()
    directions = editing.class_directions(model, n=1000, extractor=Halves())
    assert directions.keys() == {0, 1}
    for c, sign in ((0, 1), (1, -1)):
        expected = np.array([sign, -sign, 0, 0, 0, 0, 0, 0]) / np.sqrt(2)
        assert directions[c] @ expected > 0.98
        assert np.linalg.norm(directions[c]) == pytest.approx(1, rel=1e-5)
    latents = np.random.default_rng(0).normal(size=(20, 8))
    images = editing.edit(model, latents, directions[1], (0, 2, 4))
    assert images.shape == (20, 3, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[:, 0], editing.decode(model, latents))
    lower = images[:, :, 4:].astype(float).mean((2, 3, 4)) - images[:, :, :4].mean((2, 3, 4))
    assert (lower[:, 2] > 0).mean() > 0.9 and (np.diff(lower, axis=1) >= 0).all()


def test_images_are_found_and_drawn_as_another_class():
    model = linear(num_classes=3)
    images = model.generate(6, labels=1, seed=0)
    latents = editing.latents_of(model, images, np.ones(6, "int32"))
    same = editing.decode(model, latents, np.ones(6, "int32"))
    assert np.abs(same.astype(int) - images).mean() < 6
    lighter = editing.decode(model, latents, np.full(6, 2))
    assert (lighter.astype(int) - same).mean() == pytest.approx(0.4 * 127.5, abs=2)


def test_latent_vectors_as_every_class():
    latents = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    model = linear(num_classes=3)
    images, classes = editing.as_classes(model, latents)
    assert classes == [0, 1, 2] and images.shape == (5, 3, 8, 8, 1)
    np.testing.assert_array_equal(images[:, 2], editing.decode(model, latents, np.full(5, 2)))
    with pytest.raises(ValueError, match=r"leave towards .* out\. Received: towards=1"):
        editing.as_classes(model, latents, towards=1)
    images, classes = editing.as_classes(linear(), latents, extractor=Halves())
    assert classes == [0, 1] and images.shape == (5, 2, 8, 8, 1)
    images, classes = editing.as_classes(linear(), latents, towards=1, extractor=Halves())
    lower = images[:, :, 4:].astype(float).mean((2, 3, 4)) - images[:, :, :4].mean((2, 3, 4))
    assert classes == [1] and images.shape == (5, 6, 8, 8, 1)
    assert (np.diff(lower, axis=1) >= 0).all()
    with pytest.raises(ValueError, match=r"draws no class 7 .* It draws: 0, 1"):
        editing.as_classes(linear(), latents, towards=7, extractor=Halves())


def test_a_vae_encodes():
    model = kgen.models.VAE.from_preset("vae_tiny")
    images = model.generate(4, seed=0)
    mean = model.run_endpoint("encode", {"image": images})["mean"]
    np.testing.assert_array_equal(editing.latents_of(model, images), mean)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="PixelCNN finds no latent vectors of images"):
        model = kgen.models.PixelCNN.from_preset("pixelcnn_tiny")
        editing.latents_of(model, np.zeros((1, *model.image_shape), "uint8"))
    with pytest.raises(ValueError, match="PixelCNN has no endpoint decode"):
        editing.class_directions(model)
    with pytest.raises(ValueError, match=r"DCGAN is told the class.*num_classes=3"):
        editing.class_directions(linear(3))
    with pytest.raises(ValueError, match="general_cnn tells no classes apart"):
        editing.class_directions(linear())
