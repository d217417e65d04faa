"""Degradations against Pillow, SciPy and NumPy; each row by its own seed."""

import io
import re
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from kgen.data import DEGRADATIONS, Degradation, degrade

SEEDS = np.array([3, 1_000_000, 7, 0, 12, 5, 2**31 - 1, 9])


@pytest.fixture(scope="module")
def emoji(data_dir):
    """Pictures that were never compressed, uint8 `[8, 64, 64, 4]`."""
    with tarfile.open(data_dir / "emoji64.tar.xz") as archive:
        names = [m for m in archive if m.name.startswith("emoji64/noto/1f6") and "png" in m.name]
        files = [archive.extractfile(member).read() for member in names[:8]]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGBA")) for file in files])


@pytest.fixture(scope="module")
def photos(emoji):
    """The same over white, `[8, 64, 64, 3]`."""
    white = Image.new("RGBA", (64, 64), "white")
    over = [Image.alpha_composite(white, Image.fromarray(image)) for image in emoji]
    return np.stack([np.asarray(image.convert("RGB")) for image in over])


def difference(ours, theirs):
    return np.abs(ours.astype("float64") - theirs.astype("float64"))


def of_pillow(images, function):
    """What Pillow makes of each image, `[N, h, w, C]`."""
    made = [np.asarray(function(Image.fromarray(image.squeeze()))) for image in images]
    made = np.stack(made)
    return made[..., None] if made.ndim == 3 else made


@pytest.mark.parametrize("factor", [2, 4])
def test_area_and_bicubic(photos, factor):
    size = (64 // factor, 64 // factor)
    for name, how in (("area", Image.Resampling.BOX), ("bicubic", Image.Resampling.BICUBIC)):
        ours = degrade(photos, f"{name}:{factor}")
        theirs = of_pillow(photos, lambda image, how=how: image.resize(size, how))
        # Pillow rounds after the rows, and cuts what is above white there.
        assert difference(ours, theirs).max() <= 6 and difference(ours, theirs).mean() < 0.3


def test_colours_count_as_much_as_they_are_opaque(emoji):
    ours = degrade(emoji, "bicubic:2")
    theirs = of_pillow(emoji, lambda image: image.resize((32, 32), Image.Resampling.BICUBIC))
    seen = theirs[..., 3] > 64  # of what is nearly clear, colours are of few bits
    assert difference(ours[..., 3], theirs[..., 3]).max() <= 4
    assert difference(ours[seen], theirs[seen]).mean() < 1


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.5])
def test_blur(photos, sigma):
    theirs = ndimage.gaussian_filter(
        photos.astype("float64"), (0, sigma, sigma, 0), mode="nearest", truncate=3
    )
    # SciPy cuts its kernel to whole pixels.
    assert difference(degrade(photos, f"blur:{sigma}"), theirs).max() < 2


def test_noise_is_normal():
    images = np.full((64, 16, 16, 3), 128, "uint8")
    noise = degrade(images, "noise:25").astype("float64") - 128
    assert abs(noise.mean()) < 0.5 and abs(noise.std() - 25) < 0.3
    assert stats.kstest(noise.ravel()[:5000] / 25, "norm").statistic < 0.02
    assert np.corrcoef(noise[:32].ravel(), noise[32:].ravel())[0, 1] < 0.02


@pytest.mark.parametrize("photons", [1, 30, 400])
def test_poisson_counts_photons(photons):
    images = np.full((64, 16, 16, 1), 200, "uint8")
    counts = degrade(images, f"poisson:{photons}").astype("float64") / 255 * photons
    mean = photons * 200 / 255
    # More than white is cut, and so is what is between two grey levels.
    expected = np.minimum(np.random.default_rng(0).poisson(mean, 100_000), photons)
    assert abs(counts.mean() - expected.mean()) < 0.02 * mean
    assert abs(counts.std() - expected.std()) < 0.03 * expected.std() + photons / 255


