"""What `deploy` writes for Triton and KServe, as Triton's message, server and client read it."""

import concurrent.futures
import filecmp
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time

import numpy as np
import onnxruntime
import pytest
import yaml
from google.protobuf import text_format
from keras import ops

import export
from export import serving
from kgen import random
from kgen.endpoint import Endpoint, TensorSpec, image_spec, seed_spec


@pytest.fixture(scope="module")
def warm(one_endpoint, tmp_path_factory):
    """An artifact with an option of sampling."""

    def generate(seed, temperature=0.5):
        noise = random.normal(seed, (2, 2, 1)) * ops.reshape(temperature, (-1, 1, 1, 1))
        return {"image": ops.cast(ops.clip(noise * 40 + 128, 0, 255), "uint8")}

    class Warm(one_endpoint):
        def endpoints(self):
            option = TensorSpec((), "float32", 0, None, "how far from grey", default=0.5)
            inputs = {"seed": seed_spec(), "temperature": option}
            return {"generate": Endpoint(generate, inputs, {"image": image_spec((2, 2, 1))})}

    path = tmp_path_factory.mktemp("warm") / "warm"
    return export.export(Warm(None), path, name="warm", progress=False)


@pytest.fixture(scope="module")
def folders(artifact, warm, tmp_path_factory):
    """A deployment of the same artifacts for each backend."""
    place = tmp_path_factory.mktemp("triton")
    for backend in ("onnxruntime", "python"):
        artifacts = [artifact.path, warm.path, artifact.path]
        export.deploy(artifacts, place / backend, "triton", backend=backend)
    return place


MODELS = {
    "painter", *(f"painter.{endpoint}" for endpoint in ("generate", "encode", "decode")),
    "painter.reconstruct", "warm", "warm.generate", "warm.generate_with_options",
}  # fmt: skip

TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float": "TYPE_FP32"}


def test_configurations_are_tritons_and_describe_the_files(folders):
    """Read by Triton's own message; names, types and shapes are those that ONNX Runtime finds."""
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    for backend in ("onnxruntime", "python"):
        models = folders / backend / "models"
        assert {path.name for path in models.iterdir()} == MODELS
        for place in models.iterdir():
            config = text_format.Parse((place / "config.pbtxt").read_text(), messages.ModelConfig())
            versions = ["1"] if place.name.startswith("warm") else ["1", "2"]
            own = {path.name: path for path in place.iterdir() if path.is_dir()}
            assert sorted(own) == versions
            assert [str(n) for n in config.version_policy.specific.versions] == versions
            assert config.name == place.name and config.max_batch_size == 8
            assert list(config.dynamic_batching.preferred_batch_size) == [8]
            assert [warmup.batch_size for warmup in config.model_warmup] == [1, 8]
            [group] = config.instance_group
            assert group.kind == messages.ModelInstanceGroup.KIND_CPU
            files = {path.name for path in own["1"].iterdir()}
            if backend == "python":
                assert (config.backend, config.platform) == ("python", "")
                assert files == {"model.onnx", "model.py"}
            else:
                assert (config.backend, config.platform) == ("", "onnxruntime_onnx")
                assert files == {"model.onnx"}
            session = onnxruntime.InferenceSession(str(own["1"] / "model.onnx"))
            assert not session.get_overridable_initializers()
            sides = ((config.input, session.get_inputs()), (config.output, session.get_outputs()))
            for described, there in sides:
                assert [tensor.name for tensor in described] == [value.name for value in there]
                for tensor, value in zip(described, there, strict=True):
                    kind = re.fullmatch(r"tensor\((\w+)\)", value.type)[1]
                    assert messages.DataType.Name(tensor.data_type) == TYPES[kind]
                    row = value.shape[1:]
                    assert list(tensor.dims) == (row or [1])
                    assert tensor.HasField("reshape") == (not row)
                    assert not tensor.reshape.shape
            for warmup in config.model_warmup:
                assert warmup.inputs.keys() == {tensor.name for tensor in config.input}


def calls(folder):
    """The calls in a README, by the name of the model."""
    text = (folder / "README.md").read_text()
    return dict(re.findall(r"^`([\w.]+)`:\n\n```sh\n(curl .*?)\n```", text, re.S | re.M))


def test_every_model_is_called_as_kgen_serve_is(folders, artifact, warm):
    """The bodies are those of the protocol: `kgen serve` answers each, as ONNX Runtime does."""
    import httpx

    service = serving.Service([artifact.path, warm.path], hashes_only=True)
    service.load()
    found = calls(folders / "onnxruntime")
    assert found.keys() == MODELS == calls(folders / "python").keys()
    with serving.Server(service, port=0, poll=0) as server:
        for name, command in found.items():
            script = command.replace("curl -d", "printf '%s\\n'", 1)
            said = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
            body, _, address = said.stdout.strip().rpartition("\n")
            assert address == f"http://localhost:8000/v2/models/{name}/infer"
            address = address.replace("http://localhost:8000", server.address)
            answer = httpx.post(address, content=body, timeout=60)
            assert answer.status_code == 200, answer.text
    owner = {"painter": artifact, "warm": warm}[name.partition(".")[0]]
    session = owner.onnx_session(name.partition(".")[2] or "generate")
    images = session.run(["image"], {"seed": np.int32([7]), "temperature": np.float32([0.5])})[0]
    assert answer.json()["outputs"][0]["data"] == images.ravel().tolist()


