"""`kgen serve`: a real server, over HTTP, on a real artifact."""

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import PIL.Image
import pytest

import export
import kgen
from export import serving


@contextlib.contextmanager
def serving_of(*paths, limits=None, runtime="onnx", signer=None, **options):
    """A client of a server of artifacts, in this process; its `service` is there too."""
    service = serving.Service(
        paths, runtime=runtime, hashes_only=True, limits=limits, signer=signer
    )
    service.load()
    with (
        serving.Server(service, port=0, poll=0.05, **options) as server,
        httpx.Client(base_url=server.address, timeout=60) as client,
    ):
        client.service = service
        yield client


@pytest.fixture(scope="module")
def client(artifact):
    with serving_of(artifact.path) as client:
        yield client


@pytest.fixture(scope="module")
def images(golden):
    """Golden inputs of `generate` and the images that go with them."""
    return golden["generate"]["inputs"], golden["generate"]["outputs"]["image"]


def rows(inputs):
    return [
        {name: array[i].tolist() for name, array in inputs.items()}
        for i in range(len(next(iter(inputs.values()))))
    ]


def of_png(data):
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def predict(client, body, status=200, place="painter"):
    answer = client.post(f"/v1/models/{place}:predict", content=json.dumps(body))
    assert answer.status_code == status, answer.text
    return answer.json()


# TensorFlow Serving's REST API ------------------------------------------------------------


def test_rows_and_columns(client, images):
    inputs, expected = images
    found = predict(client, {"instances": rows(inputs)})["predictions"]
    np.testing.assert_array_equal(np.array(found, "uint8"), expected)
    columns = {name: array.tolist() for name, array in inputs.items()}
    for place in ("painter", "painter/versions/1", "painter/labels/stable"):
        found = predict(client, {"inputs": columns}, place=place)["outputs"]
        np.testing.assert_array_equal(np.array(found, "uint8"), expected)


def test_pictures_are_base64(client, images):
    inputs, expected = images
    body = {"signature_name": "image_bytes", "instances": rows(inputs)}
    found = [base64.b64decode(row["b64"]) for row in predict(client, body)["predictions"]]
    np.testing.assert_array_equal([of_png(png) for png in found], expected)
    assert [kgen.origin.read(png)["claim"].seeds[0] for png in found] == inputs["seed"].tolist()
    again = [{"image_bytes": {"b64": base64.b64encode(png).decode()}} for png in found]
    body = {"signature_name": "encode_image_bytes", "instances": again}
    means = predict(client, body)["predictions"]
    body = {"signature_name": "encode", "instances": expected.tolist()}  # one input: bare values
    assert predict(client, body)["predictions"] == means


def test_status_and_metadata(client, artifact):
    [status] = client.get("/v1/models/painter").json()["model_version_status"]
    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    metadata = client.get("/v1/models/painter/versions/1/metadata").json()
    assert metadata["model_spec"]["version"] == "1"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == set(artifact.manifest["formats"]["saved_model"]["signatures"])
    assert signatures["serving_default"]["inputs"]["label"]["dtype"] == "DT_INT32"
    png = signatures["image_bytes"]["outputs"]["image_bytes"]
    assert (png["dtype"], len(png["tensor_shape"]["dim"])) == ("DT_STRING", 1)


