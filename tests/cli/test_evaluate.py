"""`kgen evaluate` and `kgen compare`: each evaluation is made once and read by many tests."""

import json
import shutil

import pytest
from PIL import Image

from kgen.cli import main

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
    entry = report["metrics"]["FD-random_conv"]
    assert entry["value"] > entry["floor"] > 0
    assert any(text.startswith("few images") for text in report["warnings"])
    page = (run / "report.html").read_text()
    assert "FD-random_conv" in page and report["features"]["sha256"] in page
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
    assert "KD-random_conv" in out and "report.html" in out
    assert "precision-random_conv" not in out
    assert (tmp_path / "alone-evaluation/report.html").is_file()
    found = report_of(tmp_path / "alone-evaluation")["metrics"]
    assert set(found) == {"FD-random_conv", "KD-random_conv", "recall-random_conv"}
    expected = report_of(runs[0])["metrics"]
    assert found == {name: expected[name] for name in found}


@pytest.mark.slow
def test_equal_commands_give_equal_figures(result, runs, tmp_path):
    report = result("evaluate", runs[0], "-o", tmp_path, *SMALL)
    assert report["metrics"] == report_of(runs[0])["metrics"]


def test_evaluate_a_conditional_gan(runs):
    report = report_of(runs[1])
    assert "reconstruction" not in report and "likelihood" not in report
    assert set(report["metrics"]) == {"FD-random_conv", "KD-random_conv"}
    assert report["samples"]["labels"] == "as frequent as in the reference"


def test_no_metrics(result, runs, tmp_path):
    """What is printed as JSON is what is written."""
    report = result(
        "evaluate", runs[1], "--metrics", "none", "--split", "validation", "-o", tmp_path
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
    assert "*" in "".join(rows["FD-random_conv"])
    assert "FD-random_conv" in out.read_text()
    status, said, _ = kgen("compare", *runs, "-o", out)
    assert status == 0 and f"Look at {out}" in said
