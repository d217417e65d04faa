import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.losses import likelihood
from kgen.models import VQVAE
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3


def tiny(**overrides):
    keras.utils.set_random_seed(0)
    return VQVAE.from_preset("vqvae_tiny", **overrides)


def numpy(x):
    return ops.convert_to_numpy(x)


def trained(epochs=3, **overrides):
    model = tiny(**overrides)
    model.compile(learning_rate=1e-2)
    labels = None if model.num_classes is None else LABELS
    history = model.fit(IMAGES, labels, batch_size=16, epochs=epochs, verbose=0).history
    return model, history


def check_both_ways(model):
    """Codes of images and images of codes, by the methods and by the endpoints."""
    codes = numpy(model.encode(IMAGES))
    assert codes.dtype == np.int32 and codes.shape == (48, *model.code_shape) == (48, 4, 4)
    assert codes.min() >= 0 and codes.max() < model.num_codes and len(np.unique(codes)) > 4
    images = numpy(model.decode(codes, LABELS))
    assert images.dtype == np.uint8 and images.shape == IMAGES.shape
    np.testing.assert_array_equal(images, numpy(model(IMAGES, LABELS)))
    assert (images != numpy(model.decode(codes, (LABELS + 1) % 3))).any()
    endpoints = model.endpoints()
    found = numpy(endpoints["encode"].function(image=IMAGES)["codes"])
    np.testing.assert_array_equal(found, codes)
    rebuilt = endpoints["reconstruct"].function(image=IMAGES, label=LABELS)["image"]
    np.testing.assert_array_equal(numpy(rebuilt), images)


VIT = {"network": "vit", "dim": 16, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("network", [{}, VIT], ids=["convolutional", "vit"])
@pytest.mark.parametrize("quantizer", ["ema", "gradient", "fsq"])
def test_every_quantizer_encodes_and_decodes(first_stage, quantizer, network):
    model = first_stage(quantizer=quantizer, fsq_levels=(5, 4), num_classes=3, **network)
    assert model.num_codes == (20 if quantizer == "fsq" else 16)
    check_both_ways(model)


@pytest.mark.parametrize(
    ("quantizer", "network"),
    [
        ("gradient", {}),
        pytest.param("ema", {}, marks=pytest.mark.slow),
        pytest.param("fsq", {}, marks=pytest.mark.slow),
        pytest.param("ema", VIT, marks=pytest.mark.slow),
        pytest.param("fsq", VIT, marks=pytest.mark.slow),
    ],
)
def test_every_quantizer_trains(quantizer, network):
    model, history = trained(8, quantizer=quantizer, fsq_levels=(5, 4), num_classes=3, **network)
    assert history["loss"][-1] < history["loss"][0]
    assert (history["commitment_loss"][-1] == 0) == (quantizer == "fsq")
    assert 0 < history["codes_used"][-1] <= 1
    check_both_ways(model)


def test_sizes_and_optimizer_of_vision_transformers():
    assert tiny(**VIT).default_optimizer().global_clipnorm == 1.0
    assert tiny().default_optimizer().global_clipnorm is None
    assert VQVAE.from_preset("vqvae_vit_28x28", **VIT).code_shape == (7, 7)


def test_losses_against_their_formulas(first_stage):
    model = first_stage()
    batch = Batch(ops.convert_to_tensor(IMAGES), None, kgen.random.row_seeds(5, 48))
    loss, logs = model.objective(batch, training=False)
    logs = {name: float(value) for name, value in logs.items()}
    z = numpy(model.encoder(IMAGES / np.float32(127.5) - 1))
    codes = numpy(model.encode(IMAGES))
    quantized = numpy(model.quantizer.codebook)[codes]
    outputs = numpy(model.decoder([quantized]))
    nats = -numpy(
        likelihood.discretized_logistic(IMAGES / np.float32(127.5) - 1, outputs, model.log_scale)
    )
    np.testing.assert_allclose(-numpy(model.log_likelihood(IMAGES, codes)), nats, rtol=1e-4)
    commitment = 0.25 * ((z - quantized) ** 2).sum((1, 2, 3)).mean()
    assert logs["reconstruction_loss"] == pytest.approx(nats.mean(), rel=1e-4)
    assert logs["commitment_loss"] == pytest.approx(commitment, rel=1e-3)
    assert float(loss) == logs["loss"] == pytest.approx(nats.mean() + commitment, rel=1e-4)
    p = np.bincount(codes.reshape(-1)) / codes.size
    p = p[p > 0]
    assert logs["perplexity"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "gaussian"])
