import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.losses import likelihood
from kgen.models import ViTVAE
from kgen.models.vae.latent_map import LatentMapVAE

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3


def tiny(**overrides):
    keras.utils.set_random_seed(0)
    return ViTVAE.from_preset("vit_vae_tiny", **overrides)


def numpy(x):
    return ops.convert_to_numpy(x)


def stripes(n=128):
    """Images whose two halves are black or white, each for itself."""
    halves = np.random.default_rng(1).random((n, 1, 2, 1)) < 0.5
    return 255 * halves.astype("uint8").repeat(8, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def trained():
    model = tiny(binarization="threshold")
    model.compile(learning_rate=1e-2)
    history = model.fit(stripes(), batch_size=16, epochs=30, verbose=0).history
    return model, history


@pytest.mark.parametrize(
    "shape, patch_size, latent_shape",
    [
        pytest.param((8, 8, 1), 4, (2, 2, 2), marks=pytest.mark.slow),
        pytest.param((8, 8, 1), 1, (8, 8, 2), marks=pytest.mark.slow),
        ((8, 8, 1), 8, (1, 1, 2)),
        ((12, 20, 3), 4, (3, 5, 2)),
        pytest.param((28, 8, 4), 2, (14, 4, 2), marks=pytest.mark.slow),
    ],
)
def test_shapes(shape, patch_size, latent_shape):
    model = tiny(image_shape=shape, patch_size=patch_size)
    assert model.latent_shape == latent_shape
    assert model.latent_dim == model.noise_dim == np.prod(latent_shape)
    images = np.zeros((3, *shape), "uint8")
    mean, log_variance = (numpy(x) for x in model.encode(images))
    assert mean.shape == log_variance.shape == (3, model.latent_dim)
    assert mean.dtype == "float32"
    rebuilt = numpy(model.decode(mean))
    assert rebuilt.shape == images.shape and rebuilt.dtype == np.uint8
    np.testing.assert_array_equal(numpy(model(images)), rebuilt)
    assert model.sample(np.arange(2, dtype="int32")).shape == (2, *shape)


def test_latents_are_in_the_order_of_the_map():
    model = tiny(image_shape=(8, 12, 1), num_classes=3)
    images, labels = IMAGES.repeat(2, axis=2)[:4, :, :12], LABELS[:4]
    one_hot = ops.one_hot(labels, 3, dtype="float32")
    inputs = [ops.convert_to_tensor(images / np.float32(127.5) - 1), one_hot]
    whole = [layer for layer in model.encoder.layers if layer.output.shape[1:] == (2, 3, 4)]
    outputs = numpy(keras.Model(model.encoder.inputs, whole[-1].output)(inputs))
    mean, log_variance = (numpy(x).reshape(4, 2, 3, 2) for x in model.encode(images, labels))
    np.testing.assert_allclose(mean, outputs[..., :2], atol=1e-5)
    np.testing.assert_allclose(log_variance, outputs[..., 2:], atol=1e-5)
    # And in: the decoder's own network takes the map.
    network = model.decoder.get_layer("decoder")
    latents = ops.cast(np.random.default_rng(0).normal(size=(4, 12)), "float32")
    logits = numpy(network([ops.reshape(latents, (4, 2, 3, 2)), one_hot]))
    expected = np.floor(255 / (1 + np.exp(-logits)) + 0.5)
    assert np.abs(numpy(model.decode(latents, labels)) - expected).max() <= 1


def test_it_has_the_borders_and_endpoints_of_a_vae():
    model = tiny(num_classes=3)
    assert type(LatentMapVAE.from_preset("vit_vae_tiny")) is ViTVAE
    endpoints = model.endpoints()
    assert set(endpoints) == {"generate", "encode", "decode", "reconstruct"}
    mean, _ = model.encode(IMAGES, LABELS)
    found = endpoints["encode"].function(image=IMAGES, label=LABELS)["mean"]
    np.testing.assert_array_equal(numpy(found), numpy(mean))
    image = endpoints["decode"].function(latent=mean, label=LABELS)["image"]
    np.testing.assert_array_equal(numpy(image), numpy(model(IMAGES, LABELS)))


def test_samples_are_decoded_noise():
    model = tiny(num_classes=3)
    seeds = np.arange(6, dtype="int32")
    noise = kgen.random.normal(seeds, (8,))
    for temperature in (1.0, 0.25):
        latents = model.sample_latents(seeds, temperature)
        np.testing.assert_allclose(numpy(latents), temperature * numpy(noise), rtol=1e-6)
        expected = numpy(model.decode(latents, LABELS[:6]))
        images = numpy(model.sample(seeds, LABELS[:6], temperature))
        assert np.abs(images.astype(int) - expected).max() <= 1


def test_every_class_has_its_own_images_and_posteriors():
    model = tiny(num_classes=3)
    labels = np.arange(3)
    images = numpy(model.sample(np.array([3, 3, 3], "int32"), labels))
    means = numpy(model.encode(IMAGES[:1].repeat(3, axis=0), labels)[0])
    for a, b in ((0, 1), (1, 2), (2, 0)):
        assert (images[a] != images[b]).any() and (means[a] != means[b]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_classes": 3, "mlp": "swiglu", "norm": "rms"},
        {"likelihood": "discretized_logistic"},
        {"importance_samples": 3},
    ],
    ids=str,
)
def test_training_lowers_the_loss(arguments):
    model = tiny(**arguments)
    model.compile(learning_rate=1e-2)
    labels = None if model.num_classes is None else np.arange(128) % 3
    history = model.fit(stripes(), labels, batch_size=16, epochs=5, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_steps_are_clipped_and_shorter_for_wide_networks():
    model = tiny()
    for dim, rate in ((16, 1e-3), (128, 1e-3), (256, 5e-4)):
        model.dim = dim
        optimizer = model.default_optimizer()
        assert optimizer.global_clipnorm == 1.0
        assert float(numpy(optimizer.learning_rate)) == pytest.approx(rate)
    model.compile(learning_rate=0.125)
    assert float(numpy(model.optimizer.learning_rate)) == 0.125


@pytest.mark.slow
def test_it_learns_the_halves_of_images(trained):
    model, history = trained
    # Two coin flips are 1.4 nats; told of neither, all 64 pixels would be coin flips, 44 nats.
    assert history["loss"][-1] < 15 < 30 < history["loss"][0]
    images = stripes()
    assert np.abs(numpy(model(images)).astype(int) - images).mean() < 15


@pytest.mark.slow
def test_importance_weighted_likelihood_is_below_the_elbo(trained):
    model, _ = trained
    images = stripes()
    many = np.repeat(images, 200, axis=0)  # a draw of each says little
    one = model.negative_log_likelihood(many, importance_samples=1)
    elbo = model.evaluate(many, return_dict=True, verbose=0)["loss"]
    assert one.mean() == pytest.approx(elbo, abs=1.0)
    bounds = [model.negative_log_likelihood(images, importance_samples=k).mean() for k in (10, 200)]
    assert elbo > bounds[0] > bounds[1] > 2 * np.log(2)


@pytest.mark.slow
def test_importance_weights_against_numpy():
    model = tiny(binarization="threshold")
    seeds = kgen.random.row_seeds(0, 48)
    binary = 255 * (IMAGES > 127.5).astype("uint8")
    mean, log_variance = model.encode(binary)
    weights = []
    for k in range(5):
        noise = kgen.random.normal(seeds, (8,), stream=k + 16)
        latents = mean + ops.exp(log_variance / 2) * noise
        weights.append(
            numpy(
                model.log_likelihood(binary, latents)
                + likelihood.normal_log_density(latents)
                - likelihood.normal_log_density(latents, mean, log_variance)
            )
        )
    expected = np.log(5) - np.logaddexp.reduce(np.array(weights, "float64"), axis=0)
    result = model.negative_log_likelihood(IMAGES, importance_samples=5)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.slow
def test_interpolation_ends_in_samples():
    model = tiny()
    ways = kgen.evaluation.interpolate(model, pairs=2, steps=3, seed=5)
    ends = ways[:, [0, -1]].reshape(4, 8, 8, 1)
    assert np.abs(ends.astype(int) - model.generate(4, seed=5)).max() <= 1


def test_every_argument_is_in_the_config_and_survives_saving(check_saving):
    arguments = {
        "image_shape": (8, 12, 3),
        "num_classes": 5,
        "patch_size": 2,
        "latent_channels": 3,
        "dim": 12,
        "num_layers": 1,
        "num_heads": 3,
        "mlp": "swiglu",
        "norm": "rms",
        "likelihood": "gaussian",
        "binarization": "none",
        "variance": 0.25,
        "beta": 0.5,
        "kl_warmup_steps": 9,
        "free_bits": 0.125,
        "importance_samples": 1,
        "seed": 11,
    }
    check_saving(ViTVAE, arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patch_size": 3}, "patch_size must divide the image's sides. Received: patch_size=3"),
        ({"num_heads": 3}, "num_heads must divide dim"),
        ({"dim": 12}, "a multiple of 4 features. Received: dim=12, num_heads=2"),
        ({"latent_channels": 0}, "positive int. Received: latent_channels=0"),
        ({"num_layers": 0}, "positive int. Received: num_layers=0"),
        ({"mlp": "gelo"}, "Did you mean 'gelu'"),
        ({"norm": "layr"}, "Did you mean 'layer'"),
        ({"image_shape": (6, 8, 1)}, "divide by 4"),
        ({"likelihood": "gausian"}, "Did you mean 'gaussian'"),
        ({"importance_samples": 2, "beta": 2.0}, "importance_samples=2, beta=2.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)
