import functools

import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.models import VQVAE, MaskGIT
from kgen.models.tokens.maskgit import ranks
from kgen.training.step import Batch

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
SEEDS = np.arange(12, dtype="int32")
SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2}


def numpy(x):
    return ops.convert_to_numpy(x)


@functools.cache
def tokenizer(num_codes):
    """Trained once: a model takes a copy."""
    keras.utils.set_random_seed(0)
    tokenizer = VQVAE.from_preset("vqvae_tiny", num_codes=num_codes)
    tokenizer.compile()
    tokenizer.fit(IMAGES, batch_size=16, epochs=1, verbose=0)
    return tokenizer


def pair(num_classes=None, noisy=True, num_codes=16, dtype="float32", **overrides):
    """A small pair of 4x4 codes; `noisy` weights make every input count."""
    arguments = {"dtype": dtype, **SMALL, **overrides}
    first_stage = tokenizer(num_codes)
    keras.utils.set_random_seed(0)
    model = MaskGIT((8, 8, 1), num_classes, first_stage, **arguments)
    if noisy:
        rng = np.random.default_rng(0)
        for weight in model.network.weights:
            weight.assign(numpy(weight) + rng.normal(size=weight.shape) * 0.3)
    return model


@pytest.fixture(scope="module")
def model():
    return pair(3)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def draw_by_hand(
    model,
    labels,
    known=None,
    mask=None,
    num_steps=8,
    temperature=1.0,
    choice_temperature=4.5,
    top_k=None,
    guidance_scale=1.0,
):
    """Section 3.2 of the paper, image by image: codes `[B, N]`."""
    num_codes, length = model.num_codes, model.network.length
    codes = np.full((len(SEEDS), length), num_codes)
    if known is not None:
        codes[mask] = known[mask]
    begun = (codes == num_codes).sum(axis=1)
    for t in range(num_steps):
        logits = numpy(model.network(codes, labels))
        if guidance_scale != 1:
            free = numpy(model.network(codes, np.full_like(labels, 3)))
            logits = free + np.float32(guidance_scale) * (logits - free)
        noise = numpy(random.gumbel(SEEDS, (length, num_codes), 2 * t + 2))
        choice = numpy(random.gumbel(SEEDS, (length,), 2 * t + 3))
        for i, row in enumerate(codes):
            unknown = np.flatnonzero(row == num_codes)
            likely = logits[i] / np.float32(temperature)
            if top_k:
                likely = np.where(likely < np.sort(likely)[:, -top_k, None], -np.inf, likely)
            drawn = (likely + noise[i]).argmax(-1)
            row[unknown] = drawn[unknown]
            sure = log_softmax(logits[i])[np.arange(length), drawn]
            sure = sure + choice_temperature * (1 - (t + 1) / num_steps) * choice[i]
            left = max(1, int(begun[i] * np.cos(np.pi / 2 * (t + 1) / num_steps)))
            left = min(left, len(unknown) - 1) if t + 1 < num_steps else 0
            row[unknown[np.argsort(sure[unknown])][: max(left, 0)]] = num_codes
    return codes


CASES = {
    "as it is": {},
    "5 steps": {"num_steps": 5},
    "more steps than codes": {"num_steps": 20},
    "sharp": {"temperature": 0.7, "choice_temperature": 0.0},
    "top_k": {"top_k": 3},
    "guided": {"guidance_scale": 3.0, "num_steps": 6},
}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_the_sampler_draws_what_the_paper_says(model, options, known):
    labels, given = SEEDS % 3, {}
    if known:
        rng = np.random.default_rng(1)
        mask = rng.random((len(SEEDS), 16)) < np.linspace(0, 1, len(SEEDS))[:, None]
        assert mask[-1].all() and not mask[0].any()
        given = {"known": rng.integers(0, 16, mask.shape).astype("int32"), "mask": mask}
    drawn = numpy(model.draw_codes(SEEDS, labels, **given, **options))
    assert drawn.dtype == "int32" and drawn.shape == (12, 4, 4)
    codes = draw_by_hand(model, labels, **given, **options)
    np.testing.assert_array_equal(drawn.reshape(12, 16), codes)
    assert drawn.max() < 16 and len(np.unique(drawn)) > 4
    if known:
        np.testing.assert_array_equal(drawn.reshape(12, 16)[mask], given["known"][mask])


def test_one_step_draws_each_code_by_itself(model):
    logits = model.network(np.full((12, 16), 16), SEEDS % 3)
    codes = numpy(random.categorical(logits, random.gumbel(SEEDS, (16, 16), 2)))
    images = model.generate(seeds=SEEDS, labels=SEEDS % 3, num_steps=1)
    np.testing.assert_array_equal(images, numpy(model.decode(codes.reshape(12, 4, 4), None)))


