import json

import numpy as np
import pytest

from kgen.data import Split
from kgen.evaluation import METRICS, Reference, measure, reference


def pictures(n, seed=0, shape=(8, 8, 1)):
    """Random images of which each has a class, that of its brighter half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 100, (n, *shape))
    images[labels == 1, :4] += 120
    images[labels == 0, 4:] += 120
    return images.astype("uint8"), labels


class Halves:
    """An extractor with two classes: mean grey of the upper and of the lower half."""

    name, sha256, dim, num_classes = "halves", "cd" * 32, 2, 2

    def preprocess(self, images):
        return images / 255

    def __call__(self, images):
        x = self.preprocess(images)
        return np.stack([x[:, 4:].mean((1, 2, 3)), x[:, :4].mean((1, 2, 3))], 1).astype("float32")

    def probabilities(self, features):
        powers = np.exp(20 * features)
        return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "features"


def test_all_metrics_stand_with_floor_and_gap(cache):
    test, train = Split(*pictures(100, 1)), Split(*pictures(600, 2))
    found = Reference(test, train, Halves(), cache_dir=cache).measure(*pictures(300, 3))
    assert json.loads(json.dumps(found)) == found
    assert found["reference"] == {"split": "test", "n": 100}
    assert found["train_reference"] == {"split": "train", "n": 100}
    assert found["floor_sample"] == {"split": "train", "n": 300}
    assert found["samples"] == {"n": 300}
    assert found["features"] == {"name": "halves", "sha256": "cd" * 32, "dim": 2}
    titles = [metric.title.format("halves") for metric in METRICS.values()]
    assert list(found["metrics"]) == titles
    for name, metric in METRICS.items():
        entry = found["metrics"][metric.title.format("halves")]
        assert np.isfinite(entry["value"]) and np.isfinite(entry["floor"]), name
        assert (entry["train"] is not None) == metric.against_train, name
        if metric.against_train:
            assert entry["gap"] == entry["value"] - entry["train"]
    assert [c["name"] for c in found["classes"]] == ["0", "1"]
    assert sum(c["generated"] for c in found["classes"]) == pytest.approx(1)


def test_train_reference_and_floor_share_no_image(cache):
    test, train = pictures(50, 1)[0], pictures(200, 2)[0]
    found = Reference(test, train, Halves(), cache_dir=cache)
    one = {image.tobytes() for image in found.train_reference.images}
    other = {image.tobytes() for image in found.floor_sample(150).images}
    assert len(one) == 50 and len(other) == 150 and not one & other
    assert one | other <= {image.tobytes() for image in train}
    assert len(found.floor_sample(1000)) == 150
    assert Reference(test, train[:55], Halves(), cache_dir=cache).floor_sample(40) is None


def test_features_belong_to_their_images(cache, monkeypatch):
    """Also when there are too many images, and some are drawn."""
    monkeypatch.setattr(reference, "MAX_TEST", 30)
    split = Split(*pictures(80, 1))
    found = Reference(split, features=Halves(), cache_dir=cache, seed=3).test
    assert len(found) == 30
    np.testing.assert_array_equal(found.features, Halves()(found.images))
    labels = {
        image.tobytes(): label for image, label in zip(split.images, split.labels, strict=True)
    }
    assert [labels[image.tobytes()] for image in found.images] == found.labels.tolist()


def test_the_seed_decides(cache):
    images, test, train = (pictures(n, n)[0] for n in (300, 120, 500))
    one, two, other = (
        measure(images, test, train, features=Halves(), cache_dir=cache, seed=seed)["metrics"]
        for seed in (1, 1, 2)
    )
    assert one == two != other


def test_without_training_images(cache):
    found = measure(*(pictures(n, n)[0] for n in (300, 120)), features=Halves(), cache_dir=cache)
    assert found["train_reference"] is None and found["floor_sample"] is None
    assert "authenticity-halves" not in found["metrics"]
    entry = found["metrics"]["FD-halves"]
    assert (entry["train"], entry["gap"], entry["floor"]) == (None, None, None)


def test_what_cannot_be_computed_is_left_out_unless_asked_for(cache):
    (test, labels), (images, _) = pictures(60, 1), pictures(300, 2)
    plain = Reference(test, cache_dir=cache)  # general_cnn: no classifier, no labels, no train
    assert plain.check(300) == ["fd", "kd", "mind", "precision", "recall", "density", "coverage"]
    for metric, message in (
        ("cas", "The metric 'cas' needs labels of the generated images and of the reference"),
        ("is", "'is' needs an extractor with classes; general_cnn has none"),
        ("authenticity", "'authenticity' needs the training images"),
        ("fid", "Unknown metric 'fid'. Did you mean 'fd'"),
    ):
        with pytest.raises(ValueError, match=message):
            plain.measure(images, metrics=[metric])
    with pytest.raises(ValueError, match="needs labels"):
        Reference(Split(test, labels), cache_dir=cache).measure(images, metrics=["cas"])


def test_a_classifier_of_other_classes(cache):
    images, labels = pictures(100, 1)
    found = Reference(Split(images, 1 - labels), features=Halves(), cache_dir=cache)
    assert not found.knows_classes
    assert "label_accuracy" not in found.check(100, labels)
    with pytest.raises(ValueError, match="knows the reference's classes; halves gets 0% of them"):
        found.check(100, labels, ["label_accuracy"])
    assert "classes" not in found.measure(images, labels, ["kd"])


def test_labels_like(cache):
    split = Split(pictures(90)[0], np.repeat([0, 1, 2], [60, 20, 10]))
    found = Reference(split, cache_dir=cache)
    assert np.bincount(found.labels_like(900)).tolist() == [600, 200, 100]
    assert np.bincount(found.labels_like(90, seed=1)).tolist() == [60, 20, 10]
    assert found.labels_like(90).tolist() != found.labels_like(90, seed=1).tolist()


def test_class_names(cache):
    found = Reference(
        Split(*pictures(60)), features=Halves(), cache_dir=cache, class_names=["up", "down"]
    )
    named = found.measure(pictures(60, 1)[0], metrics=["kd"])["classes"]
    assert [c["name"] for c in named] == ["up", "down"]
    # Data with fewer classes than the extractor's classifier.
    split = Split(
        pictures(60)[0][pictures(60)[1] == 0], np.zeros(np.sum(pictures(60)[1] == 0), int)
    )
    fewer = Reference(split, features=Halves(), cache_dir=cache, class_names=["up"])
    named = fewer.measure(pictures(60, 1)[0], metrics=["kd"])["classes"]
    assert [c["name"] for c in named] == ["up", "1"]


def test_few_images(cache):
    test = pictures(60)[0]
    found = Reference(test, cache_dir=cache)
    with pytest.raises(ValueError, match=r"needs at least 128 images\. Received: 127"):
        found.measure(pictures(127, 1)[0], metrics=["fd"])
    forced = found.measure(pictures(127, 1)[0], metrics=["fd"], force=True)
    assert any("under 2048 compare it with its floor" in text for text in forced["warnings"])
    assert found.measure(pictures(20, 1)[0], metrics=["kd"])["warnings"] == []


def test_what_few_images_do_not_give_is_left_out_and_named(cache):
    """Whoever lacks them: the generated images, the held-out ones or those of training."""
    images, train = pictures(30, 1)[0], pictures(60, 2)[0]
    near = {"precision-halves", "recall-halves", "density-halves", "coverage-halves"}
    unlabelled = {"label-accuracy-halves", "class-coverage-halves", "CAS"}

    def measured(test, train, images, **options):
        found = Reference(test, train, Halves(), cache_dir=cache).measure(images, **options)
        titles = {metric.title.format("halves") for metric in METRICS.values()}
        assert found["metrics"].keys() | found["left_out"].keys() == titles
        assert not found["metrics"].keys() & found["left_out"].keys()
        assert all(np.isfinite(entry["value"]) for entry in found["metrics"].values())
        return found["left_out"]

    left_out = measured(train[:5], train, images)
    assert left_out.keys() == near | unlabelled
    assert left_out["recall-halves"].startswith("needs at least 6 real images. Received: 5 in the ")
    assert measured(train[:1], train[:3], images).keys() > near | {"FD-halves", "KD-halves"}
    assert "authenticity-halves" in measured(train, train[:1], images)
    left_out = measured(train, train, images[:4])
    assert left_out.keys() == near | unlabelled | {"IS-halves"}
    assert left_out["IS-halves"] == "needs at least 10 generated images. Received: 4. Draw more"
    # Of what was asked for by name, the rest is measured.
    found = Reference(train, None, Halves(), cache_dir=cache)
    assert found.check(4, metrics=["kd", "recall", "cas"]) == ["kd"]
    with pytest.raises(ValueError, match=r"'recall' needs at least 6 .* 'cas' needs labels"):
        found.check(4, metrics=["recall", "cas"])


def test_bad_images(cache):
    test = pictures(60)[0]
    found = Reference(test, features=Halves(), cache_dir=cache)
    for images, message in (
        (np.zeros((9, 8, 8, 3), "uint8"), r"shape \(8, 8, 1\). Received: \(8, 8, 3\)"),
        (np.zeros((9, 8, 8, 1), "float32"), "uint8"),
        (np.zeros((0, 8, 8, 1), "uint8"), "at least one image"),
        (np.zeros((1, 8, 8, 1), "uint8"), "(?i)2"),
    ):
        with pytest.raises(ValueError, match=message):
            found.measure(images)
    with pytest.raises(ValueError, match=r"training images must have the reference's shape"):
        Reference(test, np.zeros((9, 4, 4, 1), "uint8"))
    with pytest.raises(ValueError, match=r"takes images of 28x28x1\. Received: 8x8x1"):
        Reference(test, features="lenet128")


def test_features_that_are_not_finite(cache):
    class Broken(Halves):
        def __call__(self, images):
            return np.full((len(images), 2), np.nan, "float32")

    with pytest.raises(ValueError, match="NaN"):
        measure(pictures(9)[0], pictures(9, 1)[0], features=Broken(), cache_dir=cache)
    assert not list(cache.glob("*.npy"))


def test_any_keras_model_can_be_the_extractor(cache):
    import keras

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)], name="mine"
    )
    found = measure(pictures(80)[0], pictures(80, 1)[0], features=network, cache_dir=cache)
    assert "FD-mine" in found["metrics"] and found["features"]["dim"] == 4


def test_progress_bars(capfd, cache):
    measure(pictures(80)[0], pictures(80, 1)[0], features=Halves(), cache_dir=cache, progress=True)
    assert "Features (halves)" in capfd.readouterr().out
