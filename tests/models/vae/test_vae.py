import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.models import VAE
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
LOG_2PI = np.log(2 * np.pi)
#: Darker than what an untrained model draws.
DARK = IMAGES // 4
#: In place of the preset's latent vector.
MAPS = {"latent_dim": None, "latent_channels": 2}


def tiny(**overrides):
    keras.utils.set_random_seed(0)
    return VAE.from_preset("vae_tiny", **overrides)


def batch(images=IMAGES, labels=None):
    return Batch(
        ops.convert_to_tensor(images),
        None if labels is None else ops.convert_to_tensor(labels),
        kgen.random.row_seeds(5, len(images)),
    )


def numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def sampled(model, seeds, labels=None):
    return numpy(model.sample(np.array(seeds, "int32"), labels)).astype("uint8")


def numbers(logs):
    return {name: float(ops.convert_to_numpy(value)) for name, value in logs.items()}


def test_elbo_against_its_formula():
    model = tiny(binarization="threshold")
    rows = batch()
    loss, logs = model.objective(rows, training=False)
    binary = 255 * (IMAGES > 127.5).astype("uint8")
    mean, log_variance = map(ops.convert_to_numpy, model.encode(binary))
    noise = ops.convert_to_numpy(kgen.random.normal(rows.seeds, (4,)))
    logits = ops.convert_to_numpy(model.decoder([mean + np.exp(log_variance / 2) * noise]))
    p = 1 / (1 + np.exp(-logits))
    reconstruction = -np.where(binary > 0, np.log(p), np.log(1 - p)).sum((1, 2, 3)).mean()
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1).mean()
    logs = numbers(logs)
    np.testing.assert_allclose(logs["reconstruction_loss"], reconstruction, rtol=1e-5)
    np.testing.assert_allclose(logs["kl_loss"], kl, rtol=1e-4)
    np.testing.assert_allclose(float(ops.convert_to_numpy(loss)), reconstruction + kl, rtol=1e-5)
    assert logs["active_units"] == (mean.var(0) > 0.01).sum()


def test_beta_warmup_and_free_bits_shape_the_training_loss_alone():
    plain = tiny()
    arguments = {"beta": 1.0, "kl_warmup_steps": 0, "free_bits": 0.0}
    assert {name: getattr(plain, name) for name in arguments} == arguments
    parts = numbers(plain.objective(batch(), training=True)[1])
    evaluated = numbers(plain.objective(batch(), training=False)[1])
    assert parts == pytest.approx(evaluated)

    def loss(training, steps=0, **changed):
        for name, value in {**arguments, **changed}.items():
            setattr(plain, name, value)
        plain.training_steps.assign(steps)
        return float(ops.convert_to_numpy(plain.objective(batch(), training=training)[0]))

    reconstruction, kl = parts["reconstruction_loss"], parts["kl_loss"]
    assert loss(True, beta=4.0) == pytest.approx(reconstruction + 4 * kl, rel=1e-5)
    assert loss(True, steps=25, kl_warmup_steps=100) == pytest.approx(
        reconstruction + 0.25 * kl, rel=1e-5
    )
    assert loss(True, steps=500, kl_warmup_steps=100) == pytest.approx(reconstruction + kl)
    assert loss(True, free_bits=2.0) == pytest.approx(reconstruction + 4 * 2.0, rel=1e-5)
    for changed in ({"beta": 4.0}, {"kl_warmup_steps": 100}, {"free_bits": 2.0}):
        assert loss(False, **changed) == pytest.approx(reconstruction + kl, rel=1e-5)


def test_dynamic_binarization_draws_with_the_grey_level_as_probability():
    model = tiny()
    grey = np.full((2000, 8, 8, 1), 64, "uint8")
    first = ops.convert_to_numpy(model._binarize(batch(grey)))
    assert set(np.unique(first)) == {0, 255}
    assert abs((first > 0).mean() - 64 / 255) < 0.005
    binary = (grey * 0 + 255, grey * 0)
    for levels in binary:  # already binary: stays
        np.testing.assert_array_equal(ops.convert_to_numpy(model._binarize(batch(levels))), levels)


