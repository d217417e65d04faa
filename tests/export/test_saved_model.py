"""The SavedModel: as TensorFlow loads it, as TF Serving runs it."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import empty_pb2, unknown_fields
from PIL import Image
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2

import export
import kgen
from export import parity, redrawing


@pytest.fixture(scope="module")
def loaded(artifact):
    return tf.saved_model.load(str(artifact.path / "saved_model/1"))


def test_loads_in_tensorflow(loaded, model, requests):
    assert set(loaded.signatures) == {
        *("serving_default", "generate", "generate_xla", "encode", "decode", "reconstruct"),
        *("image_bytes", "encode_image_bytes", "decode_image_bytes", "reconstruct_image_bytes"),
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


def test_the_graph_marks_its_pictures(artifact, loaded):
    """With the request's numbers, as far as they are in range; a wrong checksum is an error."""
    tensors = {"seed": tf.constant([7, 2**31 - 1, -4]), "label": tf.constant([2, 0, 9])}
    (strings,) = loaded.signatures["image_bytes"](**tensors).values()
    prover = redrawing.prover_of(artifact)
    claims = []
    for string in strings.numpy():
        found = export.inspect(string, prover)
        assert found.proven, found.said
        claims.append((*found.claim.seeds, *found.claim.labels))
    assert claims == [(7, 2), (2**31 - 1, 0), (0, 2)]
    [string] = loaded.signatures["reconstruct_image_bytes"](image_bytes=strings[:1]).values()
    source_type = kgen.origin.read(string.numpy()[0])["source_type"]
    assert source_type.endswith("compositeWithTrainedAlgorithmicMedia")


def test_callables_take_one_argument(artifact, loaded, model, requests):
    """As Keras's layer for SavedModels calls them, which gives a signature no two inputs."""
    folder = str(artifact.path / "saved_model/1")
    expected = np.asarray(model.generate(**requests)["image"]).astype("int32")
    inputs = {
        name: keras.Input((), dtype="int32", name=name) for name in ("label", "seed")
    }  # in another order than the endpoint's
    drawn = keras.Model(inputs, keras.layers.TFSMLayer(folder)(inputs))(requests)
    assert np.abs(np.asarray(drawn["image"]).astype("int32") - expected).max() <= 1
    for inputs in (expected.astype("uint8"), {"image": expected.astype("uint8")}):
        mean = keras.layers.TFSMLayer(folder, call_endpoint="encode")(inputs)["mean"]
        np.testing.assert_allclose(mean, model.encode(expected)["mean"], atol=1e-5)
    assert {"serve", *artifact.endpoints} <= set(dir(loaded))


