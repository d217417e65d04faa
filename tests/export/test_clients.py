"""`Client` by every protocol, and TensorFlow Serving's gRPC API, against real servers."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import PIL.Image
import pytest
from keras import ops

import export
import kgen
from export import serving
from kgen import random
from kgen.endpoint import Endpoint, TensorSpec, image_spec, label_spec, mask_spec, seed_spec
from kgen.images import encode_png

SHAPE = (6, 8, 3)


class Mender(keras.Model):
    """A generator with classes, an option of sampling, and an endpoint of an image and a mask."""

    def __init__(self):
        super().__init__(name="mender")
        self.image_shape, self.num_classes = SHAPE, 4
        self.colours = self.add_weight(shape=(4, 3), initializer="random_uniform")
        self.built = True

    def get_config(self):
        return {}

    def generate(self, seed, label, brightness=1.0):
        image = random.uniform(seed, SHAPE) + ops.take(self.colours, label, axis=0)[:, None, None]
        brightness = ops.reshape(ops.convert_to_tensor(brightness, "float32"), (-1, 1, 1, 1))
        return {"image": ops.cast(ops.clip(100 * image * brightness, 0, 255), "uint8")}

    def complete(self, image, mask, seed, label, brightness=1.0):
        drawn = self.generate(seed, label, brightness)["image"]
        return {"image": ops.where(ops.cast(mask, "bool")[..., None], image, drawn)}

    def encode(self, image):
        return {"mean": ops.mean(ops.cast(image, "float32"), axis=(1, 2))}

    def endpoints(self):
        image = {"image": image_spec(SHAPE)}
        drawn = {
            "seed": seed_spec(),
            "label": label_spec(4),
            "brightness": TensorSpec((), "float32", 0.0, 2.0, "how bright", 1.0),
        }
        masked = {**image, "mask": mask_spec(SHAPE), **drawn}
        return {
            "generate": Endpoint(self.generate, drawn, image),
            "complete": Endpoint(self.complete, masked, image),
            "encode": Endpoint(self.encode, image, {"mean": TensorSpec((3,), "float32")}),
        }


@pytest.fixture(scope="module")
def mender(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model, path = Mender(), tmp_path_factory.mktemp("mender") / "mender"
    export.export(model, path, progress=False)
    return model, path


@contextlib.contextmanager
def server_of(path, limits=None, **options):
    service = serving.Service([path], hashes_only=True, limits=limits)
    service.load()
    with serving.Server(service, port=0, grpc_port=0, poll=0, **options) as server:
        yield server


@pytest.fixture(scope="module")
def server(mender):
    with server_of(mender[1]) as server:
        yield server


def client_of(server, protocol, **options):
    address = server.grpc_address if protocol == "grpc" else server.address
    options = {"model": "mender"} | options
    return serving.Client(address, protocol, **options)


@pytest.fixture(params=["rest", "grpc", "v2"])
def client(server, request):
    with client_of(server, request.param) as client:
        yield client


def test_images(mender, client):
    model = mender[0]
    seeds, labels = np.arange(150, dtype="int32"), np.arange(150, dtype="int32") % 4
    expected = np.asarray(model.generate(seeds, labels)["image"])
    found = client.generate(seeds, labels)  # more than a request may have of a loop, so several
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    brightness = np.linspace(0, 2, 5, dtype="float32")
    expected = np.asarray(model.generate(seeds[:5], np.full(5, 3), brightness)["image"])
    np.testing.assert_array_equal(client.generate(range(5), 3, brightness=brightness), expected)
    once = client.generate([4], labels=3, brightness=0.5)
    np.testing.assert_array_equal(client.generate([4, 4], [3, 3], brightness=[0.5]), once[[0, 0]])


def test_endpoints_with_pictures_and_masks(mender, client):
    model, rng = mender[0], np.random.default_rng(0)
    image = rng.integers(0, 256, (3, *SHAPE), "uint8")
    mask = rng.integers(0, 2, (3, *SHAPE[:2]), "uint8")
    inputs = {"image": image, "mask": mask, "seed": np.int32([1, 2, 3]), "label": np.int32([0] * 3)}
    expected = np.asarray(model.complete(**inputs)["image"])
    np.testing.assert_array_equal(client.call("complete", **inputs)["image"], expected)
    given = {**inputs, "image": image[0], "label": 0}  # one for all rows
    expected = np.asarray(model.complete(**inputs | {"image": image[[0] * 3]})["image"])
    np.testing.assert_array_equal(client.call("complete", **given)["image"], expected)
    bright = np.asarray(model.complete(**inputs, brightness=np.float32([2] * 3))["image"])
    np.testing.assert_array_equal(client.call("complete", **inputs, brightness=2)["image"], bright)
    mean = client.call("encode", image=image)["mean"]
    np.testing.assert_allclose(mean, np.asarray(model.encode(image)["mean"]), rtol=1e-6)
    assert mean.dtype == np.float32


def test_what_a_server_has(server, client):
    assert client.models() == {"mender": [1]}
    assert client.metadata() == {
        "inputs": {
            "seed": {"dtype": "int32", "shape": [-1]},
            "label": {"dtype": "int32", "shape": [-1]},
        },
        "outputs": {"image": {"dtype": "uint8", "shape": [-1, *SHAPE]}},
    }
    assert client.metadata("complete")["inputs"]["mask"]["shape"] == [-1, *SHAPE[:2]]
    for protocol in ("rest", "v2"):  # which say what there is, so that the only one is taken
        with client_of(server, protocol, model=None) as nameless:
            assert nameless.model == "mender"
    said = "does not list its models: give model="
    with (
        client_of(server, "grpc", model=None) as nameless,
        pytest.raises(serving.ServingError, match=said),
    ):
        nameless.generate([1], 0)


def test_versions_and_labels(server):
    expected = client_of(server, "rest").generate([7], 1)
    for protocol in ("rest", "grpc", "v2"):
        with client_of(server, protocol, version=1) as client:
            np.testing.assert_array_equal(client.generate([7], 1), expected)
        with client_of(server, protocol, version=3) as client:
            with pytest.raises(serving.ServingError, match=r"Specific\(mender, 3\)") as refused:
                client.generate([7], 1)
            assert refused.value.status == ("NOT_FOUND" if protocol == "grpc" else 404)
    for protocol in ("rest", "grpc"):
        with client_of(server, protocol, label="stable") as client:
            np.testing.assert_array_equal(client.generate([7], 1), expected)
    with pytest.raises(ValueError, match="has no labels"):
        client_of(server, "v2", label="stable")


def test_a_server_says_what_was_wrong(client):
    with pytest.raises(
        serving.ServingError, match=r"label should be 0 to 3\. Received: 4 in row 1"
    ):
        client.generate([1, 2], [3, 4])
    with pytest.raises(serving.ServingError, match="label is missing"):
        client.generate([1])
    with pytest.raises(serving.ServingError, match="paint"):
        client.call("paint", seed=1)


@pytest.mark.parametrize(
    "inputs, said",
    [
        ({"seed": [1], "size": 3}, "generate takes seed, label, brightness. Received: size"),
        ({"seed": [1.5], "label": 0}, "seed must be integers from -2147483648"),
        ({"seed": [2**31], "label": 0}, r"2147483647. Received: int64, \[2147483648\]"),
        ({"seed": [[1]], "label": 0}, r"seed must have the shape \(rows,\). Received: \(1, 1\)"),
        ({"seed": [1, 2], "label": [0, 1, 2]}, "the same number of rows, at least 1.*seed: 2"),
        ({"seed": [], "label": 0}, "at least 1"),
        ({"seed": [1], "label": 0, "brightness": "full"}, "brightness must be numbers"),
        ({}, "generate takes seed, label. Received: none"),
    ],
)
def test_inputs_that_an_endpoint_does_not_take(server, inputs, said):
    with client_of(server, "rest") as client, pytest.raises(ValueError, match=said):
        client.call("generate", **inputs)


def test_arguments():
    for arguments, said in (
        (("http://127.0.0.1:1", "soap"), "protocol must be"),
        (("127.0.0.1:8501",), "must begin with http"),
        (("http://127.0.0.1:8500", "grpc"), "must be host:port"),
    ):
        with pytest.raises(ValueError, match=said):
            serving.Client(*arguments)
    with pytest.raises(ValueError, match="one of version and label"):
        serving.Client("http://127.0.0.1:1", version=1, label="stable")
    with (
        serving.Client("http://127.0.0.1:9", model="m", retries=1) as nobody,
        pytest.raises(serving.ServingError, match=r"No answer from http://127\.0\.0\.1:9"),
    ):
        nobody.generate([1])


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ImportError, match=r"pip install 'kgen\[client\]'"):
        serving.Client("http://127.0.0.1:9")
    for name in ("grpc_client", "grpc_messages"):
        monkeypatch.delitem(sys.modules, f"export.serving.{name}", raising=False)
        monkeypatch.delattr(serving, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r"gRPC needs tensorflow_serving.*'kgen\[grpc\]'"):
        serving.Client("127.0.0.1:9", "grpc")


ALONE = """
import sys
from export import serving
serving.Client("http://127.0.0.1:9", "v2", model="vae").close()
heavy = {"tensorflow", "keras", "onnxruntime", "fastapi", "grpc"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_client_needs_httpx_and_numpy(run_python):
    run_python(ALONE)


@pytest.mark.parametrize("protocol", ["rest", "grpc", "v2"])
def test_token(mender, protocol):
    with server_of(mender[1], token="a long secret") as server:
        with client_of(server, protocol, token="a long secret") as client:
            assert client.generate([1], 0).shape == (1, *SHAPE)
        for token in (None, "another secret"):
            with client_of(server, protocol, token=token) as client:
                with pytest.raises(serving.ServingError, match="Bearer TOKEN") as refused:
                    client.generate([1], 0)
                assert refused.value.status == ("UNAUTHENTICATED" if protocol == "grpc" else 401)


@pytest.mark.parametrize("protocol", ["rest", "grpc", "v2"])
def test_a_server_that_takes_less(mender, protocol):
    """Its limit is learnt from what it says; and a queue that is full is waited for."""
    limits = serving.Limits(rows=10, loop_rows=10, batch_rows=10, queue_rows=10)
    expected = np.asarray(mender[0].generate(np.arange(64), np.full(64, 2))["image"])
    with server_of(mender[1], limits) as server:
        with client_of(server, protocol, retries=30) as client:
            found = [None] * 8

            def draw(number):
                found[number] = client.generate(range(64), 2)

            threads = [threading.Thread(target=draw, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for images in found:
                np.testing.assert_array_equal(images, expected)
        with (
            client_of(server, protocol, batch_size=11) as client,
            pytest.raises(serving.ServingError, match="at most 10 rows"),
        ):
            client.generate(range(64), 2)


class Moody(http.server.BaseHTTPRequestHandler):
    """A server that answers as it is told: a list of status, headers and body."""

    answers, asked = [], []

    def do_GET(self):
        self.asked.append(self.path)
        status, headers, body = self.answers.pop(0)
        if status is None:
            return  # closes the connection
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def moody():
    Moody.answers, Moody.asked = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_further_tries(moody):
    listed = json.dumps({"models": [{"name": "m", "versions": [1, 2]}]}).encode()
    Moody.answers = [
        (429, {"retry-after": "0"}, b"{}"),
        (503, {}, b""),
        (None, {}, b""),
        (200, {}, listed),
    ]
    with serving.Client(moody) as client:
        assert client.models() == {"m": [1, 2]}
        assert not Moody.answers
        Moody.answers = [(503, {"retry-after": "30"}, b'{"error": "busy"}')]
        busy = r"busy \(GET /v1/models/m/metadata: 503"
        with (
            serving.Client(moody, model="m", timeout=5) as hasty,  # which has no 30 s
            pytest.raises(serving.ServingError, match=busy),
        ):
            hasty.metadata()
        Moody.answers = [(500, {}, b"<html>oops</html>")]
        with (
            serving.Client(moody, model="m") as other,
            pytest.raises(serving.ServingError) as error,
        ):
            other.metadata()
        assert "oops" in str(error.value) and error.value.status == 500
        assert len(Moody.asked) == 6


def test_what_triton_and_kserve_say(moody):
    """Models by Triton's index, numbers as rows of one, JSON where nothing binary, other errors."""
    index = [
        {"name": "vae", "version": "1"},
        {"name": "vae.encode", "version": "1"},
        {"name": "b.c", "version": "2", "state": "READY"},
        {"name": "not_loaded"},
    ]
    tensor = {"name": "seed", "datatype": "INT32", "shape": [-1, 1]}
    image = {"name": "image", "datatype": "UINT8", "shape": [-1, 1, 2, 1]}
    answer = {"outputs": [{**image, "shape": [1, 1, 2, 1], "data": [3, 4]}]}
    limit = {"error": "[request id: 1] inference request batch-size must be <= 1 for 'vae'"}
    Moody.answers = [
        (404, {}, b"{}"),
        (200, {}, json.dumps(index).encode()),
        (200, {}, json.dumps({"inputs": [tensor], "outputs": [image]}).encode()),
        (200, {}, json.dumps({"name": "other", "extensions": []}).encode()),
        (400, {}, json.dumps(limit).encode()),
        *[(200, {}, json.dumps(answer).encode())] * 2,
        (422, {}, b'{"detail": "no such thing"}'),
    ]
    with serving.Client(moody, "v2", model="vae") as client:
        assert client.models() == {"vae": [1], "b.c": [2]}
        np.testing.assert_array_equal(client.generate([1, 2]), [[[[3], [4]]]] * 2)
        with pytest.raises(serving.ServingError, match="no such thing"):
            client.generate([1])


# The gRPC API by the messages of tensorflow-serving-api ------------------------------------


@pytest.fixture(scope="module")
def stubs(server):
    from export.serving import grpc_messages as messages

    with messages.grpc.insecure_channel(server.grpc_address) as channel:
        yield (
            messages,
            messages.prediction_service_pb2_grpc.PredictionServiceStub(channel),
            messages.model_service_pb2_grpc.ModelServiceStub(channel),
        )


def request_of(messages, signature="generate", model="mender", **inputs):
    request = messages.predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(messages.to_proto(values))
    return request


SEED, LABEL = np.int32([7]), np.int32([1])


def test_grpc_predicts_as_tensorflow_serving_does(stubs, mender):
    import tensorflow as tf

    messages, predict, _ = stubs
    expected = np.asarray(mender[0].generate(SEED, LABEL)["image"])
    for signature in ("", "generate", "generate_xla"):
        response = predict.Predict(request_of(messages, signature, seed=SEED, label=LABEL))
        np.testing.assert_array_equal(tf.make_ndarray(response.outputs["image"]), expected)
        assert response.model_spec.version.value == 1
        assert response.model_spec.signature_name == (signature or "serving_default")
    [png] = expected
    known = np.full(SHAPE[:2], 255, "uint8")
    inputs = {"image_bytes": [encode_png(png)], "mask_bytes": [encode_png(known)]}
    request = request_of(messages, "complete_image_bytes", **inputs, seed=SEED, label=LABEL)
    request.output_filter.append("image_bytes")
    [found] = predict.Predict(request).outputs["image_bytes"].string_val
    np.testing.assert_array_equal(tf.io.decode_png(found), png)


def test_grpc_metadata_is_that_of_the_saved_model(stubs, mender):
    """Names, dtypes and shapes of every signature are those that TensorFlow wrote."""
    from tensorflow.core.protobuf import saved_model_pb2

    messages, predict, _ = stubs
    request = messages.get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "mender"
    request.metadata_field.append("signature_def")
    signatures = messages.get_model_metadata_pb2.SignatureDefMap()
    predict.GetModelMetadata(request).metadata["signature_def"].Unpack(signatures)
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((mender[1] / "saved_model/1/saved_model.pb").read_bytes())

    def described(found):
        return {
            name: {
                side: {
                    key: (tensor.dtype, [dim.size for dim in tensor.tensor_shape.dim])
                    for key, tensor in getattr(signature, side).items()
                }
                for side in ("inputs", "outputs")
            }
            for name, signature in found.items()
            if not name.startswith("__")
        }

    assert described(signatures.signature_def) == described(saved.meta_graphs[0].signature_def)


@pytest.mark.slow
def test_every_warmup_request_is_answered_as_in_tensorflow(stubs, mender):
    """The records, read by TensorFlow Serving's own message: options, pictures and masks too."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    _, predict, _ = stubs
    folder, seen = mender[1] / "saved_model/1", set()
    loaded = tf.saved_model.load(str(folder))
    records = folder / "assets.extra/tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(records)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        name = request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(t)) for key, t in request.inputs.items()}
        expected = loaded.signatures[name](**inputs)
        for key, tensor in predict.Predict(request).outputs.items():
            found, wanted = tf.make_ndarray(tensor), expected[key].numpy()
            if key == "image_bytes":
                found, wanted = (np.stack(list(map(tf.io.decode_png, a))) for a in (found, wanted))
            np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=f"{name}: {key}")
        seen.add(name)
    assert seen == set(loaded.signatures)


def test_grpc_status(stubs):
    messages, _, models = stubs
    request = messages.get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "mender"
    [status] = models.GetModelStatus(request).model_version_status
    assert status.version == 1 and status.state == status.AVAILABLE


def test_grpc_errors_have_the_codes_of_tensorflow_serving(stubs):
    messages, predict, models = stubs
    grpc, code = messages.grpc, messages.grpc.StatusCode
    huge = request_of(messages, seed=SEED, label=LABEL)
    huge.inputs["seed"].tensor_shape.dim[0].size = 2**40  # of one value
    short = request_of(messages, seed=SEED, label=LABEL)
    short.inputs["seed"].tensor_content = b"1"
    unknown = messages.predict_pb2.PredictRequest()
    unknown.model_spec.name = "mender"
    unknown.inputs["seed"].dtype = 7
    filtered = request_of(messages, seed=SEED, label=LABEL)
    filtered.output_filter.append("picture")
    wrong = (  # by far the most
        (request_of(messages, model=""), "no name specified"),
        (messages.predict_pb2.PredictRequest(), "Missing ModelSpec"),
        (request_of(messages, seed=SEED), "label is missing"),
        (request_of(messages, seed=SEED, label=LABEL + 9), "label should be 0 to 3"),
        (request_of(messages, seed=[b"7"], label=LABEL), "seed should be"),
        (request_of(messages, "encode_image_bytes", image_bytes=[b"7"]), "be a PNG"),
        (huge, "seed should have at most"),
        (short, "seed has not the values of the shape"),
        (unknown, "seed should have the shape"),
        (filtered, "output tensor alias not found in signature: picture"),
    )
    nowhere, paint = request_of(messages, model="vae"), request_of(messages, "paint")
    for request, expected, said in (
        (nowhere, code.NOT_FOUND, r"Servable not found for request: Latest\(vae"),
        (paint, code.FAILED_PRECONDITION, 'signature key "paint" not found'),
        *((request, code.INVALID_ARGUMENT, said) for request, said in wrong),
    ):
        with pytest.raises(grpc.RpcError, match=said) as refused:
            predict.Predict(request)
        assert refused.value.code() == expected
    status = messages.get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "vae"
    with pytest.raises(grpc.RpcError) as refused:
        models.GetModelStatus(status)
    assert refused.value.code() == code.NOT_FOUND
    asked = messages.get_model_metadata_pb2.GetModelMetadataRequest()
    asked.model_spec.name = "mender"
    with pytest.raises(grpc.RpcError, match="at least one metadata_field"):
        predict.GetModelMetadata(asked)


@pytest.mark.slow
def test_the_command_speaks_grpc(mender, server):
    """A process of its own, which imports TensorFlow for the messages; it ends as it should."""
    command = [sys.executable, "-m", "kgen", "serve", str(mender[1]), "--hashes-only"]
    command += ["--port", "0", "--grpc-port", "0", "--access-log", "-"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = next(line for line in process.stderr if "gRPC at" in line)
        address = said.split("gRPC at ")[1].strip()
        with serving.Client(address, "grpc", model="mender") as client:
            images = client.generate(range(8), 1)
        process.terminate()
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    np.testing.assert_array_equal(images, client_of(server, "rest").generate(range(8), 1))
    logged = [json.loads(line) for line in out.splitlines()]
    assert [entry["method"] for entry in logged] == ["GetModelMetadata", "Predict"]
    assert logged[1]["status"] == 200 and logged[1]["endpoint"] == "generate"


# What a deployment's README tells ------------------------------------------------------------


@pytest.fixture
def beside_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
    pathlib.Path("image.png").write_bytes(encode_png(picture))
    mask = np.zeros(SHAPE[:2], "uint8")
    mask[:3] = 255
    pathlib.Path("mask.png").write_bytes(encode_png(mask))
    return picture, mask // 255


def test_the_calls_of_a_deployment(mender, server, beside_pictures):
    """Every call of its README, by curl and by gRPC, is answered by a server of the same APIs."""
    model, path = mender
    export.deploy([path], "d")
    text = pathlib.Path("d/README.md").read_text()
    signatures = export.load(path).manifest["formats"]["saved_model"]["signatures"]
    picture, mask = beside_pictures
    inputs = {"image": picture[None], "mask": mask[None], "seed": SEED, "label": LABEL * 0}
    expected = np.asarray(model.complete(**inputs)["image"])

    commands = dict(re.findall(r"^`(\w+)`:\n\n```sh\n(.*?)\n```", text, re.S | re.M))
    assert commands.keys() == signatures.keys() - {"serving_default"}
    python = pathlib.Path(sys.executable).parent
    for name, command in commands.items():
        said = subprocess.run(
            ["bash", "-c", command.replace("http://localhost:8501", server.address)],
            env={**os.environ, "PATH": f"{python}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        [row] = json.loads(said.stdout)["predictions"]
        if name == "complete":
            np.testing.assert_array_equal(row, expected[0])

    [setup, calls] = re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
    results, names = [], {}
    exec(setup.replace("localhost:8500", server.grpc_address), names)
    predict = names["predict"]
    names["predict"] = lambda model, signature, **given: results.append(
        (signature, predict(model, signature, **given))
    )
    exec(calls, names)
    results = dict(results)
    assert results.keys() == commands.keys()
    np.testing.assert_array_equal(results["complete"]["image"], expected)
    np.testing.assert_array_equal(results["complete_with_options"]["image"], expected)
    [png] = results["complete_image_bytes"]["image_bytes"]
    assert png == encode_png(expected[0]) or png.startswith(b"\x89PNG")


# The examples --------------------------------------------------------------------------------

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "clients"


def run_example(*command, check=True, **environment):
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=check,
    )


def read(path):
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


def test_the_example_in_the_shell(mender, server, tmp_path):
    [expected] = np.asarray(mender[0].generate(SEED, LABEL)["image"])
    script, path = EXAMPLES / "client.sh", tmp_path / "seven.png"
    told = run_example(script, server.address, "mender", '"seed": 7, "label": 1', path).stdout
    assert "AVAILABLE" in told
    np.testing.assert_array_equal(read(path), expected)
    wrong = run_example(script, server.address, "mender", '"seed": 7', path, check=False)
    assert wrong.returncode and "label is missing" in wrong.stderr


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
def test_the_example_in_javascript(mender, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = np.asarray(mender[0].generate(np.int32([7, 8]), np.int32([1, 2]))["image"])
    inputs = json.dumps({"seed": [7, 8], "label": [1, 2]})
    with server_of(mender[1], token="a long secret") as server:
        command = ("node", EXAMPLES / "client.mjs", server.address, "mender", inputs)
        told = json.loads(run_example(*command, KGEN_SERVE_TOKEN="a long secret").stdout)
        refused = run_example(*command, check=False)
    assert told == {"pngs": 2, "shape": [2, *SHAPE], "sum": int(expected.sum())}
    np.testing.assert_array_equal([read("0.png"), read("1.png")], expected)
    assert refused.returncode and "401: This server asks for" in refused.stderr


def test_the_example_in_python(mender, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--label", "1", "--num-images", "70", "--option", "brightness=0.5"]
    monkeypatch.setattr(sys, "argv", ["client.py", server.address, *arguments])
    runpy.run_path(str(EXAMPLES / "client.py"), run_name="__main__")
    drawn = mender[0].generate(np.arange(70), np.full(70, 1), np.full(70, 0.5, "float32"))
    expected = kgen.images.grid(np.asarray(drawn["image"]))
    np.testing.assert_array_equal(read("images.png"), expected)
    assert read("completed_images.png").shape == expected.shape