def test_binarization_by_threshold_and_none():
    model = tiny(binarization="threshold")
    cut = ops.convert_to_numpy(model._binarize(batch()))
    np.testing.assert_array_equal(cut, 255 * (IMAGES > 127.5).astype("uint8"))
    model.binarization = "none"
    np.testing.assert_array_equal(ops.convert_to_numpy(model._binarize(batch())), IMAGES)


@pytest.mark.parametrize(
    "arguments",
    [
        {"likelihood": "continuous_bernoulli"},
        {"likelihood": "gaussian"},
        {"likelihood": "discretized_logistic"},
        {"importance_samples": 3, "binarization": "threshold"},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
def test_it_learns_by_every_likelihood_and_bound(arguments, check_training):
    check_training(tiny(num_classes=3, **arguments), DARK, LABELS)


def test_pixels_are_drawn_by_choice():
    """Black or white by the probability that is else shown as a grey level."""
    model = tiny()
    shown = model.generate(4, seed=3)
    assert len(np.unique(shown)) > 2
    drawn = model.generate(4, seed=3, draw=True)
    assert set(np.unique(drawn)) == {0, 255}
    assert np.abs(drawn.mean() - shown.mean()) < 15, "alike on average, of 256 pixels"
    with pytest.raises(ValueError, match=r"draw must be True or False\. Received: draw='no'"):
        model.generate(1, draw="no")


def test_a_label_changes_the_image():
    images = sampled(tiny(num_classes=3), [3, 3, 3], np.array([0, 1, 1]))
    assert (images[0] != images[1]).any()
    np.testing.assert_array_equal(images[1], images[2])


@pytest.mark.slow
def test_the_mean_of_a_continuous_bernoulli_is_exported(exported_alike):
    model = tiny(likelihood="continuous_bernoulli")
    rng = np.random.default_rng(0)
    for weight in model.decoder.trainable_weights:
        weight.assign(weight + rng.normal(size=weight.shape) * 0.3)
    equal = exported_alike(model)
    assert {("saved_model", "generate_xla"), ("onnx", "generate")} < set(equal)
    assert min(equal.values()) > 0.99, equal


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"likelihood": "bernoulli"},
        {"likelihood": "bernoulli", "binarization": "none"},
        {"likelihood": "bernoulli", "binarization": "threshold"},
        {"likelihood": "continuous_bernoulli"},
        {"likelihood": "gaussian"},
        {"likelihood": "gaussian", "variance": 0.5},
        {"likelihood": "discretized_logistic"},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
def test_every_likelihood_trains_conditionally(arguments):
    model = tiny(num_classes=3, **arguments)
    model.compile(learning_rate=1e-2)
    history = model.fit(IMAGES, LABELS, batch_size=16, epochs=15, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    images = model.generate(6, labels=[0, 1, 2, 0, 1, 2])
    assert images.dtype == np.uint8 and images.shape == (6, 8, 8, 1)
    assert (model.generate(seeds=[3], labels=0) != model.generate(seeds=[3], labels=1)).any()


def test_fixed_variance_is_the_mean_squared_error_of_the_textbooks():
    model = tiny(likelihood="gaussian", variance=0.5)
    latents = ops.convert_to_tensor(np.zeros((48, 4), "float32"))
    logs = ops.convert_to_numpy(model.log_likelihood(IMAGES, latents))
    squared = ((IMAGES / 255 - ops.convert_to_numpy(model.decoder([latents]))) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(-logs, squared + 32 * np.log(np.pi), rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 20, 3), (32, 16, 4), (128, 128, 3), (100, 8, 1)])
def test_shapes(shape):
    model = tiny(image_shape=shape)
    assert sampled(model, [1, 2]).shape == (2, *shape)
    images = np.zeros((2, *shape), "uint8")
    assert ops.convert_to_numpy(model(images)).shape == (2, *shape)


@pytest.mark.parametrize("shape", [(7, 8, 1), (4, 4, 1), (516, 128, 3), (8, 8, 2), (8, 8)])
def test_shapes_it_cannot_take(shape):
    with pytest.raises(ValueError, match="image_shape"):
        tiny(image_shape=shape)


@pytest.mark.parametrize(
    "shape, latent_shape",
    [
        pytest.param((8, 8, 1), (4, 4, 2), marks=pytest.mark.slow),
        ((12, 20, 3), (6, 10, 2)),
    ],
)
def test_latent_maps_enter_and_leave_as_vectors(shape, latent_shape):
    model = tiny(image_shape=shape, num_classes=3, **MAPS)
    assert model.latent_shape == latent_shape and model.latent_dim == np.prod(latent_shape)
    assert tiny().latent_shape == (1, 1, 4)
    assert VAE.from_preset("vae_tiny", latent_dim=None).latent_shape == (1, 1, 32)
    again = VAE.from_config(model.get_config())
    assert again.get_config() == model.get_config() and again.latent_shape == latent_shape
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), "uint8")
    inputs = [images / np.float32(127.5) - 1, np.eye(3, dtype="float32")[LABELS[:4]]]
    # The map itself, means and log-variances as channels, is what the last convolution gives.
    convolutions = [x for x in model.encoder.layers if isinstance(x, keras.layers.Conv2D)]
    outputs = numpy(keras.Model(model.encoder.inputs, convolutions[-1].output)(inputs))
    flat = (numpy(x) for x in model.encode(images, LABELS[:4]))
    mean, log_variance = (x.reshape(4, *latent_shape) for x in flat)
    np.testing.assert_allclose(mean, outputs[..., :2], atol=1e-6)
    np.testing.assert_allclose(log_variance, outputs[..., 2:], atol=1e-6)
    images = sampled(model, [3, 3], np.array([0, 1]))
    assert images.shape == (2, *shape) and (images[0] != images[1]).any()