SEED = {"seed": 1, "label": 2}
PNG = kgen.images.encode_png(np.zeros((8, 12, 3), "uint8"))


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    "body, message",
    [
        ({"instances": [{"seed": 1, "label": 3}]}, "label should be 0 to 2. Received: 3 in row 0"),
        ({"instances": [SEED, {"seed": -1, "label": 0}]}, "seed should be 0 to 2147483647"),
        ({"instances": [{"seed": 1}]}, "label is missing"),
        ({"instances": [{**SEED, "size": 1}]}, "no input 'size'; there are seed, label"),
        ({"instances": [{"seed": 1.5, "label": 0}]}, "seed should be integers. Received: [1.5]"),
        ({"instances": [{"seed": True, "label": 0}]}, "seed should be integers"),
        ({"instances": [{"seed": None, "label": 0}]}, "seed should be integers"),
        ({"instances": [{"seed": "7", "label": 0}]}, "seed should be integers"),
        ({"instances": [{"seed": [7], "label": 0}]}, "the shape [rows]. Received: [1, 1]"),
        ({"instances": [{"seed": 10**30, "label": 0}]}, "seed should be integers"),
        ({"instances": []}, "at least one row"),
        ({"instances": [SEED, {"seed": 1}]}, "the same keys"),
        ({"instances": [7]}, "an object with seed, label"),
        ({"instances": [SEED] * 300}, "at most 64 rows in a request. Received: 300"),
        ({"inputs": {"seed": [1, 2], "label": [0]}}, "as many rows"),
        ({"inputs": {"seed": [], "label": []}}, "At least one row"),
        ({"signature_name": "paint", "instances": [SEED]}, '"paint" not found. painter has: '),
        ({"signature_name": 7, "instances": [SEED]}, "should be a string"),
        ({"instances": [SEED], "inputs": {}}, 'either "instances" or "inputs"'),
        ({"instances": [SEED], "rows": 1}, "no field 'rows'"),
        ([], "should be an object"),
        ({"signature_name": "encode", "instances": [[[[0]]]]}, "[rows, 8, 12, 3]"),
        ({"signature_name": "encode", "instances": [[[0], [1, 2]]]}, "unequal shapes"),
        (
            {"signature_name": "encode", "instances": [np.full((8, 12, 3), 256).tolist()]},
            "0 to 255",
        ),
        ({"signature_name": "decode", "instances": [["a"] * 8]}, "latent should be numbers"),
        ({"signature_name": "encode_image_bytes", "instances": [b64(b"no PNG")]}, "be a PNG"),
        ({"signature_name": "encode_image_bytes", "instances": [b64(PNG[:40])]}, "damaged"),
        ({"signature_name": "encode_image_bytes", "instances": [{"b64": "?"}]}, "no base64"),
        ({"signature_name": "encode_image_bytes", "instances": [7]}, "takes PNG"),
        (
            {
                "signature_name": "encode_image_bytes",
                "instances": [b64(kgen.images.encode_png(np.zeros((8, 8), "uint8")))],
            },
            "should be 12 x 8 pixels. Received: 8 x 8",
        ),
    ],
)
def test_what_is_wrong_is_said(client, body, message):
    assert message in predict(client, body, 400)["error"]


def test_not_there(client):
    assert "Latest(vae)" in predict(client, {"instances": [SEED]}, 404, "vae")["error"]
    for place in ("painter/versions/2", "painter/versions/x", "painter/labels/canary"):
        assert "painter" in predict(client, {"instances": [SEED]}, 404, place)["error"]
    for status, answer in (
        (404, client.get("/../../etc/passwd")),
        (405, client.delete("/v1/models/painter")),
    ):
        assert answer.status_code == status and answer.json()["error"]
    answer = client.post("/v1/models/painter:predict", content=b'{"instances": [')
    assert answer.status_code == 400 and "no JSON" in answer.json()["error"]


def test_a_picture_that_says_it_is_huge_is_not_decoded(client):
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    huge = PNG[:8] + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    huge += PNG[33:]
    body = {"signature_name": "encode_image_bytes", "instances": [b64(huge)]}
    assert "millions" in predict(client, body, 400)["error"]


# Open Inference Protocol ------------------------------------------------------------------


def test_tensors_as_json(client, images):
    inputs, expected = images
    tensors = [
        {"name": name, "datatype": "INT32", "shape": [len(array)], "data": array.tolist()}
        for name, array in inputs.items()
    ]
    answer = client.post("/v2/models/painter/infer", json={"id": "42", "inputs": tensors}).json()
    [output] = answer["outputs"]
    assert (answer["id"], answer["model_version"], output["datatype"]) == ("42", "1", "UINT8")
    np.testing.assert_array_equal(np.reshape(output["data"], output["shape"]), expected)


