"""Models on the Hugging Face hub, published and loaded: a server speaks its API."""

import json
import pathlib
import shutil
import warnings

import numpy as np
import pytest
import yaml

from kgen import load
from kgen.models import VAE
from kgen.training.errors import RunError
from kgen.training.run import load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*collapse")

hub = pytest.importorskip("huggingface_hub")

SENT = {"config.json", "metadata.json", "README.md", "samples.png"}
WEIGHTS = {"model.safetensors", "model.weights.h5"}


@pytest.fixture
def server(hub_server):
    return hub_server


def test_a_run_is_published_and_loaded(kgen, result, server, vae_run, tmp_path):
    expected = load_model(vae_run)[0].generate(3)
    status, said, err = kgen("publish", vae_run, "--to", "hf://me/digits", "--license", "cc0-1.0")
    assert status == 0, err
    assert f"Published: {server.url}/me/digits\n" in said and "hf://me/digits -o grid.png" in said
    repo = server.repos["me/digits"]
    first, sent = repo.newest, repo.files
    assert set(sent) == SENT | WEIGHTS and not repo.private
    assert not any(str(vae_run.parent).encode() in body for body in sent.values())

    np.testing.assert_array_equal(load("hf://me/digits").generate(3), expected)
    assert "GET /me/digits/resolve/" in "".join(server.requests)
    assert not any("h5" in line for line in server.requests if "resolve" in line)
    result("sample", "hf://me/digits", "-n", 3, "-o", tmp_path / "hub.png")
    found = result("inspect", tmp_path / "hub.png", "--artifact", vae_run)
    assert found["verdict"] == "proven" and found["claim"]["model"] == "digits"

    mine = {"mine.txt": b"of a user", "LICENSE": b"of a user too"}
    repo.commit({**sent, **mine})
    again = result("publish", vae_run, "--to", "hf://me/digits", "--weights", "h5")
    assert set(repo.files) == SENT | {"model.weights.h5", *mine}, "old weights go, others stay"
    assert again["commit"] == repo.newest and set(again["files"]) == SENT | {"model.weights.h5"}
    assert yaml.safe_load(repo.files["README.md"].split(b"---\n")[1])["license"] == "unknown"
    np.testing.assert_array_equal(VAE.from_preset("hf://me/digits").generate(3), expected)
    server.requests.clear()
    np.testing.assert_array_equal(load(f"hf://me/digits@{first}").generate(3), expected)
    assert not server.requests, "a commit that was fetched does not change"


def test_what_is_published_says_what_the_run_knows(result, server, vae_run, tmp_path):
    from kgen.evaluation import evaluate

    run = tmp_path / "run"
    shutil.copytree(vae_run, run)
    model, trained = load_model(run)
    data = trained.load_data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = evaluate(model, data, num_samples=64, metrics=["kd"], folder=run, progress=False)
    result("publish", run, "--to", "hf://me/digits", "--dataset", "sklearn/digits")
    repo = server.repos["me/digits"]
    known = json.loads(repo.files["metadata.json"])
    assert known["data"]["fingerprint"] == data.fingerprint and known["training"]["epochs"] == 2
    assert known["training"]["seconds"] >= 1 and known["training"]["metrics"]["epoch"] == 2
    [(name, entry)] = known["scores"]["metrics"].items()
    assert entry["value"] == report["metrics"][name]["value"]
    card = hub.ModelCard(repo.files["README.md"].decode())
    [found] = card.data.eval_results
    assert (found.metric_type, found.dataset_type) == (name, "sklearn/digits")
    assert found.metric_value == pytest.approx(entry["value"], rel=1e-5)
    assert "Trained on 1,437 images of digits" in card.text and "| epochs | 2 |" in card.text
    assert f"| {name} | {entry['value']:.4g} ± " in card.text

    info = trained.info
    trained.update(finished="2999-01-01T00:00:00+00:00")  # trained on since
    result("publish", run, "--to", tmp_path / "preset")
    assert json.loads((tmp_path / "preset/metadata.json").read_text())["scores"] is None
    trained.update(finished=info["finished"])


