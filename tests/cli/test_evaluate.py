"""`kgen evaluate` and `kgen compare`: each evaluation is made once and read by many tests."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from kgen import data
from kgen.cli import main
from kgen.cli.evaluation import _trained_on
from kgen.training.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*collapse")

SMALL = ("--num-samples", 260)


@pytest.fixture(scope="module")
def runs(vae_run, dcgan_run, tmp_path_factory, cli_cache):
    """Evaluated copies of a VAE's and a GAN's run, in which other tests see nothing written."""
    folder = tmp_path_factory.mktemp("runs")
    vae, gan = shutil.copytree(vae_run, folder / "vae"), shutil.copytree(dcgan_run, folder / "gan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE_DIR", str(cli_cache))
        for line in ((vae, "--importance-samples", 5), (gan, "--metrics", "fd,kd")):
            assert main(["evaluate", *map(str, (*line, *SMALL))]) == 0
    return vae, gan


def report_of(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_evaluate(runs):
    run = runs[0]
    report = report_of(run)
    assert report["images"] == 180 and report["samples"]["n"] == 260
    assert report["losses"]["loss"] > 0
    assert report["likelihood"]["nats"] < report["losses"]["loss"] + 1
    assert "5 importance samples" in report["likelihood"]["protocol"]
    assert 0 < report["reconstruction"]["mae"] < report["reconstruction"]["rmse"] < 255
    assert report["sampling"]["images_per_second"] > 0
    entry = report["metrics"]["FD-general_cnn"]
    assert entry["value"] > entry["floor"] > 0
    assert any(text.startswith("few images") for text in report["warnings"])
    page = (run / "report.html").read_text()
    assert "FD-general_cnn" in page and report["features"]["sha256"] in page
    for picture in report["pictures"].values():
        with Image.open(run / picture["file"]) as image:
            assert min(image.size) > 30


def test_equal_commands_give_equal_figures_outside_a_run_too(kgen, refused, runs, tmp_path):
    alone = shutil.copy(runs[0] / "model.keras", tmp_path / "alone.keras")
    assert "belongs to no run, so it needs --data SOURCE" in refused("evaluate", alone)
    status, out, _ = kgen(
        "evaluate", alone, "--data", "digits", "--metrics", "fd,kd,recall", *SMALL
    )
    assert status == 0 and "180 test images of digits" in out and "grey levels" in out
    assert "KD-general_cnn" in out and "report.html" in out
    assert "precision-general_cnn" not in out
    assert (tmp_path / "alone-evaluation/report.html").is_file()
    found = report_of(tmp_path / "alone-evaluation")["metrics"]
    assert set(found) == {"FD-general_cnn", "KD-general_cnn", "recall-general_cnn"}
    expected = report_of(runs[0])["metrics"]
    assert found == {name: expected[name] for name in found}


@pytest.mark.slow
def test_equal_commands_give_equal_figures(result, runs, tmp_path):
    report = result("evaluate", runs[0], "-o", tmp_path, *SMALL)
    assert report["metrics"] == report_of(runs[0])["metrics"]


def test_evaluate_a_conditional_gan(runs):
    report = report_of(runs[1])
    assert "reconstruction" not in report and "likelihood" not in report
    assert set(report["metrics"]) == {"FD-general_cnn", "KD-general_cnn"}
    assert report["samples"]["labels"] == "as frequent as in the reference"


def test_no_metrics(result, runs, tmp_path):
    """What is printed as JSON is what is written."""
    report = result(
        *("evaluate", runs[1], "--metrics", "none", "--split", "validation", "-o", tmp_path),
        *("--set", "temperature=0.5"),
    )
    assert report_of(tmp_path) == report
    assert report["data"]["split"] == "validation"
    assert "metrics" not in report and "generator_loss" in report["losses"]


@pytest.mark.slow
def test_another_split_is_the_reference(result, runs, tmp_path):
    line = ("evaluate", runs[1], "--split", "validation", "-o", tmp_path, "--num-samples", 400)
    report = result(*line)
    assert report["reference"]["split"] == "validation"
    assert 0 <= report["metrics"]["CAS"]["value"] < report["metrics"]["CAS"]["floor"] <= 1


def test_compare(kgen, result, runs, tmp_path):
    out = tmp_path / "pages" / "comparison.html"
    compared = result("compare", *runs, "-o", out)
    assert compared["header"][-2:] == ["vae", "gan"]
    rows = {row[0]: row for row in compared["rows"]}
    assert "*" in "".join(rows["FD-general_cnn"])
    assert "FD-general_cnn" in out.read_text()
    status, said, _ = kgen("compare", *runs, "-o", out)
    assert status == 0 and f"Look at {out}" in said


COMPARE = """
import sys
from kgen.cli import main
status = main(["compare", *sys.argv[1:]])
print(status, sorted({"keras", "tensorflow", "jax"} & set(sys.modules)))
"""


def test_compare_what_is_not_comparable(kgen, result, runs, run_python, tmp_path, monkeypatch):
    """The reason stands wherever the figures do, and no figure is cut off."""
    vae = runs[0]
    for name in ("one", "another", "third"):
        report = report_of(vae)
        if name != "one":
            report["samples"]["n"] = 100
            report["left_out"] = {"FD-general_cnn": "needs 128 images"}
            del report["metrics"]["FD-general_cnn"]
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(report))
    folders = [tmp_path / name for name in ("one", "another", "third")]
    line = ("compare", *folders, "-o", tmp_path / "page.html")
    found = result(*line)
    assert found["not_comparable"] == {
        "images drawn": {"one": "260", "another": "100", "third": "100"}
    }
    assert found["left_out"] == {
        name: {"FD-general_cnn": "needs 128 images"} for name in ("another", "third")
    }
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "another has no FD-general_cnn: needs 128 images." in page
    piped = run_python(COMPARE, *line[1:], env={"COLUMNS": "80"})
    assert piped.stdout.endswith("0 []\n") and piped.stderr == ""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    for out in (piped.stdout, kgen(*line)[1]):
        shown = " ".join(re.sub("[│┃]|\x1b\\[[0-9;]*m", " ", out).split())
        assert "These runs are not comparable: images drawn differ." in shown
        assert "another has no FD-general_cnn: needs 128 images." in shown
        for figure in {cell for row in found["rows"] for cell in row}:
            assert set(figure.split()) <= set(shown.split())


# Other data than the run's own -----------------------------------------------------------


def paint(folder, classes, count=20):
    """Pictures of 12x8 pixels, half of them transparent, whose grey level is that of the class."""
    levels = {"ant": 40, "bee": 130, "cow": 220, "dog": 180}
    for name in classes:
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(levels[name] + count)
        for i in range(count):
            pixels = rng.integers(-30, 30, (12, 8, 4)) + levels[name]
            pixels[:6, :, 3], pixels[6:, :, 3] = 0, 255
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory, cli_cache):
    """A run on classes with names, whose data is loaded with options; and its data."""
    folder = tmp_path_factory.mktemp("named")
    source, run = paint(folder / "animals", ("ant", "bee", "cow")), folder / "run"
    line = "--conditional --epochs 1 --image-shape 8x8x1 --background black --resize pad"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE_DIR", str(cli_cache))
        line = ("train", "vae_tiny", "--data", source, "--run", run, *line.split())
        assert main([*map(str, line), "--batch-size", "8"]) == 0
    return Run(run), source


def test_other_data_is_loaded_as_the_run_s_own_and_held_out_as_a_whole(named, tmp_path):
    run, _ = named
    # It lacks the first class, and its folders come in another order.
    other = paint(tmp_path / "other", ("bee", "cow"), 7)
    found = run.load_data(source=str(other))
    assert (found.train, found.validation, len(found.test)) == (None, None, 14)
    assert (found.class_names, found.num_classes) == (["ant", "bee", "cow"], 3)
    assert np.bincount(found.test.labels).tolist() == [0, 7, 7]
    assert not run.owns(found)
    options = {"validation_fraction": 0, "test_fraction": 0, "progress": False}
    expected = data.load(other, (8, 8, 1), background="black", resize="pad", **options)
    np.testing.assert_array_equal(found.test.images, expected.train.images)
    # What has splits keeps them, and a class of the test split alone has the run's number.
    paint(tmp_path / "splits/train", ("ant", "cow"), 3)
    paint(tmp_path / "splits/test", ("cow",), 4)
    found = run.load_data(source=tmp_path / "splits")
    assert found.train.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert found.test.labels.tolist() == [2, 2, 2, 2]


def test_classes_that_the_run_has_not_are_refused(refused, named, tmp_path):
    run, _ = named
    other = paint(tmp_path / "other", ("bee", "dog"), 3)
    received = refused("evaluate", run.path, "--data", other)
    assert f"{other} has classes that the run {run.path} has not" in received
    assert "Received: bee, dog; the run's: ant, bee, cow." in received
    # Labels without names are numbers, which is said.
    images, said = np.zeros((5, 8, 8, 1), "uint8"), []
    np.savez(tmp_path / "numbers.npz", x_train=images, y_train=[2, 0, 1, 1, 2])
    found = run.load_data(said.append, tmp_path / "numbers.npz")
    assert found.test.labels.tolist() == [2, 0, 1, 1, 2]
    assert "no names. Taken for the run's: 0 for ant, 1 for bee, 2 for cow." in said[0]
    np.savez(tmp_path / "numbers.npz", x_train=images, y_train=[3, 0, 1, 1, 2])
    assert "Received: 4 classes without names" in refused(
        "evaluate", run.path, "--data", tmp_path / "numbers.npz"
    )


def test_the_run_s_own_data_is_known_by_its_name_and_by_its_images(named, tmp_path):
    run, source = named
    moved, said = shutil.copytree(source, tmp_path / "moved"), []
    for place in (None, str(source), source, moved):
        found = run.load_data(said.append, place)
        assert found.fingerprint == run.info["data"]["fingerprint"] and run.owns(found)
        assert (len(found.train), len(found.validation), len(found.test)) == (48, 6, 6)
    assert not said
    (moved / "ant/0.png").unlink()
    assert len(run.load_data(source=moved).test) == 59, "other images are another source"


def test_evaluate_other_data(kgen, named, tmp_path):
    """Copying is measured against what the run was trained on; 64 images give what they can."""
    run, _ = named
    other, out = paint(tmp_path / "other", ("bee", "cow"), 7), tmp_path / "out"
    line = ("evaluate", run.path, "--data", other, "--metrics", "fd,kd", "-o", out)
    status, said, err = kgen(*line, "--num-samples", 64)
    assert status == 0 and "WARNING" not in err
    report = report_of(out)
    assert (report["images"], report["reference"]["n"]) == (14, 14)
    assert report["train_reference"] == {"split": "train", "n": 14}
    assert report["floor_sample"] == {"split": "train", "n": 48 - 14}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"kgen evaluate {run.path} --data={other} --split=test" in page
    assert report["metrics"].keys() == {"KD-general_cnn"}
    why = "of 128 features needs at least 128 images. Received: 64. Draw more, or force it"
    assert report["left_out"] == {"FD-general_cnn": why}
    assert f"Left out: FD-general_cnn: {why}." in said


def test_a_run_whose_data_is_gone_and_comes_back(kgen, named, tmp_path, capfd):
    run, source = named
    gone = Run(shutil.copytree(run.path, tmp_path / "gone"))
    gone.update(data={**gone.info["data"], "source": str(tmp_path / "nowhere.npz")})
    assert _trained_on(gone) is None
    assert "Warning: copying is not measured, for the run's own data" in capfd.readouterr().err
    # It goes on with its data at another place, and remembers it.
    moved = shutil.copytree(source, tmp_path / "moved")
    assert kgen("train", "--resume", gone.path, "--data", moved)[0] == 0
    about = gone.info["data"]
    assert (about["source"], about["name"]) == (str(moved), "moved")
    assert {**about, "source": str(source), "name": "animals"} == run.info["data"]
    assert len(_trained_on(gone)) == 48
