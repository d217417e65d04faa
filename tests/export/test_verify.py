"""`verify` finds every changed file, and every artifact that no longer gives its images.

It refuses what kgen would not have written, before it has run any of it.
"""

import dataclasses
import json
import os
import shutil

import numpy as np
import onnx
import pytest

import export
from export import artifact as artifact_module
from export import parity


@pytest.fixture
def copy(artifact, tmp_path):
    shutil.copytree(artifact.path, tmp_path / "painter")
    return tmp_path / "painter"


def test_sound_artifact(artifact, tmp_path):
    path = tmp_path / "a [1]" / "painter"  # of which TensorFlow would make a pattern
    shutil.copytree(artifact.path, path)
    report = export.verify(path, progress=False)
    assert (report.signed_by, report.authentic) == (None, False)
    expected = [row for row in artifact.manifest["parity"] if row["runtime"] != "Keras"]
    assert [(row["signature"], row["output"], row["batch_size"]) for row in report.parity] == [
        (row["signature"], row["output"], row["batch_size"]) for row in expected
    ]
    assert report.artifact.manifest == artifact.manifest


def test_without_kgen_keras_and_tensorflow(artifact, run_python):
    code = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    blocked = {"kgen", "keras", "tensorflow", "jax", "tf2onnx", "onnx"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import export
report = export.verify(sys.argv[1], hashes_only=True)
print(report.parity, {"onnxruntime", "google.protobuf", "cryptography"} & set(sys.modules))
report = export.verify(sys.argv[1], progress=True)
print(len(report.parity), sorted(Blocker.blocked & set(sys.modules)))
"""
    printed = run_python(code, artifact.path).stdout
    assert printed.splitlines() == ["[] set()", "28 []"]


def test_every_changed_byte_is_named(copy):
    names = [*artifact_module.files(copy), "manifest.json"]
    assert len(names) == 14
    for name in names:
        data = (copy / name).read_bytes()
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        (copy / name).write_bytes(changed)
        with pytest.raises(export.VerificationError) as error:
            export.verify(copy, progress=False)
        assert str(copy / name) in str(error.value) and "\n" not in str(error.value)
        (copy / name).write_bytes(data)
    artifact_module.load(copy)


def test_whitespace_in_the_manifest_is_a_change(copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(export.VerificationError, match=r"manifest.json was changed"):
        export.verify(copy, progress=False)


def test_missing_and_extra_files(copy):
    (copy / "extra.txt").write_text("new")
    with pytest.raises(export.VerificationError, match=r"extra.txt is not in the manifest"):
        export.verify(copy, progress=False)
    (copy / "extra.txt").unlink()
    (copy / "samples.png").unlink()
    with pytest.raises(export.VerificationError, match=r"samples.png is missing"):
        export.verify(copy, progress=False)
    (copy / "manifest.json").unlink()
    with pytest.raises(export.VerificationError, match=r"is not an artifact: manifest.json"):
        export.verify(copy, progress=False)


def test_unknown_format(artifact):
    with pytest.raises(export.VerificationError, match="has no format 'tflite'"):
        export.verify(artifact.path, formats=("tflite",), progress=False)


def seal(folder):
    """A manifest whose hashes are right, for files that are not."""
    manifest = export.load(folder).manifest
    artifact_module.write_manifest(folder, manifest)


@pytest.fixture(scope="module")
def other(model, tmp_path_factory):
    """The same model with other weights, exported."""
    weights = model.get_weights()
    model.set_weights([array * 1.5 for array in weights])
    path = tmp_path_factory.mktemp("other") / "painter"
    artifact = export.export(model, path, progress=False)
    model.set_weights(weights)
    return artifact


@pytest.mark.parametrize(
    ("folder", "runtime"), [("onnx", "onnxruntime"), ("saved_model", "TensorFlow C API")]
)
def test_proof_is_repeated(copy, other, folder, runtime):
    """The files of a model with other weights under right hashes: only running them can tell."""
    shutil.rmtree(copy / folder)
    shutil.copytree(other.path / folder, copy / folder)
    seal(copy)
    with pytest.raises(
        export.VerificationError, match=f"Endpoint 'generate', output 'image'.*{runtime}.*differs"
    ):
        export.verify(copy, progress=False)


def test_graph_that_is_a_little_off(copy):
    """One per cent more in one output, under right hashes."""
    path = copy / "onnx/encode.onnx"
    model = onnx.load(path)
    scale = onnx.helper.make_tensor("off", onnx.TensorProto.FLOAT, (), [1.01])
    model.graph.initializer.append(scale)
    node = next(n for n in model.graph.node if "mean" in n.output)
    node.output[list(node.output).index("mean")] = "before"
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "off"], ["mean"]))
    onnx.save(model, path)
    seal(copy)
    with pytest.raises(
        export.VerificationError,
        match=r"Endpoint 'encode', output 'mean'.*onnxruntime, batch size 1: differs",
    ):
        export.verify(copy, formats=("onnx",), progress=False)


def test_graph_that_does_not_load(copy):
    path = copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].op_type = "Conv"  # of one input
    path.write_bytes(model.SerializeToString())
    seal(copy)
    with pytest.raises(export.VerificationError, match=r"decode.onnx does not load in onnxruntime"):
        export.verify(copy, formats=("onnx",), progress=False)


# What kgen would not have written -------------------------------------------------------


def reseal(folder, change=lambda manifest: None):
    """Hashes that are right, whatever the files and the manifest hold."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = artifact_module.files(folder)
    manifest["files"] = {name: artifact_module.describe(folder / name) for name in names}
    change(manifest)
    manifest["sha256"] = artifact_module._manifest_hash(manifest)
    (folder / "manifest.json").write_bytes(artifact_module._dumps(manifest))


def replaced(*place, by=None):
    """A manifest with something else in a place, or with nothing there."""

    def change(manifest):
        *parents, last = place
        for key in parents:
            manifest = manifest[key]
        if by is None:
            del manifest[last]
        else:
            manifest[last] = by

    return lambda folder: reseal(folder, change)


def deep(folder):
    (folder / "manifest.json").write_text('{"metadata": ' + "[" * 10**5 + "]" * 10**5 + "}")


FILE = {"sha256": "0" * 64, "size": 1}
ONNX = ("formats", "onnx", "signatures", "generate")
SAVED = ("formats", "saved_model", "signatures", "generate")
MANIFESTS = {
    "deep": (deep, "manifest.json is nested too deeply"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]\n"), "does not have its own sha256"),
    "of tomorrow": (
        replaced("format_version", by=2),
        "has format kgen.artifact 2; this kgen reads",
    ),
    "no formats": (replaced("formats", by={}), "formats: should hold one of saved_model, onnx"),
    "no format": (replaced("formats"), "formats: Field required"),
    "null": (replaced("formats", "onnx", by=[]), "formats.onnx: .*Received: list of 0"),
    "other format": (replaced("formats", "tflite", by={}), "formats.tflite: Extra inputs"),
    "no sizes": (replaced("batch_sizes", by=[]), "batch_sizes: .*at least 2 items"),
    "text for ints": (replaced("batch_sizes", by=["1", "8"]), "batch_sizes.0: .*valid integer"),
    "large sizes": (replaced("batch_sizes", by=[1, 10**12]), "parity: should not hold"),
    "no proof": (replaced("parity", by=[]), "parity: lacks figures of keras"),
    "half a proof": (replaced("parity", 3), "parity: lacks figures"),
    "failed": (replaced("parity", 3, "passed", by=False), "parity.3.passed: .*True"),
    "an extra field": (replaced("main", by="x.py"), "main: Extra inputs"),
    "no endpoint": (replaced("endpoints", by={}), "endpoints: should hold an endpoint"),
    "shape": (
        replaced("endpoints", "generate", "inputs", "seed", "shape", by=[-1]),
        "endpoints.generate.inputs.seed.shape",
    ),
    "absolute": (replaced("formats", "saved_model", "path", by="/etc"), "saved_model.path: .*/etc"),
    "above": (replaced(*ONNX, "file", by="../x.onnx"), "generate.file: .*that kgen writes.*x.onnx"),
    "above in files": (replaced("files", "../x", by=FILE), "files.../x: .*that kgen writes"),
    "other file": (replaced("files", "run.sh", by=FILE), "files.run.sh: .*that kgen writes"),
    "no golden": (replaced("files", "golden.npz"), "files: should hold golden.npz"),
    "tensor": (replaced(*SAVED, "outputs", "image", by="x"), "generate.outputs.image: .*'x'"),
    "other tensor": (replaced(*SAVED, "outputs", "image", by="x:0"), "other outputs .*'generate'"),
    "other endpoint": (replaced(*ONNX, "endpoint", by="decode"), "generate.endpoint: should be"),
}


def a_version(folder):
    shutil.copytree(folder / "saved_model/1", folder / "saved_model/2")


def a_listed_version(folder):
    a_version(folder)
    reseal(folder)


def as_a_link(name, move=True):
    def change(folder):
        outside = folder.parent / "outside"
        if move:
            shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return change


def a_folder(folder):
    (folder / "samples.png").unlink()
    (folder / "samples.png").mkdir()


ENTRIES = {
    "version": (a_version, r"saved_model/2 is not in the manifest"),
    "listed version": (a_listed_version, r"files.saved_model/2/.*that kgen writes"),
    "empty version": (lambda f: (f / "saved_model/2").mkdir(), "saved_model/2 is not in"),
    "link beside": (as_a_link("saved_model/2", False), "saved_model/2 is a link, to .*outside"),
    "link out": (as_a_link("onnx/weights.bin"), "weights.bin is a link, to .*--follow-links"),
    "linked folder": (as_a_link("saved_model"), "saved_model is a link"),
    "linked manifest": (as_a_link("manifest.json"), "manifest.json is a link"),
    "FIFO": (lambda f: os.mkfifo(f / "onnx/pipe"), "onnx/pipe is not in the manifest"),
    "FIFO for a file": (
        lambda f: ((f / "samples.png").unlink(), os.mkfifo(f / "samples.png")),
        "samples.png is no regular file",
    ),
    "FIFO for the manifest": (
        lambda f: ((f / "manifest.json").unlink(), os.mkfifo(f / "manifest.json")),
        "is not an artifact: manifest.json",
    ),
    "folder for a file": (a_folder, "samples.png is no regular file"),
    "signature of none": (lambda f: (f / "manifest.sig").touch(), "manifest.sig is not in"),
}


def saved_model(change):
    """A SavedModel whose proto `change(proto, folder)` has changed, under right hashes."""

    def changed(folder):
        from tensorflow.core.protobuf import saved_model_pb2

        path = folder / "saved_model/1/saved_model.pb"
        proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        change(proto.meta_graphs[0], folder)
        path.write_bytes(proto.SerializeToString())
        reseal(folder)

    return changed


def function_of(meta, node):
    """The function that a node of the main graph calls."""
    [node] = [found for found in meta.graph_def.node if found.name == node.partition(":")[0]]
    name = node.attr["f"].func.name
    return next(f for f in meta.graph_def.library.function if f.signature.name == name)


def writing(nodes, target, folder, output=":output:0"):
    """Adds operations that write a file outside of the artifact, before `target` runs."""
    for name, text in (("path", str(folder.parent / "written")), ("text", "hello")):
        constant = nodes.add(name=f"evil_{name}", op="Const")
        constant.attr["dtype"].type = 7
        constant.attr["value"].tensor.dtype = 7
        constant.attr["value"].tensor.tensor_shape.SetInParent()
        constant.attr["value"].tensor.string_val.append(text.encode())
    nodes.add(name="evil", op="WriteFile", input=[f"evil_path{output}", f"evil_text{output}"])
    target.input.append("^evil")


def writes_for(signature):
    def change(meta, folder):
        [output] = meta.signature_def[signature].outputs.values()
        function = function_of(meta, output.name)
        writing(function.node_def, function.node_def[-1], folder)

    return saved_model(change)


def writes_when_loaded(meta, folder):
    function = function_of(meta, meta.saver_def.restore_op_name)
    writing(function.node_def, function.node_def[-1], folder)


def writes_at_the_start(meta, folder):
    start = next(node for node in meta.graph_def.node if node.op == "NoOp")
    writing(meta.graph_def.node, start, folder, output="")


def starts_something(meta, folder):
    start = next(node for node in meta.graph_def.node if node.op == "NoOp")
    start.input.append("^" + meta.signature_def["generate"].outputs["image"].name.partition(":")[0])


def calls_the_saving(meta, folder):
    saving = function_of(meta, meta.saver_def.save_tensor_name).signature.name
    function = function_of(meta, meta.signature_def["decode"].outputs["image"].name)
    node = function.node_def.add(name="evil", op="StatefulPartitionedCall")
    node.attr["f"].func.name = saving


def gives_the_saving(meta, folder):
    node = meta.graph_def.node.add(name="evil", op="Identity")
    node.input.append(meta.saver_def.save_tensor_name)


def reads_elsewhere(meta, folder):
    function = function_of(meta, meta.saver_def.restore_op_name)
    read = next(node for node in function.node_def if node.op == "RestoreV2")
    read.input[0] = "RestoreV2/tensor_names:output:0"


def has(operator):
    def change(meta, folder):
        function = function_of(meta, meta.signature_def["decode"].outputs["image"].name)
        function.node_def.add(name="evil", op=operator)

    return saved_model(change)


def graph(change, name="generate"):
    """An ONNX file whose proto `change(model)` has changed, under right hashes."""

    def changed(folder):
        path = folder / f"onnx/{name}.onnx"
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())
        reseal(folder)

    return changed


