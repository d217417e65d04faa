import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.layers import augmentation
from kgen.training.step import Batch, input_gradient

SEEDS = kgen.random.row_seeds(3, 200)


def changed(name, pixels, seeds=SEEDS, **options):
    return ops.convert_to_numpy(
        augmentation.augmented(ops.convert_to_tensor(pixels), seeds, (name,), **options)
    )


def images(channels=3, rows=200, side=16):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (rows, side, side, channels)).astype("float32")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colour_is_brightness_saturation_and_contrast(channels):
    pixels = images(channels)
    got = changed("colour", pixels)
    own = kgen.random.fold_in(SEEDS, 0)
    drawn = ops.convert_to_numpy(kgen.random.uniform(own, (3,)))[:, :, None, None, None]
    colours, opacity = pixels[..., :3] + drawn[:, 0] - 0.5, pixels[..., 3:]
    grey = colours.mean(-1, keepdims=True)
    colours = grey + 2 * drawn[:, 1] * (colours - grey)
    mean = colours.mean((1, 2, 3), keepdims=True)
    colours = mean + (0.5 + drawn[:, 2]) * (colours - mean)
    np.testing.assert_allclose(got[..., :3], colours, atol=2e-6)
    np.testing.assert_array_equal(got[..., 3:], opacity)


def test_translation_moves_by_whole_pixels_up_to_an_eighth():
    pixels = images(1)
    got = changed("translation", pixels)
    moves = set()
    for before, after in zip(pixels[..., 0], got[..., 0], strict=True):
        for down in range(-2, 3):
            for right in range(-2, 3):
                moved = np.zeros_like(before)
                target = [slice(max(0, -by), 16 - max(0, by)) for by in (down, right)]
                source = [slice(max(0, by), 16 - max(0, -by)) for by in (down, right)]
                moved[tuple(target)] = before[tuple(source)]
                if np.array_equal(moved, after):
                    moves.add((down, right))
                    break
            else:
                continue
            break
        else:
            pytest.fail("an image was not moved by whole pixels")
    assert len(moves) == 25  # all of them, in 200 draws


def test_cutout_hides_half_of_each_side_where_it_lies_inside():
    got = changed("cutout", np.ones((200, 16, 16, 2), "float32"))
    assert set(np.unique(got)) == {0.0, 1.0}
    np.testing.assert_array_equal(got[..., 0], got[..., 1])
    hidden = got[..., 0] == 0
    rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
    np.testing.assert_array_equal(hidden.sum((1, 2)), rows * columns)  # rectangles
    assert rows.max() == columns.max() == 8 and rows.min() >= 4 and columns.min() >= 4


@pytest.mark.parametrize("name", augmentation.POLICIES)
def test_gradients_reach_the_pixels_and_seeds_decide(name):
    """What a finite difference says, of a weighted sum of the changed pixels."""
    pixels, weight = images(3, 4, 8), images(3, 4, 8)[::-1].copy()
    seeds = SEEDS[:4]

    def score(x):
        y = augmentation.augmented(x, seeds, (name,))
        return ops.sum(y * weight, axis=(1, 2, 3))

    gradient = ops.convert_to_numpy(input_gradient(score, ops.convert_to_tensor(pixels)))
    direction = np.random.default_rng(1).normal(size=pixels.shape).astype("float32")
    ahead, behind = (
        ops.convert_to_numpy(score(ops.convert_to_tensor(pixels + side * direction)))
        for side in (0.5, -0.5)
    )  # all three are linear in the pixels
    np.testing.assert_allclose(
        (gradient * direction).sum((1, 2, 3)), ahead - behind, rtol=2e-3, atol=2e-3
    )
    assert np.abs(gradient).max() > 0
    np.testing.assert_array_equal(changed(name, pixels, seeds), changed(name, pixels, seeds))
    assert (changed(name, pixels, seeds) != changed(name, pixels, seeds, stream=1)).any()


def test_what_is_unknown_is_named():
    assert augmentation.check_policy("cutout") == ("cutout",)
    assert augmentation.check_policy(None) == ()
    with pytest.raises(ValueError, match=r"Unknown augmentation 'color'\. Did you mean 'colour'"):
        augmentation.check_policy(["color"])
    with pytest.raises(ValueError, match=r"once\. Received: .*'cutout', 'cutout'"):
        augmentation.check_policy(["cutout", "cutout"])


def test_a_gan_sees_augmented_images_in_both_updates_and_evaluates_without(monkeypatch):
    keras.utils.set_random_seed(0)
    model = kgen.models.DCGAN.from_preset(
        "dcgan_tiny", augmentation="cutout", loss="relativistic", penalty="finite_difference"
    )
    model.compile()
    batch = Batch(
        ops.convert_to_tensor(np.full((32, 8, 8, 1), 255, "uint8")),
        None,
        kgen.random.row_seeds(5, 32),
    )
    hidden = []
    discriminate = model._discriminate

    def recording(pixels, labels, training=True):
        hidden.append(float(ops.mean(ops.cast(pixels == 0, "float32"))))
        return discriminate(pixels, labels, training)

    def minimize(objective, optimizer, variables):
        return {**objective()[1], "gradient_norm": ops.zeros(())}

    monkeypatch.setattr(model, "_discriminate", recording)
    model.update(batch, minimize)
    # The generator's two, the discriminator's two at once, and the two that penalties move.
    generator, discriminator, moved = hidden[:2], hidden[2:3], hidden[3:]
    # An untrained generator draws a few pixels that are grey by themselves.
    assert min(generator + discriminator) > 0.1 and max(moved) < 0.01
    hidden.clear()
    model.test_update(batch)
    assert max(hidden) < 0.01


def test_a_probability_chooses_images():
    """Each change of each image by itself; 0 changes none, 1 is what there is without."""
    pixels = images()
    for name in augmentation.POLICIES:
        some = changed(name, pixels, probability=0.3)
        whole = changed(name, pixels)
        moved = (some != pixels).any((1, 2, 3))
        assert 0.2 < moved.mean() < 0.4
        np.testing.assert_array_equal(some[moved], whole[moved])
        none = changed(name, pixels, probability=ops.convert_to_tensor(0.0))
        np.testing.assert_array_equal(none, pixels)
        np.testing.assert_array_equal(
            changed(name, pixels, probability=ops.convert_to_tensor(1.0)), whole
        )