def test_a_preset_is_published_as_it_is(kgen, result, refused, server, vae_run, tmp_path):
    folder = tmp_path / "preset"
    options = ("--dtype", "float16", "--license", "mit")
    written = result("publish", vae_run, "--to", folder, *options)
    assert set(written["files"]) == SENT | WEIGHTS and not server.requests
    drawn = result("inspect", folder / "samples.png", "--artifact", folder)
    assert drawn["verdict"] == "proven", "by the weights as they are rounded"
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nMine.\n")
    (folder / "train.npz").write_bytes(b"data")
    shown = kgen("publish", folder, "--to", "hf://me/digits", "--private", "--dry-run")[1]
    assert f"Nothing was sent. It would go to {server.url}/me/digits (private)" in shown
    assert "README.md" in shown and "train.npz" not in shown and not server.requests
    assert "does not say kgen.load('hf://me/digits')" in shown
    sent = result("publish", folder, "--to", "hf://me/digits", "--private")
    assert sent["private"] and server.repos["me/digits"].private
    assert server.repos["me/digits"].files["README.md"] == card.read_bytes()
    assert set(server.repos["me/digits"].files) == SENT | WEIGHTS
    again = ("publish", folder, "--to", "hf://me/digits")
    assert "is sent as it is. Received: --dtype" in refused(*again, "--dtype", "float16")
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "is no whole safetensors file" in refused(*again)
    assert "exists already" in refused("publish", vae_run, "--to", folder)
    assert "--private goes with" in refused("publish", vae_run, "--to", tmp_path / "x", "--private")


def test_what_the_hub_refuses_is_said(refused, server, vae_run, monkeypatch):
    def said(*line):
        server.requests.clear()
        return refused(*line)

    publish = ("publish", vae_run, "--to")
    assert "is hf://USER/NAME, or" in said("sample", "hf://me") and not server.requests
    assert "newest revision. Received: hf://me/x@v2" in said(*publish, "hf://me/x@v2")
    assert "There is no hf://me/x, or it is private: HF_TOKEN" in said("sample", "hf://me/x")
    assert "answers 403 for hf://you/x: You don't have the rights" in said(*publish, "hf://you/x")
    server.create("me/x")
    assert "hf://me/x is no preset: it has no config.json" in said("sample", "hf://me/x")
    assert "is there already, and public" in said(*publish, "hf://me/x", "--private")
    assert server.repos["me/x"].files == {}
    server.repos["me/x"].commit({"config.json": b"{}"})
    assert "hf://me/x has no weights" in said("sample", "hf://me/x")
    assert "hf://me/x has no revision 'v9'" in said("sample", "hf://me/x@v9")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "answers 401 for hf://me/y: Invalid credentials" in said(*publish, "hf://me/y")
    monkeypatch.delenv("HF_TOKEN")
    assert "needs a token that may write" in said(*publish, "hf://me/y") and not server.requests
    server.repos["me/x"].private = True
    with pytest.raises(RunError, match="or it is private"):
        load("hf://me/x")


def test_without_a_network_what_was_loaded_is_loaded(refused, server, monkeypatch):
    from huggingface_hub import constants

    model = VAE.from_preset("vae_tiny")
    folder = pathlib.Path(constants.HF_HUB_CACHE).with_name("preset")
    model.save_to_preset(folder)
    server.create("me/tiny")
    server.repos["me/tiny"].commit({path.name: path.read_bytes() for path in folder.iterdir()})
    expected = load("hf://me/tiny").generate(2)
    # Without it the library tries again for 24 seconds.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(load("hf://me/tiny").generate(2), expected)
    assert "does not answer, and hf://me/other was not loaded" in refused("sample", "hf://me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "does not answer for hf://me/x" in refused("publish", folder, "--to", "hf://me/x")


def test_training_goes_on_from_the_hub(result, server, vae_run, tmp_path):
    result("publish", vae_run, "--to", "hf://me/digits")
    run = tmp_path / "run"
    line = ("train", "hf://me/digits", "--data", "digits", "--epochs", 1, "--run", run)
    result(*line)
    model, trained = load_model(run)
    before = load_model(vae_run)[0]
    assert trained.info["model"]["name"] == "hf://me/digits"
    assert model.get_config()["beta"] == before.get_config()["beta"] == 0.5
    assert trained.info["begun_with"]["source"] == "hf://me/digits"
    assert trained.info["begun_with"]["taken"] > len(trained.info["begun_with"]["fresh"])


@pytest.mark.slow
def test_an_artifact_is_published(result, refused, server, vae_run, tmp_path, tensorflow_only):
    out = tmp_path / "artifact"
    result("export", vae_run, "-o", out, "--formats", "onnx", "--batch-sizes", "1,2")
    (out / "mine.txt").write_text("mine")
    assert "mine.txt" in refused("publish", out, "--to", "hf://me/digits-onnx")
    (out / "mine.txt").unlink()
    result("publish", out, "--to", "hf://me/digits-onnx")
    sent = server.repos["me/digits-onnx"].files
    there = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert sent == there
    front = yaml.safe_load(sent["README.md"].split(b"---\n")[1])
    assert front["tags"] == ["kgen", "onnx"] and front["license"] == "unknown"
