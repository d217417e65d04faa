"""LiteRT, and ONNX with rounded weights: proven as the other formats are, or refused."""

import math
import shutil

import numpy as np
import onnx
import pytest
from keras import ops

import export
from export import artifact as artifact_module
from export import onnx_precision, parity
from kgen import random

FORMATS = ("litert", "onnx_fp16", "onnx_int8")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    pytest.importorskip("ai_edge_litert")
    path = tmp_path_factory.mktemp("runtimes") / "painter"
    return export.export(model, path, formats=FORMATS, progress=False)


@pytest.mark.slow
def test_every_endpoint_is_proven(exported, tree):
    files = set(tree(exported.path))
    for name in exported.endpoints:
        assert f"litert/{name}.tflite" in files
        assert {f"{folder}/{name}.onnx" for folder in FORMATS[1:]} <= files
    assert not any(name.startswith("onnx/") for name in files)
    found = export.verify(exported.path, progress=False)
    assert found.artifact.formats == FORMATS
    for rows in (exported.manifest["parity"], found.parity):
        for name in FORMATS:
            of_format = [row for row in rows if row["format"] == name]
            assert {row["signature"] for row in of_format} == exported.endpoints.keys()
            assert {row["batch_size"] for row in of_format} == {1, 8}
            assert all(("mean_difference" in row) == (name != "litert") for row in of_format)
    readme = (exported.path / "README.md").read_text()
    assert "litert/generate.tflite" in readme and "onnx_int8/generate.onnx" in readme
    with pytest.raises(ValueError, match="has no ONNX file"):
        exported.onnx_session()
    with pytest.raises(ValueError, match=r"onnx_fp16 or onnx_int8. Received: format='int8'"):
        exported.onnx_session(format="int8")


@pytest.mark.slow
def test_images_of_each(exported):
    from ai_edge_litert.interpreter import Interpreter

    golden = parity.load_golden(exported.path / parity.GOLDEN)["generate"]
    inputs, expected = golden["inputs"], golden["outputs"]["image"]
    runner = Interpreter(str(exported.path / "litert" / "generate.tflite"))
    images = {
        "litert": runner.get_signature_runner("generate")(**inputs)["image"],
        **{
            name: exported.onnx_session(format=name).run(["image"], inputs)[0]
            for name in FORMATS[1:]
        },
    }
    differences = {
        name: np.abs(array.astype(int) - expected.astype(int)).mean()
        for name, array in images.items()
    }
    assert differences["litert"] < 0.01 and differences["onnx_fp16"] < 0.1
    assert differences["onnx_fp16"] < differences["onnx_int8"] < 1


@pytest.mark.slow
def test_only_weights_are_rounded(exported, model, tmp_path):
    """The noise is made of the same tables, and weights are of half and of a quarter the size."""
    weights = [4 * math.prod(w.shape) for w in model.decoder.weights if len(w.shape) > 1]
    for name, size, kind in (("onnx_fp16", 2, "FLOAT16"), ("onnx_int8", 1, "INT8")):
        path = tmp_path / f"{name}.onnx"
        exported.save_onnx("decode", path, format=name)
        stored = onnx.load(path).graph.initializer
        rounded = [t for t in stored if t.data_type == getattr(onnx.TensorProto, kind)]
        large = sum(length for length in weights if length >= 1024)
        assert sum(len(t.raw_data) for t in rounded) == large * size // 4 > 0
        sampler = onnx.load(exported.path / name / "generate.onnx").graph
        tables = [t for t in sampler.initializer if list(t.dims) == [65536]]
        assert [t.data_type for t in tables] == [onnx.TensorProto.FLOAT], "quantiles of the normal"


def test_what_does_not_fit_stays_whole():
    """Numbers that float16 does not have, and constants that are no weights of a product."""
    tensor = onnx.numpy_helper.from_array
    mask = np.where(np.eye(32), 0, -1e9).astype("float32")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "weight"], ["product"]),
            onnx.helper.make_node("Add", ["product", "mask"], ["y"]),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, (1, 32))],
        [onnx.helper.make_tensor_value_info("y", 1, (32, 32))],
        [tensor(np.zeros((32, 32), "float32"), "weight"), tensor(mask, "mask")],
    )
    opset = onnx.helper.make_opsetid("", 18)
    models = {"g": onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)}
    x = np.ones((1, 32), "float32")
    for name in FORMATS[1:]:
        model = onnx_precision.reduced(models, name)["g"]
        assert "mask" in {t.name for t in model.graph.initializer}
        assert "weight" not in {t.name for t in model.graph.initializer}
        [y] = parity.onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
        np.testing.assert_array_equal(y, mask)
    assert len(graph.node) == 2, "the model that was given stays as it was"


def test_rounding_too_far_is_refused(exported):
    """A difference is stated, and too large a one is none that is shipped."""
    expected = np.full((2, 4, 4, 1), 100, "uint8")
    for name, far in (("onnx_fp16", 2), ("onnx_int8", 5)):
        near = parity.compare(expected, expected + np.uint8(1), name)
        assert near["passed"] and near["mean_difference"] == 1
        where = {"endpoint": "e", "signature": "e", "runtime": "r", "batch_size": 1}
        with pytest.raises(export.ExportError, match=rf"mean difference is {far} \(limit"):
            parity.judge({"y": expected}, {"y": expected + np.uint8(far)}, format=name, **where)
    assert not parity.compare(expected, expected + np.uint8(1))["passed"]


@pytest.mark.slow
def test_an_operator_that_litert_lacks_is_named(one_endpoint, tmp_path):
    import tensorflow as tf

    pytest.importorskip("ai_edge_litert")

    def image(seed):
        x = tf.math.erfinv(random.uniform(seed, (2, 2, 1)))
        return {"image": ops.cast(x, "uint8")}

    with pytest.raises(
        export.ExportError,
        match=r"'generate' does not convert to LiteRT: .*no operator for TensorFlow's Erfinv.*"
        r"Leave 'litert' out",
    ):
        export.export(one_endpoint(image), tmp_path / "a", formats="litert", progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_changed_file_of_litert_is_refused(exported, tmp_path):
    """Also one whose hash was made to fit: its operators and its signatures are read first."""

    def refused(content, match):
        copy = shutil.copytree(exported.path, tmp_path / "copy")
        (copy / "litert" / "generate.tflite").write_bytes(content)
        artifact_module.write_manifest(copy, exported.manifest)
        with pytest.raises(export.VerificationError, match=match):
            export.verify(copy, formats=("litert",), progress=False)
        shutil.rmtree(copy)

    content = (exported.path / "litert" / "generate.tflite").read_bytes()
    refused((exported.path / "litert" / "decode.tflite").read_bytes(), "has the signatures decode")
    refused(content[: len(content) // 2], "generate.tflite is no graph")
    refused(b"PK" + content[2:4] + b"\0" * 64, "generate.tflite is no file of LiteRT")
    refused(_with_operator(content, 136), r"has the operator '136', which is none")


def _with_operator(content, number):
    """The same file, with one of its operators by another number in the schema."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(content)))
    model.operatorCodes[0].builtinCode = number
    model.operatorCodes[0].deprecatedBuiltinCode = 127

    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
