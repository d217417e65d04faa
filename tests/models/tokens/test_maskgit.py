"""MaskGIT: its sampler and its loss against the paper's text, and completion in any order.

Where a compiled function would take longer to trace than the test to run, it is run eagerly.
"""

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


def noisy(model):
    """Weights that make every input count."""
    rng = np.random.default_rng(0)
    for weight in model.network.weights:
        weight.assign(numpy(weight) + rng.normal(size=weight.shape) * 0.3)
    return model


@pytest.fixture(scope="module")
def pair(first_stage):
    """Makes a small pair of 4x4 codes."""

    def make(num_classes=None, num_codes=16, **overrides):
        keras.utils.set_random_seed(0)
        tokenizer = first_stage(num_codes=num_codes)
        return noisy(MaskGIT((8, 8, 1), num_classes, tokenizer, **SMALL, **overrides))

    return make


@pytest.fixture(scope="module")
def model(pair):
    return pair(3)


@pytest.fixture(scope="module")
def unconditional(pair):
    return pair()


def complete(model, images, mask, labels=None, seeds=SEEDS, num_steps=2):
    """`MaskGIT.complete` by its endpoint, eagerly."""
    mask = np.broadcast_to(mask, images.shape[:3]).astype("uint8")
    inputs = {"image": images, "mask": mask, "seed": np.resize(seeds, len(images))}
    if labels is not None:
        inputs["label"] = np.broadcast_to(np.int32(labels), len(images))
    inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
    return numpy(model.endpoints()["complete"].function(**inputs, num_steps=num_steps)["image"])


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
    seeds, steps = np.tile(SEEDS, num_steps), np.arange(num_steps).repeat(len(SEEDS))
    streams = ops.convert_to_tensor((2 * steps + 2).astype("int32"))
    noises = numpy(random.gumbel(seeds, (length, num_codes), streams))
    choices = numpy(random.gumbel(seeds, (length,), streams + 1))
    for t in range(num_steps):
        logits = numpy(model.network(codes, labels))
        if guidance_scale != 1:
            free = numpy(model.network(codes, np.full_like(labels, 3)))
            logits = free + np.float32(guidance_scale) * (logits - free)
        now = slice(len(SEEDS) * t, len(SEEDS) * (t + 1))
        noise, choice = noises[now], choices[now]
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


@pytest.mark.parametrize(
    ("options", "known"),
    [
        pytest.param({}, False, id="as it is"),
        pytest.param(
            {"guidance_scale": 3.0, "temperature": 0.7, "top_k": 3, "num_steps": 3},
            True,
            id="all at once",
        ),
        pytest.param({"num_steps": 3, "choice_temperature": 0.0}, True, id="the surest"),
        *(
            pytest.param(options, known, id=f"{name}-{known}", marks=pytest.mark.slow)
            for name, options in CASES.items()
            for known in (False, True)
        ),
    ],
)
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
    images = numpy(model.sample(SEEDS, SEEDS % 3, num_steps=1))
    np.testing.assert_array_equal(images, numpy(model.decode(codes.reshape(12, 4, 4), None)))


def test_the_number_of_steps_may_change(model):
    """Nothing of other steps is left: each call gives what the sampler gives by itself."""
    labels = SEEDS % 3
    by_steps = [model.generate(seeds=SEEDS, labels=labels, num_steps=steps) for steps in (2, 3, 2)]
    np.testing.assert_array_equal(by_steps[0], by_steps[2])
    np.testing.assert_array_equal(by_steps[1], numpy(model.sample(SEEDS, labels, num_steps=3)))
    assert (by_steps[0] != by_steps[1]).any()


def test_many_codes_are_drawn_in_groups(pair):
    model = pair(3, num_codes=64, qk_norm=True, mlp="swiglu", norm="rms", rotary=False)
    drawn = numpy(model.draw_codes(SEEDS, SEEDS % 3, top_p=0.9, num_steps=3))
    assert drawn.max() < 64 and len(np.unique(drawn)) > 8