def test_a_latent_place_tells_of_its_surroundings():
    model = tiny(image_shape=(32, 32, 1), num_blocks=1, **MAPS)
    assert model.latent_shape == (4, 4, 2)
    latents = np.zeros((2, 4, 4, 2), "float32")
    latents[1, 0, 0] = 10  # a corner
    outputs = numpy(model.decoder([latents.reshape(2, -1)]))
    changed = np.abs(outputs[1] - outputs[0])[..., 0] > 0
    assert changed[:8, :8].all() and not changed[-4:].any() and not changed[:, -4:].any()


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard", "vamp"])
def test_latent_maps_train(prior):
    model = tiny(num_classes=3, prior=prior, num_pseudo_inputs=5, **MAPS)
    model.compile(learning_rate=1e-2)
    history = model.fit(IMAGES, LABELS, batch_size=16, epochs=15, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    bounds = [
        model.negative_log_likelihood(IMAGES, LABELS, importance_samples=k).mean() for k in (1, 50)
    ]
    assert bounds[1] < bounds[0]


@pytest.mark.slow
def test_a_latent_map_ships(tmp_path, tensorflow_only):
    import export

    export.export(tiny(num_classes=3, **MAPS), tmp_path / "artifact", progress=False)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {
            "latent_dim": 48,
            "latent_channels": 2,
            "num_downsamplings": 1,
            "prior": "standard",
            "free_bits": 0.125,
        },
        {"beta": 1.0, "kl_warmup_steps": 0, "importance_samples": 4, "variance": "learned"},
    ],
    ids=["vector", "map", "iwae"],
)
def test_every_argument_is_in_the_config_and_survives_saving(changed, check_saving):
    arguments = {
        "image_shape": (12, 8, 3),
        "num_classes": 5,
        "latent_dim": 3,
        "latent_channels": None,
        "num_downsamplings": None,
        "filters": 6,
        "num_blocks": 1,
        "units": 7,
        "likelihood": "gaussian",
        "binarization": "none",
        "variance": 0.25,
        "beta": 0.5,
        "kl_warmup_steps": 9,
        "free_bits": 0.0,
        "importance_samples": 1,
        "prior": "vamp",
        "num_pseudo_inputs": 7,
        "encoder": None,  # one that is given: tests/models/test_given_networks.py
        "decoder": None,
        "seed": 11,
    }
    check_saving(VAE, {**arguments, **changed})


