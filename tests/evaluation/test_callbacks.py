"""`EvaluateSamples` in a real `fit`."""

import json

import keras
import numpy as np
import pytest

import kgen
from kgen.evaluation import EvaluateSamples, Reference


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return kgen.data.load("digits", cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture
def reference(data, tmp_path):
    return Reference(data.validation, cache_dir=tmp_path / "features")


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


def test_every_other_epoch(data, reference):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(dict(logs))

    evaluation = EvaluateSamples(reference, every=2, num_samples=64, metrics=["kd", "recall"])
    model, _ = fit(data, [evaluation, Watch()], epochs=4)
    names = {"KD-random_conv", "recall-random_conv"}
    assert [names <= set(logs) for logs in seen] == [False, True, False, True]
    expected = reference.measure(model.generate(64, seed=0), metrics=["kd"], floor=False)
    expected = expected["metrics"]["KD-random_conv"]["value"]
    assert seen[-1]["KD-random_conv"] == pytest.approx(expected, rel=1e-6)


def test_the_best_model_is_kept(data, reference, tmp_path):
    path = tmp_path / "kept" / "best.keras"
    evaluation = EvaluateSamples(
        reference, num_samples=64, metrics=["kd", "recall"], best="kd", path=path
    )
    _, history = fit(data, [evaluation], epochs=4)
    values = history["KD-random_conv"]
    record = json.loads(path.with_name("best.keras.json").read_text())
    assert record == {
        "metric": "KD-random_conv",
        "value": min(values),
        "epoch": 1 + int(np.argmin(values)),
    }
    images = keras.saving.load_model(path).generate(64, seed=0)
    found = reference.measure(images, metrics=["kd"], floor=False)["metrics"]
    assert found["KD-random_conv"]["value"] == pytest.approx(min(values), rel=1e-5)


def test_where_higher_is_better(data, reference, tmp_path):
    path = tmp_path / "best.keras"
    evaluation = EvaluateSamples(
        reference, num_samples=64, metrics=["density"], best="density", path=path
    )
    _, history = fit(data, [evaluation], epochs=3)
    record = json.loads(path.with_name("best.keras.json").read_text())
    assert record["value"] == max(history["density-random_conv"])


def test_a_resumed_run_keeps_the_better_one(data, reference, tmp_path):
    path = tmp_path / "best.keras"

    def evaluation():
        return EvaluateSamples(reference, num_samples=64, metrics=["kd"], best="kd", path=path)

    model, _ = fit(data, [evaluation()], epochs=1)
    record = path.with_name("best.keras.json")
    record.write_text(json.dumps({"metric": "KD-random_conv", "value": -1.0, "epoch": 1}))
    kept = path.read_bytes()
    fit(data, [evaluation()], epochs=2, model=model, initial_epoch=1)
    assert path.read_bytes() == kept, "no epoch was better than the record"
    # A new training, from epoch 0, forgets what an older one had reached.
    _, history = fit(data, [evaluation()], epochs=1)
    assert json.loads(record.read_text())["value"] == history["KD-random_conv"][0]


@pytest.mark.slow
def test_a_split_is_enough_and_labels_are_drawn_like_its_own(data, tmp_path, monkeypatch):
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    model = kgen.models.DCGAN.from_preset(
        "dcgan_tiny", image_shape=data.image_shape, num_classes=10
    )
    model.compile()
    evaluation = EvaluateSamples(data.validation, num_samples=400, metrics=["cas"])
    history = model.fit(data.train, epochs=1, callbacks=[evaluation], verbose=0)
    assert 0 <= history.history["CAS"][0] <= 1
    assert evaluation.reference.split == "validation"


def test_the_figures_do_not_change_the_training(data, reference):
    _, with_figures = fit(data, [EvaluateSamples(reference, num_samples=16, metrics=["kd"])], 2)
    _, without = fit(data, [], 2)
    assert with_figures["loss"] == without["loss"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, r"every must be a positive number of epochs\. Received: 0"),
        ({"best": "fd"}, "best and path go together"),
        ({"best": "is", "path": "x.keras"}, "Unknown metric to choose the best by 'is'"),
        ({"best": "authenticity", "metrics": ["authenticity"], "path": "x.keras"}, "to choose"),
        ({"metrics": ["fid"]}, "Unknown metric 'fid'"),
        ({"metrics": ["authenticity"]}, "needs the training images"),
        ({"metrics": ["fd"], "num_samples": 100}, "needs at least 256 images"),
    ],
)
def test_refused_before_the_first_step(options, message, data, reference):
    with pytest.raises(ValueError, match=message):
        fit(data, [EvaluateSamples(reference, **options)], epochs=1)
