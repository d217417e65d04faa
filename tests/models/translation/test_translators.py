"""What all translators share: what they are trained on, images of any size, tiles, known pixels."""

import inspect
import re

import keras
import numpy as np
import pytest

import kgen
from kgen.data import Split, degrade
from kgen.models.translation.augmentation import augmented
from kgen.models.translation.base import Translator

NAMES = list(kgen.models.families()["translation"].models)
CONVOLUTIONAL = ("restorer", "pix2pix", "cycle_gan", "srgan")
#: Sizes of networks that are soon traced.
SMALL = {"filters": 8, "num_downsamplings": 0, "middle_blocks": 1}


def randomised(model):
    """A model whose every weight matters, as after training."""
    for i, weight in enumerate(model.weights):
        if "float" in weight.dtype and weight.trainable:
            noise = np.random.default_rng(i).normal(size=weight.shape)
            weight.assign(0.7 * noise / np.sqrt(max(1, np.prod(weight.shape[:-1]))))
    if hasattr(model, "ema_network"):
        model.ema_network.set_weights(model.network.get_weights())
    return model


def images_of(count, *shape):
    return np.random.default_rng(count).integers(0, 256, (count, *shape), "uint8")


@pytest.mark.parametrize("name", NAMES)
def test_arguments(name):
    model_class = kgen.models.get(name)
    assert issubclass(model_class, Translator)
    assert "num_classes" not in inspect.signature(model_class).parameters
    with pytest.raises(TypeError, match="num_classes"):
        model_class((8, 8, 3), num_classes=3)


def test_every_argument_is_in_the_config_and_survives_saving(tmp_path):
    for name, arguments in {
        "restorer": {
            "degradation": "blur:1,noise:3",
            "pixel_loss": "l2",
            "filters": 8,
            "blocks": 2,
        },
        "pix2pix": {"input_shape": (4, 4, 1), "loss": "hinge", "conditional": False, "filters": 8},
        "cycle_gan": {"loss": "hinge", "pool_size": 0, "identity_weight": 0.0, "filters": 8},
        "srgan": {"degradation": "area:4", "perceptual_weight": 0.0, "pixel_steps": 0},
        "palette": {"input_shape": (8, 8, 2), "noise_schedule": "cosine", "prediction": "noise"},
        "style_transfer": {
            "feature_layers": ("relu_2", "relu_4"),
            "style_weight": 3.0,
            "blocks": 0,
        },
    }.items():
        model = kgen.models.get(name)((8, 8, 3), seed=5, **arguments)
        assert {key: model.get_config()[key] for key in arguments} == {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in arguments.items()
        }
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.get_config() == model.get_config()
        for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_tiles_are_the_whole(name):
    """However it is cut: inside, at the borders, at sides of no whole squares."""
    model_class = kgen.models.get(name)
    model = randomised(model_class.from_preset(model_class.tiny_preset))
    channels, least = model.input_shape[-1], 2 * model._overlap + model.stride
    for height, width in ((3 * least, 2 * least + 7), (least + 1, 5), (4, 4 * least - 3)):
        images = images_of(2, height, width, channels)
        whole = model.translate(images, seed=3)
        assert whole.shape[1:3] == (height * model.scale, width * model.scale)
        for tile in (least, least + 8):
            tiled = model.translate(images, seed=3, tile=tile)
            difference = np.abs(tiled.astype(int) - whole)
            assert difference.max() <= 1 and (difference == 0).mean() > 0.999
    several = model.translate([images_of(1, 9, 7, channels)[0], images[1]], seeds=[1, 2])
    assert [image.shape[:2] for image in several] == [
        (side * model.scale, other * model.scale) for side, other in ((9, 7), images.shape[1:3])
    ]
    np.testing.assert_array_equal(several[1], whole[1])


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_nothing_further_than_its_reach_has_a_part(name):
    model_class = kgen.models.get(name)
    model = randomised(model_class.from_preset(model_class.tiny_preset))
    side, scale = 2 * (model.reach + 8), model.scale
    image = images_of(1, side, side, model.input_shape[-1])
    changed = image.copy()
    place = side // 2
    changed[0, place, place] = 255 - changed[0, place, place]
    one, other = (model.translate(x, seed=0) for x in (image, changed))
    rows, columns = np.nonzero((one != other).any(axis=-1)[0])
    assert len(rows)
    far = max(np.abs(np.concatenate([rows, columns]) // scale - place))
    assert 2 < far <= model.reach + model.stride


def test_a_tile_that_is_too_small():
    model = kgen.models.Restorer((8, 8, 1), degradation="noise:25", filters=8)
    with pytest.raises(ValueError, match=r"tile must be \d+ or more: this Restorer sees \d+"):
        model.translate(images_of(1, 90, 90, 1), tile=16)
    palette = kgen.models.Palette.from_preset("palette_tiny")
    with pytest.raises(ValueError, match="tile is for models of convolutions alone"):
        palette.translate(images_of(1, 8, 8, 2), tile=64)


def test_large_images_go_in_tiles_by_themselves(monkeypatch):
    model = kgen.models.Restorer((8, 8, 1), degradation="noise:25", filters=8)
    asked = []
    run = model.run_endpoint
    monkeypatch.setattr(
        model, "run_endpoint", lambda n, x, **o: asked.append(x["image"].shape) or run(n, x, **o)
    )
    made = model.translate(images_of(1, 700, 600, 1))
    assert made.shape == (1, 700, 600, 1) and asked[0][1:3] == (256, 256)


@pytest.mark.parametrize("name", ["restorer", "palette"])
@pytest.mark.parametrize(
    ("shape", "degradation"), [((8, 8, 1), "box:0.3"), ((8, 8, 3), "strokes:0.3")]
)
def test_known_pixels_come_out_as_they_went_in(name, shape, degradation):
    model_class = kgen.models.get(name)
    sizes = {"filters": 16} if name == "palette" else {"filters": 8}
    model = randomised(model_class(shape, degradation=degradation, **sizes))
    clean = images_of(6, *shape)
    given = degrade(clean, degradation, seed=4)
    assert model.input_shape == given.shape[1:]
    made = model.translate(given, seed=1)
    known = given[..., -1] == 255
    np.testing.assert_array_equal(made[known], clean[known])
    assert (made[~known] != given[..., :-1][~known]).any()


def test_what_is_degraded_further_is_not_kept():
    model = kgen.models.Restorer((8, 8, 1), degradation="noise:9,box:0.3", filters=8)
    given = degrade(images_of(4, 8, 8, 1), "noise:9,box:0.3")
    assert model.known(keras.ops.convert_to_tensor(given)) is None


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        ((8, 8, 1), 3),
        ((8, 8, 1), 4),
        ((8, 8, 2), 4),
        ((8, 8, 3), 1),
        ((8, 8, 4), 3),
        ((4, 4, 3), 3),
    ],
)
def test_the_first_guess(taken, given):
    """Without training the input comes out: as it is, grey as colours, enlarged."""
    model = kgen.models.Restorer((8, 8, given), input_shape=taken, filters=8)
    image = np.full((1, *taken), 100, "uint8")
    image[..., -1] = 200 if taken[-1] in (2, 4) else 100
    made = model.translate(image)
    assert made.shape == (1, 8, 8, given)
    colours = made[..., :3] if given == 4 else made
    assert np.abs(colours.astype(int) - 100).max() <= 1
    if given == 4:
        assert (made[..., 3] == (200 if taken[-1] == 2 else 255)).all()