def test_importance_weighted_likelihood_of_a_decoder_that_ignores_the_latents():
    model = tiny(binarization="none")
    for weight in model.decoder.weights:
        weight.assign(np.zeros(weight.shape))
    # Every pixel has logit 0 whatever the latent vector: log p(x) = -64 log 2.
    result = model.negative_log_likelihood(IMAGES[:8], importance_samples=2000)
    np.testing.assert_allclose(result, 64 * np.log(2), atol=0.15)
    assert result.shape == (8,) and result.dtype == np.float32


@pytest.mark.slow
def test_importance_weighted_likelihood_tightens_the_bound():
    """One sample is the ELBO in expectation; more samples come nearer, from above."""
    trained = tiny(binarization="threshold")
    trained.compile(learning_rate=1e-2)
    rng = np.random.default_rng(1)  # stripes of random brightness, so that the latents matter
    stripes = 255 * (rng.random((200, 8, 1, 1)) < 0.5).astype("uint8").repeat(8, axis=2)
    trained.fit(stripes, batch_size=16, epochs=20, verbose=0)
    bounds = [
        trained.negative_log_likelihood(stripes, importance_samples=k).mean() for k in (1, 10, 500)
    ]
    assert bounds[0] > bounds[1] + 0.1 > bounds[2] + 0.2
    elbo = trained.evaluate(stripes, return_dict=True, verbose=0)["loss"]
    assert abs(bounds[0] - elbo) < 1.0


def single_weights(model, images, labels, samples, seeds):
    """float64 NumPy `[samples, B]`: log p(x, z) - log q(z|x), with every density written out."""
    mean, log_variance = (numpy(t) for t in model.encode(images, labels))
    weights, parts = [], []
    for k in range(samples):
        noise = numpy(kgen.random.normal(seeds, (model.latent_dim,), stream=k + 16))
        z = mean + np.exp(log_variance / 2) * noise
        q = -0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance + LOG_2PI).sum(1)
        likelihoods = numpy(model.log_likelihood(images, ops.cast(z, "float32"), labels))
        ratio = q - log_prior(model, z)
        weights.append(likelihoods - ratio)
        parts.append((-likelihoods.mean(), ratio.mean()))
    return np.array(weights), np.mean(parts, axis=0)


def log_prior(model, z):
    """float64 NumPy `[B]`."""
    if model.prior == "standard":
        return -0.5 * (z**2 + LOG_2PI).sum(1)
    pixels = 2 / (1 + np.exp(-numpy(model.pseudo_inputs))) - 1
    inputs = [ops.cast(pixels, "float32")]
    if model.num_classes:
        classes = np.arange(model.num_pseudo_inputs) % model.num_classes
        inputs.append(ops.cast(np.eye(model.num_classes)[classes], "float32"))
    mean, log_variance = np.split(numpy(model.encoder(inputs)), 2, axis=1)
    squared = (z[:, None] - mean) ** 2 / np.exp(log_variance)
    densities = -0.5 * (squared + log_variance + LOG_2PI).sum(-1)
    return np.logaddexp.reduce(densities, axis=1) - np.log(len(mean))


@pytest.mark.parametrize("prior", ["standard", "vamp"])
def test_importance_weighted_objective_against_numpy(prior):
    model = tiny(
        binarization="threshold",
        num_classes=3,
        importance_samples=5,
        prior=prior,
        num_pseudo_inputs=7,
    )
    rows = batch(labels=LABELS)
    binary = 255 * (IMAGES > 127.5).astype("uint8")
    weights, (reconstruction, kl) = single_weights(model, binary, LABELS, 5, rows.seeds)
    expected = np.log(5) - np.logaddexp.reduce(weights, axis=0).mean()
    for training in (True, False):
        loss, logs = model.objective(rows, training)
        logs = numbers(logs)
        assert float(numpy(loss)) == pytest.approx(expected, rel=1e-6)
        assert logs["loss"] == pytest.approx(expected, rel=1e-6)
        assert logs["reconstruction_loss"] == pytest.approx(reconstruction, rel=1e-6)
        assert logs["kl_loss"] == pytest.approx(kl, abs=1e-5)


