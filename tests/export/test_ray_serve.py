"""What `deploy` writes for Ray Serve: read by its own schema, and run on a Ray of two replicas."""

import concurrent.futures
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
import yaml

import export
from export import verification

RUN = """
import sys
import ray
from ray.serve.scripts import cli
for tries_left in (2, 1, 0):
    try:
        ray.init(
            num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1]
        )
        break
    except Exception:  # Ray gives its node half a minute, and other tests have the cores
        if not tries_left:
            raise
        ray.shutdown()
cli(["run", "serve_config.yaml"])
"""


@pytest.fixture(scope="module")
def folder(artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray") / "painter"
    export.deploy([artifact.path, artifact.path], folder, "ray")
    return folder


def test_the_folder(folder, artifact):
    """The artifacts are whole, the code names what is there, the calls are of its port."""
    for version in ("1", "2"):
        found = verification.verify(folder / "models/painter" / version, hashes_only=True)
        assert found.artifact.manifest == artifact.manifest
    config = yaml.safe_load((folder / "serve_config.yaml").read_text())
    [application] = config["applications"]
    [deployment] = application["deployments"]
    module, name = application["import_path"].split(":")
    code = compile((folder / f"{module}.py").read_text(), module, "exec")
    assert name in code.co_names and deployment["name"] in str(code.co_consts)
    port = config["http_options"]["port"]
    text = (folder / "README.md").read_text()
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)", text)) == {str(port)}
    schema = pytest.importorskip("ray.serve.schema")
    schema.ServeDeploySchema(**config)


@pytest.fixture
def address(folder, tmp_path_factory, monkeypatch):
    """A Ray on this machine alone that serves the folder with two replicas."""
    pytest.importorskip("ray.serve")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = folder / "serve_config.yaml"
    text = config.read_text()
    for before, after in (("port: 8501", f"port: {port}"), ("min_replicas: 1", "min_replicas: 2")):
        assert text.count(before) == 1
        text = text.replace(before, after)
    config.write_text(text)
    place = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "KGEN_RAY_TEST": str(folder),
        "PYTHONPATH": str(pathlib.Path(export.__file__).parents[1]),
    }
    short = tmp_path_factory.mktemp("r")  # the paths of sockets have a limit
    with open(short / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(short)], cwd=folder, env=place, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (short / "log").read_text()
            try:
                if len(replicas(folder)) == 2 and httpx.get(f"{address}/healthz").is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.3)
        else:
            raise AssertionError((short / "log").read_text())
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def replicas(folder):
    """Processes of the replicas that this test's Ray has started."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            named = (path / "cmdline").read_bytes().startswith(b"ray::ServeReplica:kgen")
            if named and f"KGEN_RAY_TEST={folder}\0".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


# Half a minute of starting processes, most of it Ray's own: nothing else shows that it serves.
@pytest.mark.slow
def test_replicas_draw_what_onnx_runtime_draws(folder, artifact, address, tmp_path):
    seeds = np.arange(48, dtype="int32")
    given = {"seed": seeds, "label": seeds % 3}
    [expected] = artifact.onnx_session("generate").run(["image"], given)
    with httpx.Client(base_url=address, timeout=60) as client:

        def one(seed):
            body = {"instances": [{"seed": seed, "label": seed % 3}]}
            answer = client.post("/v1/models/painter:predict", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()["predictions"]

        def drawn():
            with concurrent.futures.ThreadPoolExecutor(8) as threads:
                return np.concatenate(list(threads.map(one, range(48)))).astype("uint8")

        np.testing.assert_array_equal(drawn(), expected)
        body = {"instances": [{"seed": 1, "label": 3}]}
        answer = client.post("/v1/models/painter/versions/1:predict", json=body)
        assert answer.status_code == 400 and "label should be 0 to 2" in answer.text
        text = (folder / "README.md").read_text()
        commands = re.findall(r"^curl .*?(?<!\\)$", text, re.S | re.M)
        assert len(commands) == 3
        for command in commands:
            command = command.replace("http://127.0.0.1:8501", address)
            done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True)
            assert done.returncode == 0 and b"error" not in done.stdout.replace(b"error_", b"")
        assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")
        # One dies; the other goes on, and another takes its place.
        before = replicas(folder)
        os.kill(before[0], signal.SIGKILL)
        end = time.monotonic() + 60
        while True:
            try:
                np.testing.assert_array_equal(drawn(), expected)
                break
            except (AssertionError, httpx.TransportError):  # what the dead one had on its hands
                assert time.monotonic() < end
        while len(replicas(folder)) < 2:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert set(replicas(folder)) != set(before)
        np.testing.assert_array_equal(drawn(), expected)