def test_losses_of_every_likelihood(first_stage, name):
    model = first_stage(likelihood=name)
    batch = Batch(ops.convert_to_tensor(IMAGES), None, kgen.random.row_seeds(5, 48))
    logs = model.objective(batch, training=True)[1]
    images = model.binarize(batch)
    nats = -numpy(model.log_likelihood(images, model.encode(images))).mean()
    assert float(logs["reconstruction_loss"]) == pytest.approx(nats, rel=1e-4)
    assert float(logs["loss"]) == pytest.approx(nats + float(logs["commitment_loss"]), rel=1e-4)
    assert numpy(model.sample(np.arange(2, dtype="int32"))).shape == (2, 8, 8, 1)


@pytest.mark.parametrize("quantizer", ["ema", "gradient"])
def test_evaluation_changes_no_code(first_stage, quantizer):
    model = first_stage(quantizer=quantizer)
    before = [numpy(w).copy() for w in model.quantizer.weights]
    model.test_update(Batch(ops.convert_to_tensor(IMAGES), None, kgen.random.row_seeds(5, 48)))
    for a, b in zip(before, model.quantizer.weights, strict=True):
        np.testing.assert_array_equal(a, numpy(b))


def test_a_training_step_updates_the_codes_once():
    """The code book after a step is what `update` makes of the encoder's outputs before it."""
    model = tiny(restart_threshold=0.0)
    model.compile()
    again = tiny(restart_threshold=0.0)
    np.testing.assert_array_equal(numpy(model.quantizer.codebook), numpy(again.quantizer.codebook))
    model.fit(IMAGES[:16], batch_size=16, epochs=1, shuffle=False, verbose=0)
    features = again.encoder(IMAGES[:16] / np.float32(127.5) - 1)
    seeds = kgen.random.row_seeds(0, 16)
    again.quantizer.update(features, again.quantizer(features)[1], seeds)
    for ours, theirs in zip(model.quantizer.weights, again.quantizer.weights, strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "gaussian"])
def test_every_likelihood_trains(name):
    model, history = trained(8, likelihood=name)
    assert history["reconstruction_loss"][-1] < history["reconstruction_loss"][0]
    assert model.generate(2).shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_digits_use_the_whole_code_book():
    data = kgen.data.load("digits")
    keras.utils.set_random_seed(0)
    model = VQVAE.from_preset("vqvae_8x8", num_codes=32, filters=16)
    model.compile()
    history = model.fit(data.train, epochs=4, verbose=0).history
    assert history["codes_used"][-1] >= 0.9
    assert history["perplexity"][-1] >= 8
    codes = numpy(model.encode(data.test.images))
    assert len(np.unique(codes)) >= 0.9 * 32
    error = np.abs(data.test.images - numpy(model(data.test.images)).astype(float)).mean()
    constant = np.abs(data.test.images - data.train.images.mean(0)).mean()
    assert error < 0.7 * constant


def test_collapse_is_named():
    model = tiny(num_codes=64)
    assert model.diagnose({"codes_used": 0.0}) == []  # not yet trained
    model.training_steps.assign(1000)
    (text,) = model.diagnose({"codes_used": 0.2})
    assert (
        text.startswith("codebook collapse: 20 % of the 64 codes") and "smaller num_codes" in text
    )
    assert model.diagnose({"codes_used": 0.9}) == []
    fsq = tiny(quantizer="fsq")
    fsq.training_steps.assign(1000)
    assert "fsq_levels" in fsq.diagnose({"codes_used": 0.1})[0]


@pytest.mark.slow
def test_collapse_is_found_in_training():
    model = tiny(num_codes=64, restart_threshold=0.0)
    model.compile()
    stripes = np.zeros((48, 8, 8, 1), "uint8")
    stripes[:24] = 255
    with pytest.warns(UserWarning, match="codebook collapse.* of the 64 codes"):
        model.fit(stripes, batch_size=4, epochs=20, verbose=0)