def in_the_loop(model):
    [loop] = [node for node in model.graph.node if node.op_type == "Loop"]
    [body] = [attribute.g for attribute in loop.attribute if attribute.HasField("g")]
    body.node.add(op_type="PyOp", domain="ai.onnx.contrib", output=["evil"])


def data_from(location):
    def change(model):
        tensor = next(t for t in model.graph.initializer if t.external_data)
        entry = next(entry for entry in tensor.external_data if entry.key == "location")
        entry.value = location

    return graph(change)


def in_an_attribute(model):
    tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = model.graph.node.add(op_type="Constant", output=["evil"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)


def golden_of(**arrays):
    def change(folder):
        golden = dict(np.load(folder / "golden.npz"))
        golden |= {name.replace("__", "/"): array for name, array in arrays.items()}
        np.savez(folder / "golden.npz", **golden)
        reseal(folder)

    return change


OPERATORS = """
    PyFunc EagerPyFunc ReadFile MatchingFiles PrintV2 SaveV2 RpcCall HashTableV2 WriteAudioSummary
    DebugIdentityV2 RandomUniform Unheard
"""
PB = r"saved_model.pb has the operator"
GRAPHS = {
    "writes": (writes_for("serving_default"), f"{PB} 'WriteFile' in 'evil' of function .*not run"),
    "writes under XLA": (writes_for("generate_xla"), f"{PB} 'WriteFile'"),
    "writes when loaded": (saved_model(writes_when_loaded), f"{PB} '(Const|WriteFile)' in 'evil"),
    "writes at the start": (saved_model(writes_at_the_start), f"{PB} 'WriteFile' .*of the graph"),
    "starts something": (saved_model(starts_something), "runs 'NoOp' when it is loaded"),
    "calls the saving": (saved_model(calls_the_saving), "calls '__inference__traced_save_"),
    "gives the saving": (saved_model(gives_the_saving), "reads or writes its variables for 'evil'"),
    "reads elsewhere": (saved_model(reads_elsewhere), "reads variables from elsewhere"),
    "assets": (
        saved_model(lambda meta, _: meta.asset_file_def.add(filename="x")),
        "names asset files",
    ),
    "queue": (
        saved_model(lambda meta, _: meta.collection_def["queue_runners"].SetInParent()),
        "has a collection 'queue_runners'",
    ),
    "resource": (
        saved_model(lambda meta, _: meta.object_graph_def.nodes.add().resource.SetInParent()),
        "has an object .* of the kind resource",
    ),
    "another signature": (
        saved_model(lambda meta, _: meta.signature_def["other"].SetInParent()),
        "has the signatures .*other",
    ),
    "no graph": (
        lambda f: ((f / "saved_model/1/saved_model.pb").write_bytes(b"\xff" * 9), reseal(f)),
        "saved_model.pb is no graph",
    ),
    **{operator: (has(operator), f"{PB} '{operator}'") for operator in OPERATORS.split()},
    "operator in a loop": (graph(in_the_loop), "the operator 'ai.onnx.contrib:PyOp' for 'evil'"),
    "domain": (
        graph(lambda model: model.opset_import.add(domain="com.evil", version=1)),
        "needs operators of the domain com.evil",
    ),
    "ONNX functions": (graph(lambda model: model.functions.add(name="f")), "has functions"),
    "ONNX training": (graph(lambda model: model.training_info.add()), "has steps of training"),
    "ONNX outputs": (
        graph(lambda model: model.graph.output.add(name="more")),
        "has the outputs image, more, the manifest image",
    ),
    "data above": (data_from("../manifest.json"), "takes .* from '../manifest.json', and not"),
    "data elsewhere": (data_from("/etc/passwd"), "takes .* from '/etc/passwd', and not"),
    "data in an attribute": (graph(in_an_attribute), "takes .* from '/etc/passwd', and not"),
    "golden of objects": (
        golden_of(generate__inputs__seed=np.array([print] * 8)),
        "golden.npz is not read: generate/inputs/seed.npy is object",
    ),
    "golden of few": (golden_of(generate__inputs__seed=np.zeros(2, "int32")), r"is int32 \[2\]"),
    "golden of more": (golden_of(x=np.zeros(1)), "holds? each array of the endpoints once: x"),
    "golden no archive": (
        lambda f: ((f / "golden.npz").write_bytes(b"no"), reseal(f)),
        "golden.npz is not read",
    ),
}
HOSTILE = {**MANIFESTS, **ENTRIES, **GRAPHS}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_change(copy, name, tmp_path):
    change, message = HOSTILE[name]
    change(copy)
    with pytest.raises(export.VerificationError, match=message) as error:
        export.verify(copy, progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "written").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["writes", "writes when loaded", "writes at the start"])