@pytest.mark.parametrize(
    ("prior", "at_once"),
    [
        ("vamp", 3),  # 20 samples are no multiple of it
        *(
            pytest.param(prior, at_once, marks=pytest.mark.slow)
            for prior in ("standard", "vamp")
            for at_once in (1, 3, 20, 1000, "auto")
            if (prior, at_once) != ("vamp", 3)
        ),
    ],
)
def test_likelihood_is_the_same_however_many_samples_go_at_once(prior, at_once):
    model = tiny(binarization="threshold", num_classes=3, prior=prior, num_pseudo_inputs=5)
    seeds = kgen.random.row_seeds(3, 48)
    binary = 255 * (IMAGES > 127.5).astype("uint8")
    weights, _ = single_weights(model, binary, LABELS, 20, seeds)
    expected = np.log(20) - np.logaddexp.reduce(weights, axis=0)
    result = model.negative_log_likelihood(
        IMAGES, LABELS, importance_samples=20, seed=3, batch_size=16, samples_at_once=at_once
    )
    np.testing.assert_allclose(result, expected, rtol=2e-6)


@pytest.mark.slow
def test_importance_weighted_training_tightens_its_bound():
    model = tiny(binarization="threshold", importance_samples=8)
    model.compile(learning_rate=1e-2)
    stripes = 255 * (np.arange(8)[:, None, None] % 2 == 0) * np.ones((64, 8, 8, 1))
    stripes = np.where(np.arange(64)[:, None, None, None] % 2, stripes, 255 - stripes)
    history = model.fit(stripes.astype("uint8"), batch_size=16, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    logs = model.evaluate(stripes.astype("uint8"), return_dict=True, verbose=0)
    assert logs["loss"] < logs["reconstruction_loss"] + logs["kl_loss"]  # the ELBO


def test_vamp_prior_is_trained_and_drawn_from(check_training):
    model = tiny(prior="vamp", num_pseudo_inputs=3, num_classes=2)
    before = numpy(model.pseudo_inputs)
    check_training(model, DARK, LABELS % 2)
    assert (before != numpy(model.pseudo_inputs)).all()
    seeds = kgen.random.row_seeds(0, 3000)
    gumbel = numpy(kgen.random.gumbel(seeds, (3,), stream=2))
    picked = gumbel.argmax(1)
    assert np.bincount(picked).min() > 900
    noise = numpy(kgen.random.normal(seeds, (4,)))
    pixels = ops.cast(2 / (1 + np.exp(-numpy(model.pseudo_inputs))) - 1, "float32")
    classes = ops.cast(np.eye(2)[[0, 1, 0]], "float32")
    mean, log_variance = np.split(numpy(model.encoder([pixels, classes])), 2, axis=1)
    expected = mean[picked] + 0.5 * np.exp(log_variance[picked] / 2) * noise
    found = numpy(model.sample_latents(seeds, temperature=0.5))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    labels = np.zeros(9, "int32")
    images = numpy(model.decode(model.sample_latents(seeds[:9]), labels))
    np.testing.assert_array_equal(images, numpy(model.sample(seeds[:9], labels)))


def test_interpolation_ends_in_what_the_vamp_prior_draws():
    model = tiny(prior="vamp", num_pseudo_inputs=3)
    ways = kgen.evaluation.interpolate(model, pairs=2, steps=3, seed=5)
    ends = ways[:, [0, -1]].reshape(4, 8, 8, 1)
    assert np.abs(ends.astype(int) - model.generate(4, seed=5)).max() <= 1


@pytest.mark.slow
def test_the_vamp_prior_ships(tmp_path, tensorflow_only):
    import export

    model = tiny(prior="vamp", num_pseudo_inputs=6, num_classes=3)
    export.export(model, tmp_path / "artifact", progress=False)  # proves itself


ON_JAX = """
import sys
import keras, numpy as np
import kgen
from kgen.models import VAE
images, folder = np.load(sys.argv[1]), sys.argv[2]
for name in ("iwae", "vamp"):
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    logs = model.evaluate(images, return_dict=True, verbose=0)
    nll = model.negative_log_likelihood(images, importance_samples=7)
    np.savez(f"{folder}/{name}.npz", nll=nll, images=model.generate(9), **logs)
    model.compile()
    assert np.isfinite(model.fit(images, batch_size=16, epochs=1, verbose=0).history["loss"])
"""


@pytest.mark.slow
def test_the_same_figures_on_jax(tmp_path, on_jax, tensorflow_only):
    np.save(tmp_path / "images.npy", IMAGES)
    models = {
        "iwae": tiny(importance_samples=3),
        "vamp": tiny(prior="vamp", num_pseudo_inputs=5),
    }
    for name, model in models.items():
        model.compile()
        model.save(tmp_path / f"{name}.keras")
    on_jax(ON_JAX, tmp_path / "images.npy", tmp_path)
    for name, model in models.items():
        theirs = np.load(tmp_path / f"{name}.npz")
        for key, value in model.evaluate(IMAGES, return_dict=True, verbose=0).items():
            assert theirs[key] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, key)
        nll = model.negative_log_likelihood(IMAGES, importance_samples=7)
        np.testing.assert_allclose(theirs["nll"], nll, rtol=1e-5)
        assert np.abs(theirs["images"].astype(int) - model.generate(9)).max() <= 1


