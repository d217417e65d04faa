import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.layers.conditioning import hide_labels
from kgen.models import VQVAE, VQTransformer

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2}


def numpy(x):
    return ops.convert_to_numpy(x)


def pair(num_classes=None, noisy=True, dtype="float32", **overrides):
    """A small pair; `noisy` weights make every input count."""
    keras.utils.set_random_seed(0)
    tokenizer = VQVAE.from_preset("vqvae_tiny", **overrides)
    tokenizer.compile()
    tokenizer.fit(IMAGES, batch_size=16, epochs=1, verbose=0)
    model = VQTransformer((8, 8, 1), num_classes, tokenizer, dtype=dtype, **SMALL)
    if noisy:
        rng = np.random.default_rng(0)
        for weight in model.network.weights:
            weight.assign(rng.normal(size=weight.shape) * 0.3)
    return model


@pytest.mark.parametrize("quantizer", ["ema", "fsq"])
def test_training_moves_the_prior_alone(quantizer):
    model = pair(3, noisy=False, quantizer=quantizer, fsq_levels=(4, 4))
    before = [numpy(w).copy() for w in model.tokenizer.variables]
    model.compile(learning_rate=1e-2)
    history = model.fit(IMAGES, LABELS, batch_size=16, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for a, b in zip(before, model.tokenizer.variables, strict=True):
        np.testing.assert_array_equal(a, numpy(b))


def test_the_cached_sampler_draws_what_the_whole_network_says():
    model = pair(3)
    seeds = np.arange(9, dtype="int32")
    drawn = numpy(model.draw_codes(seeds, seeds % 3, temperature=0.8))
    codes = np.zeros((9, 16), "int32")
    noise = numpy(random.gumbel(seeds, (16, 16)))
    for t in range(16):
        logits = numpy(model.network(codes, seeds % 3))[:, t]
        codes[:, t] = (logits / 0.8 + noise[:, t]).argmax(-1)
    assert len(np.unique(codes)) > 8
    np.testing.assert_array_equal(drawn, codes.reshape(9, 4, 4))
    images = model.generate(seeds=seeds, labels=seeds % 3, temperature=0.8)
    np.testing.assert_array_equal(images, numpy(model.decode(drawn)))


def test_guidance_and_greedy_choice():
    model = pair(3)
    seeds = np.arange(9, dtype="int32")

    def draw(labels, **options):
        return model.generate(seeds=seeds, labels=labels, **options)

    free = draw(0, guidance_scale=0.0)
    np.testing.assert_array_equal(free, draw(2, guidance_scale=0.0))
    np.testing.assert_array_equal(draw(1), draw(1, guidance_scale=1.0))
    assert (draw(1, guidance_scale=4.0) != draw(1)).any()
    greedy = draw(1, top_k=1)
    assert (greedy == greedy[:1]).all()


def test_the_prior_is_a_distribution_in_raster_order():
    model = pair()
    codes = np.random.default_rng(1).integers(0, 16, (1, 4, 4)).astype("int32")

    def logits(codes):
        return numpy(model.network(codes.reshape(1, 16)))[0]

    for place in range(16):
        other = codes.copy()
        other.reshape(-1)[place] = (other.reshape(-1)[place] + 5) % 16
        changed = (logits(codes) != logits(other)).any(-1)
        np.testing.assert_array_equal(changed, np.arange(16) > place)
    # The probabilities of one place, over all codes there, add up to one.
    totals = []
    for code in range(16):
        one = codes.copy()
        one[0, 3, 3] = code
        totals.append(float(model.log_prob_of_codes(one)[0]))
    parts = logits(codes)
    parts = parts - np.log(np.exp(parts).sum(-1, keepdims=True))
    before = parts[np.arange(15), codes.reshape(-1)[:15]].sum()
    assert np.logaddexp.reduce(totals) == pytest.approx(before, rel=1e-4)


def test_likelihood_is_prior_and_decoder():
    model = pair(3)
    codes = model.encode(IMAGES)
    prior = -numpy(model.log_prob_of_codes(codes, LABELS))
    decoder = -numpy(model.tokenizer.log_likelihood(IMAGES, codes))
    np.testing.assert_allclose(
        model.negative_log_likelihood(IMAGES, LABELS), prior + decoder, rtol=1e-5
    )
    model.compile()
    logs = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(prior.mean(), rel=1e-5)


def test_hidden_labels():
    seeds = np.arange(20_000, dtype="int32")
    labels = np.full(20_000, 1, "int32")
    hidden = numpy(hide_labels(labels, seeds, 0.1, 3))
    assert set(hidden) == {1, 3}
    assert abs((hidden == 3).mean() - 0.1) < 4 * np.sqrt(0.09 / 20_000)
    assert hide_labels(None, seeds, 0.1, 3) is None
    assert hide_labels(labels, seeds, 0.0, 3) is labels


def test_half_precision_sees_the_same_codes():
    """The prior in bfloat16, the tokenizer in float32: the pair trains on the right codes."""
    half, full = pair(dtype="mixed_bfloat16"), pair()
    assert half.tokenizer.dtype_policy.name == "float32"
    np.testing.assert_array_equal(numpy(half.encode(IMAGES)), numpy(full.encode(IMAGES)))
    nats, exact = half.negative_log_likelihood(IMAGES), full.negative_log_likelihood(IMAGES)
    np.testing.assert_allclose(nats, exact, rtol=0.05)


def test_the_pair_is_saved_and_loaded_as_one(tmp_path):
    model = pair(3)
    model.compile()
    model.save(tmp_path / "pair.keras")
    loaded = keras.saving.load_model(tmp_path / "pair.keras")
    images = loaded.generate(4, labels=2)
    np.testing.assert_array_equal(images, model.generate(4, labels=2))
