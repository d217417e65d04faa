import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen import random
from kgen.models import VQVAE, VQPixelCNN
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
SMALL = {"filters": 6, "num_layers": 1, "first_kernel_size": 3}


def numpy(x):
    return ops.convert_to_numpy(x)


def fresh(**overrides):
    keras.utils.set_random_seed(0)
    return VQVAE.from_preset("vqvae_tiny", **overrides)


def pair(num_classes=None, tokenizer=None):
    """A small pair; its weights make every input count."""
    tokenizer = tokenizer or fresh()
    model = VQPixelCNN((8, 8, 1), num_classes=num_classes, tokenizer=tokenizer, **SMALL)
    rng = np.random.default_rng(0)
    for weight in model.network.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)
    return model


@pytest.fixture(scope="module")
def model():
    """A pair of three classes that tests share: they read it alone."""
    return pair(3)


def weights(model):
    return [numpy(w).copy() for w in model.variables]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        pytest.param({"quantizer": "gradient"}, marks=pytest.mark.slow),
        pytest.param({"quantizer": "fsq", "fsq_levels": (4, 4)}, marks=pytest.mark.slow),
    ],
    ids=["ema", "gradient", "fsq"],
)
def test_training_the_prior_leaves_the_tokenizer_as_it_is(overrides):
    given = fresh(**overrides)
    model = VQPixelCNN((8, 8, 1), tokenizer=given, **SMALL)
    before = weights(model.tokenizer)
    mine = {id(v) for v in model.tokenizer.variables}
    assert not mine & {id(v) for v in model.trainable_variables}
    model.compile(learning_rate=2e-2)
    assert len(model.optimizer.variables) == 2 + 2 * len(model.network.trainable_variables)
    history = model.fit(IMAGES, batch_size=16, epochs=2, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for a, b in zip(before, weights(model.tokenizer), strict=True):
        np.testing.assert_array_equal(a, b)
    # And the one that was given is its owner's: it can go on, and the pair does not notice.
    assert given.trainable and given.encoder.trainable
    theirs = weights(given)
    for variable in given.variables:
        variable.assign(variable + ops.ones_like(variable))
    for a, b in zip(before, weights(model.tokenizer), strict=True):
        np.testing.assert_array_equal(a, b)
    for variable, value in zip(given.variables, theirs, strict=True):
        variable.assign(value)


def test_a_tokenizer_stays_frozen():
    model = pair()
    names = [v.path for v in model.trainable_variables]
    model.trainable = False
    model.trainable = True
    assert not model.tokenizer.trainable and not model.tokenizer.encoder.trainable
    assert [v.path for v in model.trainable_variables] == names
    assert "frozen" not in model.get_config()


@pytest.mark.parametrize(
    "num_classes, temperature",
    [
        (3, 0.5),
        pytest.param(3, 1.0, marks=pytest.mark.slow),
        pytest.param(None, 0.5, marks=pytest.mark.slow),
        pytest.param(None, 1.0, marks=pytest.mark.slow),
    ],
)
def test_the_cached_sampler_draws_what_the_whole_network_says(num_classes, temperature):
    model = pair(num_classes)
    seeds = np.arange(9, dtype="int32")
    labels = None if num_classes is None else seeds % 3
    drawn = numpy(model.draw_codes(seeds, labels, temperature))
    codes, size = np.zeros((9, 4, 4), "int32"), model.tokenizer.num_codes
    for row in range(4):
        noise = numpy(random.gumbel(seeds, (4, 1, size), stream=row))[:, :, 0]
        for column in range(4):
            x = 2 * codes[..., None].astype("float32") / (size - 1) - 1
            logits = numpy(model.network(x, labels))[:, row, column]
            codes[:, row, column] = (logits / temperature + noise[:, column]).argmax(-1)
    assert len(np.unique(codes)) > size / 2
    np.testing.assert_array_equal(drawn, codes)
    images = model.generate(seeds=seeds, labels=labels, temperature=temperature)
    np.testing.assert_array_equal(images, numpy(model.decode(codes)))


def test_the_prior_is_a_distribution_in_raster_order(model):
    """Codes later in raster order have no part in the probability of one before them; and a
    code's number is a name, not a level: 3 is no closer to 4 than to 15."""
    label = np.ones(1, "int32")
    codes = np.random.default_rng(1).integers(0, 16, (1, 4, 4)).astype("int32")

    def logits(codes):
        x = 2 * codes[..., None].astype("float32") / 15 - 1
        return numpy(model.network(x, label.repeat(len(x))))

    places = np.arange(16)
    others = codes.repeat(16, axis=0)  # one for each place, where it is changed
    others.reshape(16, 16)[places, places] = (codes.reshape(-1) + 5) % 16
    changed = (logits(codes) != logits(others)).any(-1).reshape(16, 16)
    assert not np.tril(changed).any()
    near = places[places % 4 < 3]  # else the next one is too far away for so few layers
    assert changed[near, near + 1].all()
    # The probabilities of one place, over all codes there, add up to one.
    ones = codes.repeat(16, axis=0)
    ones[:, 3, 3] = places
    totals = numpy(model.log_prob_of_codes(ones, label.repeat(16)))
    parts = logits(codes).reshape(16, 16)
    parts = parts - np.log(np.exp(parts).sum(-1, keepdims=True))
    before = parts[np.arange(15), codes.reshape(-1)[:15]].sum()
    assert np.logaddexp.reduce(totals) == pytest.approx(before, rel=1e-4)


def test_likelihood_is_prior_and_decoder(model):
    codes = model.encode(IMAGES)
    prior = -numpy(model.log_prob_of_codes(codes, LABELS))
    decoder = -numpy(model.tokenizer.log_likelihood(IMAGES, codes))
    nats = model.negative_log_likelihood(IMAGES, LABELS)
    np.testing.assert_allclose(nats, prior + decoder, rtol=1e-5)
    model.compile()
    logs = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(prior.mean(), rel=1e-5)
    assert logs["decoder_loss"] == pytest.approx(decoder.mean(), rel=1e-5)
    assert logs["bits_per_dimension"] == pytest.approx(nats.mean() / math.log(2) / 64, rel=1e-5)
    protocol = model.likelihood_protocol()
    assert protocol["kind"] == "bound" and protocol["discrete"]
    assert "upper bound" in protocol["protocol"]


def test_a_density_has_no_bits():
    model = pair(tokenizer=fresh(likelihood="gaussian"))
    assert "bits_per_dimension" not in model.metric_names
    assert not model.likelihood_protocol()["discrete"]
    batch = Batch(IMAGES[:4], None, LABELS[:4])
    assert set(model.objective(batch, training=False)[1]) == {"loss", "decoder_loss"}


def test_a_class_conditional_tokenizer():
    model = pair(3, fresh(num_classes=3))
    batch = Batch(IMAGES[:4], LABELS[:4], LABELS[:4])
    assert np.isfinite(numpy(model.objective(batch, training=True)[0]))
    codes = np.zeros((2, *model.tokenizer.code_shape), "int32")
    assert model.decode(codes, LABELS[:2]).shape == (2, 8, 8, 1)
    endpoint = model.endpoints()["reconstruct"]
    images = numpy(endpoint.function(image=IMAGES, label=LABELS)["image"])
    np.testing.assert_array_equal(images, numpy(model(IMAGES, LABELS)))


def test_the_pair_is_saved_and_loaded_as_one(tmp_path, model):
    """Its weights; that it draws the same images then is the zoo's promise."""
    json.dumps(model.get_config())
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for again in (
        keras.saving.load_model(tmp_path / "model.keras"),
        VQPixelCNN.from_preset(tmp_path / "preset"),
    ):
        assert not again.tokenizer.trainable_variables
        assert len(again.trainable_variables) == len(model.trainable_variables)
        for a, b in zip(weights(model), weights(again), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_tokenizer_from_a_file_or_a_preset(tmp_path):
    given = fresh()
    given.training_steps.assign(1)
    given.save(tmp_path / "tokenizer.keras")
    given.save_to_preset(tmp_path / "preset")
    for path in (tmp_path / "tokenizer.keras", str(tmp_path / "preset")):
        model = VQPixelCNN((8, 8, 1), tokenizer=path, **SMALL)
        np.testing.assert_array_equal(numpy(model.encode(IMAGES)), numpy(given.encode(IMAGES)))
        assert model.diagnose({}) == []
    untrained = VQPixelCNN((12, 8, 3), 2, tokenizer="vqvae_tiny", **SMALL)
    assert untrained.tokenizer.image_shape == (12, 8, 3) and untrained.tokenizer.num_classes == 2
    assert untrained.diagnose({})[0].startswith("untrained tokenizer:")


def in_halves():
    given = fresh(num_codes=512, dtype="mixed_bfloat16")
    return VQPixelCNN((8, 8, 1), tokenizer=given, dtype="mixed_bfloat16", **SMALL)


def test_in_mixed_precision_the_prior_sees_every_code_as_it_is(monkeypatch):
    """And the tokenizer, which is exported, is float32."""
    model = in_halves()
    assert {layer.dtype_policy.name for layer in model.tokenizer._flatten_layers()} == {"float32"}
    assert model.network.stack[0].compute_dtype == "bfloat16"
    seen, embedding = [], model.network.embedding
    monkeypatch.setattr(model.network, "embedding", lambda x: seen.append(x) or embedding(x))
    codes = np.arange(512, dtype="int32").reshape(-1, 4, 4)
    assert model.log_prob_of_codes(codes).dtype == "float32"
    np.testing.assert_array_equal(numpy(seen[0]), codes)


@pytest.mark.slow
def test_mixed_precision_trains_and_samples():
    model = in_halves()
    model.compile()
    assert np.isfinite(model.fit(IMAGES, batch_size=16, verbose=0).history["loss"]).all()
    assert model.generate(2).dtype == np.uint8


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "Received: NoneType"),
        ({"tokenizer": "nowhere.keras"}, "There is no 'nowhere.keras'"),
        ({"tokenizer": 3}, "Received: int"),
        ({"kernel_size": 4}, "odd and 3 or more.*Received: kernel_size=4"),
        ({"first_kernel_size": 1}, "odd and 3 or more.*Received: first_kernel_size=1"),
        ({"num_layers": -1}, "Received: num_layers=-1"),
        ({"tokenizer": "conditional"}, "as many classes"),
        ({"tokenizer": "conditional", "num_classes": 4}, "as many classes"),
        ({"tokenizer": "conditional", "num_classes": 3, "image_shape": (8, 4, 1)}, "tokenizer's"),
    ],
)
def test_bad_arguments(arguments, message):
    if arguments.get("tokenizer") == "conditional":
        arguments = {**arguments, "tokenizer": fresh(num_classes=3)}
    with pytest.raises(ValueError, match=message):
        VQPixelCNN(**{"image_shape": (8, 8, 1), **SMALL, **arguments})