def test_enlarging_is_pillows():
    from PIL import Image

    model = kgen.models.Restorer((16, 16, 3), degradation="bicubic:2", filters=8)
    small = np.broadcast_to(squares(3), (3, 16, 16, 3))[:, 4:12, 4:12]
    theirs = np.stack(
        [np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BICUBIC)) for x in small]
    )
    difference = np.abs(model.guesses(small).astype(int) - theirs)[:, 4:-4, 4:-4]
    assert difference.max() <= 4 and difference.mean() < 0.6  # Pillow rounds in between


# What they are trained on ------------------------------------------------------------------


def trained(model, *data, **options):
    model.compile()
    return model.fit(*data, batch_size=8, verbose=0, **options)


@pytest.mark.filterwarnings("ignore:Training on")
def test_pairs_in_all_their_forms():
    images, inputs = images_of(16, 8, 8, 3), images_of(16, 8, 8, 1)
    split = Split(images, inputs=inputs)
    weights = []
    for data in ((inputs, images), (split,), (split.batches(8, seed=0),)):
        keras.utils.set_random_seed(0)
        model = kgen.models.Restorer((8, 8, 3), input_shape=(8, 8, 1), **SMALL)
        trained(model, *data, validation_data=data[0] if len(data) == 1 else data)
        weights.append(model.get_weights())
    for others in weights[1:]:
        for ours, theirs in zip(weights[0], others, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    history = trained(model, inputs, images, validation_split=0.25).history
    assert "val_loss" in history
    assert set(model.evaluate(inputs, images, return_dict=True, verbose=0)) == set(
        model.metric_names
    )
    model.train_on_batch(inputs[:4], images[:4])


def test_pairs_of_a_dataset(tensorflow_only):
    import tensorflow as tf

    images, inputs = images_of(16, 8, 8, 3), images_of(16, 8, 8, 1)
    model = kgen.models.Restorer((8, 8, 3), input_shape=(8, 8, 1), **SMALL)
    pairs = tf.data.Dataset.from_tensor_slices((inputs, images)).batch(8)
    assert np.isfinite(trained(model, pairs).history["loss"]).all()
    for wrong, message in (
        (tf.data.Dataset.from_tensor_slices(images).batch(8), r"there must be \(inputs, images\)"),
        (tf.data.Dataset.from_tensor_slices((images, images)).batch(8), "inputs must be uint8"),
        (tf.data.Dataset.from_tensor_slices((inputs, inputs)).batch(8), "images must be uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(wrong, verbose=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: (images_of(4, 8, 8, 3),), "learns from pairs: .* Received: one array"),
        (lambda: (Split(images_of(4, 8, 8, 3)),), r"--degrade noise:25\). Received: images alone"),
        (lambda: (images_of(4, 8, 8, 3), images_of(4, 8, 8, 3)), "takes inputs of shape .8, 8, 1."),
        (lambda: (images_of(4, 8, 8, 1), images_of(4, 8, 8, 1)), "takes images of shape .8, 8, 3."),
        (lambda: (images_of(3, 8, 8, 1), images_of(4, 8, 8, 3)), "one input for each of 4 images"),
        (
            lambda: (Split(images_of(4, 8, 8, 3), inputs=images_of(5, 8, 8, 1), paired=False),),
            "Restorer learns from pairs. .* train a CycleGAN",
        ),
    ],
)
def test_what_are_no_pairs(data, message):
    model = kgen.models.Restorer((8, 8, 3), input_shape=(8, 8, 1), filters=8)
    model.compile()
    with pytest.raises(ValueError, match=message):
        model.fit(*data(), verbose=0)


def test_with_a_degradation_images_alone():
    model = kgen.models.Restorer((8, 8, 3), degradation="grey", filters=8)
    model.compile()
    with pytest.raises(ValueError, match="makes its inputs of clean images, by degradation='grey'"):
        model.fit(images_of(4, 8, 8, 3), images_of(4, 8, 8, 3), verbose=0)


def test_other_inputs_in_every_step_and_the_same_again():
    """What is degraded follows from the seed and from the step, not from the images."""
    model = kgen.models.Restorer((8, 8, 1), degradation="noise:25", filters=8, seed=3)
    images = images_of(12, 8, 8, 1)
    one, again = model.inputs_of(images, seed=1), model.inputs_of(images, seed=1)
    np.testing.assert_array_equal(one, again)
    assert (one != model.inputs_of(images, seed=2)).any()
    np.testing.assert_array_equal(one, degrade(images, "noise:25", seed=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (16, 16, 3)}, "the same whole number of times as long"),
        ({"input_shape": (4, 8, 3)}, "the same whole number of times as long"),
        ({"input_shape": (8, 8, 7)}, "input_shape must be .* with 1, 2, 3 or 4 channels"),
        ({"degradation": "grey", "input_shape": (8, 8, 3)}, r"makes \(8, 8, 1\) of \(8, 8, 3\)"),
        ({"degradation": "noize:3"}, "Did you mean 'noise'"),
        ({"degradation": "area:3"}, "whose sides 3 divides"),
    ],
)
@pytest.mark.parametrize("name", ["restorer", "palette"])
def test_wrong_shapes(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        kgen.models.get(name)((8, 8, 3), **arguments)


def test_it_draws_nothing_without_an_image():
    for name in NAMES:
        model_class = kgen.models.get(name)
        with pytest.raises(ValueError, match=re.escape("translate(images)")):
            model_class.from_preset(model_class.tiny_preset).generate(4)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 1), "float32"),
        np.zeros((2, 8, 8, 3), "uint8"),
        np.zeros((8, 8, 1), "uint8"),
        np.zeros((1, 0, 8, 1), "uint8"),
    ],
)
def test_images_that_are_none(images):
    model = kgen.models.Restorer((8, 8, 1), degradation="noise:25", filters=8)
    with pytest.raises(ValueError, match=r"Restorer translates uint8 images \[N, h, w, 1\]"):
        model.translate(images)
    palette = kgen.models.Palette.from_preset("palette_tiny")
    with pytest.raises(ValueError, match=r"uint8 images \[N, 8, 8, 2\]. Received: uint8 \[1, 9"):
        palette.translate(np.zeros((1, 9, 8, 2), "uint8"))
    with pytest.raises(ValueError, match="seeds must be one per image, 2"):
        model.translate(np.zeros((2, 8, 8, 1), "uint8"), seeds=[1])


