"""`kgen distill`, and what passes of a network buy: `kgen evaluate --cost-curve`."""

import json

import numpy as np
import pytest
from PIL import Image

from kgen.cli import main
from kgen.models import SoFlow
from kgen.training.run import Run, load_model

TRAIN = ("--data", "digits", "--seed", 3, "--epochs", 2)
#: Each pass of the teacher in the student's loss is traced once more.
FEW = ("--set", "own_steps=1")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill") / "flow"
    command = ["train", "flow_matching_tiny", *TRAIN, "--conditional", "--run", folder]
    assert main([str(part) for part in command]) == 0
    return folder


@pytest.fixture(scope="module")
def student(teacher):
    command = ("distill", str(teacher), "--epochs", "2", "--set", "flow_share=0.5", *FEW)
    assert main(list(command)) == 0
    return teacher.with_name("flow-1-step")


def test_a_distilled_run_is_a_run(student, teacher):
    run, before = Run(student), Run(teacher)
    assert run.finished and len(run.metrics) == 2
    assert run.info["data"]["fingerprint"] == before.info["data"]["fingerprint"]
    assert run.info["arguments"]["seed"] == 3
    assert run.info["arguments"]["batch_size"] == before.info["arguments"]["batch_size"]
    model, _ = load_model(student)
    assert isinstance(model, SoFlow)
    assert (model.passes, model.flow_share, model.num_classes) == (1, 0.5, 10)
    with Image.open(student / "teacher.png") as image:
        assert image.size[0] > image.size[1] > 0
    written = (student / "files.txt").read_text().split()
    assert {"teacher.png", "checkpoints/epoch_0000.keras"} <= set(written)


def test_it_goes_on_from_its_first_moment(kgen, student, teacher, tmp_path):
    """Nothing but its checkpoint could build it again."""
    run = tmp_path / "few"
    command = ("distill", teacher, "--epochs", 1, "--steps", 2, *FEW, "--run", run)
    assert kgen(*command)[0] == 0
    info = json.loads((run / "run.json").read_text())
    (run / "model.keras").unlink()
    for path in (run / "checkpoints").glob("epoch_0001.*"):
        path.unlink()
    (run / "run.json").write_text(json.dumps({**info, "status": "running"}))
    status, _, err = kgen("train", "--resume", run)
    assert status == 0, err
    model, _ = load_model(run)
    assert model.passes == 2 and Run(run).finished
    assert model.generate(2, labels=1).shape == (2, 8, 8, 1)


def test_what_cannot_be_distilled(refused, student, teacher, tmp_path):
    assert "noise_schedule='rectified'" in refused("distill", student)
    assert "already holds a run" in refused("distill", teacher, "--epochs", 1)
    vae = tmp_path / "vae"
    main([str(part) for part in ("train", "vae_tiny", *TRAIN, "--run", vae)])
    assert "takes a run of FlowMatching or DiT. Received" in refused("distill", vae)
    assert "takes any num_steps" not in refused("distill", tmp_path / "none")
    said = refused("evaluate", vae, "--cost-curve")
    assert "any num_steps. Received: a VAE, which takes none" in said
    said = refused("evaluate", student, "--cost-curve")
    assert "a SoFlow, which has learnt one number of them" in said


def test_what_passes_buy(result, tmp_path):
    run = tmp_path / "soflow"
    assert main([str(part) for part in ("train", "soflow_tiny", *TRAIN, "--run", run)]) == 0
    command = ("evaluate", run, "--cost-curve", "--num-samples", 64, "--metrics", "kd")
    cost = result(*command)["cost"]
    (curve,) = cost["curves"]
    assert curve["sampler"] is None and cost["num_samples"] == 64
    assert [point["passes"] for point in curve["points"]] == [1, 2, 4, 8, 16, 32]
    values = np.array([point["value"] for point in curve["points"]])
    assert np.isfinite(values).all() and len(np.unique(values)) == 6
    page = (run / "report.html").read_text()
    assert "What passes of the network buy" in page and ">passes of the network</text>" in page
    assert "--cost-curve" in page
