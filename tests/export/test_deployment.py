"""What `deploy` writes for TF Serving, as TF Serving, Kubernetes and a shell read it."""

import base64
import filecmp
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

import export
from export import parity
from export.artifact import write_manifest
from export.deployment import tf_serving_lint
from kgen.images import encode_png


@pytest.fixture(scope="module")
def folder(artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy") / "painter"
    export.deploy([artifact.path, artifact.path], folder)
    return folder


def test_layout(folder, artifact):
    record = json.loads((folder / "deployment.json").read_text())
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == {*record["files"], "deployment.json"}
    assert record["models"]["painter"]["versions"] == [1, 2]
    assert record["models"]["painter"]["labels"] == {"stable": 1, "canary": 2}
    for version in ("1", "2"):
        copied = filecmp.dircmp(
            artifact.path / "saved_model/1", folder / "models/painter" / version
        )
        assert not copied.left_only and not copied.right_only and not copied.diff_files
    assert not re.search(r"/tmp/|/root/", "".join(
        p.read_text() for p in folder.rglob("*") if p.suffix in (".md", ".yml", ".yaml", ".config")
    ))  # fmt: skip


def declared(name):
    """An empty message of TF Serving's that `tensorflow-serving-api` leaves out.

    Its fields are those of session_bundle_config.proto and monitoring_config.proto.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="declared.proto", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    kinds = {"int": 3, "bool": 8, "string": 9}
    for message, fields in {
        "BatchingParameters": {
            "max_batch_size": (1, ".google.protobuf.Int64Value"),
            "batch_timeout_micros": (2, ".google.protobuf.Int64Value"),
            "max_enqueued_batches": (3, ".google.protobuf.Int64Value"),
            "num_batch_threads": (4, ".google.protobuf.Int64Value"),
            "allowed_batch_sizes": (6, "int"),
        },
        "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
        "MonitoringConfig": {"prometheus_config": (1, ".PrometheusConfig")},
    }.items():
        described = file.message_type.add(name=message)
        for key, (number, kind) in fields.items():
            field = described.field.add(name=key, number=number, type=kinds.get(kind, 11))
            if kind not in kinds:
                field.type_name = kind
            field.label = 3 if key == "allowed_batch_sizes" else 1
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def test_configuration_is_read_by_the_messages_of_tf_serving(folder, artifact):
    models = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")

    def read(name, message):
        return text_format.Parse((folder / "config" / name).read_text(), message)

    server = read("models.config", models.ModelServerConfig())
    [config] = server.model_config_list.config
    assert (config.name, config.base_path) == ("painter", "/models/painter")
    assert list(config.model_version_policy.specific.versions) == [1, 2]
    assert dict(config.version_labels) == {"stable": 1, "canary": 2}
    batching = read("batching.config", declared("BatchingParameters"))
    assert list(batching.allowed_batch_sizes) == artifact.manifest["batch_sizes"]
    # What TF Serving asks for: the last of them is the largest batch.
    assert batching.max_batch_size.value == batching.allowed_batch_sizes[-1]
    monitoring = read("monitoring.config", declared("MonitoringConfig"))
    assert monitoring.prometheus_config.enable


def test_kubernetes_manifests_are_valid(folder, kubernetes_documents):
    documents = kubernetes_documents(folder / "kubernetes")
    kinds = {document["kind"]: document for document in documents}
    assert kinds.keys() == {
        *("ConfigMap", "PersistentVolumeClaim", "Deployment", "Service", "HorizontalPodAutoscaler")
    }
    for name, text in kinds["ConfigMap"]["data"].items():
        assert text == (folder / "config" / name).read_text()
    [container] = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in kinds["Service"]["spec"]["ports"]} == ports
    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    assert compose["services"]["tf-serving"]["command"] == container["args"]
    assert compose["services"]["tf-serving"]["image"] == container["image"]


def test_every_signature_is_called(folder, artifact, tmp_path):
    """The bodies of the calls are JSON, for the signatures and inputs that there are."""
    text = (folder / "README.md").read_text()
    found = dict(re.findall(r"^`(\w+)`:\n\n```sh\n(.*?)\n```", text, re.S | re.M))
    signatures = artifact.manifest["formats"]["saved_model"]["signatures"]
    assert found.keys() == signatures.keys() - {"serving_default"}
    picture = np.arange(8 * 12 * 3, dtype="uint8").reshape(8, 12, 3)
    (tmp_path / "image.png").write_bytes(encode_png(picture))
    # What the shell gives curl: its standard input, its arguments.
    (tmp_path / "curl").write_text(CURL)
    (tmp_path / "curl").chmod(0o755)
    path = f"{tmp_path}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    for name, command in found.items():
        said = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        body, address = said.stdout.splitlines()
        body = json.loads(body)
        assert address == "http://localhost:8501/v1/models/painter:predict"
        assert body["signature_name"] == name
        [instance] = body["instances"]
        assert instance.keys() == signatures[name]["inputs"].keys()
        if "image_bytes" in instance:
            png = base64.b64encode((tmp_path / "image.png").read_bytes()).decode()
            assert instance["image_bytes"] == {"b64": png}
        if "image" in instance:
            np.testing.assert_array_equal(instance["image"], picture)
        if "latent" in instance:
            assert np.shape(instance["latent"]) == (8,)
    for name in found:
        assert re.search(rf'^predict\(\s*"painter",\s*"{name}",', text, re.M), name


CURL = """\
#!/usr/bin/env bash
[ "$2" = "@-" ] && cat || printf '%s\\n' "$2"
printf '%s\\n' "$3"
"""


def test_a_deployment_is_replaced_when_asked(folder, artifact, tmp_path):
    path = tmp_path / "again"
    export.deploy([artifact.path], path, image="registry.example/tf-serving:1")
    assert "image: registry.example/tf-serving:1" in (path / "docker-compose.yml").read_text()
    with pytest.raises(FileExistsError, match="holds a deployment already"):
        export.deploy([artifact.path], path)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"no deployment wrote.*notes\.txt"):
        export.deploy([artifact.path], path, overwrite=True)
    (path / "notes.txt").unlink()
    export.deploy([artifact.path, artifact.path], path, overwrite=True)
    assert (path / "models/painter/2").is_dir()
    with pytest.raises(FileExistsError, match="is no deployment"):
        export.deploy([artifact.path], artifact.path, overwrite=True)


def copied(artifact, path, **changes):
    """A copy of an artifact with another manifest, whole in itself."""
    shutil.copytree(artifact.path, path)
    manifest = {**json.loads((path / "manifest.json").read_text()), **changes}
    if "saved_model" not in manifest["formats"]:
        shutil.rmtree(path / "saved_model")
        manifest["parity"] = [r for r in manifest["parity"] if r["format"] != "saved_model"]
    for key in ("sha256", "files"):
        del manifest[key]
    (path / "manifest.json").unlink()
    write_manifest(path, manifest)
    return path


def test_what_tf_serving_would_refuse(artifact, tmp_path):
    formats = {"onnx": artifact.manifest["formats"]["onnx"]}
    onnx = copied(artifact, tmp_path / "onnx", formats=formats)
    with pytest.raises(ValueError, match=r"onnx has no SavedModel.*--formats saved_model,onnx"):
        export.deploy([artifact.path, onnx], tmp_path / "d")
    spaced = copied(artifact, tmp_path / "spaced", name="a painter")
    with pytest.raises(ValueError, match=r"name 'a painter', which does not stand in a URL"):
        export.deploy([spaced], tmp_path / "d")
    with pytest.raises(ValueError, match="Did you mean 'tf-serving'"):
        export.deploy([artifact.path], tmp_path / "d", "tf_serving")
    with pytest.raises(ValueError, match="one artifact or more"):
        export.deploy([], tmp_path / "d")
    (spaced / "samples.png").unlink()
    with pytest.raises(export.VerificationError, match=r"samples\.png is missing"):
        export.deploy([spaced], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_deployed_model_runs_as_tf_serving_runs_it(folder, artifact, golden):
    """The copy, loaded through TensorFlow's C API, gives what the artifact's proof holds."""
    section = {**artifact.manifest["formats"]["saved_model"], "path": "models/painter/2"}
    rows = parity.prove(folder, {"saved_model": section}, golden, [8], lambda step: None)
    assert {row["signature"] for row in rows} == section["signatures"].keys()
    assert all(row["passed"] for row in rows)


def test_warmup_of_more_rows_than_a_batch_may_have(artifact, tmp_path):
    parity_ = [{**row, "batch_size": {1: 1, 8: 4}[row["batch_size"]]} for row in
               artifact.manifest["parity"]]  # fmt: skip
    smaller = copied(artifact, tmp_path / "smaller", batch_sizes=[1, 4], parity=parity_)
    with pytest.raises(ValueError, match=r"largest batch of all models together, which is 1 \("):
        export.deploy([artifact.path, smaller], tmp_path / "d")


def broken(folder, path, file, before, after):
    """A copy of a deployment with one thing changed in one file."""
    shutil.copytree(folder, path)
    text = (path / file).read_bytes()
    assert before in text
    (path / file).write_bytes(text.replace(before, after, 1))
    return path


WARMUP = "models/painter/1/assets.extra/tf_serving_warmup_requests"
GRAPH = "models/painter/1/saved_model.pb"


@pytest.mark.parametrize(
    "file, before, after, said",
    [
        ("config/models.config", b"value: 2", b"value: 3", "'canary' is of version 3, not served"),
        ("config/models.config", b'"canary"', b'"stable"', "label 'stable' is there 2 times"),
        ("config/models.config", b"versions: 2", b"versions: 7", "version 7 has no folder"),
        ("config/models.config", b'name: "painter"', b'name: "a/b"', "not stand in a URL"),
        ("config/models.config", b'"/models', b'"models', "base_path should be absolute"),
        ("config/models.config", b'"tensorflow"', b'"other"', "platform should be tensorflow"),
        ("config/models.config", b"config {", b"config [", "models.config: it cannot be read"),
        ("config/batching.config", b"sizes: 8", b"sizes: 9", "9, should be max_batch_size, 8"),
        ("config/batching.config", b"sizes: 1", b"sizes: 8", "should be increasing"),
        ("config/batching.config", b"value: 8", b"value: 4", "8 rows, and max_batch_size is 4"),
        ("config/batching.config", b"value: 2 }", b"value: 0 }", "threads should be at least 1"),
        ("config/monitoring.config", b'"/mon', b'"mon', "path should begin with /"),
        (GRAPH, b"\x22\x05serve", b"\x22\x05train", "no graph with the tag serve"),
        (
            GRAPH,
            b"\n\x0fserving_default\x12",
            b"\n\x0fserving_defualt\x12",
            "no signature serving_default",
        ),
        (GRAPH, b"serving/predict", b"serving/regress", "its method is tensorflow/serving/regress"),
        (GRAPH, b"\x08\x01", b"\x08\xff", "saved_model.pb: it cannot be read"),
        (WARMUP, b"generate", b"genarate", "there is no signature 'genarate'"),
        (WARMUP, b"label", b"lable", "takes label, seed. Received: "),
    ],
)
def test_the_lint_refuses_what_tf_serving_would(folder, tmp_path, file, before, after, said):
    path = broken(folder, tmp_path / "d", file, before, after)
    with pytest.raises(ValueError, match=re.escape(said)):
        tf_serving_lint.check(path)


def test_the_lint_looks_at_folders(folder, tmp_path):
    assert not list(tf_serving_lint.complaints(folder))
    path = tmp_path / "d"
    shutil.copytree(folder, path)
    (path / "models/painter/2").rename(path / "models/painter/two")
    file = path / WARMUP
    file.write_bytes(100 * file.read_bytes())
    (path / "models/painter/1/variables/variables.index").unlink()
    with pytest.raises(ValueError) as refused:
        tf_serving_lint.check(path)
    for said in (
        "models/painter/two: a version's folder should be named by a number",
        "version 2 has no folder models/painter/2",
        "1400 records; TF Serving takes 1000",
        "variables.data-* should be there together",
    ):
        assert said in str(refused.value)