def test_tritons_client(client, images):
    http = pytest.importorskip("tritonclient.http")
    inputs, expected = images
    triton = http.InferenceServerClient(client.base_url.netloc.decode())
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("painter") and triton.is_model_ready("painter.encode", "1")
    described = triton.get_model_metadata("painter.encode")
    assert described["inputs"][0]["shape"] == [-1, 8, 12, 3]
    for binary in (True, False):
        tensors = [http.InferInput(name, array.shape, "INT32") for name, array in inputs.items()]
        for tensor, array in zip(tensors, inputs.values(), strict=True):
            tensor.set_data_from_numpy(array, binary_data=binary)
        outputs = [http.InferRequestedOutput("image", binary_data=binary)]
        found = triton.infer("painter.generate", tensors, outputs=outputs).as_numpy("image")
        np.testing.assert_array_equal(found, expected)
    triton.close()


TENSOR = {"name": "seed", "datatype": "INT32", "shape": [1], "data": [1]}
LABEL = {"name": "label", "datatype": "INT32", "shape": [1], "data": [1]}


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([TENSOR], "label is missing"),
        ([TENSOR, TENSOR], "twice"),
        ([TENSOR, {**LABEL, "data": [3]}], "label should be 0 to 2. Received: 3"),
        ([TENSOR, {**LABEL, "datatype": "INT64"}], "label should be INT32. Received: INT64"),
        ([TENSOR, {**LABEL, "datatype": "FP16"}], "needs a datatype"),
        ([TENSOR, {**LABEL, "data": [2**31]}], "data should be -2147483648 to 2147483647"),
        ([TENSOR, {**LABEL, "shape": [2**30, 2**30]}], "numbers of its datatype"),
        ([TENSOR, {**LABEL, "shape": [-1]}], "needs a shape"),
        ([TENSOR, {**LABEL, "data": [[1], 2]}], "numbers, flat or in the shape"),
        ([TENSOR, {**LABEL, "parameters": {"binary_data_size": 4}}], "0 bytes left"),
        ("seed", 'a list of "inputs"'),
    ],
)
def test_what_is_wrong_with_tensors(client, inputs, message):
    answer = client.post("/v2/models/painter/infer", json={"inputs": inputs})
    assert answer.status_code == 400 and message in answer.json()["error"]


# Pictures, and the rest ---------------------------------------------------------------------


def test_a_picture_for_a_seed_and_for_a_picture(client, images, artifact):
    inputs, expected = images
    query = {name: int(array[0]) for name, array in inputs.items()}
    answer = client.get("/v1/models/painter/image", params=query)
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(of_png(answer.content), expected[0])
    assert export.inspect(answer.content, artifact).proven
    place = "/v1/models/painter/versions/1/reconstruct"
    headers = {"content-type": "image/png"}
    found = client.post(place, content=answer.content, headers=headers)
    form = client.post(place, files={"image": answer.content})
    assert found.content == form.content and of_png(found.content).shape == (8, 12, 3)
    assert export.inspect(found.content, artifact, {"image": expected[0]}).proven
    other = export.inspect(found.content, artifact, {"image": expected[1]})
    assert other.verdict == "another input"
    for query, message in {
        "seed=1": "label is missing",
        "seed=1&label=x": "label should be a number",
        "seed=1&label=9": "label should be 0 to 2",
        "seed=1&label=1&seed=2": "twice",
        "seed=1&label=1&endpoint=encode": "gives no picture; it gives mean",
        "seed=1&label=1&endpoint=reconstruct": "no input 'label'",
        "image=1&endpoint=encode": "as a picture in the body",
    }.items():
        answer = client.get(f"/v1/models/painter/image?{query}")
        assert answer.status_code == 400 and message in answer.json()["error"], query
    assert client.post(place, content=b"x").status_code == 415


def test_pictures_are_signed_where_there_is_a_signer(artifact, certificates):
    from kgen import credentials

    signer = credentials.Signer(certificates / "mail.pem", certificates / "signer_key.pem")
    with serving_of(artifact.path, signer=signer) as client:
        png = client.get("/v1/models/painter/image?seed=1&label=2").content
    assert credentials.read(png, certificates / "root.pem")["state"] == "trusted"
    assert export.inspect(png, artifact).proven


