"""Sets of images that fail in known ways, each caught by the metrics that should catch it.

A generator that draws real digits would give the healthy set, so it must pass every
threshold that a failing set must not.
"""

import numpy as np
import pytest
from scipy import ndimage

import kgen

pytestmark = pytest.mark.slow  # statistics of many samples

N = 2100  # a set is not small from 2,048 on


@pytest.fixture(scope="module")
def digits(data_dir):
    """Training digits, held-out ones, and fresh ones that stand for a perfect generator."""
    data = kgen.data.load(str(data_dir / "mnist.npz"), validation_fraction=0, progress=False)
    order = np.random.default_rng(0).permutation(len(data.train))
    images, labels = data.train.images[order], data.train.labels[order]
    train = kgen.data.Split(images[: 2 * N], labels[: 2 * N])
    fresh = kgen.data.Split(images[2 * N : 3 * N], labels[2 * N : 3 * N])
    test = kgen.data.Split(data.test.images[:N], data.test.labels[:N])
    return train, test, fresh


@pytest.fixture(scope="module")
def reference(digits, tmp_path_factory):
    train, test, _ = digits
    return kgen.evaluation.Reference(test, train, cache_dir=tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def healthy(digits, reference):
    """By every metric but CAS, which trains two classifiers."""
    _, _, fresh = digits
    metrics = [name for name in kgen.evaluation.METRICS if name != "cas"]
    return reference.measure(fresh.images, fresh.labels, metrics)


@pytest.fixture(scope="module")
def healthy_cas(digits, reference):
    _, _, fresh = digits
    return reference.measure(fresh.images, fresh.labels, ["cas"])


def figures(found, key="value"):
    return {
        title.removesuffix("-lenet128"): entry[key] for title, entry in found["metrics"].items()
    }


def test_a_healthy_set_stands_at_the_floor(healthy):
    value, floor = figures(healthy), figures(healthy, "floor")
    assert healthy["warnings"] == []
    assert value["FD"] < 1.5 * floor["FD"] and value["MIND"] < 1.5 * floor["MIND"]
    for name in ("precision", "recall", "coverage", "label-accuracy"):
        assert value[name] > floor[name] - 0.05, name
    assert value["authenticity"] > 0.8 * floor["authenticity"]
    assert {c["class"] for c in healthy["classes"]} == set(range(10))


def test_cas_of_a_healthy_set_stands_at_the_floor(healthy_cas):
    assert figures(healthy_cas)["CAS"] > figures(healthy_cas, "floor")["CAS"] - 0.05


def test_a_digit_left_out(digits, healthy, reference):
    fresh = digits[2]
    kept = np.resize(np.flatnonzero(fresh.labels != 3), N)
    metrics = ["fd", "kd", "coverage", "class_coverage"]
    found = reference.measure(fresh.images[kept], metrics=metrics, floor=False)
    value, well = figures(found), figures(healthy)
    assert value["FD"] > 3 * well["FD"] and value["KD"] > 5 * abs(well["KD"])
    assert value["coverage"] < well["coverage"] - 0.05
    assert value["class-coverage"] == 0.9 and well["class-coverage"] == 1
    (warning,) = found["warnings"]
    assert warning.startswith("lost classes") and "3 (0." in warning


def test_one_mode_repeated(digits, healthy, reference):
    fresh = digits[2]
    one = np.resize(fresh.images[fresh.labels == 7][:20], (N, 28, 28, 1))
    found = reference.measure(one, metrics=["fd", "precision", "recall", "coverage", "is"])
    value, well = figures(found), figures(healthy)
    assert value["recall"] < 0.1 * well["recall"] and value["coverage"] < 0.1
    assert value["precision"] > 0.5, "each image alone is good"
    assert value["IS"] < 1.5 < 8 < well["IS"]
    assert value["FD"] > 20 * well["FD"]
    assert any(text.startswith("little variety") for text in found["warnings"])


def test_training_images_copied(digits, healthy, reference):
    train = digits[0]
    copies = train.images[:N]
    found = reference.measure(copies, metrics=["fd", "precision", "recall", "authenticity"])
    value, well = figures(found), figures(healthy)
    assert value["FD"] < 1.5 * well["FD"], "by distance alone copies look perfect"
    assert value["authenticity"] < 0.01 < 0.3 < well["authenticity"]
    assert any(text.startswith("memorisation") for text in found["warnings"])


def test_noise_added(digits, healthy, reference):
    noise = np.random.default_rng(0).normal(0, 40, (N, 28, 28, 1))
    noisy = np.clip(digits[2].images + noise, 0, 255).astype("uint8")
    found = reference.measure(noisy, metrics=["fd", "mind", "recall"], floor=False)
    value, well = figures(found), figures(healthy)
    assert value["FD"] > 5 * well["FD"] and value["MIND"] > 5 * well["MIND"]
    assert value["recall"] < 0.5 * well["recall"]


def test_images_blurred(digits, healthy, reference):
    blurred = ndimage.gaussian_filter(digits[2].images, (0, 1.5, 1.5, 0))
    found = reference.measure(blurred, metrics=["fd", "mind", "density"], floor=False)
    value, well = figures(found), figures(healthy)
    assert value["FD"] > 5 * well["FD"] and value["MIND"] > 5 * well["MIND"]
    assert value["density"] < well["density"] - 0.05


def test_classes_swapped(digits, healthy, reference):
    fresh = digits[2]
    swapped = (fresh.labels + 1) % 10
    found = reference.measure(fresh.images, swapped, ["fd", "label_accuracy"])
    value, well = figures(found), figures(healthy)
    assert value["FD"] == pytest.approx(well["FD"]), "the images are the same"
    assert value["label-accuracy"] < 0.05 < 0.9 < well["label-accuracy"]
    assert any(text.startswith("wrong classes") for text in found["warnings"])


def test_cas_of_classes_swapped(digits, healthy_cas, reference):
    fresh = digits[2]
    found = reference.measure(fresh.images, (fresh.labels + 1) % 10, ["cas"], floor=False)
    assert figures(found)["CAS"] < 0.05 < 0.8 < figures(healthy_cas)["CAS"]
