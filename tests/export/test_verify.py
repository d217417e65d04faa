"""`verify` finds every changed file, and every artifact that no longer gives its images."""

import shutil

import onnx
import pytest

import export
from export import artifact as artifact_module


@pytest.fixture
def copy(artifact, tmp_path):
    shutil.copytree(artifact.path, tmp_path / "painter")
    return tmp_path / "painter"


def test_sound_artifact(artifact):
    report = export.verify(artifact.path, progress=False)
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
report = export.verify(sys.argv[1], progress=True)
print(len(report.parity), sorted(Blocker.blocked & set(sys.modules)))
"""
    printed = run_python(code, artifact.path).stdout
    assert printed.split(maxsplit=1) == ["26", "[]\n"]


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
    model.graph.node[0].op_type = "NoSuchOperator"
    path.write_bytes(model.SerializeToString())
    seal(copy)
    with pytest.raises(export.VerificationError, match=r"decode.onnx does not load in onnxruntime"):
        export.verify(copy, formats=("onnx",), progress=False)