def test_what_is_refused_would_have_written(copy, name, golden, tmp_path):
    """That the graphs above do harm when they are run."""
    HOSTILE[name][0](copy)
    section = json.loads((copy / "manifest.json").read_text())["formats"]["saved_model"]
    signatures = {"serving_default": section["signatures"]["serving_default"]}
    formats = {"saved_model": {**section, "signatures": signatures}}
    parity.prove(copy, formats, golden, [8], lambda said: None)
    assert (tmp_path / "written").read_text() == "hello"


def test_hashes_only(copy):
    """No graph is looked at; files, entries and the manifest are."""
    assert export.verify(copy, hashes_only=True).parity == []
    linked = copy.with_name("linked")  # the folder itself may stand elsewhere
    linked.symlink_to(copy)
    export.verify(linked, hashes_only=True)
    has("WriteFile")(copy)
    export.verify(copy, hashes_only=True)
    (copy / "saved_model/2").mkdir()
    with pytest.raises(export.VerificationError, match="saved_model/2 is not in the manifest"):
        export.verify(copy, hashes_only=True)


def test_the_first_artifacts(copy):
    """What a manifest did not hold from the beginning."""
    replaced("model", "sha256")(copy)
    export.verify(copy, hashes_only=True)


def test_links_of_a_hub_cache(copy, tmp_path):
    for number, name in enumerate([*artifact_module.files(copy), "manifest.json"]):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        shutil.move(copy / name, blob)
        (copy / name).symlink_to(os.path.relpath(blob, (copy / name).parent))
    with pytest.raises(export.VerificationError, match=r"is a link, to \.\./.*blobs"):
        export.verify(copy, progress=False)
    assert export.verify(copy, ("onnx",), progress=False, follow_links=True).parity
    (copy / "saved_model/2").symlink_to(tmp_path)
    with pytest.raises(export.VerificationError, match="saved_model/2 is not in the manifest"):
        export.verify(copy, progress=False, follow_links=True)


