import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.models import LadderVAE
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), "uint8")
BINARY = 255 * (IMAGES > 127.5).astype("uint8")
LABELS = np.arange(24, dtype="int32") % 3
INFERENCES = ("bidirectional", "precision_weighted")


def tiny(randomised=True, **overrides):
    """A tiny model; its statistics, which begin at zero, are random unless that is not wanted."""
    keras.utils.set_random_seed(0)
    model = LadderVAE.from_preset("ladder_vae_tiny", **{"binarization": "threshold", **overrides})
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if randomised and not numpy(weight).any():
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def batch(labels=None):
    labels = None if labels is None else ops.convert_to_tensor(labels)
    return Batch(ops.convert_to_tensor(IMAGES), labels, kgen.random.row_seeds(5, 24))


def noise_of(model, seeds, stream=0):
    return kgen.random.normal(seeds, (model.noise_dim,), stream=stream)


def normal_log_density(x, mean, log_variance):
    squared = (x - mean) ** 2 / np.exp(log_variance)
    return -0.5 * (squared + log_variance + np.log(2 * np.pi))


def statistics(outputs):
    mean, log_variance = np.split(numpy(outputs), 2, axis=-1)
    return mean, 5 * np.tanh(log_variance / 5)


def centred(model, noise, images=None, labels=None):
    """The way down in the latent variables themselves, which the model counts from the prior.

    Returns the outputs, and of every group the latent variables and mean and log-variance of
    prior and posterior; drawn from the prior without images.
    """
    one_hot = [] if labels is None else [ops.one_hot(labels, 3)]
    noise, start = numpy(noise), 0
    groups, features, x = [], None, None
    if images is not None:
        features = model.way_up([ops.cast(images, "float32") * (2 / 255) - 1, *one_hot])
    for group, shape in enumerate(model.latent_shapes):
        size = int(np.prod(shape))
        e = noise[:, start : start + size].reshape(-1, *shape)
        start += size
        if group == 0:
            prior = (np.zeros_like(e), np.zeros_like(e))
        else:
            prior = statistics(model.priors[group - 1](x))
        posterior = prior
        if features is not None and group == 0:
            posterior = statistics(features[0])
        elif features is not None:
            feature = features[1 + (group - 1) // model.num_groups]
            if model.inference == "bidirectional":
                mean, log_variance = statistics(model.posteriors[group - 1]([x, feature]))
                mean = prior[0] + np.exp(prior[1] / 2) * mean
                posterior = mean, prior[1] + log_variance
            else:  # Sonderby et al., equations 10 to 12
                mean, log_variance = statistics(model.posteriors[group - 1](feature))
                precisions = np.exp(-log_variance), np.exp(-prior[1])
                variance = 1 / (precisions[0] + precisions[1])
                mean = (mean * precisions[0] + prior[0] * precisions[1]) * variance
                posterior = mean, np.log(variance)
        z = posterior[0] + np.exp(posterior[1] / 2) * e
        groups.append((z, prior, posterior))
        latents = ops.cast(z, "float32")
        if group == 0:
            x = model.top([latents, *one_hot])
        else:
            x = model.merges[group - 1]([x, latents])
            if group % model.num_groups == 0 and group + 1 < len(model.latent_shapes):
                x = model.upsamplings[group // model.num_groups - 1](x)
    return numpy(model.to_image(x)), groups


def log_bernoulli(images, logits):
    p = 1 / (1 + np.exp(-logits))
    return np.where(images > 0, np.log(p), np.log(1 - p)).sum((1, 2, 3))


def log_weight(model, noise, images, labels=None):
    """log p(x, z) - log q(z|x), `[B]`, and its second part, with every density written out."""
    logits, groups = centred(model, noise, images, labels)
    ratio = 0
    for z, prior, posterior in groups:
        densities = normal_log_density(z, *posterior) - normal_log_density(z, *prior)
        ratio = ratio + densities.reshape(len(z), -1).sum(1)
    return log_bernoulli(images, logits) - ratio, ratio


def kl_of(groups):
    """The KL divergence of normals, group by group, `[B]`."""
    total = 0
    for _, (mean, log_variance), (other, other_log_variance) in groups:
        ratio = np.exp(other_log_variance - log_variance)
        kl = ratio + (other - mean) ** 2 / np.exp(log_variance) - 1 - np.log(ratio)
        total = total + 0.5 * kl.reshape(len(kl), -1).sum(1)
    return total


CASES = [
    {"inference": inference, "num_groups": num_groups, "num_classes": num_classes}
    for inference, num_groups, num_classes in zip(INFERENCES, (1, 2), (3, None), strict=True)
]


@pytest.fixture(params=CASES, ids=lambda case: case["inference"], scope="module")
def case(request):
    labels = None if request.param["num_classes"] is None else LABELS
    return tiny(**request.param), labels


def test_elbo_against_numpy(case):
    model, labels = case
    rows = batch(labels)
    loss, logs = model.objective(rows, training=False)
    logits, groups = centred(model, noise_of(model, rows.seeds), BINARY, labels)
    reconstruction, kl = -log_bernoulli(BINARY, logits).mean(), kl_of(groups).mean()
    assert kl > 1
    assert float(numpy(logs["reconstruction_loss"])) == pytest.approx(reconstruction, rel=1e-5)
    assert float(numpy(logs["kl_loss"])) == pytest.approx(kl, rel=1e-4)
    assert float(numpy(loss)) == pytest.approx(reconstruction + kl, rel=1e-5)


@pytest.mark.slow
def test_importance_weights_against_numpy(case):
    model, labels = case
    seeds = kgen.random.row_seeds(0, 24)
    weights = [
        log_weight(model, noise_of(model, seeds, 16 + k), BINARY, labels)[0] for k in range(5)
    ]
    expected = np.log(5) - np.logaddexp.reduce(weights, axis=0)
    for at_once in (1, 2):
        result = model.negative_log_likelihood(
            IMAGES, labels, importance_samples=5, batch_size=10, samples_at_once=at_once
        )
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_importance_weighted_objective_against_numpy(case, monkeypatch):
    model, labels = case
    monkeypatch.setattr(model, "importance_samples", 3)
    rows = batch(labels)
    pairs = [
        log_weight(model, noise_of(model, rows.seeds, 16 + k), BINARY, labels) for k in range(3)
    ]
    weights, ratios = zip(*pairs, strict=True)
    loss, logs = model.objective(rows, training=True)
    expected = np.log(3) - np.logaddexp.reduce(weights, axis=0).mean()
    assert float(numpy(loss)) == pytest.approx(expected, rel=1e-5)
    assert float(numpy(logs["kl_loss"])) == pytest.approx(np.mean(ratios), rel=1e-4)


def test_kl_against_monte_carlo():
    model = tiny()
    n = 4000
    images = ops.convert_to_tensor(BINARY[:1].repeat(n, axis=0))
    noise = noise_of(model, kgen.random.row_seeds(1, n))
    posterior = model.infer(images)
    exact = numpy(model.evidence(posterior, (), noise, exact=True)[1])
    estimate = numpy(model.evidence(posterior, (), noise, exact=False)[1])
    assert exact.shape == estimate.shape == (n, 4 + 2)
    error = (exact - estimate).std(0) / np.sqrt(n)
    assert (np.abs(exact.mean(0) - estimate.mean(0)) < 4 * error).all()
    assert (np.abs(exact.mean(0)) > 20 * error).any()  # the comparison is worth something


@pytest.mark.slow
def test_bound_tightens_with_the_samples():
    model = tiny()
    one, ten, many = (
        model.negative_log_likelihood(IMAGES, importance_samples=k).mean() for k in (1, 10, 200)
    )
    assert one > ten + 0.1 > many + 0.2


def test_decoding_normal_noise_is_sampling(case):
    model, labels = case
    seeds = kgen.random.row_seeds(3, 24)
    labels = None if labels is None else labels[:24]
    noise = noise_of(model, seeds)
    images = numpy(model.sample(seeds, labels))
    np.testing.assert_array_equal(numpy(model.decode(noise, labels)), images)
    logits, _ = centred(model, noise, labels=labels)
    levels = 255 / (1 + np.exp(-logits))
    assert np.abs(levels - images).max() < 0.51


def test_encode_gives_the_posterior_along_its_means(case):
    model, labels = case
    mean, log_variance = (numpy(x) for x in model.encode(IMAGES, labels))
    assert mean.shape == log_variance.shape == (24, model.noise_dim)
    _, groups = centred(model, np.zeros((24, model.noise_dim)), IMAGES, labels)
    expected = (
        [((q[0] - p[0]) / np.exp(p[1] / 2)).reshape(24, -1) for _, p, q in groups],
        [(q[1] - p[1]).reshape(24, -1) for _, p, q in groups],
    )
    np.testing.assert_allclose(mean, np.concatenate(expected[0], axis=1), atol=1e-4)
    np.testing.assert_allclose(log_variance, np.concatenate(expected[1], axis=1), atol=1e-4)
    reconstructed = numpy(model(IMAGES, labels))
    logits, _ = centred(model, np.zeros((24, model.noise_dim)), IMAGES, labels)
    assert np.abs(255 / (1 + np.exp(-logits)) - reconstructed).max() < 0.51


def test_warmup_and_free_bits_count_whole_feature_maps():
    plain = tiny()
    arguments = {"kl_warmup_steps": 0, "free_bits": 0.0}
    assert {name: getattr(plain, name) for name in arguments} == arguments
    logs = {k: float(numpy(v)) for k, v in plain.objective(batch(), training=True)[1].items()}
    reconstruction, kl = logs["reconstruction_loss"], logs["kl_loss"]
    assert logs["loss"] == pytest.approx(reconstruction + kl, rel=1e-6)
    assert logs["active_units"] == 4 + 2

    def loss(steps=0, **changed):
        for name, value in {**arguments, **changed}.items():
            setattr(plain, name, value)
        plain.training_steps.assign(steps)
        return float(numpy(plain.objective(batch(), training=True)[0]))

    assert loss(25, kl_warmup_steps=100) == pytest.approx(reconstruction + 0.25 * kl, rel=1e-5)
    # 4 dimensions at the top and 2 feature maps, each under 50 nats.
    assert loss(free_bits=50.0) == pytest.approx(reconstruction + 6 * 50, rel=1e-5)
    fresh = tiny(randomised=False).objective(batch(), training=True)[1]
    assert float(numpy(fresh["kl_loss"])) == float(numpy(fresh["active_units"])) == 0


def test_log_variances_stay_bounded():
    model = tiny()
    for weight in model.trainable_variables:
        weight.assign(100 * numpy(weight))
    log_variance = numpy(model.encode(IMAGES)[1])
    assert np.abs(log_variance).max() == pytest.approx(5)
    assert np.isfinite(float(numpy(model.objective(batch(), training=False)[0])))


def test_a_step_lowers_the_loss(check_training):
    model = tiny(randomised=False, inference="precision_weighted", likelihood="gaussian")
    check_training(model, IMAGES // 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"likelihood": "gaussian", "inference": "precision_weighted"},
        {"likelihood": "discretized_logistic", "num_groups": 2},
        {"binarization": "dynamic", "importance_samples": 2},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
def test_it_trains_conditionally_at_a_high_learning_rate(arguments):
    model = tiny(randomised=False, num_classes=3, **arguments)
    model.compile(learning_rate=2e-2)
    history = model.fit(IMAGES, LABELS, batch_size=8, epochs=15, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]
    assert (model.generate(seeds=[3], labels=0) != model.generate(seeds=[3], labels=1)).any()


@pytest.mark.parametrize("shape", [(12, 20, 3), (32, 16, 4), (100, 8, 1)])
def test_shapes(shape):
    model = tiny(image_shape=shape)
    assert model.sample(np.arange(2, dtype="int32")).shape == (2, *shape)
    assert numpy(model(np.zeros((2, *shape), "uint8"))).shape == (2, *shape)


def test_latent_variables_of_the_28x28_preset():
    model = LadderVAE.from_preset("ladder_vae_28x28", filters=4, units=8)
    sides = {shape[0] for shape in model.latent_shapes[1:]}
    assert sides == {7, 14} and len(model.latent_shapes[0]) == 1


def test_every_argument_is_in_the_config_and_survives_saving(check_saving):
    arguments = {
        "image_shape": (12, 8, 3),
        "num_classes": 5,
        "latent_dim": 3,
        "latent_channels": 2,
        "num_groups": 2,
        "filters": 6,
        "num_blocks": 0,
        "units": 7,
        "inference": "precision_weighted",
        "likelihood": "gaussian",
        "binarization": "none",
        "variance": 0.25,
        "beta": 0.5,
        "kl_warmup_steps": 9,
        "free_bits": 0.125,
        "importance_samples": 1,
        "seed": 11,
    }
    check_saving(LadderVAE, arguments)


ON_JAX = """
import sys
import keras, numpy as np
import kgen.models
kgen.models.registered()
images, folder = np.load(sys.argv[1]), sys.argv[2]
model = keras.saving.load_model(f"{folder}/model.keras")
logs = model.evaluate(images, return_dict=True, verbose=0)
nll = model.negative_log_likelihood(images, importance_samples=7)
np.savez(f"{folder}/jax.npz", nll=nll, images=model.generate(9), **logs)
assert np.isfinite(model.fit(images, batch_size=8, epochs=1, verbose=0).history["loss"])
"""


@pytest.mark.slow
def test_the_same_figures_on_jax(tmp_path, on_jax, tensorflow_only):
    np.save(tmp_path / "images.npy", IMAGES)
    model = tiny(num_groups=2)
    model.compile()
    model.save(tmp_path / "model.keras")
    on_jax(ON_JAX, tmp_path / "images.npy", tmp_path)
    theirs = np.load(tmp_path / "jax.npz")
    for key, value in model.evaluate(IMAGES, return_dict=True, verbose=0).items():
        assert theirs[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    nll = model.negative_log_likelihood(IMAGES, importance_samples=7)
    np.testing.assert_allclose(theirs["nll"], nll, rtol=1e-5)
    assert np.abs(theirs["images"].astype(int) - model.generate(9)).max() <= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image_shape": (7, 8, 1)}, "LadderVAE takes images whose sides divide by 4"),
        ({"inference": "bidirectionl"}, "Did you mean 'bidirectional'"),
        ({"num_groups": 0}, "positive int. Received: num_groups=0"),
        ({"latent_channels": "two"}, "positive int. Received: latent_channels='two'"),
        ({"num_blocks": -1}, "int of 0 or more. Received: num_blocks=-1"),
        ({"likelihood": "gausian"}, "Did you mean 'gaussian'"),
        ({"importance_samples": 2, "free_bits": 0.5}, "free_bits=0.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)