def test_what_operators_and_browsers_ask_for(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    predict(client, {"instances": [SEED]})
    metrics = client.get("/metrics").text
    assert 'kgen_batch_rows_count{endpoint="generate",model="painter",version="1"}' in metrics
    assert 'status="200"' in metrics and "process_resident_memory_bytes" in metrics
    [model] = client.get("/models.json").json()["models"]
    assert model["versions"] == [1] and model["image_shape"] == [8, 12, 3]
    schema = client.get("/openapi.json").json()
    assert "/v1/models/{name}:predict" in schema["paths"]
    for path in ("/", "/docs/", "/docs/docs.js", "/docs/swagger-ui/swagger-ui-bundle.js"):
        answer = client.get(path)
        assert answer.status_code == 200 and len(answer.content) > 100, path
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe-inline" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_saved_model_gives_the_same(artifact, images):
    inputs, expected = images
    with serving_of(artifact.path, runtime="saved_model") as client:
        found = predict(client, {"instances": rows(inputs)})["predictions"]
        np.testing.assert_array_equal(np.array(found, "uint8"), expected)
        assert client.get("/v2/models/painter").json()["platform"] == "tensorflow_savedmodel"


# Many at a time -----------------------------------------------------------------------------


def slow(client, seconds):
    """Has every batch take so long, as a large model's would."""
    [version] = client.service.models["painter"].values()
    call = version.runtime.call

    def wait(endpoint, inputs):
        time.sleep(seconds)
        return call(endpoint, inputs)

    version.runtime.call = wait


def ask(client, seed, label=0):
    body = {"instances": [{"seed": seed, "label": label}], "signature_name": "generate"}
    return client.post("/v1/models/painter:predict", content=json.dumps(body))


def test_requests_that_come_together_run_together(artifact):
    with serving_of(artifact.path) as client, ThreadPoolExecutor(64) as pool:
        alone = [ask(client, seed, seed % 3).json() for seed in range(64)]
        slow(client, 0.1)
        together = list(pool.map(lambda seed: ask(client, seed, seed % 3).json(), range(64)))
        assert together == alone
        lines = client.get("/metrics").text.splitlines()
        name = 'kgen_batch_rows_count{endpoint="generate"'
        [batches] = [line for line in lines if line.startswith(name)]
        assert float(batches.split()[-1]) - 64 < 16


def test_a_request_that_fails_takes_no_other_with_it(artifact):
    with serving_of(artifact.path) as client, ThreadPoolExecutor(16) as pool:
        slow(client, 0.05)
        [version] = client.service.models["painter"].values()
        call = version.runtime.call

        def fail(endpoint, inputs):
            if 5 in inputs["seed"]:
                raise RuntimeError("no fives")
            return call(endpoint, inputs)

        version.runtime.call = fail
        answers = list(pool.map(lambda seed: ask(client, seed), range(16)))
        failed = [seed for seed, answer in enumerate(answers) if answer.status_code != 200]
        assert failed == [5] and answers[5].status_code == 500
        assert "no fives" not in answers[5].text  # that is for the log


def test_what_is_served_no_more_leaves_the_memory(artifact):
    with serving_of(artifact.path) as client:
        assert ask(client, 7).status_code == 200
        [old] = [weakref.ref(v) for v in client.service.models.pop("painter").values()]
        client.service._sources.clear()
        wait_for(lambda: old() is None)


def test_a_queue_that_is_full_says_when_to_come_again(artifact):
    limits = serving.Limits(queue_rows=4, batch_rows=2)
    with serving_of(artifact.path, limits=limits) as client, ThreadPoolExecutor(16) as pool:
        slow(client, 0.2)
        answers = list(pool.map(lambda seed: ask(client, seed), range(16)))
        codes = {answer.status_code for answer in answers}
        assert codes == {200, 429}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert "rows wait" in refused[0].json()["error"]


def test_who_is_gone_is_not_drawn_for(artifact):
    with serving_of(artifact.path) as client:
        slow(client, 0.5)
        [version] = client.service.models["painter"].values()
        sockets = []
        for seed in range(5):
            body = json.dumps({"instances": [{"seed": seed, "label": 0}]}).encode()
            sockets.append(raw(client, b"/v1/models/painter:predict", body))
            time.sleep(0.03)
        assert version.waiting["generate"] == 4
        for connection in sockets:
            connection.close()
        start = time.monotonic()
        while version.waiting["generate"]:
            assert time.monotonic() - start < 0.4
            time.sleep(0.01)


def test_a_request_that_takes_too_long(artifact):
    with serving_of(artifact.path, limits=serving.Limits(seconds=0.1)) as client:
        slow(client, 0.3)
        answer = ask(client, 1)
        assert answer.status_code == 503 and "within 0.1 s" in answer.json()["error"]


# Limits and tokens --------------------------------------------------------------------------


def raw(client, path, body=b"", head=b"", send=None):
    """A socket on which a request was sent, or only some bytes of it."""
    url = client.base_url
    connection = socket.create_connection((url.host, url.port), timeout=10)
    request = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n%s\r\n%s" % (
        path,
        len(body),
        head,
        body,
    )
    connection.sendall(request[:send])
    return connection


