"""The trained models that come with kgen: they are there, small, and as good as they say."""

import pathlib
import re
import runpy
import tarfile

import h5py
import numpy as np
import pytest

import export
import kgen
from kgen import data, models
from kgen.evaluation import Reference, pairs

TRAINED = models.trained()
ROOT = pathlib.Path(__file__).parents[1]
RECIPES = runpy.run_path(str(ROOT / "examples/trained.py"))["RECIPES"]

#: How many images each score is measured again on.
PART = 300


def files(name):
    return [path for path in (models.TRAINED / name).iterdir() if path.is_file()]


def test_each_has_its_command():
    assert set(TRAINED) == set(RECIPES)


def test_each_family_has_one():
    """And of what draws in many steps, one that draws in one."""
    assert {known["family"] for known in TRAINED.values()} == set(models.families())
    assert {"flow_matching", "soflow"} <= {known["model"] for known in TRAINED.values()}


def test_together_they_are_small():
    assert sum(path.stat().st_size for name in TRAINED for path in files(name)) < 25e6


@pytest.mark.parametrize("name", TRAINED)
def test_they_say_what_they_are(name):
    known = TRAINED[name]
    assert known["license"] and known["data"]["name"] and known["training"]["seconds"]
    assert known["scores"]
    card = (models.TRAINED / name / "README.md").read_text()
    assert f'kgen.load("{name}")' in card
    with h5py.File(models.TRAINED / name / "model.weights.h5") as weights:
        dtypes = set()
        weights.visititems(
            lambda _, part: dtypes.add(part.dtype) if isinstance(part, h5py.Dataset) else None
        )
    assert np.dtype("float16") in dtypes and np.dtype("float32") not in dtypes


@pytest.fixture(scope="module")
def mnist(data_dir):
    return data.load(data_dir / "mnist.npz")


@pytest.fixture(scope="module")
def digits(mnist):
    return Reference(mnist.test, mnist.train)


@pytest.fixture(scope="module")
def photographs(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(data_dir / "cifar10-jpeg.tar.xz") as archive:
        tests = [part for part in archive.getmembers() if re.search(r"\btest/.*jpg$", part.name)]
        archive.extractall(folder, tests[:: len(tests) // PART], filter="data")
    return next(folder.rglob("test"))


def test_noise_goes_as_far_as_is_said(photographs):
    images = data.load(photographs, image_shape=(32, 32, 3), validation_fraction=0, test_fraction=0)
    images = images.train.images[:]
    restored = kgen.load("restorer_cifar10").translate(data.degrade(images, "noise:5-50"))
    said = TRAINED["restorer_cifar10"]["scores"]["losses"]["psnr"]
    # The strengths of the noise are drawn, and of few images their mean is another.
    assert pairs.psnr(images, restored).mean() == pytest.approx(said, abs=1)


def test_colours_come_as_near_as_is_said(data_dir, tmp_path):
    with tarfile.open(data_dir / "emoji64.tar.xz") as archive:
        drawings = [part for part in archive.getmembers() if "/twemoji/" in part.name]
        archive.extractall(tmp_path, drawings, filter="data")
    folder = next(tmp_path.rglob("twemoji"))
    test = data.load_pairs(
        folder, folder, (32, 32, 3), input_shape=(32, 32, 1), group_by="-1f3f[b-f]", progress=False
    ).test
    model = kgen.load("pix2pix_emoji")
    [said, grey] = TRAINED["pix2pix_emoji"]["scores"]["translation"]["rows"][:2]
    found = pairs.psnr(np.asarray(test.images), model.translate(test.inputs)).mean()
    assert found == pytest.approx(said["psnr"], abs=0.1) and found > grey["psnr"] + 1


@pytest.mark.parametrize("name", ["dcgan_mnist", "restorer_cifar10", "pix2pix_emoji"])
def test_the_pictures_of_the_pages_are_what_they_draw(name):
    picture = ROOT / f"docs/pictures/trained/{name}.png"
    inspected = export.inspect(picture, kgen.load(name))
    assert inspected.verdict == "proven", inspected.said


DIGITS = [name for name, known in TRAINED.items() if "mnist" in name and known["scores"]["metrics"]]


@pytest.mark.parametrize("name", [name for name in DIGITS if name != "pixelcnn_pp_mnist"])
def test_digits_have_the_score_that_is_said(name, digits):
    known = TRAINED[name]["scores"]["metrics"]["FD-lenet128"]
    labels = digits.labels_like(PART, 0) if (model := kgen.load(name)).num_classes else None
    options = {"num_steps": 16} if name == "flow_matching_mnist" else {}
    images = model.generate(PART, labels=labels, seed=0, **options)
    found = digits.measure(images, labels, metrics=("fd",))["metrics"]["FD-lenet128"]
    # Of few images every distance is larger, by what that of as many real ones shows.
    said = known["value"] - known["floor"] + found["floor"]
    assert found["value"] == pytest.approx(said, rel=0.25)


def test_pixels_have_the_likelihood_that_is_said(mnist):
    model = kgen.load("pixelcnn_pp_mnist")
    nats = model.negative_log_likelihood(
        mnist.test.binarized(seed=0).images[:PART], mnist.test.labels[:PART]
    )
    said = TRAINED["pixelcnn_pp_mnist"]["scores"]["likelihood"]["nats"]
    assert nats.mean() == pytest.approx(said, rel=0.05)
