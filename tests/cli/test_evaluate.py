"""`kgen evaluate`, `kgen compare`, and metrics of samples in `kgen train`."""

import json
import shutil

import pytest
from PIL import Image

from kgen.training.run import Run, load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*collapse")


@pytest.fixture(scope="module")
def runs(vae_run, dcgan_run, tmp_path_factory):
    """Copies of a VAE's and a GAN's run, in which other tests see nothing written."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        shutil.copytree(run, folder / name) for run, name in ((vae_run, "vae"), (dcgan_run, "gan"))
    ]


@pytest.fixture(scope="module")
def small():
    return ("--num-samples", 400)


def test_evaluate(kgen, result, runs, small):
    run = runs[0]
    report = result("evaluate", run, "--importance-samples", 5, *small)
    assert report["images"] == 180 and report["samples"]["n"] == 400
    assert report["losses"]["loss"] > 0
    assert report["likelihood"]["nats"] < report["losses"]["loss"] + 1
    assert "5 importance samples" in report["likelihood"]["protocol"]
    assert 0 < report["reconstruction"]["mae"] < report["reconstruction"]["rmse"] < 255
    assert report["sampling"]["images_per_second"] > 0
    entry = report["metrics"]["FD-random_conv"]
    assert entry["value"] > entry["floor"] > 0
    assert any(text.startswith("few images") for text in report["warnings"])
    assert json.loads((run / "evaluation.json").read_text()) == report
    page = (run / "report.html").read_text()
    assert "FD-random_conv" in page and report["features"]["sha256"] in page
    for picture in report["pictures"].values():
        with Image.open(run / picture["file"]) as image:
            assert min(image.size) > 30

    status, out, _ = kgen("evaluate", run, "--metrics", "kd,recall", *small)
    assert status == 0 and "180 test images of digits" in out and "grey levels" in out
    assert "KD-random_conv" in out and "FD-random_conv" not in out and "report.html" in out


@pytest.mark.slow
def test_equal_commands_give_equal_figures(result, runs, small):
    one, two = (result("evaluate", runs[0], *small)["metrics"] for _ in range(2))
    assert one == two


@pytest.mark.slow
def test_evaluate_a_conditional_gan(result, runs, small):
    report = result("evaluate", runs[1], "--split", "validation", *small)
    assert "reconstruction" not in report and "likelihood" not in report
    assert report["reference"]["split"] == "validation"
    assert 0 <= report["metrics"]["CAS"]["value"] < report["metrics"]["CAS"]["floor"] <= 1


def test_no_metrics(result, runs):
    report = result("evaluate", runs[1], "--metrics", "none")
    assert "metrics" not in report and "generator_loss" in report["losses"]


def test_a_model_outside_its_run(result, refused, runs, tmp_path):
    alone = shutil.copy(runs[0] / "model.keras", tmp_path / "alone.keras")
    assert "belongs to no run, so it needs --data SOURCE" in refused("evaluate", alone)
    result("evaluate", alone, "--data", "digits", "--num-samples", 400, "--metrics", "kd")
    assert (tmp_path / "alone-evaluation/report.html").is_file()


def test_compare(kgen, result, runs, small, tmp_path):
    for run in runs:
        result("evaluate", run, "--metrics", "fd,kd", *small)
    out = tmp_path / "pages" / "comparison.html"
    compared = result("compare", *runs, "-o", out)
    assert compared["header"][-2:] == ["vae", "gan"]
    rows = {row[0]: row for row in compared["rows"]}
    assert "*" in "".join(rows["FD-random_conv"])
    assert "FD-random_conv" in out.read_text()
    status, said, _ = kgen("compare", *runs, "-o", out)
    assert status == 0 and f"Look at {out}" in said


def test_train_keeps_the_best(result, tmp_path):
    run = tmp_path / "run"
    line = ("train", "vae_tiny", "--data", "digits", "--run", run, "--seed", 1)
    result(*line, "--epochs", 3, "--keep-best", "kd")
    metrics = [row["KD-random_conv"] for row in Run(run).metrics]
    record = json.loads((run / "best.keras.json").read_text())
    assert len(metrics) == 3 and record["value"] == min(metrics)
    assert record["epoch"] == 1 + metrics.index(min(metrics))
    model, found = load_model(run / "best.keras")
    assert found.path == run and model.training_steps == record["epoch"] * 22

    # A run goes on with other evaluations; a new run in the folder forgets the old best.
    result("train", "--resume", run, "--epochs", 4, "--evaluate-every", 5)
    assert "KD-random_conv" not in Run(run).metrics[-1]
    result(*line, "--epochs", 1, "--force")
    assert not (run / "best.keras").exists()
