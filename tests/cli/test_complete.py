"""`kgen complete`, and an autoregressive model through the other commands."""

import numpy as np
import pytest
from PIL import Image

from kgen.training.run import load_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from kgen.cli import main

    folder = tmp_path_factory.mktemp("gated") / "run"
    line = f"train gated_pixelcnn_tiny --data digits --conditional --epochs 1 --run {folder}"
    assert main([*line.split(), "--batch-size", "256"]) == 0
    return folder


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_complete(result, run, tmp_path):
    out = tmp_path / "new" / "completions.png"
    found = result("complete", run, "-n", 3, "--samples", 2, "--keep", 0.25, "-o", out)
    assert (found["images"], found["samples"]) == (3, 2)
    picture = pixels(out)
    assert picture.shape == (3 * 34 + 2, 4 * 34 + 2), "an image, what is kept, two completions"
    model, trained = load_model(run)
    test = trained.load_data().test
    given = model.cut_to_levels(test.images[:3])
    mask = np.arange(8)[:, None] < np.full((8, 8), 2)
    drawn = model.complete(np.repeat(given, 2, axis=0), mask, np.repeat(test.labels[:3], 2))
    tile = picture[2:34:4, 2:34:4]
    np.testing.assert_array_equal(tile, given[0, ..., 0])
    assert (picture[2 + 8 : 34 : 4, 36:68:4] == 128).all(), "what is not kept is grey"
    np.testing.assert_array_equal(picture[2:34:4, 70:102:4], drawn[0, ..., 0])


def test_complete_with_a_mask(result, refused, run, tmp_path):
    mask = np.zeros((8, 8), "uint8")
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "completions.png"
    line = ("complete", run, "--mask", tmp_path / "mask.png", "-o", out)
    assert "raster order" in refused(*line)
    assert not out.exists()
    assert result(*line, "--any-order", "-n", 2)["images"] == 2


def test_complete_other_images(result, run, tmp_path):
    """Their class is the run's of that name, not the first of their own."""
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), "uint8")
    (tmp_path / "mine/7").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"mine/7/{i}.png")
    out = tmp_path / "completions.png"
    result("complete", run, "--data", tmp_path / "mine", "--samples", 1, "-o", out)
    model, _ = load_model(run)
    given = model.cut_to_levels(images[..., None])
    drawn = model.complete(given, np.arange(8)[:, None] < np.full((8, 8), 4), 7)
    for i in range(3):
        tile = pixels(out)[2 + 34 * i : 34 + 34 * i : 4, 70:102:4]
        np.testing.assert_array_equal(tile, drawn[i, ..., 0])


def test_complete_refuses(refused, run, vae_run, tmp_path):
    assert "VAE cannot complete images" in refused("complete", vae_run)
    assert "cannot vary images" in refused("vary", run)
    assert "temperature must be above 0" in refused("complete", run, "--set", "temperature=0")
    Image.new("L", (5, 5)).save(tmp_path / "small.png")
    message = refused("complete", run, "--mask", tmp_path / "small.png")
    assert "mask must have shape (8, 8)" in message and "(5, 5)" in message
    images = np.zeros((40, 8, 8), "uint8")
    np.savez(tmp_path / "images.npz", x_train=images, x_test=images)
    message = refused("complete", run, "--data", tmp_path / "images.npz")
    assert "class-conditional and needs labels" in message


@pytest.fixture(scope="module")
def dit_run(tmp_path_factory):
    from kgen.cli import main

    folder = tmp_path_factory.mktemp("dit") / "run"
    line = f"train dit_tiny --data digits --conditional --epochs 1 --batch-size 256 --run {folder}"
    assert main(line.split()) == 0
    return folder


@pytest.mark.slow
def test_inpaint(result, refused, dit_run, tmp_path):
    """A model without an order sees all that is kept, and takes its own options."""
    mask = np.zeros((8, 8), "uint8")
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "completions.png"
    line = ("complete", dit_run, "--mask", tmp_path / "mask.png", "-n", 2, "-o", out)
    assert result(*line, "--samples", 3, "--set", "num_steps=4")["images"] == 2
    images = load_model(dit_run)[1].load_data().test.images
    picture = pixels(out)
    assert picture.shape == (2 * 34 + 2, 5 * 34 + 2)
    np.testing.assert_array_equal(picture[2 + 16 : 34 : 4, 70:102:4], images[0, 4:, :, 0])
    assert "num_steps must be a positive int" in refused(*line, "--set", "num_steps=0")


@pytest.mark.slow
def test_vary(result, refused, dit_run, tmp_path):
    out = tmp_path / "variations.png"
    line = ("vary", dit_run, "-n", 3, "--strengths", "0,0.5", "--label", 7, "-o", out)
    found = result(*line, "--set", "num_steps=4")
    assert (found["images"], found["strengths"]) == (3, [0.0, 0.5])
    images = load_model(dit_run)[1].load_data().test.images
    picture = pixels(out)
    assert picture.shape == (3 * 34 + 2, 3 * 34 + 2), "an image, two variations"
    np.testing.assert_array_equal(picture[2:34:4, 2:34:4], images[0, ..., 0])
    np.testing.assert_array_equal(picture[2:34:4, 36:68:4], images[0, ..., 0])
    assert (picture[2:34:4, 70:102:4] != images[0, ..., 0]).any()
    assert "strength must be 0 to 1" in refused("vary", dit_run, "--strengths", "2")
    assert "--strengths takes numbers" in refused("vary", dit_run, "--strengths", "far")
    assert "labels must be in 0 to 9" in refused("vary", dit_run, "--label", 12)


def test_evaluate_says_exact(result, run, tmp_path):
    report = result("evaluate", run, "--metrics", "none", "--num-samples", 16, "-o", tmp_path)
    assert report["likelihood"]["kind"] == "exact"
    bits = report["losses"]["bits_per_dimension"]
    assert report["likelihood"]["bits_per_dimension"] == pytest.approx(bits, rel=1e-4)