def test_containers(folders, kubernetes_documents):
    for backend in ("onnxruntime", "python"):
        folder = folders / backend
        documents = kubernetes_documents(folder / "kubernetes")
        kinds = {document["kind"]: document for document in documents}
        pod = kinds["Deployment"]["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert "ConfigMap" not in kinds
        ports = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in kinds["Service"]["spec"]["ports"]} == ports
        compose = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]["triton"]
        assert compose["command"] == container["args"]
        assert compose["image"] == container["image"]
        assert ("build" in compose) == (folder / "Dockerfile").is_file() == (backend == "python")
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        assert ("shm" in mounts) == (backend == "python")


def test_what_triton_would_refuse(artifact, warm, one_endpoint, tmp_path):
    with pytest.raises(ValueError, match="backend must be one of onnxruntime, python"):
        export.deploy([artifact.path], tmp_path / "d", "triton", backend="onnx")
    with pytest.raises(ValueError, match="tf-serving has no backends"):
        export.deploy([artifact.path], tmp_path / "d", backend="python")
    grey = one_endpoint(lambda seed: {"image": ops.zeros((ops.size(seed), 2, 2, 1), "uint8")})
    options = {"formats": ("onnx",), "batch_sizes": (2, 4), "progress": False}
    small = export.export(grey, tmp_path / "other", name="warm", **options)
    with pytest.raises(ValueError, match=r"none in common.*warm: \[1, 8\].*other: \[2, 4\]"):
        export.deploy([warm.path, small.path], tmp_path / "d", "triton")
    with pytest.raises(ValueError, match=r"other has no SavedModel"):
        export.deploy([small.path], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_kserve(artifact, warm, folders, kubernetes_documents, tmp_path):
    """The repository is Triton's; the service names the claim and the image that are there."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    folder = tmp_path / "kserve"
    export.deploy([artifact.path, warm.path, artifact.path], folder, "kserve", image="triton:1")
    models = folders / "onnxruntime/models"
    files = [path.relative_to(models) for path in models.rglob("*") if path.is_file()]
    same, other, missing = filecmp.cmpfiles(models, folder / "models", files, shallow=False)
    assert len(same) == len(files) and not other and not missing
    claim, service = kubernetes_documents(folder / "kubernetes")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = service["spec"]["predictor"]
    model = predictor.pop("model")
    assert model["storageUri"] == f"pvc://{claim['metadata']['name']}"
    assert (model["modelFormat"], model["protocolVersion"]) == ({"name": "triton"}, "v2")
    assert (model["runtime"], model["image"]) == ("kserve-tritonserver", "triton:1")
    # What a predictor has of a pod and of a container is Kubernetes's own.
    scaling = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
    pod = {key: value for key, value in predictor.items() if key not in scaling}
    own = ("modelFormat", "runtime", "protocolVersion", "storageUri")
    container = {key: value for key, value in model.items() if key not in own}
    pod["containers"] = [{"name": "kserve-container", **container}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": pod}
    kubernetes_validate.validate(pod, "1.33", strict=True)
    assert calls(folder) == {
        name: command.replace(":8000", ":8080")
        for name, command in calls(folders / "onnxruntime").items()
    }


# The server itself ------------------------------------------------------------------------


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def tritonserver(tmp_path):
    """A function that starts Triton on a folder of models and gives its address.

    Its package asks for another NumPy than TensorFlow does, so it has an environment of its own.
    """
    environment = os.environ.get("KGEN_TRITON")
    if not environment:
        pytest.skip("KGEN_TRITON names no environment that has nvidia-pytriton and onnxruntime")
    pytest.importorskip("tritonclient.http")
    [package] = pathlib.Path(environment).glob("lib/python3.*/site-packages/pytriton/tritonserver")
    python = package.parents[2].name.removeprefix("python")
    shutil.copytree(package / "backends", tmp_path / "backends")
    stub = package / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copy(stub, tmp_path / "backends/python")
    running = []

    def start(models, names):
        port = free_port()
        command = [
            package / "bin/tritonserver", f"--model-repository={models}",
            f"--backend-directory={tmp_path / 'backends'}", "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in names), "--strict-readiness=true",
            "--http-address=127.0.0.1", f"--http-port={port}",
            "--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=2",
        ]  # fmt: skip
        place = os.environ | {
            "PATH": f"{environment}/bin:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": str(package.parents[1] / "nvidia_pytriton.libs"),
            "PYTHONPATH": "",
        }
        log = tmp_path / "log"
        with open(log, "w") as out:
            process = subprocess.Popen(command, env=place, stdout=out, stderr=out)
        running.append(process)
        import tritonclient.http

        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                if client.is_server_ready():
                    return client, port
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError(log.read_text())

    yield start
    for process in running:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_the_real_triton(folders, artifact, warm, golden, tritonserver):
    """Every image is that of ONNX Runtime; 64 single requests of 16 clients run in batches."""
    names = ["painter", "painter.reconstruct"]
    names += ["warm", "warm.generate", "warm.generate_with_options"]
    client, port = tritonserver(folders / "python/models", names)
    text = (folders / "python" / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    space = {}
    exec(code.replace("localhost:8000", f"127.0.0.1:{port}"), space)
    call = space["call"]
    session = artifact.onnx_session("generate")
    seeds = {"seed": np.int32([7, 8]), "label": np.int32([0, 0])}
    np.testing.assert_array_equal(space["images"], session.run(["image"], seeds)[0])
    for endpoint, model in (("generate", "painter"), ("reconstruct", "painter.reconstruct")):
        given = golden[endpoint]["inputs"]
        onnx = artifact.manifest["formats"]["onnx"]["signatures"][endpoint]["inputs"]
        named = {onnx[key]: array[:8] for key, array in given.items()}
        expected = artifact.onnx_session(endpoint).run(["image"], named)[0]
        np.testing.assert_array_equal(call(model, **named)["image"], expected)
    seed, temperature = np.arange(8, dtype="int32"), np.float32([0, 0.5, 1, 2] * 2)
    session = warm.onnx_session("generate")
    [expected] = session.run(["image"], {"seed": seed, "temperature": temperature})
    found = call("warm.generate_with_options", seed=seed, temperature=temperature)
    np.testing.assert_array_equal(found["image"], expected)
    [expected] = session.run(["image"], {"seed": seed})
    np.testing.assert_array_equal(call("warm.generate", seed=seed)["image"], expected)

    # kgen's own client, and the shell's.
    address = f"http://127.0.0.1:{port}"
    with serving.Client(address, "v2", model="painter") as own:
        given = golden["reconstruct"]["inputs"]["image"]
        [expected] = artifact.onnx_session("reconstruct").run(["image"], {"input_image": given})
        np.testing.assert_array_equal(own.call("reconstruct", image=given)["image"], expected)
    with serving.Client(address, "v2", model="warm") as own:
        found = own.generate(seed, temperature=temperature)
        [expected] = session.run(["image"], {"seed": seed, "temperature": temperature})
        np.testing.assert_array_equal(found, expected)
    for name, command in calls(folders / "python").items():
        if name in names:
            script = command.replace("curl", "curl -fsS").replace("http://localhost:8000", address)
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
            assert done.returncode == 0 and json.loads(done.stdout)["outputs"], done.stderr

    import tritonclient.http as triton

    local = threading.local()

    def one(seed):
        if not hasattr(local, "client"):
            local.client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        inputs = []
        for name, value in (("seed", seed), ("label", seed % 3)):
            inputs.append(triton.InferInput(name, (1, 1), "INT32"))
            inputs[-1].set_data_from_numpy(np.int32([[value]]))
        return local.client.infer("painter", inputs).as_numpy("image")

    def counts():
        [stats] = client.get_inference_statistics("painter")["model_stats"][-1:]
        sizes = {batch["batch_size"] for batch in stats["batch_stats"]}
        return stats["inference_count"], stats["execution_count"], sizes

    before = counts()
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        found = np.concatenate(list(threads.map(one, range(64))))
    session = artifact.onnx_session("generate")
    seeds = np.arange(64, dtype="int32")
    [expected] = session.run(["image"], {"seed": seeds, "label": seeds % 3})
    np.testing.assert_array_equal(found, expected)
    rows, batches, sizes = counts()
    assert rows - before[0] == 64
    assert batches - before[1] < 64 and max(sizes) > 1, "none went together"

    with serving.Client(f"http://127.0.0.1:{port}", "v2", model="painter") as ours:
        assert ours.models() == {"painter": [1, 2], "warm": [1]}
        # In batches of 8, which Triton says is what it takes.
        np.testing.assert_array_equal(ours.generate(seeds, seeds % 3), expected)
        given = golden["reconstruct"]["inputs"]["image"][:8]
        found = ours.call("reconstruct", image=given)["image"]
        np.testing.assert_array_equal(
            found, call("painter.reconstruct", input_image=given)["image"]
        )
        with pytest.raises(serving.ServingError, match=r"missing required input\(s\) \['label'\]"):
            ours.generate([1])