def test_the_table_of_quantiles_is_stored_once(artifact):
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((artifact.path / "saved_model/1/saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert sum(node.op == "Const" and node.ByteSize() > 4 * 65536 for node in nodes) == 1


def png(array):
    return tf.io.encode_png(array).numpy()


def run_all(artifact, loaded, endpoint, inputs):
    """What each format makes of inputs of an endpoint with an image; an error is `None`."""
    description = artifact.manifest["formats"]["onnx"]["signatures"][endpoint]
    named = {description["inputs"][key]: array for key, array in inputs.items()}
    calls = {"onnx": lambda: artifact.onnx_session(endpoint).run(["image"], named)[0]}
    for name, signature in artifact.manifest["formats"]["saved_model"]["signatures"].items():
        if signature["endpoint"] == endpoint:
            key = "image_bytes" if signature.get("png") else "image"
            given = inputs
            if "image_bytes" in signature["inputs"]:
                given = {"image_bytes": np.array(list(map(png, inputs["image"])), dtype=object)}
            tensors = {k: tf.constant(v, v.dtype if v.dtype != object else tf.string)
                       for k, v in given.items()}  # fmt: skip
            calls[name] = lambda s=loaded.signatures[name], k=key, t=tensors: s(**t)[k].numpy()
    results = {}
    for name, call in calls.items():
        try:
            results[name] = call()
        except Exception:  # every runtime has errors of its own
            results[name] = None
    return results


@pytest.mark.parametrize("sizes", [(2, 3), (1, 8), (8, 1), (1, 0), (0, 1)])
def test_unequal_batches_are_an_error(artifact, loaded, sizes):
    seed, label = (np.zeros(size, "int32") for size in sizes)
    results = run_all(artifact, loaded, "generate", {"seed": seed, "label": label})
    assert list(results) == ["onnx", "serving_default", "generate", "image_bytes", "generate_xla"]
    assert set(results.values()) == {None}


@pytest.mark.parametrize("endpoint", ["generate", "decode", "reconstruct"])
def test_a_batch_of_none_gives_none(artifact, loaded, endpoint):
    inputs = {
        key: np.zeros((0, *spec["shape"][1:]), spec["dtype"])
        for key, spec in artifact.endpoints[endpoint]["inputs"].items()
    }
    for name, images in run_all(artifact, loaded, endpoint, inputs).items():
        assert images.shape == ((0,) if "bytes" in name else (0, 8, 12, 3)), name


def test_pictures_come_and_go_as_png(artifact, loaded, golden):
    images = golden["reconstruct"]["inputs"]["image"]
    expected = golden["reconstruct"]["outputs"]["image"].astype("int32")
    strings = tf.constant([png(image) for image in images])
    (drawn,) = loaded.signatures["reconstruct_image_bytes"](image_bytes=strings).values()
    drawn = np.stack([tf.io.decode_png(string) for string in drawn.numpy()])
    assert np.abs(drawn - expected).max() <= 1
    mean = loaded.signatures["encode_image_bytes"](image_bytes=strings)["mean"]
    np.testing.assert_allclose(mean, golden["encode"]["outputs"]["mean"], atol=1e-4)
    # A grey picture is an image too; one of another size is an error.
    grey = tf.constant([png(images[0, ..., :1])])
    loaded.signatures["reconstruct_image_bytes"](image_bytes=grey)
    for wrong in (png(images[0, :, :-1]), b"no picture"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            loaded.signatures["encode_image_bytes"](image_bytes=tf.constant([wrong]))


def test_a_mask_is_white_where_a_pixel_is_known():
    from export import saved_model
    from kgen.endpoint import mask_spec

    mask = np.random.default_rng(0).integers(0, 2, (2, 4, 6), "uint8")
    strings = tf.constant([png(255 * each[..., None]) for each in mask])
    np.testing.assert_array_equal(saved_model._decoded(strings, mask_spec((4, 6, 3))), mask)


def test_out_of_range_is_the_nearest_inside(artifact, loaded):
    def run(seed, label):
        inputs = {"seed": np.array(seed, "int32"), "label": np.array(label, "int32")}
        return run_all(artifact, loaded, "generate", inputs)

    found = run([3, -5, -(2**31), 4, 2**31 - 1], [-1, 0, 1, 3, 2**31 - 1])
    expected = run([3, 0, 0, 4, 2**31 - 1], [0, 0, 1, 2, 2])
    for name, images in expected.items():
        np.testing.assert_array_equal(found[name], images, err_msg=name)


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
    assert len(rows) == 2 * 10
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
    at_all_sizes = ("serving_default", "generate", "image_bytes", "generate_xla")
    others = set(loaded.signatures) - set(at_all_sizes)
    assert seen[:4] == [(signature, 1) for signature in at_all_sizes]
    assert sorted(seen[4:-4]) == [(signature, 1) for signature in sorted(others)]
    assert seen[-4:] == [(signature, 8) for signature in at_all_sizes]
    warmed = artifact.manifest["formats"]["saved_model"]["warmup"]["signatures"]
    assert set(warmed) == set(loaded.signatures)


def test_more_warmup_requests_than_tf_serving_takes(tmp_path):
    from export import warmup

    warmup.write(tmp_path, "painter", (("generate", {"seed": np.int32([7])}) for _ in range(1001)))
    assert sum(1 for _ in tf.data.TFRecordDataset(str(tmp_path / warmup.PATH))) == 1000


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
