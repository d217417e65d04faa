"""What goes on from trained weights: which layers begin with them, and what a run makes of it."""

import shutil
import signal

import keras
import numpy as np
import pytest

import kgen
from kgen.training.errors import Interrupted
from kgen.training.run import load_model, train
from kgen.training.run_config import FINE_TUNING_RATE
from kgen.weights import named

TINY = ("dcgan", "flow_matching")


def built(name, **arguments):
    """A tiny model of three classes in which no two weights are equal."""
    model_class = kgen.models.get(name)
    model = model_class.from_preset(
        model_class.tiny_preset, **{**({} if name == "vae" else {"num_classes": 3}), **arguments}
    )
    for number, variable in enumerate(model.variables):
        if "float" in variable.dtype:
            drawn = np.random.default_rng(number).normal(size=variable.shape)
            variable.assign(0.1 * np.abs(drawn))
    return model


@pytest.fixture(scope="module")
def sources():
    models = {name: built(name) for name in ("vae", *TINY)}
    for model in models.values():
        model.training_steps.assign(1000)
    return models


@pytest.fixture(scope="module")
def presets(sources, tmp_path_factory):
    """A folder with a preset of each model's name."""
    folder = tmp_path_factory.mktemp("presets")
    for name, model in sources.items():
        model.save_to_preset(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "arguments", "fresh"),
    [
        ("dcgan", {}, ()),
        (
            "dcgan",
            {"image_shape": (8, 8, 3)},
            ("discriminator.conv2d", "generator.conv2d_transpose_1"),
        ),
        ("dcgan", {"num_classes": 5}, ("discriminator.dense", "generator.dense")),
        ("flow_matching", {"image_shape": (8, 8, 3)}, ("network.first", "network.last")),
        ("flow_matching", {"num_classes": 5}, ("network.label",)),
        ("flow_matching", {"num_classes": None}, ()),
    ],
)
def test_what_fits_is_taken_and_what_does_not_is_named(sources, name, arguments, fresh):
    source, model = sources[name], kgen.models.get(name)
    model = model.from_preset(model.tiny_preset, **{"num_classes": 3, **arguments})
    before = {name: keras.ops.convert_to_numpy(v).copy() for name, v in named(model).items()}
    transferred = model.begin_with(source)
    assert transferred.fresh == fresh
    given = named(source)
    twins = [each.removeprefix("ema_") for each in model.frozen_networks if each[:4] == "ema_"]
    for path, variable in named(model).items():
        layer = path.rpartition(".")[0].removeprefix("ema_")
        value = keras.ops.convert_to_numpy(variable)
        if layer in fresh:
            assert (value == before[path.removeprefix("ema_")]).all(), "the average too"
        elif layer:
            own = path.removeprefix("ema_")
            average = f"ema_{own}" if own.partition(".")[0] in twins else own
            np.testing.assert_array_equal(value, given[average], path)
            assert layer in transferred.taken
    assert model.steps_trained == 0


def test_a_first_stage_comes_with_its_weights_unless_there_is_a_trained_one():
    source = built("maskgit")
    source.tokenizer.training_steps.assign(7)
    fresh = kgen.models.MaskGIT.from_preset("maskgit_tiny", num_classes=3)
    assert "tokenizer.encoder.conv2d" in fresh.begin_with(source).taken
    assert fresh.tokenizer.steps_trained == 7
    other = source.tokenizer.get_weights()
    for a, b in zip(fresh.tokenizer.get_weights(), other, strict=True):
        np.testing.assert_array_equal(a, b)
    source.tokenizer.set_weights([2 * weight for weight in other])
    assert not any("tokenizer" in layer for layer in fresh.begin_with(source).taken)
    np.testing.assert_array_equal(fresh.tokenizer.get_weights()[0], other[0])
    colours = kgen.models.MaskGIT.from_preset("maskgit_tiny", image_shape=(8, 8, 3), num_classes=3)
    with pytest.raises(ValueError, match=r"tokenizer that was never trained.*tokenizer=RUN"):
        colours.begin_with(source)


def test_nothing_that_fits(sources):
    model = kgen.models.VAE((8, 8, 1), latent_dim=3, filters=5, num_blocks=0, units=7)
    with pytest.raises(ValueError, match="A VAE cannot begin with this DCGAN: none of its 7 lay"):
        model.begin_with(sources["dcgan"])


def photos(classes=None, shape=(8, 8, 1), count=40):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), "uint8")
    return kgen.data.load(images if classes is None else (images, np.arange(count) % classes))


