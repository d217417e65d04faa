"""`kgen cache`, and the options of data."""

import numpy as np
import pytest
from PIL import Image

from kgen import data
from kgen.cli.training import _default_run


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder with 20 pictures, and an empty cache."""
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), "uint8")):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


def test_cache_shows_and_prunes(kgen, result, pictures, tmp_path):
    empty = result("cache")
    assert empty["kept"] == [] and empty["size"] == 0 and empty["limit"] == 20 * 10**9
    assert not (tmp_path / "cache").exists(), "looking makes nothing"
    data.load(pictures)
    data.load(pictures, (4, 4, 3))
    shown = result("cache")
    assert shown["folder"] == str(tmp_path / "cache")
    assert len(shown["kept"]) == 2 and shown["size"] == sum(e["size"] for e in shown["kept"])
    status, out, _ = kgen("cache")
    assert status == 0 and "limit 20 GB" in out
    assert all(entry["path"].rpartition("/")[2] in out for entry in shown["kept"])
    pruned = result("cache", "--prune", "5KB")
    assert pruned["removed"] == [entry["path"] for entry in shown["kept"][1:]]
    assert result("cache", "--prune", 0)["kept"] == []


def test_sizes_that_mean_nothing(refused, pictures, monkeypatch):
    assert "--prune takes a size such as 500MB" in refused("cache", "--prune", "half")
    monkeypatch.setenv("KGEN_CACHE_LIMIT", "-1")
    assert "KGEN_CACHE_LIMIT takes a size" in refused("cache")


def test_a_run_of_its_own_for_every_name(monkeypatch, tmp_path):
    names = ["写真", "画像", "фото", "की", "का", "☃", "photos", "my photos", "データ.npz"]
    runs = [_default_run("vae", f"some/{name}") for name in names]
    assert len({run.name for run in runs}) == len(names)
    assert runs[6].parts == ("runs", "vae-photos") and runs[7].name == "vae-my-photos"
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "sub")
    assert [_default_run("vae", path).name for path in (".", "..")] == ["vae-sub", "vae-here"]
    assert _default_run("vae", "tfds:mnist").name == "vae-tfds-mnist"
