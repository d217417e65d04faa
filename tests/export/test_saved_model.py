"""The SavedModel: as TensorFlow loads it, as TF Serving runs it."""

import io

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import empty_pb2, unknown_fields
from PIL import Image
from tensorflow.core.framework import tensor_pb2

from export import parity


@pytest.fixture(scope="module")
def loaded(artifact):
    return tf.saved_model.load(str(artifact.path / "saved_model/1"))


def test_loads_in_tensorflow(loaded, model, requests):
    assert set(loaded.signatures) == {
        *("serving_default", "generate", "generate_xla", "encode", "decode", "reconstruct"),
        *("image_bytes", "decode_image_bytes", "reconstruct_image_bytes"),
    }
    expected = np.asarray(model.generate(**requests)["image"])
    tensors = {name: tf.constant(array) for name, array in requests.items()}
    for signature in ("serving_default", "generate", "generate_xla"):
        images = loaded.signatures[signature](**tensors)
        assert list(images) == ["image"]
        difference = images["image"].numpy().astype("int32") - expected
        assert np.abs(difference).max() <= 1
    (strings,) = loaded.signatures["image_bytes"](**tensors).values()
    for string, image in zip(strings.numpy(), expected, strict=True):
        with Image.open(io.BytesIO(string)) as png:
            assert png.format == "PNG"
            assert np.abs(np.asarray(png).astype("int32") - image).max() <= 1


def test_xla_signature_is_compiled_by_xla(loaded):
    def attributes(signature):
        graph = loaded.signatures[signature].graph.as_graph_def()
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        functions = [f.attr for f in graph.library.function]
        return {key for part in [*(n.attr for n in nodes), *functions] for key in part
                if key == "_XlaMustCompile" and part[key].b}  # fmt: skip

    assert attributes("generate_xla") == {"_XlaMustCompile"}
    assert attributes("generate") == set()


def test_only_the_weights_of_the_endpoints(artifact, model):
    weights = artifact.path / "saved_model/1/variables/variables.data-00000-of-00001"
    assert weights.stat().st_size < 4 * model.count_params() + 10_000


def test_other_batch_sizes_in_the_c_api(artifact, golden):
    """As TF Serving runs it: by tensor names, in a process without Python's TensorFlow."""
    formats = {"saved_model": artifact.manifest["formats"]["saved_model"]}
    steps = []
    rows = parity.prove(artifact.path, formats, golden, [3, 5], steps.append)
    assert {row["batch_size"] for row in rows} == {3, 5}
    assert len(rows) == 2 * 9
    assert len(steps) == parity.num_runs(formats, [3, 5])


def test_warmup_requests(artifact, loaded):
    from export import warmup

    path = artifact.path / "saved_model/1/assets.extra/tf_serving_warmup_requests"
    seen = []
    for record in tf.data.TFRecordDataset(str(path)):
        log = warmup.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {entry.key: tf.make_ndarray(entry.value) for entry in request.inputs}
        outputs = loaded.signatures[request.model_spec.signature_name](
            **{key: tf.constant(value) for key, value in inputs.items()}
        )
        assert request.model_spec.name == "painter"
        seen.append((request.model_spec.signature_name, len(next(iter(outputs.values())))))
    signatures = ("serving_default", "generate", "image_bytes", "generate_xla")
    assert seen == [(signature, size) for size in (1, 8) for signature in signatures]


def test_warmup_field_numbers(artifact):
    """Read without our own declaration: the numbers of TF Serving's prediction_log.proto,
    predict.proto and model.proto."""

    def fields(data):
        message = empty_pb2.Empty.FromString(data)
        return [(f.field_number, f.data) for f in unknown_fields.UnknownFieldSet(message)]

    path = artifact.path / "saved_model/1/assets.extra/tf_serving_warmup_requests"
    record = next(iter(tf.data.TFRecordDataset(str(path)))).numpy()
    ((number, predict_log),) = fields(record)
    assert number == 6
    ((number, request),) = fields(predict_log)
    assert number == 1
    (one, spec), (two, seed), (also_two, label) = fields(request)
    assert (one, two, also_two) == (1, 2, 2)
    assert fields(spec) == [(1, b"painter"), (3, b"serving_default")]
    assert [fields(entry)[0] for entry in (seed, label)] == [(1, b"seed"), (1, b"label")]
    number, tensor = fields(seed)[1]
    assert number == 2
    seeds = tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor))
    assert seeds.dtype == np.int32 and seeds.shape == (1,)
