"""`EvaluateSamples` in a real `fit`."""

import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

import kgen
from kgen.evaluation import EvaluateSamples, Reference


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return kgen.data.load("digits", cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    return Reference(data.validation, cache_dir=tmp_path_factory.mktemp("features"))


def fit(data, callbacks, epochs, model=None, initial_epoch=0):
    keras.utils.set_random_seed(0)  # for the order of the images
    if model is None:
        model = kgen.models.VAE.from_preset("vae_tiny", image_shape=data.image_shape, seed=3)
        model.compile()
    history = model.fit(
        data.train,
        epochs=epochs,
        initial_epoch=initial_epoch,
        batch_size=256,
        callbacks=callbacks,
        verbose=0,
    )
    return model, history.history


def a_choice(reference, metric, path, **options):
    return EvaluateSamples(reference, num_samples=64, best=metric, path=path, **options)


@dataclasses.dataclass
class Trained:
    """A model with all that three evaluations left behind in its four epochs."""

    folder: pathlib.Path
    model: keras.Model
    history: dict
    seen: list  # the logs of each epoch, after the evaluation of every other one
    drawn: np.ndarray  # what the trained model draws


@pytest.fixture(scope="module")
def trained(data, reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(dict(logs))

    every_other = EvaluateSamples(reference, every=2, num_samples=64, metrics=["kd", "recall"])
    lowest = a_choice(reference, "kd", folder / "kept" / "kd.keras", metrics=["kd", "recall"])
    highest = a_choice(reference, "density", folder / "density.keras", metrics=["density"])
    model, history = fit(data, [every_other, Watch(), lowest, highest], epochs=4)
    return Trained(folder, model, history, seen, model.generate(64, seed=0))


def test_every_other_epoch(reference, trained):
    names = {"KD-general_cnn", "recall-general_cnn"}
    assert [names <= set(logs) for logs in trained.seen] == [False, True, False, True]
    expected = reference.measure(trained.drawn, metrics=["kd"], floor=False)
    expected = expected["metrics"]["KD-general_cnn"]["value"]
    assert trained.seen[-1]["KD-general_cnn"] == pytest.approx(expected, rel=1e-6)


def test_the_best_model_is_kept(reference, trained):
    path = trained.folder / "kept" / "kd.keras"
    values = trained.history["KD-general_cnn"]
    record = json.loads(path.with_name("kd.keras.json").read_text())
    assert record == {
        "metric": "KD-general_cnn",
        "value": min(values),
        "epoch": 1 + int(np.argmin(values)),
    }
    images = keras.saving.load_model(path).generate(64, seed=0)
    found = reference.measure(images, metrics=["kd"], floor=False)["metrics"]
    assert found["KD-general_cnn"]["value"] == pytest.approx(min(values), rel=1e-5)


def test_where_higher_is_better(trained):
    record = json.loads((trained.folder / "density.keras.json").read_text())
    assert record["value"] == max(trained.history["density-general_cnn"])


def test_a_resumed_run_keeps_the_better_one(data, reference, trained, tmp_path):
    path = shutil.copy(trained.folder / "kept" / "kd.keras", tmp_path / "best.keras")
    record = path.with_name("best.keras.json")
    record.write_text(json.dumps({"metric": "KD-general_cnn", "value": -1.0, "epoch": 1}))
    kept = path.read_bytes()

    def resume(epochs, **options):
        callbacks = [a_choice(reference, "kd", path, metrics=["kd"])]
        return fit(data, callbacks, epochs, trained.model, **options)[1]

    resume(5, initial_epoch=4)
    assert path.read_bytes() == kept, "no epoch was better than the record"
    # A new training, from epoch 0, forgets what an older one had reached.
    history = resume(1)
    assert json.loads(record.read_text())["value"] == history["KD-general_cnn"][0]


def test_the_figures_do_not_change_the_training(data, trained):
    _, without = fit(data, [], 2)
    assert trained.history["loss"][:2] == without["loss"]


def test_few_validation_images_do_not_end_the_training(data, trained, tmp_path):
    few = kgen.data.Split(data.validation.images[:4])
    with pytest.warns(UserWarning, match=r"Left out: recall-general_cnn: needs at least 6 real"):
        _, history = fit(data, [EvaluateSamples(few, num_samples=64)], 1, trained.model)
    assert "KD-general_cnn" in history and "recall-general_cnn" not in history
    one = kgen.data.Split(data.validation.images[:1])
    with pytest.warns(UserWarning, match="Left out: KD-general_cnn: needs at least 2 real"):
        _, history = fit(data, [EvaluateSamples(one)], 1, trained.model)
    assert not any("general_cnn" in name for name in history)
    before = trained.model.steps_trained
    choice = a_choice(few, "recall", tmp_path / "best.keras")
    with pytest.raises(ValueError, match="cannot be chosen by 'recall', which needs at least 6"):
        fit(data, [choice], 1, trained.model)
    assert trained.model.steps_trained == before


@pytest.mark.parametrize("metric", ["kd", pytest.param("cas", marks=pytest.mark.slow)])
def test_a_split_is_enough_and_labels_are_drawn_like_its_own(data, metric, tmp_path, monkeypatch):
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    model = kgen.models.DCGAN.from_preset(
        "dcgan_tiny", image_shape=data.image_shape, num_classes=10
    )
    model.compile()
    evaluation = EvaluateSamples(data.validation, num_samples=400, metrics=[metric])
    history = model.fit(data.train, epochs=1, batch_size=256, callbacks=[evaluation], verbose=0)
    (value,) = history.history[{"kd": "KD-general_cnn", "cas": "CAS"}[metric]]
    assert np.isfinite(value) and (metric == "kd" or 0 <= value <= 1)
    assert evaluation.reference.split == "validation"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, r"every must be a positive int\. Received: every=0"),
        ({"best": "fd"}, "best and path go together"),
        ({"best": "fd", "path": "x.h5"}, r"path must be that of a \.keras file"),
        ({"seed": None}, "A seed must be an integer"),
        ({"num_samples": 2.7}, r"num_samples must be a positive int\. Received: num_samples=2\.7"),
        ({"best": "is", "path": "x.keras"}, "cannot be chosen by 'is', which needs an"),
        ({"best": "authenticity", "metrics": ["authenticity"], "path": "x.keras"}, "to choose"),
        ({"metrics": ["fid"]}, "Unknown metric 'fid'"),
        ({"metrics": ["authenticity"]}, "needs the training images"),
        ({"metrics": ["fd"], "num_samples": 100}, "needs at least 128 images"),
    ],
)
def test_refused_before_the_first_step(options, message, data, reference, trained):
    before = trained.model.training_steps
    with pytest.raises(ValueError, match=message):
        fit(data, [EvaluateSamples(reference, **options)], epochs=1, model=trained.model)
    assert trained.model.training_steps == before