def test_slow_and_large(artifact):
    limits = serving.Limits(receive_seconds=0.3, body_bytes=1000, connections=3)
    path = b"/v1/models/painter:predict"
    with serving_of(artifact.path, limits=limits) as client:
        for status, request in (
            (b"408", {"send": 20}),  # a head without an end
            (b"408", {"body": b"x" * 50, "send": -10}),  # a body without an end
            (b"413", {"body": b"x" * 1001}),
            (b"431", {"head": b"a: " + b"x" * 70_000}),
            (b"415", {"body": b"x", "head": b"content-encoding: gzip\r\n"}),
        ):
            with raw(client, path, **request) as connection:
                assert connection.recv(100).split()[1] == status
        opened = [raw(client, path, send=20) for _ in range(4)]
        assert opened[-1].recv(100).split()[1] == b"503"
        for connection in opened:
            connection.close()
        time.sleep(0.1)
        assert ask(client, 1).status_code == 200


def test_a_name_of_another_machine_is_refused(client):
    """As a page from elsewhere has it whose name was led to this machine."""
    url = client.base_url
    assert client.get("/", headers={"host": f"localhost:{url.port}"}).status_code == 200
    answer = client.get("/", headers={"host": "evil.example"})
    assert answer.status_code == 421 and "evil.example" in answer.json()["error"]


