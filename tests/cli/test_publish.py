"""Models on the Hugging Face hub, published and loaded: a server here speaks its API."""

import base64
import collections
import hashlib
import http.server
import json
import pathlib
import re
import shutil
import threading
import urllib.parse
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

TOKEN = "hf_of_me"

#: What is kept outside of Git, as a new repository's .gitattributes has it.
LARGE = (".h5", ".safetensors", ".png", ".onnx", ".bin", ".npz", ".pb")


class Repo:
    """A repository: commits, each a dict of names to bytes, the newest last."""

    def __init__(self, private):
        self.private = private
        self.commits = collections.OrderedDict()
        self.commit({})

    def commit(self, files):
        oid = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        return oid

    @property
    def newest(self):
        return next(reversed(self.commits))

    @property
    def files(self):
        return self.commits[self.newest]


class Hub(http.server.ThreadingHTTPServer):
    """The hub's API of models, as huggingface_hub asks it: repositories, commits, LFS, downloads.

    `requests` are the lines of what was asked, such as `POST /api/repos/create`.
    """

    def __init__(self):
        self.repos, self.large, self.requests = {}, {}, []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *said):
        pass

    def answer(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message=""):
        headers = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self.answer({"error": message}, status, **headers)

    @property
    def may_write(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def handle_one(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        for pattern, method in self.ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                method(self, *match.groups())
                return
        self.refuse(404, "")

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def create(self):
        if not self.may_write:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return
        said = json.loads(self.body)
        name = f"{said['organization']}/{said['name']}"
        if said["organization"] != "me":
            self.refuse(403, "", f"You don't have the rights to create a model under {name}")
            return
        there = name in self.server.repos
        if not there:
            self.server.repos[name] = Repo(said.get("visibility") == "private")
        url = {"url": f"{self.server.url}/{name}", "name": name}
        self.answer(url, 409 if there else 200)

    def repo(self, name):
        """The repository, where the one who asks may know of it."""
        found = self.server.repos.get(name)
        if found is None or (found.private and not self.may_write):
            self.refuse(401 if not self.may_write else 404, "RepoNotFound", "Repository not found")
            return None
        return found

    def info(self, name):
        if repo := self.repo(name):
            siblings = [{"rfilename": file} for file in repo.files]
            known = {"id": name, "sha": repo.newest, "private": repo.private}
            self.answer({**known, "siblings": siblings})

    def validate(self):
        text = json.loads(self.body)["content"]
        front = yaml.safe_load(text.split("---\n")[1])
        wrong = [key for key in front if not isinstance(front[key], (str, list))]
        missing = "license" not in front
        if wrong or missing:
            self.answer({"errors": [{"message": f"bad metadata {wrong}"}], "warnings": []}, 400)
        else:
            self.answer({"errors": [], "warnings": []})

    def preupload(self, name):
        asked = json.loads(self.body)["files"]
        mode = {True: "lfs", False: "regular"}
        files = [
            {
                "path": f["path"],
                "uploadMode": mode[f["path"].endswith(LARGE)],
                "shouldIgnore": False,
            }
            for f in asked
        ]
        self.answer({"files": files})

    def batch(self, name):
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/large/{each['oid']}"}}}
            if each["oid"] not in self.server.large
            else each
            for each in json.loads(self.body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self.answer({})

    def commit(self, name):
        repo = self.repo(name)
        if repo is None or not self.may_write:
            return
        files = dict(repo.files)
        for line in self.body.splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif said["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif said["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(files)
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/c/{oid}"})

    def resolve(self, name, revision, file):
        repo = self.repo(name)
        if repo is None:
            return
        oid = repo.newest if revision == "main" else revision
        if oid not in repo.commits:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif file not in repo.commits[oid]:
            self.refuse(404, "EntryNotFound", f"{file} does not exist")
        else:
            body = repo.commits[oid][file]
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            self.answer(body, X_Repo_Commit=oid, ETag=etag)

    NAME = r"([\w-]+/[\w-]+)"
    ROUTES = (
        (r"POST /api/repos/create", create),
        (r"POST /api/validate-yaml", validate),
        (rf"GET /api/models/{NAME}", info),
        (rf"POST /api/models/{NAME}/preupload/main", preupload),
        (rf"POST /api/models/{NAME}/commit/main", commit),
        (rf"POST /{NAME}\.git/info/lfs/objects/batch", batch),
        (r"PUT /large/(\w+)", store),
        (rf"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)", resolve),
    )


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub of its own, as the environment would name it, where the user is logged in."""
    from huggingface_hub import constants

    with Hub() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # These the library has read when it was imported.
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield found
        found.shutdown()
        thread.join()


SENT = {"config.json", "metadata.json", "README.md", "samples.png"}
WEIGHTS = {"model.safetensors", "model.weights.h5"}


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

    repo.commit({**sent, "mine.txt": b"of a user"})
    again = result("publish", vae_run, "--to", "hf://me/digits", "--weights", "h5")
    assert set(repo.files) == SENT | {"model.weights.h5", "mine.txt"}, "old weights go, others stay"
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
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nMine.\n")
    (folder / "train.npz").write_bytes(b"data")
    shown = kgen("publish", folder, "--to", "hf://me/digits", "--private", "--dry-run")[1]
    assert f"Nothing was sent. It would go to {server.url}/me/digits (private)" in shown
    assert "README.md" in shown and "train.npz" not in shown and not server.requests
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
    server.repos["me/x"] = Repo(private=False)
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
    server.repos["me/tiny"] = Repo(private=False)
    server.repos["me/tiny"].commit({path.name: path.read_bytes() for path in folder.iterdir()})
    expected = load("hf://me/tiny").generate(2)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    np.testing.assert_array_equal(load("hf://me/tiny").generate(2), expected)
    assert "does not answer, and hf://me/other was not loaded" in refused("sample", "hf://me/other")
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
    assert int(model.training_steps) > int(before.training_steps)


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
