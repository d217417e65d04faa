"""The ONNX files: names, axes, shared weights, opsets, operators that tf2onnx lacks."""

import collections
import hashlib
import itertools

import keras
import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from keras import ops

import export
import kgen
from kgen.endpoint import Endpoint, TensorSpec


def tensors(graph):
    """All initializers, those of loops and branches included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def test_names_and_free_batch(artifact):
    def describe(values):
        return {
            value.name: [axis.dim_param or axis.dim_value for axis in
                         value.type.tensor_type.shape.dim]
            for value in values
        }  # fmt: skip

    model = onnx.load(artifact.path / "onnx/generate.onnx", load_external_data=False)
    assert describe(model.graph.input) == {"seed": ["batch"], "label": ["batch"]}
    assert describe(model.graph.output) == {"image": ["batch", 8, 12, 3]}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    # ONNX has one name for one tensor: an input gives way to the output of its name.
    model = onnx.load(artifact.path / "onnx/reconstruct.onnx", load_external_data=False)
    assert list(describe(model.graph.input)) == ["input_image"]
    assert list(describe(model.graph.output)) == ["image"]


def test_weights_are_stored_once(artifact):
    places, users = {}, collections.Counter()
    data = (artifact.path / "onnx/weights.bin").read_bytes()
    for name in artifact.endpoints:
        model = onnx.load(artifact.path / f"onnx/{name}.onnx", load_external_data=False)
        for tensor in tensors(model.graph):
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert len(tensor.raw_data) < 1024
                continue
            where = {entry.key: entry.value for entry in tensor.external_data}
            assert where["location"] == "weights.bin"
            place = int(where["offset"]), int(where["length"])
            places[place] = hashlib.sha256(data[place[0] : sum(place)]).digest()
            users[place] += 1
    assert len(set(places.values())) == len(places)
    assert max(users.values()) >= 3  # the decoder's weights: generate, decode, reconstruct
    ends = sorted((start, start + length) for start, length in places)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    assert all(start % 4096 == 0 for start, _ in ends) and ends[-1][1] == len(data)


def test_a_file_says_whose_it_is(artifact, model, tmp_path):
    path = tmp_path / "one.onnx"
    artifact.save_onnx("encode", path)
    for file in (path, artifact.path / "onnx/generate.onnx"):
        loaded = onnx.load(file, load_external_data=False)
        assert {entry.key: entry.value for entry in loaded.metadata_props} == {
            "name": "painter",
            "kgen": kgen.__version__,
            "model_sha256": artifact.manifest["model"]["sha256"],
            "endpoint": loaded.graph.name,
        }
        assert b"__inference" not in file.read_bytes()  # names of TensorFlow's, which it numbers


def test_runs_in_the_reference_implementation(artifact, requests):
    """ONNX's own, in Python, which takes the standard by the letter."""
    file = artifact.path / "onnx/generate.onnx"
    [images] = onnx.reference.ReferenceEvaluator(onnx.load(file)).run(["image"], requests)
    expected = artifact.onnx_session().run(["image"], requests)[0].astype("int32")
    assert np.abs(images - expected).max() <= 1


def test_any_batch_size(artifact, model, requests):
    """Run from elsewhere, by path, at a batch size that no export has proven."""
    session = artifact.onnx_session("generate")
    images = session.run(["image"], requests)[0]
    expected = np.asarray(model.generate(**requests)["image"]).astype("int32")
    assert images.dtype == np.uint8 and np.abs(images - expected).max() <= 1


def test_save_onnx_stands_alone(artifact, tmp_path, requests):
    path = tmp_path / "one.onnx"
    artifact.save_onnx("generate", path)
    assert [file.name for file in tmp_path.iterdir()] == ["one.onnx"]
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(
        session.run(["image"], requests)[0],
        artifact.onnx_session("generate").run(["image"], requests)[0],
    )
    with pytest.raises(ValueError, match=r"for endpoint 'generat'\. It has: generate,"):
        artifact.save_onnx("generat", path)


@pytest.mark.parametrize(
    "opset", [*(pytest.param(opset, marks=pytest.mark.slow) for opset in range(19, 23)), 23]
)
def test_opset(model, tmp_path, opset):
    artifact = export.export(model, tmp_path / "a", ("onnx",), opset=opset, progress=False)
    assert artifact.manifest["formats"]["onnx"]["opset"] == opset
    for name in artifact.endpoints:
        loaded = onnx.load(artifact.path / f"onnx/{name}.onnx", load_external_data=False)
        assert [(entry.domain, entry.version) for entry in loaded.opset_import] == [("", opset)]


class Functions(keras.Model):
    """An endpoint for each operator that tf2onnx has no handler for."""

    functions = {
        "gelu": lambda x: ops.gelu(x, approximate=False),
        "log1p": lambda x: ops.log1p(ops.abs(x)),
        "expm1": ops.expm1,
    }

    def get_config(self):
        return {}

    def endpoints(self):
        x = TensorSpec((5,), "float32")
        image = TensorSpec((1, 1, 1), "uint8")
        generate = Endpoint(
            lambda x: {"image": ops.cast(x[:, :1, None, None] > 0, "uint8")}, {"x": x},
            {"image": image},
        )  # fmt: skip
        return {"generate": generate} | {
            name: Endpoint(lambda x, f=function: {"y": f(x)}, {"x": x}, {"y": x})
            for name, function in self.functions.items()
        }


def test_operators_that_tf2onnx_lacks(tmp_path):
    artifact = export.export(Functions(), tmp_path / "a", progress=False)
    x = np.linspace(-4, 4, 5, dtype="float32")[None]
    for name, function in Functions.functions.items():
        y = artifact.onnx_session(name).run(["y"], {"x": x})[0]
        np.testing.assert_allclose(y, np.asarray(function(x)), rtol=1e-5, atol=1e-6)