def test_a_row_of_a_completion_depends_on_its_seed_alone(model):
    mask = np.zeros((12, 8, 8), "bool")
    mask[:, :, :4] = True
    mask[::2, 2:] = True
    completed = complete(model, IMAGES[:12], mask, SEEDS % 3, SEEDS * 31)
    for i in (0, 5):
        one = slice(i, i + 1)
        alone = complete(model, IMAGES[one], mask[one], SEEDS[one] % 3, SEEDS[one] * 31)
        np.testing.assert_array_equal(alone[0], completed[i])


def test_guidance_and_greedy_choice(model):
    def draw(label, **options):
        labels = np.full(12, label, "int32")
        return numpy(model.draw_codes(SEEDS, labels, num_steps=1, **options))

    free = draw(0, guidance_scale=0.0)
    np.testing.assert_array_equal(free, draw(2, guidance_scale=0.0))
    assert (draw(1, guidance_scale=4.0) != draw(1)).any()
    assert (draw(1) != draw(2)).any()
    greedy = draw(1, top_k=1, choice_temperature=0.0)
    assert (greedy == greedy[:1]).all()


# Completion ---------------------------------------------------------------------------


def test_complete_keeps_what_is_known_and_draws_the_rest(model):
    mask = np.random.default_rng(2).random((48, 8, 8)) < 0.5
    mask[:, 2:6, 2:6] = True
    kept = np.broadcast_to(mask[..., None], IMAGES.shape)
    drawn = model.complete(IMAGES, mask[..., None], LABELS, seed=3, num_steps=2)
    assert drawn.dtype == np.uint8 and drawn.shape == IMAGES.shape
    np.testing.assert_array_equal(drawn[kept], IMAGES[kept])
    assert (drawn != IMAGES)[~kept].mean() > 0.9
    # What is not known is not looked at.
    other = np.where(kept, IMAGES, 255 - IMAGES)
    again = model.complete(other, mask, LABELS, seed=3, num_steps=2)
    np.testing.assert_array_equal(again, drawn)
    # The same, by its parts: the mean of what is known, its codes, those drawn around them.
    totals = (IMAGES.astype(int) * kept).sum(axis=(1, 2, 3), keepdims=True)
    means = totals // kept.sum(axis=(1, 2, 3), keepdims=True)
    seen = np.where(kept, IMAGES, means).astype("uint8")
    codes = numpy(model.encode(seen))
    whole = mask.reshape(48, 4, 2, 4, 2).all(axis=(2, 4))
    assert 0.2 < whole.mean() < 0.6
    seeds = random.row_seeds(3, 48)
    codes = model.draw_codes(seeds, LABELS, codes, whole, num_steps=2)
    expected = np.where(kept, IMAGES, numpy(model.decode(codes)))
    np.testing.assert_array_equal(drawn, expected)
    # And by its endpoint, which is what is exported.
    inputs = model.endpoints()["complete"].inputs
    required = [name for name, spec in inputs.items() if spec.default is None]
    assert required == ["image", "mask", "seed", "label"]
    np.testing.assert_array_equal(complete(model, IMAGES, mask, LABELS, numpy(seeds)), drawn)


def test_complete_at_the_ends(model):
    everything = complete(model, IMAGES, np.ones((8, 8)), 1)
    np.testing.assert_array_equal(everything, IMAGES)
    drawn = complete(model, IMAGES[:12], np.zeros((8, 8)), 1)
    expected = model.sample(SEEDS, np.ones(12, "int32"), num_steps=2)
    np.testing.assert_array_equal(drawn, numpy(expected))