def test_the_number_of_steps_may_change():
    model = pair()
    by_steps = [model.generate(seeds=SEEDS, num_steps=steps) for steps in (4, 8, 4)]
    np.testing.assert_array_equal(by_steps[0], by_steps[2])
    for steps, images in zip((4, 8), by_steps[:2], strict=True):
        np.testing.assert_array_equal(pair().generate(seeds=SEEDS, num_steps=steps), images)
    assert (by_steps[0] != by_steps[1]).any()


def test_many_codes_are_drawn_in_groups():
    model = pair(3, num_codes=64, qk_norm=True, mlp="swiglu", norm="rms", rotary=False)
    drawn = numpy(model.draw_codes(SEEDS, SEEDS % 3, top_p=0.9))
    assert drawn.max() < 64 and len(np.unique(drawn)) > 8


def test_a_row_depends_on_its_seed_alone(model):
    seeds = np.arange(64) * 31
    mask = np.zeros((64, 8, 8), "bool")
    mask[:, :, :4] = True
    mask[::2, 2:] = True
    images, labels = np.resize(IMAGES, (64, 8, 8, 1)), np.arange(64) % 3
    drawn = model.generate(seeds=seeds, labels=labels)
    completed = model.complete(images, mask, labels, seeds=seeds)
    for i in (0, 5, 63):
        one = slice(i, i + 1)
        np.testing.assert_array_equal(
            model.generate(seeds=seeds[one], labels=labels[one])[0], drawn[i]
        )
        alone = model.complete(images[one], mask[one], labels[one], seeds=seeds[one])
        np.testing.assert_array_equal(alone[0], completed[i])


def test_guidance_and_greedy_choice(model):
    def draw(label, **options):
        return model.generate(seeds=SEEDS, labels=label, **options)

    free = draw(0, guidance_scale=0.0)
    np.testing.assert_array_equal(free, draw(2, guidance_scale=0.0))
    np.testing.assert_array_equal(draw(1), draw(1, guidance_scale=1.0))
    assert (draw(1, guidance_scale=4.0) != draw(1)).any()
    assert (draw(1) != draw(2)).any()
    greedy = draw(1, top_k=1, choice_temperature=0.0)
    assert (greedy == greedy[:1]).all()


# Completion ---------------------------------------------------------------------------


def test_complete_keeps_what_is_known_and_draws_the_rest(model):
    mask = np.random.default_rng(2).random((48, 8, 8)) < 0.5
    mask[:, 2:6, 2:6] = True
    kept = np.broadcast_to(mask[..., None], IMAGES.shape)
    drawn = model.complete(IMAGES, mask, LABELS, seed=3)
    assert drawn.dtype == np.uint8 and drawn.shape == IMAGES.shape
    np.testing.assert_array_equal(drawn[kept], IMAGES[kept])
    assert (drawn != IMAGES)[~kept].mean() > 0.9
    # What is not known is not looked at.
    other = np.where(kept, IMAGES, 255 - IMAGES)
    np.testing.assert_array_equal(model.complete(other, mask, LABELS, seed=3), drawn)
    # The same, by its parts: the mean of what is known, its codes, those drawn around them.
    totals = (IMAGES.astype(int) * kept).sum(axis=(1, 2, 3), keepdims=True)
    means = totals // kept.sum(axis=(1, 2, 3), keepdims=True)
    seen = np.where(kept, IMAGES, means).astype("uint8")
    codes = numpy(model.encode(seen))
    whole = mask.reshape(48, 4, 2, 4, 2).all(axis=(2, 4))
    assert 0.2 < whole.mean() < 0.6
    seeds = random.row_seeds(3, 48)
    codes = model.draw_codes(seeds, LABELS, codes, whole)
    expected = np.where(kept, IMAGES, numpy(model.decode(codes)))
    np.testing.assert_array_equal(drawn, expected)


def test_complete_at_the_ends(model):
    everything, nothing = np.ones((8, 8), "bool"), np.zeros((8, 8, 8, 1), "uint8")
    np.testing.assert_array_equal(model.complete(IMAGES, everything, 1), IMAGES)
    drawn = model.complete(IMAGES[:8], nothing, 1, seeds=SEEDS[:8])
    np.testing.assert_array_equal(drawn, model.generate(seeds=SEEDS[:8], labels=1))


