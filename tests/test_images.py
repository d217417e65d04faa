import io

import numpy as np
import pytest
from PIL import Image

from kgen import images


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_puts_each_image_where_it_belongs(channels):
    pictures = np.random.default_rng(0).integers(0, 255, (5, 6, 4, channels)).astype("uint8")
    grid = images.grid(pictures, columns=3, padding=2)
    assert grid.shape == (2 * 8 + 2, 3 * 6 + 2, channels)
    for i, picture in enumerate(pictures):
        top, left = 2 + i // 3 * 8, 2 + i % 3 * 6
        np.testing.assert_array_equal(grid[top : top + 6, left : left + 4], picture)
    assert (grid[10:, 14:] == 255).all(), "the place of the missing sixth image is white"


def test_grid_is_about_square_and_scales():
    pictures = np.zeros((10, 8, 8, 1), "uint8")
    assert images.grid(pictures, padding=0).shape == (24, 32, 1)
    assert images.grid(pictures, padding=0, scale=4).shape == (96, 128, 1)
    assert images.viewing_scale((8, 8, 1)) == 4
    assert images.viewing_scale((64, 64, 3)) == 1


@pytest.mark.parametrize("wrong", [np.zeros((0, 8, 8, 1), "uint8"), np.zeros((4, 8, 8, 1))])
def test_grid_names_what_it_received(wrong):
    with pytest.raises(ValueError, match=r"uint8 array \[N, H, W, C\]. Received: shape"):
        images.grid(wrong)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_png_keeps_every_pixel(tmp_path, shape):
    picture = np.random.default_rng(1).integers(0, 255, shape).astype("uint8")
    images.save_png(picture, tmp_path / "new" / "a.png")
    read = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    np.testing.assert_array_equal(read.reshape(shape), picture)
    assert Image.open(io.BytesIO(images.encode_png(picture))).size == (7, 5)


def test_save_png_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    images.save_png(np.zeros((4, 4, 1), "uint8"), path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        images.save_png(np.ones((4, 4, 1), "uint8"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_save_folder(tmp_path):
    pictures = np.random.default_rng(2).integers(0, 255, (12, 4, 4, 3)).astype("uint8")
    images.save_folder(pictures, tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files][:2] == ["00.png", "01.png"]
    for file, picture in zip(files, pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), picture)
    with pytest.raises(FileExistsError, match="not an empty folder"):
        images.save_folder(pictures, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