def test_codes_are_drawn_given_all_others(model):
    """Those that come later in raster order too."""
    places, n = [0, 6, 15], 600
    seeds, labels = np.tile(np.arange(n, dtype="int32"), 6), np.zeros(6 * n, "int32")
    mask = np.eye(16, dtype="bool")[np.tile(places, 2).repeat(n)]
    known = np.array([3, 12], "int32").repeat(3 * n)[:, None].repeat(16, axis=1)
    drawn = numpy(model.draw_codes(seeds, labels, known, mask, num_steps=1))
    first, second = drawn.reshape(2, 3, n, 16)
    changed = (first != second).sum(axis=1)
    assert (changed[np.arange(3), places] == n).all() and changed.min() > 0


@pytest.mark.parametrize("place", [0, 6])
def test_pixels_are_drawn_given_known_ones_wherever_they_are(model, place):
    """One corner is known, black or white; the opposite one is beyond the decoder's sight."""
    known, far = slice(place, place + 2), slice(6 - place, 8 - place)
    mask = np.zeros((8, 8), "bool")
    mask[known, known] = True
    images = np.zeros((2, 100, 8, 8, 1), "uint8")
    images[1, :, known, known] = 255
    seeds = np.tile(np.arange(100, dtype="int32"), 2)
    drawn = complete(model, images.reshape(200, 8, 8, 1), mask, 1, seeds)
    assert (drawn[:100] != drawn[100:])[:, far, far].any()


def test_complete_as_another_class(model):
    mask = np.ones((8, 8), "bool")
    mask[2:6, 2:6] = False
    seven, one = (complete(model, IMAGES[:12], mask, label) for label in (2, 1))
    assert (seven != one)[:, ~mask].any() and (seven == one)[:, mask].all()


def test_a_binarised_tokenizer_sees_known_pixels_binarised():
    keras.utils.set_random_seed(0)
    tokenizer = VQVAE.from_preset("vqvae_tiny", likelihood="bernoulli", binarization="threshold")
    model = noisy(MaskGIT((8, 8, 1), tokenizer=tokenizer, **SMALL))
    mask = np.ones((8, 8), "bool")
    mask[:, :4] = False
    known = 255 * (IMAGES[:12] > 127).astype("uint8")
    drawn = complete(model, IMAGES[:12], mask)
    np.testing.assert_array_equal(drawn[:, :, :4], complete(model, known, mask)[:, :, :4])
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
def test_the_loss_is_the_cross_entropy_of_hidden_codes(pair, training):
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


def test_training_moves_the_prior_alone(first_stage):
    keras.utils.set_random_seed(0)
    model = MaskGIT((8, 8, 1), 3, first_stage(num_codes=16), **SMALL)
    before = [numpy(w).copy() for w in model.tokenizer.variables]
    model.compile(learning_rate=1e-2)
    images, labels = np.tile(IMAGES[:6], (80, 1, 1, 1)), np.tile(LABELS[:6], 80)
    history = model.fit(images, labels, batch_size=16, epochs=3, verbose=0).history
    assert history["loss"][-1] < 0.6 * np.log(16)  # where it begins
    assert history["masked_accuracy"][-1] > 0.4
    for a, b in zip(before, model.tokenizer.variables, strict=True):
        np.testing.assert_array_equal(a, numpy(b))


def test_half_precision_sees_the_same_codes(pair, unconditional):
    half, full = pair(dtype="mixed_bfloat16"), unconditional
    np.testing.assert_array_equal(numpy(half.encode(IMAGES)), numpy(full.encode(IMAGES)))
    batch = Batch(ops.convert_to_tensor(IMAGES), None, ops.arange(48, dtype="int32"))
    losses = [float(model.objective(batch, training=False)[0]) for model in (half, full)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert numpy(half.sample(SEEDS, num_steps=1)).dtype == np.uint8


@pytest.mark.slow
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
def test_bad_options(unconditional, options, message):
    with pytest.raises(ValueError, match=message):
        unconditional.generate(2, **options)
    with pytest.raises(ValueError, match=message):
        unconditional.complete(IMAGES[:2], np.ones((8, 8)), **options)


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