@pytest.mark.slow
def test_digits_become_likelier():
    """The prior of a trained code book beats independent codes, and digits get likelier."""
    data = kgen.data.load("digits")
    keras.utils.set_random_seed(0)
    first = VQVAE.from_preset("vqvae_8x8", num_codes=16, filters=16)
    first.compile()
    first.fit(data.train, epochs=4, verbose=0)
    model = VQPixelCNN((8, 8, 1), tokenizer=first, filters=24, num_layers=2, first_kernel_size=3)
    model.compile()
    model.fit(data.train, epochs=4, verbose=0)
    codes = numpy(first.encode(data.train.images)).reshape(-1)
    p = np.bincount(codes, minlength=16) / codes.size
    independent = -16 * (p[p > 0] * np.log(p[p > 0])).sum()
    found = model.evaluate(data.test, return_dict=True, verbose=0)
    assert found["loss"] < 0.9 * independent


TRAIN = """
import sys
import keras, numpy as np
import kgen.models
kgen.models.registered()
model = keras.saving.load_model(sys.argv[1])
images = np.load(sys.argv[2])
before = [keras.ops.convert_to_numpy(w) for w in model.tokenizer.variables]
history = model.fit(images, batch_size=16, epochs=2, verbose=0).history
after = [keras.ops.convert_to_numpy(w) for w in model.tokenizer.variables]
assert all((a == b).all() for a, b in zip(before, after, strict=True))
np.savez(sys.argv[3], images=model.generate(5), **history)
"""


@pytest.mark.slow
def test_jax_trains_alike(tmp_path, on_jax, tensorflow_only):
    model = pair()
    model.compile()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    on_jax(TRAIN, tmp_path / "model.keras", tmp_path / "images.npy", tmp_path / "jax.npz")
    found = np.load(tmp_path / "jax.npz")
    history = model.fit(IMAGES, batch_size=16, epochs=2, verbose=0).history
    for name, values in history.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)
    assert (found["images"] == model.generate(5)).mean() > 0.99
