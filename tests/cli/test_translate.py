"""Translators at the command line: trained on pairs or on what is degraded, asked, measured."""

import json
import pathlib

import keras
import numpy as np
import pytest
from PIL import Image

from kgen.cli import main
from kgen.models.translation.base import Translator
from kgen.training.run import Run, load_model

TINY = ("--image-shape", "16x16x3", "--epochs", 1, "--batch-size", 8, "--set", "filters=8")
SMALL = ("--set", "middle_blocks=1", "--set", "num_downsamplings=1")
#: Of discriminators; to trace a network takes most of a training of one epoch.
JUDGE = ("--set", "discriminator_layers=1", "--set", "discriminator_filters=8")
pytestmark = pytest.mark.filterwarnings("ignore:Training on")


def write(folder, name, array):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders: `photos`, `drawings` of them, and `new` ones of several sizes, one is broken."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(40):
        image = np.full((24, 24, 3), 40, "uint8")
        image[4 + i % 8 : 18, 3 + i % 5 : 20] = rng.integers(90, 250, 3)
        write(root / "photos", f"{i:02}.png", image)
        write(root / "drawings", f"{i:02}.png", 255 - image)
    for name, shape in (
        ("a.jpg", (40, 30, 3)),
        ("more/b.png", (23, 31, 4)),
        ("more/b.bmp", (9, 9, 3)),
    ):
        write(root / "new", name, rng.integers(0, 255, shape, "uint8"))
    (root / "new" / "broken.png").write_bytes(b"no picture")
    return root


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def restorer(folders):
    path = folders / "restorer"
    run("train", "restorer", "--data", folders / "photos", "--degrade", "noise:25", *TINY, *SMALL)
    pathlib.Path("runs/restorer-photos").rename(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def in_a_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield


@pytest.fixture(scope="module")
def pix2pix(folders):
    path = folders / "pix2pix"
    run(
        *("train", "pix2pix", "--inputs", folders / "drawings", "--data", folders / "photos"),
        *(*TINY, *SMALL, *JUDGE, "--set", "perceptual_weight=0", "--run", path),
    )
    return path


def test_a_run_on_what_is_degraded(restorer, folders, result, kgen):
    info = Run(restorer).info
    assert info["model"]["config"]["degradation"] == "noise:25"
    assert info["data"]["input_shape"] is None
    with Image.open(restorer / "samples" / "epoch_0001.png") as picture:
        assert picture.size[0] > picture.size[1]  # input, output and truth, side by side
    model, _ = load_model(restorer)
    assert isinstance(model, Translator) and model.input_shape == (16, 16, 3)
    status, _, err = kgen(
        *("train", "restorer", "--data", folders / "photos", "--degrade", "grey", *TINY),
        *(*SMALL, "--run", folders / "grey"),
    )
    assert status == 0 and "16x16x1; made of the images by grey" in err


def test_a_run_on_pairs_goes_on(pix2pix, folders, result):
    info = Run(pix2pix).info
    assert info["data"]["input_shape"] == [16, 16, 3]
    assert info["arguments"]["data_arguments"]["inputs"] == str((folders / "drawings").resolve())
    found = result("train", "--resume", pix2pix, "--epochs", 2)
    assert found["metrics"]["epoch"] == 2


def test_side_by_side_and_without_pairs(folders, tmp_path, result):
    for i in range(20):
        image = np.random.default_rng(i).integers(0, 255, (16, 32, 3), "uint8")
        write(tmp_path / "both", f"{i}.png", image)
    run("train", "restorer", "--data", tmp_path / "both", "--side-by-side", *TINY, *SMALL)
    assert Run(pathlib.Path("runs/restorer-both")).info["data"]["input_shape"] == [16, 16, 3]
    run(
        *("train", "cycle_gan", "--inputs", folders / "drawings", "--data", folders / "photos"),
        *("--unpaired", *TINY, *SMALL, *JUDGE, "--run", tmp_path / "cycle"),
    )
    report = result("evaluate", tmp_path / "cycle", "--metrics", "kd")
    rows = {row["name"]: row for row in report["translation"]["rows"]}
    assert "psnr" not in rows["model"] and report["translation"]["cycle"] >= 0


def test_pictures_of_a_folder(restorer, folders, tmp_path, result):
    found = result("translate", restorer, folders / "new", "-o", tmp_path / "out", "--seed", 3)
    assert found["pictures"] == 3 and [name for name, _ in found["skipped"]] == ["broken.png"]
    sizes = {}
    for path in (tmp_path / "out").rglob("*.png"):
        with Image.open(path) as image:
            sizes[str(path.relative_to(tmp_path / "out"))] = image.size
    assert sizes == {"a.png": (30, 40), "more/b.png.png": (31, 23), "more/b.bmp.png": (9, 9)}
    model, _ = load_model(restorer)
    with Image.open(folders / "new" / "more" / "b.bmp") as image:
        expected = model.translate(np.asarray(image)[None])[0]
    with Image.open(tmp_path / "out" / "more" / "b.bmp.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
    # In tiles the same, but for rounding.
    tile = 2 * model._overlap + model.stride
    result("translate", restorer, folders / "new" / "a.jpg", "-o", tmp_path / "t", "--tile", tile)
    with Image.open(tmp_path / "t" / "a.png") as one, Image.open(tmp_path / "out" / "a.png") as two:
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 1


def test_several_answers_and_holes(folders, tmp_path, result):
    run(
        *("train", "palette", "--data", folders / "photos", "--degrade", "box:0.25"),
        *(*TINY, "--set", "multipliers=[1]"),
    )
    picture = np.full((16, 16, 4), 200, "uint8")
    picture[..., 3] = 255
    picture[4:9, 5:11, 3] = 0
    write(tmp_path, "torn.png", picture)
    command = ("translate", "runs/palette-photos", tmp_path / "torn.png", "-o", tmp_path / "out")
    result(*command, "--variants", 3, "--set", "num_steps=2")
    drawn = [np.asarray(Image.open(tmp_path / "out" / f"torn-{i}.png")) for i in (1, 2, 3)]
    known = picture[..., 3] == 255
    for image in drawn:
        assert image.shape == (16, 16, 3)
        np.testing.assert_array_equal(image[known], picture[..., :3][known])
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[2]).any()
    report = result("evaluate", "runs/palette-photos", "--metrics", "kd")
    assert report["translation"]["spread"] > 0 and "variants" in report["pictures"]


def test_a_style(folders, tmp_path, result, refused):
    run(
        *("train", "style_transfer", "--inputs", folders / "photos", "--data"),
        *(folders / "drawings", "--unpaired", *TINY, "--run", tmp_path / "style"),
    )
    command = ("translate", tmp_path / "style", folders / "new")
    result(*command, "-o", tmp_path / "out", "--style", folders / "new" / "a.jpg")
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (30, 40)
    assert "takes --style PICTURE" in refused(*command, "-o", tmp_path / "x")
    report = result("evaluate", tmp_path / "style", "--metrics", "none")
    assert set(report["losses"]) == {"loss", "content_loss", "style_loss"}


def test_evaluation_stands_beside_what_it_is_judged_by(restorer, pix2pix, result, kgen):
    report = result("evaluate", restorer, "--metrics", "kd")
    rows = {row["name"]: row for row in report["translation"]["rows"]}
    assert set(rows) == {"model", "input", "truth"}
    assert set(rows["model"]) >= {"psnr", "ssim", "perceptual", "colourfulness"}
    assert set(report["pictures"]) == {"translations"}
    status, out, _ = kgen("evaluate", pix2pix, "--metrics", "none", "--baseline", pix2pix)
    assert status == 0 and "Against the truth" in out and "baseline, Pix2Pix" in out
    page = (pix2pix / "report.html").read_text("utf-8")
    assert "Against the truth" in page and "the input as it is" in page
    saved = json.loads((pix2pix / "evaluation.json").read_text())
    rows = {row["name"]: row for row in saved["translation"]["rows"]}
    assert rows["baseline"]["psnr"] == rows["model"]["psnr"]


def test_other_pairs(pix2pix, folders, result, refused):
    other = ("evaluate", pix2pix, "--metrics", "none", "--data", folders / "drawings")
    assert "give the inputs" in refused(*other)
    report = result(*other, "--inputs", folders / "photos", "-o", folders / "other")
    assert report["images"] == 40
    assert "go with other images" in refused(
        "evaluate", pix2pix, "--inputs", folders / "photos", "--metrics", "none"
    )


def test_sharpening_begins_with_what_is_learnt(restorer, folders, tmp_path):
    run(
        *("train", "pix2pix", "--data", folders / "photos", "--degrade", "noise:25", *TINY, *SMALL),
        *("--begin-with", restorer, "--run", tmp_path / "sharp", "--learning-rate", 1e-9, *JUDGE),
    )
    model, before = load_model(tmp_path / "sharp")[0], load_model(restorer)[0]
    images = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), "uint8")
    difference = model.translate(images).astype(int) - before.translate(images)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "restorer", "--data", "{photos}", *TINY), "or from clean images with a degrad"),
        (("train", "vae", "--data", "{photos}", "--inputs", "{photos}"), "takes no inputs"),
        (
            (
                "train",
                "restorer",
                "--data",
                "{photos}",
                "--inputs",
                "{photos}",
                "--degrade",
                "grey",
            ),
            "leave out its degradation (--degrade)",
        ),
        (
            ("train", "restorer", "--data", "{photos}", "--degrade", "nois:3"),
            "Did you mean 'noise'",
        ),
        (("train", "restorer", "--data", "{photos}", "--swap", "--degrade", "grey"), "is of pairs"),
        (
            (
                *("train", "restorer", "--data", "{photos}", "--degrade", "grey"),
                *("--set", "degradation=grey"),
            ),
            "give one of them",
        ),
        (
            ("train", "vae", "--data", "{photos}", "--begin-with", "{run}"),
            "cannot begin with this Restorer",
        ),
        (("train", "restorer", "--data", "{photos}", "--inputs", "nowhere/x"), "does not exist"),
        (("translate", "{run}", "nowhere", "-o", "x"), "nowhere does not exist"),
        (("translate", "{run}", "{photos}", "-o", "x.png"), "-o takes a new folder"),
        (("translate", "{run}", "{photos}", "-o", "{photos}"), "is not an empty folder"),
        (("translate", "{run}", "{photos}", "-o", "x", "--tile", "4"), "tile must be"),
        (("translate", "{run}", "{photos}", "-o", "x", "--set", "strenght=1"), "Unknown option"),
        (("translate", "{run}", "{photos}", "-o", "x", "--style", "{photos}/00.png"), "no other"),
        (("sample", "{run}", "-o", "x.png"), "call translate(images)"),
    ],
)
def test_what_is_refused(restorer, folders, refused, arguments, message, tmp_path):
    places = {"photos": folders / "photos", "run": restorer}
    if arguments[0] == "train":
        arguments = (*arguments, "--run", tmp_path / "run")
    said = refused(*(str(argument).format(**places) for argument in arguments))
    assert message in said
    assert not (tmp_path / "run").exists() and not pathlib.Path("x").exists()


def test_none_that_can_be_read(restorer, tmp_path, refused):
    (tmp_path / "a.png").write_bytes(b"no")
    assert "None of the 1 pictures" in refused(
        "translate", restorer, tmp_path, "-o", tmp_path / "o"
    )
    assert "could not be read" in refused(
        "translate", restorer, tmp_path, "-o", tmp_path / "o", "--strict"
    )
    assert not (tmp_path / "o").exists()
    (tmp_path / "a.png").unlink()
    assert "holds no picture" in refused("translate", restorer, tmp_path, "-o", tmp_path / "o")
    keras.backend.clear_session()