def test_codes_are_drawn_given_all_others(model):
    """Those that come later in raster order too."""
    seeds, labels = np.arange(1000, dtype="int32"), np.zeros(1000, "int32")
    for place in (0, 6, 15):
        mask = np.broadcast_to(np.arange(16) == place, (1000, 16))
        drawn = [
            numpy(model.draw_codes(seeds, labels, np.full((1000, 16), code), mask, num_steps=1))
            for code in (3, 12)
        ]
        changed = (drawn[0] != drawn[1]).reshape(1000, 16).sum(axis=0)
        assert changed[place] == 1000 and changed.min() > 0


@pytest.mark.parametrize("place", [0, 6])
def test_pixels_are_drawn_given_known_ones_wherever_they_are(model, place):
    """One corner is known, black or white; the opposite one is beyond the decoder's sight."""
    known, far = slice(place, place + 2), slice(6 - place, 8 - place)
    mask = np.zeros((8, 8), "bool")
    mask[known, known] = True
    black = np.zeros((200, 8, 8, 1), "uint8")
    white = black.copy()
    white[:, known, known] = 255
    drawn = [model.complete(images, mask, 1) for images in (black, white)]
    assert (drawn[0] != drawn[1])[:, far, far].any()


def test_complete_as_another_class(model):
    mask = np.ones((8, 8), "bool")
    mask[2:6, 2:6] = False
    seven, one = (model.complete(IMAGES[:12], mask, label, seeds=SEEDS) for label in (2, 1))
    assert (seven != one)[:, ~mask].any() and (seven == one)[:, mask].all()


def test_the_complete_endpoint(model):
    endpoint = model.endpoints()["complete"]
    assert list(endpoint.inputs) == ["image", "mask", "seed", "label"]
    mask = np.zeros((12, 8, 8), "uint8")
    mask[:, 4:] = 1
    inputs = {"image": IMAGES[:12], "mask": mask, "seed": SEEDS, "label": LABELS[:12]}
    inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
    drawn = model.complete(IMAGES[:12], mask, LABELS[:12], seeds=SEEDS)
    np.testing.assert_array_equal(numpy(endpoint.function(**inputs)["image"]), drawn)


def test_a_binarised_tokenizer_sees_known_pixels_binarised():
    keras.utils.set_random_seed(0)
    tokenizer = VQVAE.from_preset("vqvae_tiny", likelihood="bernoulli", binarization="threshold")
    model = MaskGIT((8, 8, 1), tokenizer=tokenizer, **SMALL)
    mask = np.ones((8, 8), "bool")
    mask[:, :4] = False
    known, rng = 255 * (IMAGES[:12] > 127).astype("uint8"), np.random.default_rng(0)
    for weight in model.network.weights:
        weight.assign(numpy(weight) + rng.normal(size=weight.shape) * 0.3)
    drawn = model.complete(IMAGES[:12], mask, seeds=SEEDS)
    np.testing.assert_array_equal(
        drawn[:, :, :4], model.complete(known, mask, seeds=SEEDS)[:, :, :4]
    )
    np.testing.assert_array_equal(drawn[:, :, 4:], IMAGES[:12, :, 4:])


# Training -----------------------------------------------------------------------------


def test_ranks():
    x = np.random.default_rng(0).integers(0, 4, (50, 9)).astype("float32")
    expected = np.argsort(np.argsort(x, axis=1, kind="stable"), axis=1)
    np.testing.assert_array_equal(numpy(ranks(x)), expected)


def test_codes_are_hidden_by_the_cosine(model):
    n = 20_000
    hidden = numpy(model.hide(np.arange(n, dtype="int32")))
    counts = hidden.sum(axis=1)
    assert counts.min() == 1 and counts.max() == 16
    # ceil(16 cos(pi r / 2)) <= k where r >= 2 acos(k / 16) / pi.
    k = np.arange(1, 17)
    expected = 1 - 2 * np.arccos(k / 16) / np.pi
    found = (counts[:, None] <= k).mean(axis=0)
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / n)
    # Every place as often as any other, with every other as often.
    assert np.ptp(hidden.mean(axis=0)) < 8 * np.sqrt(0.25 / n)
    some = hidden[counts == 8]
    together = np.mean(some[:, :, None] & some[:, None], axis=0)[~np.eye(16, dtype="bool")]
    assert np.abs(together - 8 * 7 / (16 * 15)).max() < 5 * np.sqrt(0.25 / len(some))


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_is_the_cross_entropy_of_hidden_codes(training):
    model = pair(3, label_smoothing=0.2, label_dropout=0.5)
    seeds = np.arange(48, dtype="int32")
    codes = numpy(model.encode(IMAGES)).reshape(48, 16)
    hidden = numpy(model.hide(seeds))
    labels = LABELS
    if training:
        labels = np.where(numpy(random.uniform(seeds, (), 2)) < 0.5, 3, LABELS)
        assert 10 < (labels == 3).sum() < 38
    log_probs = log_softmax(numpy(model.network(np.where(hidden, 16, codes), labels)))
    smoothing = 0.2 if training else 0.0
    targets = (1 - smoothing) * np.eye(16)[codes] + smoothing / 16
    expected = -(targets * log_probs).sum(-1)[hidden].mean()
    tensors = [ops.convert_to_tensor(x) for x in (IMAGES, LABELS, seeds)]
    loss, logs = model.objective(Batch(*tensors), training)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    right = (log_probs.argmax(-1) == codes)[hidden].mean()
    assert float(logs["masked_accuracy"]) == pytest.approx(right, rel=1e-5)
    if not training:  # the codes that are seen do bear on it
        alone = log_softmax(numpy(model.network(np.full((48, 16), 16), labels)))
        assert (np.abs(alone - log_probs) > 1e-3).any()


