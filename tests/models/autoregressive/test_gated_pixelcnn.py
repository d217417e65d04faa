"""What every autoregressive model promises, on the Gated PixelCNN."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.models import GatedPixelCNN

slow = pytest.mark.slow


def build(image_shape=(6, 5, 1), seed=0, **options):
    """A small model with random weights, so that nothing is uniform."""
    options = {"filters": 6, "num_layers": 2, "num_levels": 4, "first_kernel_size": 5, **options}
    model = GatedPixelCNN(image_shape, **options)
    rng = np.random.default_rng(seed)
    for variable in model.network.weights:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


SEEDS = np.arange(7, dtype="int32") * 11
LABELS = SEEDS % 3


@pytest.fixture(scope="module")
def model():
    """A model of colours and classes that tests share: they read it alone."""
    return build((4, 3, 3), num_classes=3)


@pytest.fixture(scope="module")
def grey():
    return build(num_layers=1)


def test_the_cached_sampler_draws_what_recomputing_draws(model, recompute):
    drawn = model.generate(seeds=SEEDS, labels=LABELS, temperature=0.7)
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, LABELS, temperature=0.7))
    assert len(np.unique(drawn)) == 4


@slow
@pytest.mark.parametrize("channels, num_classes", [(1, None), (1, 3), (3, None)])
def test_the_cached_sampler_of_other_models(channels, num_classes, recompute):
    model = build((6, 5, channels), num_classes=num_classes)
    labels = None if num_classes is None else LABELS
    drawn = model.generate(seeds=SEEDS, labels=labels, temperature=0.7)
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, labels, temperature=0.7))


@pytest.mark.parametrize("first, kernel", [pytest.param(3, 5, marks=slow), (9, 7)])
def test_kernels_of_other_sizes(first, kernel, recompute):
    """Also wider than the image."""
    model = build((4, 3, 1), num_layers=1, first_kernel_size=first, kernel_size=kernel)
    np.testing.assert_array_equal(model.generate(seeds=SEEDS), recompute(model, SEEDS))


@slow
def test_low_temperature_is_the_likeliest_level(model):
    images = model.generate(seeds=[1, 2], labels=0, temperature=1e-4)
    np.testing.assert_array_equal(images[0], images[1])


@pytest.mark.parametrize("temperature", [0, -1])
def test_temperature_is_above_0(model, temperature):
    with pytest.raises(
        ValueError, match=rf"temperature must be above 0\. Received: temperature={temperature}"
    ):
        model.generate(2, labels=0, temperature=temperature)


@pytest.mark.parametrize("channels", [pytest.param(1, marks=slow), 3])
def test_nothing_depends_on_what_comes_later(channels, depends_on):
    """And on all that comes before, within a field that covers the image: no blind spot."""
    found = depends_on(build((4, 4, channels), num_layers=3, filters=24, num_levels=2))
    size = 16 * channels
    np.testing.assert_array_equal(found.reshape(size, size), np.tri(size, k=-1, dtype=bool))


CASES = [
    ((2, 1, 1), 4, 2),
    ((1, 2, 3), 2, None),
    pytest.param((2, 2, 1), 2, None, marks=slow),
    pytest.param((3, 3, 1), 2, None, marks=slow),
]


@pytest.mark.parametrize("shape, num_levels, num_classes", CASES)
def test_probabilities_sum_to_one(shape, num_levels, num_classes, total_probability):
    model = build(shape, num_levels=num_levels, num_classes=num_classes)
    np.testing.assert_allclose(total_probability(model), 1, atol=1e-5)


@slow
@pytest.mark.parametrize("shape, num_levels, num_classes", CASES)
def test_samples_follow_the_probabilities(shape, num_levels, num_classes):
    model = build(shape, num_levels=num_levels, num_classes=num_classes)
    levels = np.array(list(itertools.product(range(num_levels), repeat=int(np.prod(shape)))))
    images = np.rint(levels * 255 / (num_levels - 1)).astype("uint8").reshape(-1, *shape)
    labels = None if num_classes is None else np.ones(len(images), "int32")
    log_prob = ops.convert_to_numpy(model.log_prob(images, labels))
    probabilities = np.exp(log_prob.astype("float64"))

    n = 20_000
    drawn = model.generate(n, labels=None if labels is None else 1, batch_size=n, progress=False)
    index = {image.tobytes(): i for i, image in enumerate(images)}
    counts = np.bincount([index[image.tobytes()] for image in drawn], minlength=len(images))
    rare = probabilities * n < 5
    expected = np.append(probabilities[~rare], probabilities[rare].sum()) * n
    observed = np.append(counts[~rare], counts[rare].sum())
    kept = expected > 0
    statistic = np.sum((observed - expected)[kept] ** 2 / expected[kept])
    freedom = max(kept.sum() - 1, 1)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 4, "chi-square, about four deviations"


# Likelihood ------------------------------------------------------------------------------


def test_likelihood_against_numpy():
    model = build((3, 2, 1))
    images = np.random.default_rng(0).choice([0, 85, 170, 255], (5, 3, 2, 1)).astype("uint8")
    logits = ops.convert_to_numpy(model.network(model.to_levels(images))).astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logits, (images // 85).astype(int), axis=-1)
    expected = chosen.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ops.convert_to_numpy(model.log_prob(images)), expected, rtol=1e-5)
    np.testing.assert_allclose(model.negative_log_likelihood(images), -expected, rtol=1e-5)
    model.compile()
    logs = model.evaluate(images, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(-expected.mean(), rel=1e-5)
    assert logs["bits_per_dimension"] == pytest.approx(-expected.mean() / np.log(2) / 6, rel=1e-5)
    score = model.endpoints()["score"].function(image=ops.convert_to_tensor(images))
    np.testing.assert_allclose(ops.convert_to_numpy(score["log_prob"]), expected, rtol=1e-5)
    bits = ops.convert_to_numpy(score["bits_per_dimension"])
    np.testing.assert_allclose(bits, -expected / np.log(2) / 6, rtol=1e-5)


def test_two_levels_are_binarised():
    grey = np.full((400, 2, 2, 1), 64, "uint8")
    model = build((2, 2, 1), num_layers=1, num_levels=2)
    assert "seed 7" in model.likelihood_protocol(seed=7)["protocol"]
    first, again, other = (model.negative_log_likelihood(grey, seed=s) for s in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and np.std(first) > 0
    threshold = build((2, 2, 1), num_layers=1, num_levels=2, binarization="threshold")
    assert np.std(threshold.negative_log_likelihood(grey)) < 1e-4


@pytest.mark.parametrize("every", [pytest.param(1, marks=slow), 6])
def test_levels(every):
    model = build((2, 2, 1), num_layers=1, num_levels=4)
    grey = np.arange(256, dtype="uint8").reshape(1, -1, 1, 1)
    cut = model.cut_to_levels(grey)
    assert np.unique(cut).tolist() == [0, 85, 170, 255]
    assert np.abs(cut.astype(int) - grey).max() <= 43
    for levels in (*range(2, 256, every), 256):
        model.num_levels = levels
        cut = model.cut_to_levels(grey)
        np.testing.assert_array_equal(model.cut_to_levels(cut), cut)
        assert len(np.unique(cut)) == levels
    np.testing.assert_array_equal(cut, grey)


# Completion ------------------------------------------------------------------------------


def test_completion(model, recompute):
    def run(images, mask):
        return model.complete(images, mask, LABELS, seeds=SEEDS, temperature=0.7)

    images = model.generate(seeds=SEEDS + 1, labels=LABELS, temperature=0.7)
    mask = np.zeros((4, 3), bool)
    mask[:1], mask[1, :2] = True, True
    drawn = run(images, mask)
    np.testing.assert_array_equal(drawn[:, mask], images[:, mask])
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, LABELS, 0.7, images, mask))
    assert (drawn != images).any()
    # What is not known is not looked at.
    np.testing.assert_array_equal(run(np.where(mask[..., None], images, 255 - images), mask), drawn)
    nothing, everything = np.zeros((4, 3)), np.ones((7, 4, 3, 1), "uint8")
    np.testing.assert_array_equal(run(images, everything), images)
    generated = model.generate(SEEDS, LABELS, temperature=0.7)
    np.testing.assert_array_equal(run(images, nothing), generated)


def test_completion_against_the_order(model):
    """Known pixels stay, byte for byte; on later ones nothing is conditioned."""
    images = model.generate(seeds=SEEDS, labels=LABELS, temperature=0.7)
    mask = np.zeros((4, 3), bool)
    mask[2:] = True
    message = r"after pixels to draw in raster order.*\(image 0, row 2, column 0 is the first\)"
    with pytest.raises(ValueError, match=message):
        model.complete(images, mask, LABELS)
    options = {"seeds": SEEDS + 5, "temperature": 0.7}
    drawn = model.complete(images, mask, LABELS, strict=False, **options)
    np.testing.assert_array_equal(drawn[:, 2:], images[:, 2:])
    np.testing.assert_array_equal(drawn[:, :2], model.generate(labels=LABELS, **options)[:, :2])


@slow
def test_completion_in_grey(recompute):
    model = build()
    images = model.generate(seeds=SEEDS + 1)
    mask = np.zeros((6, 5), bool)
    mask[:2], mask[2, :3] = True, True
    drawn = model.complete(images, mask, seeds=SEEDS)
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, images=images, mask=mask))


@pytest.mark.parametrize(
    "images, mask, options, message",
    [
        (np.zeros((2, 6, 5, 1), "uint8"), np.ones((5, 6)), {}, r"shape \(6, 5\) or \(2, 6, 5\)"),
        (np.zeros((2, 6, 5, 1), "uint8"), np.full((6, 5), 2), {}, "mask must be 1"),
        (np.full((2, 6, 5, 1), 37, "uint8"), np.ones((6, 5)), {}, "0, 85, 170, 255.*Received: 37"),
        (
            np.zeros((2, 4, 4, 1), "uint8"),
            np.ones((4, 4)),
            {},
            r"takes images of shape \(6, 5, 1\)",
        ),
        (np.zeros((2, 6, 5, 1), "uint8"), np.zeros((6, 5)), {"temperature": -1}, "above 0"),
        (np.zeros((2, 6, 5, 1), "uint8"), np.zeros((6, 5)), {"seeds": [1]}, "one per image, 2"),
        (np.zeros((2, 6, 5, 1), "uint8"), np.zeros((6, 5)), {"labels": 1}, "takes no labels"),
    ],
)
def test_completion_refuses(images, mask, options, message, grey):
    with pytest.raises(ValueError, match=message):
        grey.complete(images, mask, **options)


# Borders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_levels": 1}, r"num_levels must be an int of 2 to 256\. Received: num_levels=1"),
        ({"binarization": "static"}, "Unknown binarization 'static'"),
        ({"kernel_size": 4}, "kernel_size must be odd and 3 or more.*Received: kernel_size=4"),
        ({"filters": 7, "image_shape": (6, 5, 3)}, "filters must divide by the 3 channels"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GatedPixelCNN(**{"image_shape": (6, 5, 1), **options})


@slow
def test_mixed_precision_trains_and_samples():
    model = GatedPixelCNN((3, 2, 1), filters=6, num_layers=1, num_levels=2, dtype="mixed_bfloat16")
    model.compile()
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 2, 1), "uint8")
    loss = model.fit(images, epochs=1, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    assert model.generate(3).shape == (3, 3, 2, 1)


@slow
def test_it_learns_stripes():
    """Rows of one colour: after the first pixel of a row the rest is certain."""
    keras.utils.set_random_seed(0)
    rows = np.random.default_rng(0).integers(0, 2, (512, 4, 1, 1))
    images = (255 * np.broadcast_to(rows, (512, 4, 4, 1))).astype("uint8")
    model = kgen.models.GatedPixelCNN((4, 4, 1), filters=16, num_layers=1, num_levels=2)
    model.compile(learning_rate=1e-2)
    model.fit(images, epochs=8, batch_size=32, verbose=0)
    assert model.negative_log_likelihood(images).mean() == pytest.approx(4 * np.log(2), abs=0.15)
    drawn = model.generate(50)
    assert (drawn == drawn[:, :, :1]).all(axis=(1, 2, 3)).mean() > 0.9