def test_several_answers():
    """By other seeds others, by the same seed the same; one where nothing is drawn."""
    palette = randomised(kgen.models.Palette.from_preset("palette_tiny"))
    given = palette.inputs_of(images_of(3, 8, 8, 1))
    drawn = palette.variants(given, n=5, seed=2)
    assert drawn.shape == (3, 5, 8, 8, 1)
    assert (drawn.std(axis=1) > 0).any()
    np.testing.assert_array_equal(palette.variants(given, n=5, seed=2), drawn)
    restorer = kgen.models.Restorer((8, 8, 1), degradation="noise:25", filters=8)
    assert not restorer.variants(images_of(2, 8, 8, 1), n=3).std(axis=1).any()


# Learning ------------------------------------------------------------------------------------


def squares(count, side=16):
    """Bright squares on dark ground, uint8 `[N, side, side, 1]`."""
    rng = np.random.default_rng(1)
    images = np.full((count, side, side, 1), 30, "uint8")
    for image in images:
        top, left = rng.integers(1, side - 8, 2)
        image[top : top + rng.integers(4, 8), left : left + rng.integers(4, 8)] = 220
    return images


def test_restoring_gains_decibels():
    keras.utils.set_random_seed(0)
    model = kgen.models.Restorer((16, 16, 1), degradation="noise:50", filters=16)
    history = trained(model, squares(256), epochs=4).history
    assert history["gain"][-1] > 5 > history["gain"][0]
    held_out = squares(300)[256:]
    given = model.inputs_of(held_out)
    made = model.translate(given)

    def error(images):
        return np.mean((images.astype("float64") - held_out) ** 2)

    assert 10 * np.log10(error(given) / error(made)) > 6