@pytest.mark.parametrize("quality", [10, 49, 51, 92])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(photos, quality, channels):
    images = photos[:, 3:59, 5:62]  # sides of no whole blocks
    images = images if channels == 3 else images.mean(axis=-1, keepdims=True).astype("uint8")

    def jpeg(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    ours, theirs = degrade(images, f"jpeg:{quality}"), of_pillow(images, jpeg)
    changed = difference(images, theirs).mean()
    assert difference(ours, theirs).mean() < max(0.2 * changed, 0.5)


def test_alpha_is_kept(emoji):
    for name in ("noise:40", "jpeg:20", "poisson:10", "grey"):
        np.testing.assert_array_equal(degrade(emoji, name)[..., -1], emoji[..., 3], name)


def test_grey_is_pillows(photos):
    theirs = of_pillow(photos, lambda image: image.convert("L"))
    assert difference(degrade(photos, "grey"), theirs).max() <= 1


@pytest.mark.parametrize("name", ["box:0.25", "box:0.1-0.5", "strokes:0.1-0.3"])
def test_what_is_hidden(photos, name):
    seen = degrade(photos, name, seeds=SEEDS)
    mask = seen[..., 3]
    assert set(np.unique(mask)) == {0, 255}
    hidden = mask == 0
    np.testing.assert_array_equal(seen[..., :3][~hidden], photos[~hidden])
    assert (seen[..., :3][hidden] == 128).all()
    share = hidden.mean(axis=(1, 2))
    assert len(np.unique(share)) > 1 or name == "box:0.25"
    if name == "box:0.25":
        assert np.abs(share - 0.25).max() < 0.02
        for each in hidden:  # one rectangle
            rows, columns = each.any(axis=1), each.any(axis=0)
            assert each.sum() == rows.sum() * columns.sum()
            assert 0.4 < rows.sum() / columns.sum() < 2.4


@pytest.mark.parametrize(
    "name", ["blur:0.5-2,noise:5-25,jpeg:30-90", "poisson:10-90", "area:2,box:0.2-0.4"]
)
def test_a_row_depends_on_its_own_seed(photos, name):
    whole = degrade(photos, name, seeds=SEEDS)
    np.testing.assert_array_equal(degrade(photos, name, seeds=SEEDS), whole)
    for i in (0, 3, 6):
        alone = degrade(photos[i : i + 1], name, seeds=SEEDS[i : i + 1])
        np.testing.assert_array_equal(alone[0], whole[i])
    others = degrade(photos, name, seeds=SEEDS + np.array([0, 1] * 3 + [0, 1]))
    same = [(a == b).all() for a, b in zip(whole, others, strict=True)]
    assert same == [True, False] * 4


def test_every_row_draws_its_own_number():
    images = np.full((400, 16, 16, 1), 128, "uint8")
    spread = degrade(images, "noise:5-25").astype("float64").std(axis=(1, 2, 3))
    assert 4 < spread.min() < 7 and 22 < spread.max() < 28
    assert stats.kstest((spread - 5) / 20, "uniform").statistic < 0.1


def test_the_same_on_jax(photos, on_jax, tmp_path, tensorflow_only):
    text = "blur:0.5-2,bicubic:2,noise:5-25,poisson:20-90,jpeg:30-90,strokes:0.1-0.3"
    np.save(tmp_path / "images.npy", photos)
    on_jax(
        "import sys, numpy as np\n"
        "from kgen.data import degrade\n"
        "_, images, text, out = sys.argv\n"
        "np.save(out, degrade(np.load(images), text, 3))\n",
        *(tmp_path / "images.npy", text, tmp_path / "out.npy"),
    )
    ours, theirs = degrade(photos, text, 3), np.load(tmp_path / "out.npy")
    # A rounding before the quantisation of JPEG may choose another step.
    assert (difference(ours, theirs) == 0).mean() > 0.97


def test_shapes():
    for text, shape, left in (
        ("area:2", (8, 12, 3), (4, 6, 3)),
        ("grey", (8, 8, 3), (8, 8, 1)),
        ("grey", (8, 8, 4), (8, 8, 2)),
        ("grey,box:0.5", (8, 8, 3), (8, 8, 2)),
        ("bicubic:4,noise:3", (8, 8, 1), (2, 2, 1)),
    ):
        found = Degradation(text)
        assert found.output_shape(shape) == left
        assert degrade(np.zeros((2, *shape), "uint8"), found).shape == (2, *left)
    assert str(Degradation("blur:0.50-2.0, noise:25-25")) == "blur:0.5-2,noise:25"
    assert Degradation("box:0.2").keeps_known and not Degradation("noise:2,box:0.2").keeps_known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nois:3", "Unknown degradation 'nois'. Did you mean 'noise'"),
        ("noise", "noise takes a standard deviation in grey levels, such as noise:25"),
        ("noise:300", "within 0 to 255. Received: noise:300"),
        ("noise:9-3", "a number, or a range from low to high"),
        ("area:1.5", "a factor: one int within 2 to 16"),
        ("area:2-4", "a factor: one int"),
        ("grey:3", "grey takes no number"),
        ("box:0.2,noise:3", "comes last"),
        ("", "A degradation is steps such as"),
        ("noise=25", "Received: 'noise=25'"),
    ],
)
def test_what_is_none_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Degradation(text)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("area:3", (8, 8, 3), "takes images whose sides 3 divides. Received: 8x8x3"),
        ("grey", (8, 8, 1), "takes images with colours"),
        ("box:0.5", (8, 8, 4), "takes images with 1 or 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(text, shape, message):
    with pytest.raises(ValueError, match=message):
        degrade(np.zeros((1, *shape), "uint8"), text)
    with pytest.raises(ValueError, match="seeds must be one for each of 1 images"):
        degrade(np.zeros((1, 8, 8, 3), "uint8"), "noise:3", seeds=[1, 2])


def test_all_are_described():
    for name, kind in DEGRADATIONS.items():
        assert kind.what
        assert bool(kind.number) == bool(kind.bounds) == bool(kind.example)
        Degradation(f"{name}:{kind.example}" if kind.example else name)
    assert keras.backend.backend() in ("tensorflow", "jax")