# Signatures -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Files of keys: `key.pem`, its `public.pem`, and others."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    folder = tmp_path_factory.mktemp("keys")
    plain, password = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"x")
    key = ed25519.Ed25519PrivateKey.generate()
    for name, private, encryption in (
        ("key", key, plain),
        ("encrypted", key, password),
        ("other", ed25519.Ed25519PrivateKey.generate(), plain),
        ("rsa", rsa.generate_private_key(65537, 1024), plain),
    ):
        pem = serialization.Encoding.PEM
        pkcs8 = serialization.PrivateFormat.PKCS8
        (folder / f"{name}.pem").write_bytes(private.private_bytes(pem, pkcs8, encryption))
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        (folder / f"{name}_public.pem").write_bytes(private.public_key().public_bytes(pem, info))
    return folder


@pytest.fixture
def signed(copy, keys):
    from export import signing

    key = signing.private_key(keys / "key.pem")
    artifact_module.write_manifest(copy, export.load(copy).manifest, key)
    return copy


def check(folder, key=None):
    return export.verify(folder, hashes_only=True, key=key)


def test_a_signature_says_who_made_it(signed, keys):
    from export import signing

    report = check(signed, keys / "key_public.pem")
    assert report == dataclasses.replace(
        check(signed, signing.public_key(keys / "key_public.pem")), seconds=report.seconds
    )
    assert report.authentic and len(report.signed_by) == 64
    unchecked = check(signed)
    assert unchecked.signed_by == report.signed_by and not unchecked.authentic
    for public in ("other_public.pem", "key_public.pem"):
        if public == "key_public.pem":
            replaced("name", by="changed")(signed)  # by somebody who has no key
        with pytest.raises(
            export.VerificationError, match=r"manifest.sig is no signature .*by the"
        ):
            check(signed, keys / public)
    (signed / "manifest.sig").unlink()
    with pytest.raises(export.VerificationError, match=r"manifest.sig is missing"):
        check(signed)
    with pytest.raises(export.VerificationError, match=r"is not signed: it has no manifest.sig"):
        check(signed, keys / "key_public.pem")


def test_a_key_that_is_none(signed, model, keys, tmp_path):
    for name, message in (
        ("key.pem", "holds no public key: an Ed25519 public key in PEM is needed"),
        ("rsa_public.pem", "holds a key of another kind, RSAPublicKey"),
        ("missing.pem", "cannot be read: No such file"),
    ):
        with pytest.raises(ValueError, match=message):
            check(signed, keys / name)
    for name, message in (
        ("key_public.pem", "holds no private key"),
        ("encrypted.pem", "is encrypted: .*openssl pkey"),
    ):
        with pytest.raises(ValueError, match=message):
            export.export(model, tmp_path / "a", sign=keys / name, progress=False)
    assert not (tmp_path / "a").exists()