def test_a_run_says_what_it_begins_with(presets, tmp_path, monkeypatch):
    monkeypatch.setattr("kgen.training.run._fit", lambda *args: None)
    monkeypatch.chdir(presets)
    place, rate = str(presets / "dcgan"), 1e-3

    def told(name, data, model="./dcgan", **options):
        said = []
        options = {"epochs": 1, "batch_size": 8, "report": said.append, "verbose": 2, **options}
        info = train(model, data, tmp_path / name, **options).info
        return info, {line.split(":")[0]: line.partition(":")[2].strip() for line in said}

    info, said = told("colours", photos(shape=(8, 8, 3)))
    config = info["model"]["config"]
    assert info["model"]["name"] == place, "from any folder"
    assert (config["filters"], config["image_shape"]) == (8, [8, 8, 3])
    assert config["num_classes"] is None, "for the images have none"
    fresh = sorted(info["begun_with"]["fresh"])
    assert fresh == [
        *("discriminator.conv2d", "discriminator.dense"),
        *("generator.conv2d_transpose_1", "generator.dense"),
    ]
    assert said["Fresh"].endswith("(4 of 9 layers: another shape, or not there)")
    assert all(layer in said["Fresh"] for layer in fresh)
    assert said["Begins"].startswith(f"with the weights of {place}, 5 of 9 layers, and 0.3 of the")
    assert said["Rate"] == f"Adam, {FINE_TUNING_RATE * rate:.4g}"
    assert "augmented as much as" in said["Chosen"], "there are few images"
    info, said = told("classes", photos(4), learning_rate=0.02, model_arguments={"latent_dim": 4})
    assert info["model"]["config"]["num_classes"] == 4, "as it was told classes before"
    assert info["model"]["config"]["latent_dim"] == 4 and "generator.dense" in said["Fresh"]
    assert said["Rate"] == "Adam, 0.02" and "of the model's own rate" not in said["Begins"]
    info, said = told("by name", photos(), "dcgan_tiny", begin_with=place)
    assert said["Rate"] == f"Adam, {rate:g}" and "of the model's own rate" not in said["Begins"]
    options = {"epochs": None, "minutes": 1, "schedule": "cosine"}
    info, said = told("minutes", photos(3), **options)
    assert info["pace"]["rates"] == pytest.approx([FINE_TUNING_RATE * rate] * 2)
    assert info["begun_with"] == {"source": place, "taken": 10, "fresh": []} and "Fresh" not in said


class Stop(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if self.model.steps_trained == 5:
            signal.raise_signal(signal.SIGINT)


def test_a_run_that_goes_on_needs_what_it_began_with_no_more(presets, sources, tmp_path):
    """At a rate of next to nothing it draws in the end what it began with."""
    images = photos(count=32).train.images
    data = kgen.data.load(images, validation_fraction=0, test_fraction=0)
    options = {"num_samples": 4, "verbose": 0}
    shutil.copytree(presets / "vae", tmp_path / "preset")
    with pytest.raises(Interrupted):
        train(
            *(tmp_path / "preset", data, tmp_path / "run"),
            **options,
            epochs=2,
            batch_size=8,
            learning_rate=1e-9,
            model_arguments={"likelihood": "bernoulli"},
            callbacks=[Stop()],
        )
    (tmp_path / "preset").rename(tmp_path / "gone")
    run = train(data=data, run=tmp_path / "run", resume=True, **options)
    model, _ = load_model(run.path)
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert model.steps_trained == run.metrics[-1]["steps"]
    difference = model.generate(4).astype(int) - sources["vae"].generate(4)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("{presets}/vae", {"begin_with": "{presets}/dcgan"}, "begins with its own weights"),
        ("vae_tiny", {"begin_with": "{presets}/dcgan"}, "cannot begin with this DCGAN"),
        ("vae_tiny", {"begin_with": "nowhere"}, "no model in nowhere"),
        (
            "{presets}/maskgit",
            {},
            "makes of images of 8x8x1, which takes no others.*--set tokenizer",
        ),
        ("{presets}/none", {}, "Unknown model or preset"),
    ],
)
def test_what_cannot_begin_leaves_no_folder(presets, tmp_path, model, options, message):
    if "maskgit" in model and not (presets / "maskgit").exists():
        built("maskgit").save_to_preset(presets / "maskgit")
    options = {name: value.format(presets=presets) for name, value in options.items()}
    with pytest.raises((ValueError, RuntimeError), match=message):
        train(
            model.format(presets=presets),
            photos(shape=(8, 8, 3)),
            tmp_path / "run",
            **options,
            verbose=0,
        )
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_killed_before_its_first_step_does_not_either(
    presets, sources, tmp_path, monkeypatch
):
    data = kgen.data.load(photos(count=32).train.images, validation_fraction=0, test_fraction=0)
    shutil.copytree(presets / "vae", tmp_path / "preset")
    arguments = tmp_path / "preset", data
    options = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-9, "verbose": 0}
    options["model_arguments"] = {"likelihood": "bernoulli"}
    with monkeypatch.context() as patch:
        patch.setattr("kgen.training.run._fit", lambda *args: None)
        train(*arguments, tmp_path / "run", **options)
    shutil.rmtree(tmp_path / "preset")
    run = train(data=data, run=tmp_path / "run", resume=True, verbose=0)
    model, _ = load_model(run.path)
    difference = model.generate(4).astype(int) - sources["vae"].generate(4)
    assert np.abs(difference).max() <= 1
    with pytest.raises(ValueError, match=r"is what the run in .* would replace, and begin with"):
        train(run.path, data, run.path, force=True, **options)
    assert load_model(run.path)[0].steps_trained == run.metrics[-1]["steps"]
