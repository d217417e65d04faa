"""What every autoregressive model promises, on the Gated PixelCNN."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen import random
from kgen.models import GatedPixelCNN
from kgen.training.step import input_gradient


def build(image_shape=(6, 5, 1), seed=0, **options):
    """A small model with random weights, so that nothing is uniform."""
    options = {"filters": 6, "num_layers": 2, "num_levels": 4, "first_kernel_size": 5, **options}
    model = GatedPixelCNN(image_shape, **options)
    rng = np.random.default_rng(seed)
    for variable in model.network.weights:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def recompute(model, seeds, labels=None, temperature=1.0, images=None, mask=None):
    """The slow sampler: the whole network for every value of every pixel."""
    height, width, channels = model.image_shape
    x = np.zeros((len(seeds), *model.image_shape), "float32")
    for i, j, c in itertools.product(range(height), range(width), range(channels)):
        if mask is not None and mask[i, j]:
            x[:, i, j, c] = ops.convert_to_numpy(model.to_levels(images))[:, i, j, c]
            continue
        shape = (width, *model.distribution.noise_shape)
        noise = random.gumbel(ops.convert_to_tensor(seeds), shape, stream=i)
        logits = ops.convert_to_numpy(model.network(x, labels))[:, i, j]
        logits = logits.reshape(len(seeds), channels, -1)[:, c] / temperature
        level = np.argmax(logits + ops.convert_to_numpy(noise)[:, j, c], axis=-1)
        x[:, i, j, c] = 2 * level / (model.num_levels - 1) - 1
    return ops.convert_to_numpy(model.to_images(x))


SEEDS = np.arange(7, dtype="int32") * 11


@pytest.mark.parametrize("channels, num_classes", [(1, None), (1, 3), (3, None), (3, 3)])
def test_the_cached_sampler_draws_what_recomputing_draws(channels, num_classes):
    model = build((6, 5, channels), num_classes=num_classes)
    labels = None if num_classes is None else (SEEDS % num_classes).astype("int32")
    drawn = model.generate(seeds=SEEDS, labels=labels, temperature=0.7)
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, labels, temperature=0.7))
    assert len(np.unique(drawn)) == 4


def test_dilations_of_other_sizes():
    """Also kernels wider than the image."""
    for first, kernel in ((3, 5), (9, 7)):
        model = build((4, 3, 1), first_kernel_size=first, kernel_size=kernel)
        np.testing.assert_array_equal(model.generate(seeds=SEEDS), recompute(model, SEEDS))


def test_low_temperature_is_the_likeliest_level():
    model = build()
    images = model.generate(seeds=[1, 2], temperature=1e-4)
    np.testing.assert_array_equal(images[0], images[1])
    with pytest.raises(ValueError, match=r"temperature must be above 0\. Received: 0"):
        model.generate(2, temperature=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_depends_on_what_comes_later(channels):
    """And on all that comes before, within a field that covers the image: no blind spot."""
    shape = (5, 5, channels)
    model = build(shape, num_layers=3, filters=24)
    size = model.num_levels
    x = np.random.default_rng(0).normal(size=(16, *shape)).astype("float32")
    order = np.arange(np.prod(shape)).reshape(shape)
    for i, j, c in itertools.product(range(5), range(5), range(channels)):
        logits = slice(c * size, (c + 1) * size)
        weights = np.random.default_rng(1).normal(size=size).astype("float32")

        def value(x, i=i, j=j, logits=logits, weights=weights):
            return ops.sum(model.network(x)[:, i, j, logits] * weights)

        gradient = ops.convert_to_numpy(input_gradient(value, ops.convert_to_tensor(x)))
        seen = (gradient != 0).any(axis=0)  # in one image rectifiers may hide what is seen
        np.testing.assert_array_equal(seen, order < order[i, j, c], err_msg=str((i, j, c)))


@pytest.mark.parametrize(
    "shape, num_levels, num_classes",
    [((2, 2, 1), 2, None), ((2, 1, 1), 4, 2), ((1, 2, 3), 2, None), ((3, 3, 1), 2, None)],
)
def test_probabilities_sum_to_one_and_samples_follow_them(shape, num_levels, num_classes):
    model = build(shape, num_levels=num_levels, num_classes=num_classes)
    levels = np.array(list(itertools.product(range(num_levels), repeat=int(np.prod(shape)))))
    images = np.rint(levels * 255 / (num_levels - 1)).astype("uint8").reshape(-1, *shape)
    labels = None if num_classes is None else np.ones(len(images), "int32")
    log_prob = ops.convert_to_numpy(model.log_prob(images, labels))
    probabilities = np.exp(log_prob.astype("float64"))
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)

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
    model = build()
    images = model.generate(5, seed=3)
    logits = ops.convert_to_numpy(model.network(model.to_levels(images))).astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logits, (images // 85).astype(int), axis=-1)
    expected = chosen.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ops.convert_to_numpy(model.log_prob(images)), expected, rtol=1e-5)
    np.testing.assert_allclose(model.negative_log_likelihood(images), -expected, rtol=1e-5)
    model.compile()
    logs = model.evaluate(images, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(-expected.mean(), rel=1e-5)
    assert logs["bits_per_dimension"] == pytest.approx(-expected.mean() / np.log(2) / 30, rel=1e-5)
    score = model.endpoints()["score"].function(image=ops.convert_to_tensor(images))
    np.testing.assert_allclose(ops.convert_to_numpy(score["log_prob"]), expected, rtol=1e-5)


def test_two_levels_are_binarised():
    grey = np.full((400, 6, 5, 1), 64, "uint8")
    model = build(num_levels=2)
    assert "seed 7" in model.likelihood_protocol(seed=7)["protocol"]
    first, again, other = (model.negative_log_likelihood(grey, seed=s) for s in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and np.std(first) > 0
    threshold = build(num_levels=2, binarization="threshold")
    assert np.std(threshold.negative_log_likelihood(grey)) < 1e-4


def test_levels():
    model = build(num_levels=4)
    grey = np.arange(256, dtype="uint8").reshape(1, -1, 1, 1)
    cut = model.cut_to_levels(grey)
    assert np.unique(cut).tolist() == [0, 85, 170, 255]
    assert np.abs(cut.astype(int) - grey).max() <= 43
    np.testing.assert_array_equal(build(num_levels=256).cut_to_levels(grey), grey)
    for levels in range(2, 257):
        model.num_levels = levels
        again = model.cut_to_levels(model.cut_to_levels(grey))
        np.testing.assert_array_equal(again, model.cut_to_levels(grey))
        assert len(np.unique(again)) == levels


# Completion ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_completion(channels):
    model = build((6, 5, channels), num_classes=2)
    labels = (SEEDS % 2).astype("int32")
    images = model.generate(seeds=SEEDS + 1, labels=labels)
    mask = np.zeros((6, 5), bool)
    mask[:2], mask[2, :3] = True, True
    drawn = model.complete(images, mask, labels, seeds=SEEDS)
    np.testing.assert_array_equal(drawn[:, mask], images[:, mask])
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, labels, 1.0, images, mask))
    assert (drawn != images).any()
    # What is not known is not looked at.
    other = np.where(mask[..., None], images, 255 - images)
    np.testing.assert_array_equal(model.complete(other, mask, labels, seeds=SEEDS), drawn)
    nothing, everything = np.zeros((6, 5)), np.ones((7, 6, 5, 1), "uint8")
    np.testing.assert_array_equal(model.complete(images, everything, labels), images)
    np.testing.assert_array_equal(
        model.complete(images, nothing, labels, seeds=SEEDS), model.generate(SEEDS, labels)
    )


def test_completion_against_the_order():
    """Known pixels stay, byte for byte; on later ones nothing is conditioned."""
    model = build()
    images = model.generate(seeds=SEEDS)
    mask = np.zeros((6, 5), bool)
    mask[4:] = True
    message = r"after pixels to draw in raster order.*\(image 0, row 4, column 0 is the first\)"
    with pytest.raises(ValueError, match=message):
        model.complete(images, mask)
    drawn = model.complete(images, mask, seeds=SEEDS + 5, strict=False)
    np.testing.assert_array_equal(drawn[:, 4:], images[:, 4:])
    np.testing.assert_array_equal(drawn[:, :4], model.generate(SEEDS + 5)[:, :4])


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
def test_completion_refuses(images, mask, options, message):
    with pytest.raises(ValueError, match=message):
        build().complete(images, mask, **options)


# Borders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_levels": 1}, r"num_levels must be 2 to 256\. Received: 1"),
        ({"binarization": "static"}, "Unknown binarization 'static'"),
        ({"kernel_size": 4}, "kernel_size must be odd and 3 or more.*Received: kernel_size=4"),
        ({"filters": 7, "image_shape": (6, 5, 3)}, "filters must divide by the 3 channels"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GatedPixelCNN(**{"image_shape": (6, 5, 1), **options})


def test_mixed_precision_trains_and_samples():
    model = GatedPixelCNN((6, 5, 1), filters=6, num_layers=1, num_levels=2, dtype="mixed_bfloat16")
    model.compile()
    images = np.random.default_rng(0).integers(0, 256, (32, 6, 5, 1), "uint8")
    loss = model.fit(images, epochs=2, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    assert model.generate(3).shape == (3, 6, 5, 1)


def test_it_learns_stripes():
    """Rows of one colour: after the first pixel of a row the rest is certain."""
    keras.utils.set_random_seed(0)
    rows = np.random.default_rng(0).integers(0, 2, (512, 8, 1, 1))
    images = (255 * np.broadcast_to(rows, (512, 8, 8, 1))).astype("uint8")
    model = kgen.models.GatedPixelCNN((8, 8, 1), filters=16, num_layers=2, num_levels=2)
    model.compile(learning_rate=5e-3)
    model.fit(images, epochs=12, batch_size=32, verbose=0)
    assert model.negative_log_likelihood(images).mean() == pytest.approx(8 * np.log(2), abs=0.3)
    drawn = model.generate(50)
    assert (drawn == drawn[:, :, :1]).all(axis=(1, 2, 3)).mean() > 0.9