def test_enlarging_is_learnt_by_pixels_first():
    keras.utils.set_random_seed(0)
    sizes = {"filters": 16, "middle_blocks": 1, "discriminator_layers": 1}
    model = kgen.models.SRGAN((16, 16, 1), pixel_steps=256, **sizes)
    judge = [w.copy() for w in model.discriminator.get_weights()]
    history = trained(model, squares(256), epochs=8).history
    assert history["gain"][-1] > 0.2 > history["gain"][0]
    trainable = [v.trainable for v in model.discriminator.weights]
    for before, after, trains in zip(
        judge, model.discriminator.get_weights(), trainable, strict=True
    ):
        assert not trains or (before == after).all()  # it has not played yet
    assert history["discriminator_loss"][-1] == 0
    later = model.fit(squares(256), batch_size=8, epochs=1, verbose=0).history
    assert later["discriminator_loss"][-1] > 0.5


def test_what_regression_has_learnt_is_a_beginning():
    restorer = randomised(kgen.models.Restorer((8, 8, 1), degradation="bicubic:2", **SMALL))
    model = kgen.models.SRGAN((8, 8, 1), **SMALL)
    model.begin_with(restorer)
    small = images_of(3, 4, 4, 1)
    np.testing.assert_array_equal(model.translate(small), restorer.translate(small))
    other = kgen.models.SRGAN((8, 8, 1), filters=16)
    with pytest.raises(ValueError, match="SRGAN cannot begin with this Restorer: none of its"):
        other.begin_with(restorer)


def test_nothing_gained_is_said(recwarn):
    model = kgen.models.Restorer((8, 8, 1), degradation="noise:25", filters=8)
    model.training_steps.assign(1000)
    assert model.diagnose({"gain": 0.3, "val_gain": 0.1}) == []
    [said] = model.diagnose({"gain": 0.3, "val_gain": -0.4})
    assert said.startswith("nothing gained: Restorer is 0.4 dB further from the truth")


@pytest.mark.parametrize("batch", [4, 12])
def test_pools_give_old_images_and_take_new_ones(batch):
    """Of 8 places, with smaller and larger batches: nothing is lost, nothing is there twice."""
    model = kgen.models.CycleGAN((8, 8, 1), filters=8, pool_size=8)
    forth = np.arange(1, 5 * batch + 1, dtype="float32").reshape(5, batch, 1, 1, 1)
    forth = np.broadcast_to(forth, (5, batch, 8, 8, 1))
    shown = []
    for step in range(5):
        seeds = keras.ops.convert_to_tensor(np.arange(batch, dtype="int32") + 100 * step)
        made = keras.ops.convert_to_tensor(forth[step])
        seen, back = model._from_pools((made, -made), seeds)
        seen, back = (keras.ops.convert_to_numpy(x)[:, 0, 0, 0] for x in (seen, back))
        assert set(seen) <= set(range(1, (step + 1) * batch + 1))
        assert set(-back) <= set(range(1, (step + 1) * batch + 1))
        shown.append(seen)
        pool = keras.ops.convert_to_numpy(model.pools[0])[:, 0, 0, 0]
        filled = pool[pool > 0]
        assert len(np.unique(filled)) == len(filled) == min(8, (step + 1) * min(batch, 8))
    newest = 4 * batch
    assert (shown[0] == np.arange(1, batch + 1)).all()  # a pool that is empty has none to give
    assert (shown[-1] <= newest).any() and (shown[-1] > newest).any()