def test_a_token_opens_all_but_the_page(artifact):
    with serving_of(artifact.path, token="correct-horse") as client:
        assert client.get("/").status_code == client.get("/healthz").status_code == 200
        for path in ("/models.json", "/metrics", "/openapi.json", "/docs/", "/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        for given in ("Bearer wrong", "Basic correct-horse", "correct-horse", "Bearer"):
            assert client.get("/metrics", headers={"authorization": given}).status_code == 401
        client.headers["authorization"] = "Bearer correct-horse"
        assert ask(client, 1).status_code == 200


# Versions -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repainted(model, tmp_path_factory):
    """Another artifact of the same name, which draws other images."""
    path = tmp_path_factory.mktemp("repainted") / "painter"
    changed = type(model).from_config(model.get_config())
    changed.set_weights([weight * 1.5 for weight in model.get_weights()])
    return export.export(changed, path, "onnx", progress=False)


def wait_for(condition):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < 20
        time.sleep(0.02)


def test_a_new_version_takes_over_and_a_broken_one_does_not(artifact, repainted, tmp_path):
    place, aside = tmp_path / "painter", tmp_path / "aside"
    shutil.copytree(artifact.path, place)
    shutil.copytree(repainted.path, aside)
    stop, answers = threading.Event(), []
    with serving_of(place) as client, ThreadPoolExecutor(2) as pool:

        def draw():
            while not stop.is_set():
                answers.append(ask(client, 7).json()["predictions"])

        busy = [pool.submit(draw) for _ in range(2)]
        try:
            before = ask(client, 7).json()["predictions"]
            graph = place / "onnx" / "generate.onnx"
            graph.write_bytes(graph.read_bytes()[:-100] + bytes(100))  # in place, as it is served
            wait_for(lambda: "kgen_versions_refused_total 1.0" in client.get("/metrics").text)
            assert ask(client, 7).json()["predictions"] == before
            place.rename(tmp_path / "old")
            aside.rename(place)
            wait_for(lambda: list(client.service.models["painter"]) == [2])
        finally:
            stop.set()
        for worker in busy:
            worker.result()
        after = ask(client, 7).json()["predictions"]
        assert after != before
        assert all(answer in (before, after) for answer in answers)
        assert client.get("/v1/models/painter/versions/1").status_code == 404


def test_a_folder_of_versions(artifact, repainted, tmp_path):
    for number, found in ((1, artifact), (3, repainted)):
        shutil.copytree(found.path, tmp_path / str(number))
    with serving_of(tmp_path) as client:
        status = client.get("/v1/models/painter").json()["model_version_status"]
        assert [version["version"] for version in status] == ["3", "1"]
        assert client.service.labels("painter") == {"stable": 1, "canary": 3}
        shutil.copytree(artifact.path, tmp_path / "4")
        wait_for(lambda: 4 in client.service.models["painter"])
        shutil.rmtree(tmp_path / "1")
        wait_for(lambda: 1 not in client.service.models["painter"])
        assert client.service.labels("painter") == {"stable": 3, "canary": 4}
        by_label = predict(client, {"instances": [SEED]}, place="painter/labels/canary")
        assert by_label == predict(client, {"instances": [SEED]})


def test_what_is_not_in_order_is_not_served(artifact, repainted, tmp_path):
    with pytest.raises(export.VerificationError, match="not an artifact, and holds no numbered"):
        serving.Service([tmp_path]).load()
    with pytest.raises(export.VerificationError, match="has no saved_model"):
        serving.Service([repainted.path], runtime="saved_model").load()
    with pytest.raises(ValueError, match="runtime must be one of"):
        serving.Service([repainted.path], runtime="torch")
    with pytest.raises(ValueError, match="rows must be above 0"):
        serving.Limits(rows=0)
    broken = shutil.copytree(artifact.path, tmp_path / "broken")
    (broken / "golden.npz").write_bytes(b"")
    with pytest.raises(export.VerificationError, match=r"golden\.npz was changed"):
        serving.Service([broken]).load()


# The command --------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_stopped_and_finishes_what_it_accepted(artifact, tmp_path):
    log = tmp_path / "access.log"
    token = tmp_path / "token"
    token.write_text("correct-horse\n")
    command = [sys.executable, "-m", "kgen", "serve", str(artifact.path), "--port", "0"]
    command += ["--access-log", str(log), "--token-file", str(token)]
    environment = {**os.environ, "NO_COLOR": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        loaded, said = json.loads(process.stderr.readline()), process.stderr.readline()
        assert (loaded["event"], loaded["model"]) == ("loaded", "painter")
        address = said.split(" at ")[1].strip()
        headers = {"authorization": "Bearer correct-horse"}
        with httpx.Client(base_url=address, headers=headers) as client:
            assert ask(client, 7).status_code == 200
            body = json.dumps({"instances": [{"seed": 8, "label": 0}] * 64}).encode()
            head = b"authorization: Bearer correct-horse\r\n"
            with raw(client, b"/v1/models/painter:predict", body, head) as connection:
                time.sleep(0.02)
                process.send_signal(signal.SIGTERM)
                assert connection.recv(100).split()[1] == b"200"
                while connection.recv(2**16):
                    pass
        assert process.wait(20) == 0
    first = json.loads(log.read_text().splitlines()[0])
    assert (first["status"], first["model"], first["endpoint"]) == (200, "painter", "generate")
    assert "correct-horse" not in log.read_text()
