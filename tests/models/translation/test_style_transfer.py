"""Style: statistics of features, one network for all styles, and the optimisation beside it."""

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.layers.perceptual import PerceptualFeatures, distance
from kgen.models.translation.style_transfer import (
    StyleTransfer,
    adaptive_instance_norm,
    gram_losses,
    optimise,
    statistics,
)

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = StyleTransfer((16, 16, 3), filters=16)
    model.compile()
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 256, (64, 4, 4, 3), "uint8").repeat(4, 1).repeat(4, 2)
    styles = contents[::-1] // 3 + 100
    model.fit(contents, styles, batch_size=8, epochs=15, verbose=0)
    return model


def pictures(count, side=16, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side // 4, side // 4, 3), "uint8").repeat(4, 1).repeat(4, 2)


def test_statistics_are_numpys():
    maps = RNG.normal(2, 3, (2, 5, 6, 4)).astype("float32")
    mean, deviation = (ops.convert_to_numpy(x)[:, 0, 0] for x in statistics(maps))
    np.testing.assert_allclose(mean, maps.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation, maps.std(axis=(1, 2)), rtol=1e-4)
    others = RNG.normal(-1, 0.5, (2, 7, 3, 4)).astype("float32")
    made = ops.convert_to_numpy(adaptive_instance_norm(maps, others))
    np.testing.assert_allclose(made.mean(axis=(1, 2)), others.mean(axis=(1, 2)), atol=1e-4)
    np.testing.assert_allclose(made.std(axis=(1, 2)), others.std(axis=(1, 2)), rtol=1e-3)


def test_strength_goes_from_the_content_to_the_style(model):
    contents, styles = pictures(4), pictures(4, seed=2) // 4 + 150
    made = [model.stylize(contents, styles, s).astype("float64") for s in (0, 0.5, 1)]
    far = [
        ops.convert_to_numpy(model.losses(*(ops.cast(y, "float32") / 127.5 - 1 for y in pair))[1])
        for pair in ((x, contents, styles) for x in made)
    ]
    assert (far[0] > far[1]).all() and (far[1] > far[2]).all()
    own = model.stylize(contents, styles, [0, 0.5, 1, 0.5])
    np.testing.assert_array_equal(own[0], made[0][0])
    np.testing.assert_array_equal(own[2], made[2][2])
    one = model.stylize(contents, styles[0])
    np.testing.assert_array_equal(one[0], made[2][0])


def test_any_size(model):
    made = model.stylize(pictures(2, 24)[:, :19], RNG.integers(0, 256, (33, 10, 3), "uint8"))
    assert made.shape == (2, 19, 24, 3) and made.dtype == np.uint8


def test_the_optimisation_lowers_what_the_network_lowers(model):
    contents, styles = pictures(2), pictures(2, seed=2) // 4 + 150
    before = model.losses(
        *(ops.cast(x, "float32") / 127.5 - 1 for x in (contents, contents, styles))
    )
    made, content, style = optimise(contents, styles, model.losses, model.encoder, steps=60)
    assert made.shape == contents.shape and made.dtype == np.uint8
    assert (content + style < sum(ops.convert_to_numpy(x) for x in before)).all()
    again, *_ = optimise(contents, styles, model.losses, model.encoder, steps=60)
    np.testing.assert_array_equal(made, again)
    features = PerceptualFeatures()
    _, content, style = optimise(
        contents, styles, gram_losses(features), features.network, steps=30
    )
    far = gram_losses(features)(
        *(ops.cast(x, "float32") / 127.5 - 1 for x in (contents, contents, styles))
    )
    assert (style < ops.convert_to_numpy(far[1])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((pictures(2), pictures(3)), "one style for each of 2 images"),
        ((pictures(2), pictures(2), 1.5), "strength must be 0 to 1"),
        ((pictures(2), pictures(2), [0.5]), "one number for all images or one for each of 2"),
        ((pictures(2)[..., :1], pictures(2)), r"uint8 images \[N, h, w, 3\]"),
    ],
)
def test_what_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.stylize(*arguments)