def test_there_and_back():
    model = randomised(kgen.models.CycleGAN((8, 8, 3), input_shape=(8, 8, 1), filters=8))
    images = images_of(2, 10, 12, 1)
    there = model.translate(images)
    assert there.shape == (2, 10, 12, 3)
    assert model.translate_back(there).shape == (2, 10, 12, 1)
    with pytest.raises(ValueError, match=r"translates uint8 images \[N, h, w, 3\]"):
        model.translate_back(images)
    for arguments in ({"input_shape": (4, 4, 3)}, {"degradation": "box:0.2"}):
        with pytest.raises(ValueError, match="CycleGAN goes there and back"):
            kgen.models.CycleGAN((8, 8, 3), **arguments)


def test_two_heaps_train_together(capsys):
    keras.utils.set_random_seed(0)
    contents, others = squares(40), 255 - squares(24)
    model = kgen.models.CycleGAN((16, 16, 1), pool_size=4, discriminator_layers=1, **SMALL)
    history = trained(model, contents, others, epochs=2, validation_data=(contents, others)).history
    assert np.isfinite(list(history.values())).all()
    assert history["cycle_error"][-1] < 1


# Augmentation --------------------------------------------------------------------------------


ALL = ("mirror", "turn", "shift", "colours")


@pytest.mark.parametrize("name", ALL)
def test_partners_are_changed_alike(name):
    images, seeds = images_of(64, 8, 8, 3), np.arange(64, dtype="int32")
    one, other = (
        keras.ops.convert_to_numpy(augmented(keras.ops.convert_to_tensor(x), seeds, (name,)))
        for x in (images, 255 - images)
    )
    np.testing.assert_array_equal(one, 255 - other)
    same = (one == images).all(axis=(1, 2, 3))
    assert 0 < same.sum() < 48
    alone = augmented(keras.ops.convert_to_tensor(images[5:6]), seeds[5:6], (name,))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(alone)[0], one[5])
    if name != "shift":  # no grey level is lost
        np.testing.assert_array_equal(
            np.sort(one.reshape(64, -1), axis=1), np.sort(images.reshape(64, -1), axis=1)
        )
    ways = {
        "mirror": [lambda x: x, lambda x: x[:, ::-1]],
        "turn": [lambda x, k=k: np.rot90(x, k) for k in range(4)],
        "colours": [
            lambda x, o=o: x[..., list(o)]
            for o in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        ],
    }.get(name, ())
    taken = [[(way(a) == b).all() for way in ways] for a, b in zip(images, one, strict=True)]
    if ways:
        assert np.any(taken, axis=1).all() and np.any(taken, axis=0).all()


def test_large_and_small_partners_are_moved_alike():
    small = images_of(16, 8, 8, 3)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    seeds = np.arange(16, dtype="int32")
    one, other = (
        keras.ops.convert_to_numpy(augmented(keras.ops.convert_to_tensor(x), seeds, ALL, scale))
        for x, scale in ((small, 1), (large, 2))
    )
    np.testing.assert_array_equal(one.repeat(2, axis=1).repeat(2, axis=2), other)


def test_training_alone_is_augmented():
    """Held-out images are measured as they are."""
    keras.utils.set_random_seed(0)
    images = images_of(16, 8, 8, 3)
    figures = []
    for augmentation in ((), ALL):
        model = kgen.models.Restorer(
            (8, 8, 3), degradation="noise:25", augmentation=augmentation, **SMALL
        )
        model.compile()
        figures.append(model.evaluate(images, verbose=0))
        assert model.get_config()["augmentation"] == list(augmentation)
    assert figures[0] == figures[1]
    trained(model, images)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((8, 8, 3), {"augmentation": "mirrow"}, "Did you mean 'mirror'"),
        ((8, 12, 3), {"augmentation": "turn"}, "'turn' is for square images"),
        ((8, 8, 3), {"augmentation": "colours", "degradation": "grey"}, "with colours"),
    ],
)
def test_augmentation_that_is_none(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        kgen.models.Restorer(shape, **arguments)
