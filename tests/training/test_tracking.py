"""What trackers are told, read back by their own readers; and that one may fail."""

import json
import pathlib
import types
import warnings

import numpy as np
import pytest
from PIL import Image

import kgen
from kgen.training import tracking
from kgen.training.checkpoints import sha256
from kgen.training.run import train

wandb = pytest.importorskip("wandb")
mlflow = pytest.importorskip("mlflow")


def begin(run, **options):
    options = {"epochs": 1, "num_samples": 9, "verbose": 0, "batch_size": 512, **options}
    return train("vae_tiny", "digits", run, **options)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run that both trackers were told of, in two parts, with an evaluation and an artifact."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("KGEN_CACHE_DIR", str(folder / "cache"))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("WANDB_PROJECT", raising=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*goes on without it")
            run = begin(folder / "digits", track=["wandb", "mlflow:mine"])
            train(run=run.path, resume=True, epochs=2, num_samples=9, verbose=0)
            model = kgen.load(run.path)
            data = kgen.data.load("digits")
            options = {"num_samples": 40, "metrics": ["kd"], "progress": False}
            report = kgen.evaluation.evaluate(model, data, folder=run.path, **options)
            tracking.tell_evaluation(run, report, run.path)
            (folder / "artifact").mkdir()
            (folder / "artifact" / "manifest.json").write_text("{}")
            artifact = types.SimpleNamespace(path=folder / "artifact", name="digits", size=2)
            tracking.tell_artifact(run, artifact)
        yield run, report


def test_mlflow_was_told(tracked):
    run, report = tracked
    known = run.info["trackers"]["mlflow"]
    client = mlflow.MlflowClient()
    [experiment] = client.search_experiments(filter_string="name = 'mine'")
    [found] = client.search_runs([experiment.experiment_id])
    assert known == {"id": found.info.run_id, "project": "mine"}
    assert found.info.run_name == "digits" and found.info.status == "FINISHED"
    assert found.data.params["arguments.batch_size"] == "512"
    assert found.data.params["model.config.latent_dim"] == "4"
    assert found.data.params["data.fingerprint"] == run.info["data"]["fingerprint"]
    for name in ("loss", "val_loss", "epoch"):
        history = client.get_metric_history(found.info.run_id, name)
        assert [(entry.step, entry.value) for entry in history] == [
            (row["steps"], row[name]) for row in run.metrics
        ]
    [(title, entry)] = report["metrics"].items()
    assert found.data.metrics[f"evaluation/{title}"] == entry["value"]
    assert found.data.metrics["evaluation/loss"] == report["losses"]["loss"]
    assert found.data.tags["kgen.model.path"] == str(run.model_path)
    assert found.data.tags["kgen.model.sha256"] == sha256(run.model_path)
    assert found.data.tags["kgen.artifact.path"].endswith("artifact/manifest.json")
    folder = pathlib.Path(client.download_artifacts(found.info.run_id, ""))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("samples/epoch_0001.png", "samples/epoch_0002.png"),
        *("evaluation/evaluation.json", "evaluation/report.html"),
    }
    for name in files:
        own = run.path / name.removeprefix("evaluation/")
        assert (folder / name).read_bytes() == own.read_bytes()


def records(path):
    """What a .wandb file holds: records in the frames of a LevelDB log, behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = path.read_bytes(), 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record()
            message.ParseFromString(record)
            yield message
            record = b""


def values(items):
    """The values of records' items by name, the last of each."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_wandb_was_told(tracked):
    run, _ = tracked
    folder = run.path.parent / "wandb"
    parts = [list(records(path)) for path in sorted(folder.glob("offline-run-*/*.wandb"))]
    assert len(parts) == 4, "trained, trained on, evaluated, exported"
    told = [record for part in parts for record in part]
    begun = [record.run for record in told if record.HasField("run")]
    assert {record.run_id for record in begun} == {run.info["trackers"]["wandb"]["id"]}
    assert {record.display_name for record in begun} == {"digits"}
    assert {record.project for record in begun} == {"kgen"}
    config = values(begun[0].config.update)
    assert config["arguments"]["batch_size"] == 512
    assert config["model"]["config"]["latent_dim"] == 4
    history = [values(record.history.item) for record in told if record.HasField("history")]
    rows = [row for row in history if "val_loss" in row]
    assert len(rows) == len(run.metrics) == 2
    for row, own in zip(rows, run.metrics, strict=True):
        assert {name: row[name] for name in own if name != "steps"} == {
            name: value for name, value in own.items() if name != "steps"
        }
        assert row["_step"] == own["steps"]
        picture = next(folder.rglob(pathlib.Path(row["samples.path"]).name))
        grid = run.path / "samples" / f"epoch_{own['epoch']:04d}.png"
        np.testing.assert_array_equal(Image.open(picture), Image.open(grid))
    assert [record.exit.exit_code for record in told if record.HasField("exit")] == [0] * 4


def test_a_tracker_that_fails_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(UserWarning, match="MLflow fails, and all goes on without it") as warned:
        run = begin(tmp_path / "run", epochs=2, track="mlflow")
    assert run.info["status"] == "finished" and len(run.metrics) == 2
    assert len([one for one in warned if "MLflow" in str(one.message)]) == 1


@pytest.mark.parametrize(
    ("track", "error", "message"),
    [
        (["wanb"], ValueError, r"Unknown tracker 'wanb'. Did you mean 'wandb'\?"),
        (["mlflow:"], ValueError, r"After the colon comes a project's name. Received: mlflow:"),
    ],
)
def test_what_is_no_tracker(tmp_path, track, error, message):
    with pytest.raises(error, match=message):
        begin(tmp_path / "run", track=track)
    assert not (tmp_path / "run").exists()
