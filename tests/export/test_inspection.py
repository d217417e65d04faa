"""What a picture claims, proven by the artifact that drew it, or told from what it is not."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import export
from export import redrawing
from kgen import images, origin
from kgen.cli import main

SEEDS, LABELS = np.arange(6, dtype="int32"), np.arange(6, dtype="int32") % 3


@pytest.fixture(scope="module")
def prover(artifact):
    return redrawing.prover_of(artifact)


@pytest.fixture(scope="module")
def drawn(artifact):
    return artifact.onnx_session().run(["image"], {"seed": SEEDS, "label": LABELS})[0]


@pytest.fixture(scope="module")
def claim(artifact):
    """Of all six, in a grid."""
    return artifact.origin.claim("generate", SEEDS, LABELS).in_grid(3, scale=2)


def grid(cells):
    return images.grid(cells, 3, scale=2)


def edited(picture):
    picture = picture.copy()
    picture[2:5, 3:7] = 255 - picture[2:5, 3:7]
    return picture


def noisy(picture):
    """As a copy that was compressed."""
    noise = np.random.default_rng(0).integers(-2, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype("uint8")


def larger(picture):
    size = (3 * picture.shape[1], 3 * picture.shape[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        (lambda picture: picture, "proven", "painter draws this picture from seed 4"),
        (edited, "edited", "12 of 96 pixels, in rows 2 to 4 and columns 3 to 6"),
        (noisy, "altered", "It is like what is drawn from seed 4, and not equal"),
        (larger, "altered", "It has 36x24 pixels, which is not the size of what it claims"),
    ],
)
def test_one_picture(prover, claim, drawn, change, verdict, said):
    """What was done to it is told; with the mark of another seed it is another picture."""
    picture = change(drawn[4])
    found = export.inspect(images.encode_png(picture, claim.row(4)), prover)
    assert found.verdict == verdict and said in found.said, found.said
    other = dataclasses.replace(claim.row(4), seeds=(5,))
    assert export.inspect(images.encode_png(picture, other), prover).verdict == "false"
    other = dataclasses.replace(claim.row(4), model_sha256="0" * 64)
    found = export.inspect(images.encode_png(picture, other), prover)
    assert found.verdict == "another model" and "000000000000..." in found.said


def test_a_grid(artifact, prover, claim, drawn):
    """Every image counts, and what is around them."""

    def verdict(picture, own=claim):
        found = export.inspect(images.encode_png(picture, own), prover)
        return found.verdict, found.said

    found = export.inspect(images.encode_png(grid(drawn), claim), prover)
    assert found.figures == {"images": 6, "others": 0, "max_difference": 0, "equal": 1.0}
    cells = drawn.copy()
    cells[5] = edited(drawn[5])
    assert verdict(grid(cells))[0] == "edited"
    cells[5] = drawn[2]
    assert "from seed 5 in 1 of 6 images" in verdict(grid(cells))[1]
    picture = grid(drawn)
    picture[0, 3] = 0
    assert verdict(picture)[0] == "edited"
    first = artifact.origin.claim("generate", SEEDS[:5], LABELS[:5]).in_grid(3, scale=2)
    assert verdict(grid(drawn), first)[0] == "edited", "the sixth is claimed by nobody"
    assert verdict(grid(drawn[:5]), first)[0] == "proven"
    faint = drawn.copy()
    faint.reshape(6, -1)[:, :4] ^= 1
    assert verdict(grid(faint))[0] == "altered", "a grey level, in few values of each"
    picture = grid(drawn)
    picture[3, 3] -= 9  # a pixel of those that stand for one
    assert verdict(picture)[0] == "edited"
    assert verdict(larger(grid(drawn)))[0] == "altered"
    some = dataclasses.replace(claim.row(4), grid=dataclasses.replace(claim.grid, cells=(4,)))
    assert "5 others in it are no part of the claim" in verdict(grid(drawn), some)[1]
    some = dataclasses.replace(some, grid=dataclasses.replace(claim.grid, cells=(6,)))
    assert verdict(grid(drawn), some) == ("unproven", "It claims 7 images, and has fewer.")


@pytest.mark.parametrize(
    ("endpoint", "arguments", "said"),
    [
        ("generate", {"seeds": [1]}, "names no label"),
        ("generate", {"labels": 1}, "names no seed"),
        ("generate", {"seeds": [1], "options": {"steps": 4}}, "the steps of its generate is"),
        ("generate", {"seeds": [1], "options": {"steps": 10**9}}, "no more than 4,000 are tried"),
        ("generate", {"seeds": [1], "labels": 1, "options": {"seed": 0}}, "claims seed as an opt"),
        ("decode", {}, "What it was drawn of, latent, is not in the claim"),
        ("encode", {}, "gives no picture"),
        ("generate", {"seeds": [1], "labels": 3}, "the label 3 of 3"),
        ("reconstruct", {"inputs": {"image": "#1"}}, "cannot be found in it"),
        ("reconstruct", {}, "give it (--input PICTURE)"),
    ],
)
def test_what_cannot_be_drawn_again(prover, drawn, endpoint, arguments, said):
    claim = prover.origin.claim(endpoint, **arguments)
    found = export.inspect(images.encode_png(drawn[0], claim), prover)
    assert found.verdict == "unproven" and said in found.said


def test_an_animation_is_no_picture(prover, claim, drawn, tmp_path):
    """Its first frame, which is what is compared, is not what viewers show."""
    with Image.open(io.BytesIO(images.encode_png(drawn[4], claim.row(4)))) as picture:
        said = PngImagePlugin.PngInfo()
        said.add_itxt("XML:com.adobe.xmp", picture.info["XML:com.adobe.xmp"])
        other = Image.fromarray(drawn[3])
        options = {"save_all": True, "append_images": [other], "default_image": True}
        picture.save(tmp_path / "moving.png", pnginfo=said, **options)
    found = export.inspect(tmp_path / "moving.png", prover)
    assert found.verdict == "unproven" and "It is an animation" in found.said


def test_transparency_hides_nothing(prover, claim, drawn):
    alpha = np.full((*drawn[4].shape[:2], 1), 254, "uint8")
    found = export.inspect(images.encode_png(np.dstack([drawn[4], alpha]), claim.row(4)), prover)
    assert found.verdict == "unproven" and "It is transparent" in found.said


def test_what_went_in(prover, model, drawn, tmp_path):
    """A picture is known by its pixels, however it is brought to the size that the model takes."""
    wide = np.asarray(Image.fromarray(drawn[0]).resize((40, 16)))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    taken = np.asarray(Image.fromarray(wide).resize((12, 8), Image.Resampling.LANCZOS))
    made = np.asarray(model.reconstruct(taken[None])["image"])[0]
    claim = prover.origin.claim("reconstruct", inputs={"image": origin.fingerprint(taken)})
    png = images.encode_png(made, claim)
    assert export.inspect(png, prover, {"image": tmp_path / "wide.png"}).proven
    Image.fromarray(wide[::-1]).save(tmp_path / "other.png")
    assert export.inspect(png, prover, {"image": tmp_path / "other.png"}).verdict == "another input"
    with pytest.raises(ValueError, match=r"mask is none of the pictures that go in\. There are"):
        export.inspect(png, prover, {"mask": taken})


def test_at_the_command_line(artifact, claim, drawn, tmp_path, capfd, run_python):
    """Its status, and that neither Keras nor TensorFlow is asked."""
    path, copy = tmp_path / "grid.png", tmp_path / "copy.png"
    images.save_png(grid(drawn), path, claim)
    Image.open(path).save(copy)  # without the mark

    def run(*arguments):
        status = main(["inspect", *map(str, arguments), "--json"])
        return status, json.loads(capfd.readouterr().out)

    status, found = run(path)
    assert (status, found["verdict"], found["claim"]["seeds"]) == (0, "claimed", [*range(6)])
    status, found = run(path, "--artifact", artifact.path)
    assert (status, found["verdict"], found["figures"]["images"]) == (0, "proven", 6)
    for arguments in ([copy], [copy, "--artifact", artifact.path]):
        status, found = run(*arguments)
        assert (status, found["verdict"], found["claim"]) == (1, "unmarked", None)
    broken = shutil.copytree(artifact.path, tmp_path / "broken")
    (broken / "samples.png").unlink()
    assert main(["inspect", str(path), "--artifact", str(broken)]) == 1
    assert "samples.png is missing" in capfd.readouterr().err
    code = (
        "import sys; from kgen.cli import main; status = main(['inspect', *sys.argv[1:]]); "
        "print(status, {'keras', 'tensorflow'} & set(sys.modules))"
    )
    printed = run_python(code, path, "--artifact", artifact.path).stdout.splitlines()
    assert printed[-1] == "0 set()"
    assert "Proven: painter draws these 6 images from the seeds 0, 1, 2, ..." in printed[-2]
