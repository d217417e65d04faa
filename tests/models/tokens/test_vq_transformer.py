import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.models import VQTransformer
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2}


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module")
def pair(first_stage):
    """Makes a small pair; `noisy` weights make every input count."""

    def make(num_classes=None, noisy=True, dtype="float32", **overrides):
        tokenizer = first_stage(**overrides)
        keras.utils.set_random_seed(0)
        model = VQTransformer((8, 8, 1), num_classes, tokenizer, dtype=dtype, **SMALL)
        if noisy:
            rng = np.random.default_rng(0)
            for weight in model.network.weights:
                weight.assign(rng.normal(size=weight.shape) * 0.3)
        return model

    return make


@pytest.fixture(scope="module")
def model(pair):
    return pair(3)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["ema", "fsq"])
def test_training_moves_the_prior_alone(pair, quantizer):
    model = pair(3, noisy=False, quantizer=quantizer, fsq_levels=(4, 4))
    before = [numpy(w).copy() for w in model.tokenizer.variables]
    model.compile(learning_rate=1e-2)
    history = model.fit(IMAGES, LABELS, batch_size=16, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for a, b in zip(before, model.tokenizer.variables, strict=True):
        np.testing.assert_array_equal(a, numpy(b))


def test_the_cached_sampler_draws_what_the_whole_network_says(pair):
    model = pair(3, num_downsamplings=2)  # 2x2 codes
    seeds, options = np.arange(9, dtype="int32"), {"temperature": 0.8, "top_k": 9}
    drawn = numpy(model.draw_codes(seeds, seeds % 3, guidance_scale=2.0, **options))
    codes = np.zeros((9, 4), "int32")
    noise = numpy(random.gumbel(seeds, (4, 16)))
    for t in range(4):
        told, free = (numpy(model.network(codes, c))[:, t] for c in (seeds % 3, 3 + 0 * seeds))
        logits = free + 2 * (told - free)
        logits[logits < np.sort(logits)[:, -9, None]] = -1e30
        codes[:, t] = (logits / np.float32(0.8) + noise[:, t]).argmax(-1)
    assert len(np.unique(codes)) > 8
    np.testing.assert_array_equal(drawn, codes.reshape(9, 2, 2))
    images = model.sample(seeds, seeds % 3, guidance_scale=2.0, **options)
    np.testing.assert_array_equal(numpy(images), numpy(model.decode(drawn)))


def test_the_prior_is_a_distribution_in_raster_order(pair):
    model = pair()
    codes = np.random.default_rng(1).integers(0, 16, (1, 4, 4)).astype("int32")
    # One copy for each place, with another code there; before them the codes as they are.
    others = codes.reshape(1, 16).repeat(17, axis=0)
    places = np.arange(16)
    others[places + 1, places] = (others[places + 1, places] + 5) % 16
    logits = numpy(model.network(others))
    changed = (logits[1:] != logits[:1]).any(-1)
    np.testing.assert_array_equal(changed, places > places[:, None])
    # The probabilities of one place, over all codes there, add up to one.
    every = codes.repeat(16, axis=0)
    every[:, 3, 3] = np.arange(16)
    totals = numpy(model.log_prob_of_codes(every))
    parts = logits[0] - np.log(np.exp(logits[0]).sum(-1, keepdims=True))
    before = parts[np.arange(15), codes.reshape(-1)[:15]].sum()
    assert np.logaddexp.reduce(totals) == pytest.approx(before, rel=1e-4)


def test_likelihood_is_prior_and_decoder(model):
    codes = model.encode(IMAGES)
    prior = -numpy(model.log_prob_of_codes(codes, LABELS))
    decoder = -numpy(model.tokenizer.log_likelihood(IMAGES, codes))
    np.testing.assert_allclose(
        model.negative_log_likelihood(IMAGES, LABELS), prior + decoder, rtol=1e-5
    )
    tensors = [ops.convert_to_tensor(x) for x in (IMAGES, LABELS, np.arange(48, dtype="int32"))]
    loss, logs = model.objective(Batch(*tensors), training=False)
    assert float(loss) == float(logs["loss"]) == pytest.approx(prior.mean(), rel=1e-5)
    assert float(logs["decoder_loss"]) == pytest.approx(decoder.mean(), rel=1e-5)
    bits = (prior + decoder).mean() / (64 * np.log(2))
    assert float(logs["bits_per_dimension"]) == pytest.approx(bits, rel=1e-5)
    # In training the class of some is hidden, and the prior alone is moved.
    trained = {id(w) for w in model.trainable_variables}
    assert trained == {id(w) for w in model.network.trainable_variables}
    before = [numpy(w).copy() for w in model.tokenizer.variables]
    hidden = np.where(numpy(random.uniform(tensors[2], (), 2)) < 0.1, 3, LABELS)
    assert (hidden == 3).any()
    expected = -numpy(model.log_prob_of_codes(codes, hidden)).mean()
    assert float(model.objective(Batch(*tensors), True)[0]) == pytest.approx(expected, rel=1e-5)
    for a, b in zip(before, model.tokenizer.variables, strict=True):
        np.testing.assert_array_equal(a, numpy(b))


def test_half_precision_sees_the_same_codes(pair):
    """The prior in bfloat16, the tokenizer in float32: the pair trains on the right codes."""
    half, full = pair(dtype="mixed_bfloat16"), pair()
    assert half.tokenizer.dtype_policy.name == "float32"
    codes = full.encode(IMAGES)
    np.testing.assert_array_equal(numpy(half.encode(IMAGES)), numpy(codes))
    nats, exact = (numpy(model.log_prob_of_codes(codes)) for model in (half, full))
    np.testing.assert_allclose(nats, exact, rtol=0.05)