@pytest.mark.parametrize(
    "shape, downsamplings, codes",
    [
        ((8, 8, 1), 2, (2, 2)),
        ((12, 20, 3), 2, (3, 5)),
        ((6, 5, 4), 0, (6, 5)),
        ((28, 28, 1), 2, (7, 7)),
    ],
)
def test_shapes(shape, downsamplings, codes):
    model = tiny(image_shape=shape, num_downsamplings=downsamplings, num_blocks=1)
    assert model.code_shape == codes
    assert numpy(model.sample(np.arange(2, dtype="int32"))).shape == (2, *shape)
    assert numpy(model.encode(np.zeros((2, *shape), "uint8"))).shape == (2, *codes)


def test_every_argument_is_in_the_config_and_survives_saving(tmp_path):
    arguments = {
        "image_shape": (12, 8, 3),
        "num_classes": 5,
        "quantizer": "gradient",
        "num_codes": 11,
        "fsq_levels": (3, 4),
        "embedding_dim": 3,
        "filters": 6,
        "num_downsamplings": 2,
        "num_blocks": 1,
        "network": "vit",
        "dim": 24,
        "num_layers": 2,
        "num_heads": 3,
        "commitment": 0.5,
        "ema_decay": 0.9,
        "restart_threshold": 0.25,
        "likelihood": "bernoulli",
        "binarization": "threshold",
        "encoder": None,  # one that is given: tests/models/test_given_networks.py
        "decoder": None,
        "seed": 11,
    }
    signature = inspect.signature(VQVAE).parameters
    assert set(arguments) == set(signature) - {"self", "kwargs"}
    model = VQVAE(**arguments)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    config = json.loads(json.dumps(again.get_config()))
    assert {name: config[name] for name in arguments} == json.loads(json.dumps(arguments))
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 8, 3), "uint8")
    np.testing.assert_array_equal(numpy(again.encode(images)), numpy(model.encode(images)))
    seeds, labels = np.arange(4, dtype="int32"), np.full(4, 2, "int32")
    drawn = (numpy(m.sample(seeds, labels)) for m in (again, model))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantizer": "emma"}, "Did you mean 'ema'"),
        ({"network": "vitt"}, "Did you mean 'vit'"),
        ({"network": "vit", "num_heads": 3}, "num_heads must divide dim"),
        ({"network": "vit", "num_layers": 0}, "positive int. Received: num_layers=0"),
        ({"likelihood": "gausian"}, "Did you mean 'gaussian'"),
        ({"binarization": "dynamc"}, "Did you mean 'dynamic'"),
        ({"num_codes": 1}, "num_codes"),
        ({"num_downsamplings": -1}, "int of 0 or more. Received: num_downsamplings=-1"),
        ({"embedding_dim": 0}, "positive int. Received: embedding_dim=0"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"restart_threshold": 1.5}, "restart_threshold"),
        ({"quantizer": "fsq", "fsq_levels": (8, 1)}, "levels"),
        ({"image_shape": (9, 8, 1)}, "divide by 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


TRAIN = """
import sys
import keras, numpy as np
import kgen.models
kgen.models.registered()
model = keras.saving.load_model(sys.argv[1])
images = np.load(sys.argv[2])
history = model.fit(images, batch_size=16, epochs=2, verbose=0).history
codes = keras.ops.convert_to_numpy(model.encode(images))
weights = [keras.ops.convert_to_numpy(w) for w in model.quantizer.weights]
np.savez(sys.argv[3], codes=codes, images=model.generate(5), *weights, **history)
"""


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["gradient", "fsq"])  # the zoo's tests have the other
def test_jax_trains_alike(quantizer, tmp_path, on_backend, tensorflow_only):
    model = tiny(quantizer=quantizer)
    model.compile()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    paths = tmp_path / "model.keras", tmp_path / "images.npy"
    results = []
    for backend in ("tensorflow", "jax"):
        on_backend(backend, TRAIN, *paths, tmp_path / f"{backend}.npz")
        results.append(np.load(tmp_path / f"{backend}.npz"))
    ours, theirs = results
    for name in ours.files:
        if name in ("codes", "images"):
            difference = np.abs(ours[name].astype(int) - theirs[name])
            assert (difference == 0).mean() > 0.99, name
        else:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4, err_msg=name)