def test_a_style_is_needed(model):
    with pytest.raises(ValueError, match="takes a style beside the image"):
        model.translate(pictures(2))
    with pytest.raises(ValueError, match="Received: one array"):
        model.fit(pictures(2), verbose=0)


def test_the_encoder_is_saved_with_the_model(tmp_path):
    """One of one's own: without the file that it came from."""
    pixels = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, "same", activation="relu", name="fine")(pixels)
    x = keras.layers.Conv2D(6, 3, 2, "same", activation="relu", name="coarse")(x)
    path = tmp_path / "features.keras"
    keras.Model(pixels, x).save(path)
    model = StyleTransfer(
        (8, 8, 3), encoder=str(path), feature_layers=("fine", "coarse"), filters=8
    )
    made = model.stylize(pictures(2, 8), pictures(2, 8, 3))
    model.save(tmp_path / "model.keras")
    path.unlink()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.stylize(pictures(2, 8), pictures(2, 8, 3)), made)


# Perceptual features -----------------------------------------------------------------------


def test_perceptual_distance_is_what_it_says():
    features = PerceptualFeatures(layers=("relu_2", "relu_5"))
    one, other = (RNG.uniform(-1, 1, (3, 16, 16, 3)).astype("float32") for _ in range(2))
    expected = 0
    for a, b in zip(features(one), features(other), strict=True):
        a, b = (ops.convert_to_numpy(x) for x in (a, b))
        a, b = (x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-8) for x in (a, b))
        expected = expected + ((a - b) ** 2).sum(-1).mean(axis=(1, 2))
    found = ops.convert_to_numpy(distance(features, one, other))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(ops.convert_to_numpy(distance(features, one, one))).max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_prepared_as_the_extractor_has_them(channels):
    from kgen.evaluation.classifiers import for_general_network
    from kgen.layers.scaling import scale_images

    images = RNG.integers(0, 256, (2, 24, 24, channels), "uint8")
    ours = ops.convert_to_numpy(PerceptualFeatures().prepared(scale_images(images)))
    np.testing.assert_allclose(ours, for_general_network(images), atol=1e-5)


def test_a_network_of_ones_own_and_vgg(tmp_path):
    weights = tmp_path / "vgg16.weights.h5"
    keras.applications.VGG16(include_top=False, weights=None).save_weights(weights)
    features = PerceptualFeatures(f"vgg16:{weights}")
    assert features.layers[0] == "block1_conv1" and len(features(np.zeros((1, 32, 32, 3)))) == 4
    pixels = keras.Input((None, None, 1))
    own = keras.Model(pixels, keras.layers.Conv2D(2, 3, name="here")(pixels))
    [maps] = PerceptualFeatures(own, ("here",))(np.zeros((1, 8, 8, 1)))
    assert maps.shape == (1, 6, 6, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("general_cmm",), ValueError, "Did you mean 'general_cnn'"),
        (("general_cnn", ("relu_9",)), ValueError, "Unknown layer of general_network 'relu_9'"),
        (("general_cnn", ()), ValueError, "Name the layers of general_network"),
        (("vgg19",), FileNotFoundError, "vgg19 needs the path of its weights"),
        (("vgg19:nowhere.h5",), FileNotFoundError, "nowhere.h5"),
        (("nowhere.keras", ("x",)), FileNotFoundError, "nowhere.keras"),
    ],
)
def test_features_that_are_none(arguments, error, message):
    with pytest.raises(error, match=message):
        PerceptualFeatures(*arguments)


def test_a_file_that_is_no_vgg(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no weights of vgg16"):
        PerceptualFeatures(f"vgg16:{tmp_path / 'x.h5'}")


def test_a_loss_of_perceptual_features_is_no_part_of_the_model():
    model = kgen.models.SRGAN.from_preset("srgan_tiny")
    before = len(model.weights)
    model.compile()
    assert len(model.weights) == before
