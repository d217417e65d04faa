"""The extractor for images of any size."""

import importlib
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from kgen.evaluation import classifiers, features


def noise(n, shape):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype="uint8")


@pytest.mark.parametrize("size", [(8, 8), (28, 20), (130, 97), (1, 300)])
def test_general_cnn_takes_images_of_all_sizes(size):
    """Grey as RGB of equal channels, RGB as RGBA that hides nothing."""
    grey = noise(3, (*size, 1))
    rgb = np.repeat(grey, 3, axis=-1)
    rgba = np.concatenate([rgb, np.full_like(grey, 255)], axis=-1)
    found = [features.get("general_cnn", x.shape[1:])(x) for x in (grey, rgb, rgba)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    given = classifiers.for_general_network(rgba)
    assert 24 <= max(given.shape[1:3]) <= 96 and given.min() >= -1 and given.max() <= 1
    assert given.mean() == pytest.approx(rgba.mean() / 127.5 - 1, abs=0.02)


def test_general_cnn_does_not_see_what_alpha_hides():
    images = noise(2, (24, 24, 4))
    images[..., 3] = 255 * (images[..., 3] > 127)
    extractor = features.get("general_cnn", (24, 24, 4))
    expected = extractor(images)
    images[images[..., 3] == 0] = 0
    np.testing.assert_allclose(extractor(images), expected, rtol=1e-6)


@pytest.mark.slow
def test_general_cnn_orders_what_a_person_would(data_dir, monkeypatch):
    """Emoji, as they are and ever more spoiled: benchmarks/score_order.py in small."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")
    score_order = importlib.import_module("score_order")
    images = []
    with tarfile.open(data_dir / "emoji64.tar.xz") as archive:
        for member in archive:
            if "twemoji" in member.name and member.name.endswith(".png"):
                with Image.open(archive.extractfile(member)) as image:
                    images.append(np.asarray(image.convert("RGBA").resize((32, 32))))
    scores = score_order.measure(np.stack(images), None, "general_cnn", limit=1600)
    floor = scores["none"][0]
    for name in ("blur (pixels)", "noise (grey levels)", "palette (degrees)", "mixture (others)"):
        found = list(scores[name].values())
        if name == "palette (degrees)":
            found = found[:2]  # half a turn is no further to the eye than a quarter
        assert all(np.diff([floor, *found]) > 0), (name, floor, found)
    assert min(scores["shift (pixels)"].values()) > floor
    assert min(scores["blobs (pixels)"].values()) > max(list(scores["blur (pixels)"].values())[:3])