@pytest.mark.slow
def test_posterior_collapse_is_named_in_training():
    model = tiny(beta=1000.0)
    model.compile(learning_rate=1e-2)
    with pytest.warns(UserWarning, match="posterior collapse"):
        model.fit(IMAGES, batch_size=8, epochs=40, verbose=0)


def test_posterior_collapse_is_named():
    model = tiny()
    assert model.diagnose({"active_units": 0.0, "kl_loss": 0.0}) == []  # not yet trained
    model.training_steps.assign(200)
    (text,) = model.diagnose({"active_units": 2.0, "kl_loss": 0.1})
    assert text.startswith(
        "posterior collapse: the KL is 0.1 nats over 2 active latent units (of 4"
    )
    assert model.diagnose({"active_units": 20.0, "kl_loss": 18.0}) == []


@pytest.mark.parametrize("side, halvings", [(64, 3), (512, 6), (512, None)])
def test_a_latent_map_of_large_images_is_as_large_as_one_says(side, halvings):
    model = VAE(
        (side, side, 3),
        latent_channels=2,
        num_downsamplings=halvings,
        filters=2,
        num_blocks=0,
    )
    places = 4 if halvings is None else side // 2**halvings
    assert model.latent_shape == (places, places, 2)
    image = np.zeros((1, side, side, 3), "uint8")
    assert numpy(model(image)).shape == (1, side, side, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"likelihood": "gausian"}, "Did you mean 'gaussian'"),
        ({"binarization": "dynamc"}, "Did you mean 'dynamic'"),
        ({"variance": -1.0}, "variance"),
        ({"num_classes": 0}, "num_classes"),
        ({"latent_channels": 2}, "set latent_dim=None. Received: latent_dim=4, latent_channels=2"),
        ({"latent_dim": None, "latent_channels": 0}, "positive int. Received: latent_channels=0"),
        ({"num_downsamplings": 1}, "give latent_channels. Received: num_downsamplings=1"),
        (
            {"latent_dim": None, "latent_channels": 2, "num_downsamplings": 2},
            "num_downsamplings, 1 to 1 for these images",
        ),
        ({"image_shape": (516, 8, 1)}, "are 8 to 512 pixels"),
        ({"importance_samples": 0}, "importance_samples must be a positive int"),
        ({"importance_samples": 2.5}, "importance_samples must be a positive int"),
        ({"importance_samples": 2, "beta": 2.0}, "importance_samples=2, beta=2.0"),
        ({"importance_samples": 2, "kl_warmup_steps": 5}, "kl_warmup_steps=5"),
        ({"importance_samples": 2, "free_bits": 0.5}, "free_bits=0.5"),
        ({"prior": "vampp"}, "Did you mean 'vamp'"),
        ({"prior": "vamp", "free_bits": 0.5}, "free_bits=0.5"),
        ({"prior": "vamp", "num_pseudo_inputs": 0}, "num_pseudo_inputs"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)