def test_training_moves_the_prior_alone():
    model = pair(3, noisy=False)
    before = [numpy(w).copy() for w in model.tokenizer.variables]
    model.compile(learning_rate=1e-2)
    images, labels = np.repeat(IMAGES[:6], 8, axis=0), np.repeat(LABELS[:6], 8)
    history = model.fit(images, labels, batch_size=16, epochs=40, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert history["masked_accuracy"][-1] > 0.4
    for a, b in zip(before, model.tokenizer.variables, strict=True):
        np.testing.assert_array_equal(a, numpy(b))


def test_half_precision_sees_the_same_codes():
    half, full = pair(dtype="mixed_bfloat16"), pair()
    np.testing.assert_array_equal(numpy(half.encode(IMAGES)), numpy(full.encode(IMAGES)))
    losses = []
    for model in (half, full):
        model.compile()
        losses.append(model.evaluate(IMAGES, return_dict=True, verbose=0)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert half.generate(4).dtype == np.uint8


def test_the_pair_is_saved_and_loaded_as_one(tmp_path):
    model = pair(3, label_smoothing=0.3)
    model.compile()
    model.save(tmp_path / "pair.keras")
    loaded = keras.saving.load_model(tmp_path / "pair.keras")
    assert loaded.label_smoothing == 0.3
    images = loaded.generate(4, labels=2, guidance_scale=2.0)
    np.testing.assert_array_equal(images, model.generate(4, labels=2, guidance_scale=2.0))


def test_the_sampler_is_exported_whole(model, exported_alike):
    """With weights that make every input count; `complete` is compared too, or export fails."""
    equal = exported_alike(model)
    assert {("saved_model", "generate_xla"), ("onnx", "generate")} < set(equal)
    assert set(equal.values()) == {1.0}, equal


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a positive int"),
        ({"num_steps": 2.5}, "num_steps must be a positive int"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"choice_temperature": -1.0}, "choice_temperature must be 0 or more"),
        ({"top_k": 0}, "top_k must be a positive int"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"guidance_scale": 2.0}, "guidance_scale compares with a model without classes"),
        ({"steps": 4}, "Unknown option 'steps'. Did you mean 'num_steps'?"),
    ],
)
def test_bad_options(options, message):
    model = MaskGIT.from_preset("maskgit_tiny")
    with pytest.raises(ValueError, match=message):
        model.generate(2, **options)
    with pytest.raises(ValueError, match=message):
        model.complete(IMAGES[:2], np.ones((8, 8)), **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((8, 7)), "mask must have shape"),
        (np.ones((3, 8, 8)), "mask must have shape"),
        (np.full((8, 8), 2), "mask must be 1"),
    ],
)
def test_bad_masks(model, mask, message):
    with pytest.raises(ValueError, match=message):
        model.complete(IMAGES[:2], mask, 1)


def test_bad_arguments(model):
    with pytest.raises(ValueError, match="needs labels"):
        model.complete(IMAGES[:2], np.ones((8, 8)))
    with pytest.raises(ValueError, match="seeds must be one per image"):
        model.complete(IMAGES[:2], np.ones((8, 8)), 1, seeds=[1])
    for bad, message in (
        ({"label_smoothing": 1.0}, "label_smoothing must be 0 or more and below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing must be 0 or more and below 1"),
        ({"label_dropout": 1.0}, "label_dropout must be 0 or more and below 1"),
        ({"num_heads": 3}, "num_heads must divide dim"),
        ({"mlp": "relu"}, "Unknown mlp 'relu'"),
    ):
        with pytest.raises(ValueError, match=message):
            MaskGIT.from_preset("maskgit_tiny", **bad)
