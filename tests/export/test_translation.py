"""Translators shipped: pictures of any size in and out, as arrays and as PNG, on every way."""

import base64
import io
import re

import httpx
import keras
import numpy as np
import pytest
from PIL import Image

import export
import kgen
from export import manifest as schema
from export import serving

SIZES = ((8, 8), (13, 22), (40, 9))


@pytest.fixture(scope="module")
def model(tensorflow_only):
    keras.utils.set_random_seed(0)
    model = kgen.models.Restorer(
        (8, 8, 3), degradation="noise:25", filters=8, num_downsamplings=1, middle_blocks=1
    )
    for i, weight in enumerate(model.trainable_weights):
        weight.assign(0.2 * np.random.default_rng(i).normal(size=weight.shape))
    model.ema_network.set_weights(model.network.get_weights())
    return model


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("translation") / "restorer"
    return export.export(model, path, progress=False)


@pytest.fixture(scope="module")
def server(artifact):
    service = serving.Service([artifact.path], hashes_only=True)
    service.load()
    with serving.Server(service, port=0, poll=0) as server:
        yield server


def pictures(count, height, width, channels=3):
    return np.random.default_rng(height).integers(0, 256, (count, height, width, channels), "uint8")


def close(images, expected):
    return images.shape == expected.shape and np.abs(images.astype(int) - expected).max() <= 1


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_the_manifest_says_that_any_size_is_right(artifact):
    endpoint = artifact.endpoints["translate"]
    assert endpoint["inputs"]["image"]["shape"] == ["batch", "height", "width", 3]
    assert endpoint["outputs"]["image"]["example"] == [13, 17, 3]  # none that it was trained on
    assert artifact.manifest["model"]["image_shape"] == [8, 8, 3]
    assert export.verify(artifact.path, progress=False).parity
    card = (artifact.path / "README.md").read_text()
    assert "makes images of images" in card and 'run(["image"], {"input_image"' in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": ["batch", "width", "height", 3]}, "should begin with"),
        ({"shape": ["batch", "height", 8, 3]}, "should begin with"),
        ({"example": [3, 3]}, "should be a shape of a row"),
        ({"shape": ["batch", 8, 8, 3]}, "should be a shape of a row"),
    ],
)
def test_a_manifest_that_says_it_wrong(artifact, change, message):
    import copy

    manifest = copy.deepcopy(artifact.manifest)
    manifest["endpoints"]["translate"]["inputs"]["image"] |= change
    with pytest.raises(ValueError, match=message):
        schema.check(manifest)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_runtime_takes_any_size(artifact, model, height, width):
    import tensorflow as tf

    images, seeds = pictures(3, height, width), np.zeros(3, "int32")
    expected = model.translate(images, seeds=seeds)
    feeds = {"input_image": images, "seed": seeds}
    assert close(artifact.onnx_session("translate").run(["image"], feeds)[0], expected)
    loaded = tf.saved_model.load(artifact.path / "saved_model" / "1")
    given = {"image": tf.constant(images), "seed": tf.constant(seeds)}
    for name in ("serving_default", "translate", "translate_xla"):
        assert close(loaded.signatures[name](**given)["image"].numpy(), expected)
    files = tf.constant([png(image) for image in images])
    made = loaded.signatures["translate_image_bytes"](image_bytes=files, seed=given["seed"])
    made = [np.asarray(Image.open(io.BytesIO(b))) for b in made["image_bytes"].numpy()]
    assert close(np.stack(made), expected)


@pytest.mark.parametrize("protocol", ["rest", "v2"])
def test_clients_send_any_size(server, model, protocol):
    with serving.Client(server.address, protocol) as client:
        for height, width in SIZES:
            images = pictures(3, height, width)
            made = client.call("translate", image=images, seed=np.zeros(3, "int32"))["image"]
            assert close(made, model.translate(images, seeds=[0, 0, 0]))


def test_requests_of_several_sizes_at_once(server, model):
    """They go in batches of one size."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(number):
        height, width = SIZES[number % 3]
        images = pictures(1, height + number, width)
        with serving.Client(server.address, "v2") as client:
            made = client.call("translate", image=images, seed=np.zeros(1, "int32"))["image"]
        return images, made

    with ThreadPoolExecutor(12) as pool:
        for images, made in pool.map(ask, range(24)):
            assert close(made, model.translate(images, seeds=[0]))


def test_a_png_for_a_png(server, model):
    image = pictures(1, 31, 18)
    place = f"{server.address}/v1/models/restorer"
    answer = httpx.post(
        f"{place}/translate?seed=0", content=png(image[0]), headers={"content-type": "image/png"}
    )
    made = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert close(made[None], model.translate(image, seeds=[0]))
    body = {
        "signature_name": "translate_image_bytes",
        "instances": [
            {"image_bytes": {"b64": base64.b64encode(png(image[0])).decode()}, "seed": 0}
        ],
    }
    [found] = httpx.post(f"{place}:predict", json=body).json()["predictions"]
    assert close(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(found["b64"]))))[None], made[None]
    )
    metadata = httpx.get(f"{place}/metadata").json()["metadata"]["signature_def"]["signature_def"]
    sides = metadata["translate"]["inputs"]["image"]["tensor_shape"]["dim"]
    assert [side["size"] for side in sides] == ["-1", "-1", "-1", "3"]


def test_what_a_server_refuses(artifact):
    service = serving.Service(
        [artifact.path], hashes_only=True, limits=serving.Limits(pixels=20 * 20)
    )
    service.load()
    with serving.Server(service, port=0, poll=0) as server:
        place = f"{server.address}/v1/models/restorer"

        def post(content):
            return httpx.post(
                f"{place}/translate?seed=0", content=content, headers={"content-type": "image/png"}
            )

        assert post(png(pictures(1, 20, 20)[0])).status_code == 200
        answer = post(png(pictures(1, 21, 20)[0]))
        assert answer.status_code == 400 and "at most 400 pixels. Received: 20 x 21" in answer.text
        rows = [{"image": pictures(1, 12, 12)[0].tolist(), "seed": 0}] * 3
        answer = httpx.post(f"{place}:predict", json={"instances": rows})
        assert answer.status_code == 400 and "400 pixels in a request" in answer.text
        rows = [{"image": [[]], "seed": 0}]
        assert httpx.post(f"{place}:predict", json={"instances": rows}).status_code == 400
        two = [
            {"image_bytes": {"b64": base64.b64encode(png(image)).decode()}, "seed": 0}
            for image in (pictures(1, 8, 8)[0], pictures(1, 9, 8)[0])
        ]
        body = {"signature_name": "translate_image_bytes", "instances": two}
        answer = httpx.post(f"{place}:predict", json=body)
        assert answer.status_code == 400 and "pictures of one size" in answer.text


def test_grey_with_alpha_is_a_picture_too(tmp_path, tensorflow_only):
    """What is hidden of a grey picture goes in as PNG with two channels, or with four."""
    import tensorflow as tf

    model = kgen.models.Restorer(
        (8, 8, 1), degradation="box:0.25", filters=8, num_downsamplings=1, middle_blocks=1
    )
    artifact = export.export(model, tmp_path / "a", ("saved_model", "onnx"), progress=False)
    given = kgen.data.degrade(pictures(2, 8, 8, 1), "box:0.25")
    loaded = tf.saved_model.load(artifact.path / "saved_model" / "1")
    call = loaded.signatures["translate_image_bytes"]
    coloured = np.concatenate([given[..., :1]] * 3 + [given[..., 1:]], axis=-1)
    for images in (given, coloured):
        files = tf.constant([png(image) for image in images])
        made = call(image_bytes=files, seed=tf.zeros(2, "int32"))["image_bytes"].numpy()
        made = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in made])[..., None]
        np.testing.assert_array_equal(made, model.translate(given))


@pytest.mark.parametrize("target", ["tf-serving", "triton", "kserve", "ray"])
def test_engines(artifact, tmp_path, target):
    """Configurations say that height and width are free, and READMEs call with a picture."""
    folder = tmp_path / "deployed"
    export.deploy([artifact.path], folder, target=target)
    readme = (folder / "README.md").read_text()
    assert "translate" in readme
    if target in ("triton", "kserve"):
        text = next(folder.rglob("restorer/config.pbtxt")).read_text()
        assert "dims: [-1, -1, 3]" in text and "dims: [13, 17, 3]" in text
    if target == "ray":
        assert "-F image=@image.png" in readme and "/translate?seed=7" in readme


def test_no_data_set_is_drawn_of_it(artifact, tmp_path):
    with pytest.raises(ValueError, match="has no endpoint 'generate' that draws images from seeds"):
        export.generate_dataset(artifact, tmp_path / "set", 10, workers=0, progress=False)


@pytest.mark.slow
def test_a_picture_of_its_own_size_on_the_page(server, model, in_chromium, tmp_path):
    image = pictures(1, 21, 34)
    Image.fromarray(image[0]).save(tmp_path / "own.png")

    def use(page):
        page.wait_for_selector("#endpoint option", state="attached")
        assert not page.is_visible("#draw_one")  # it draws nothing of nothing
        page.click("#draw")
        page.wait_for_selector("#error:not([hidden])")
        assert "Upload a picture first" in page.text_content("#error")
        page.set_input_files("#upload", tmp_path / "own.png")
        page.wait_for_selector("text=own.png, as 34")
        page.fill("#count", "1")
        page.click("#draw")
        page.wait_for_selector("#grid li img")
        return page.eval_on_selector(
            "#grid img",
            """async (image) => {
              await image.decode();
              const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0);
              const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
              return [canvas.height, canvas.width, ...pixels];
            }""",
        )

    height, width, *pixels = in_chromium(use, server.address + "/")
    made = np.array(pixels, "uint8").reshape(1, height, width, 4)[..., :3]
    assert close(made, model.translate(image, seeds=[0]))


@pytest.mark.slow
def test_a_style_on_the_page(in_chromium, tmp_path, tensorflow_only):
    model = kgen.models.StyleTransfer((8, 8, 3), filters=8)
    artifact = export.export(model, tmp_path / "style", ("onnx",), progress=False)
    for name, shape in (("one", (20, 24)), ("two", (12, 9))):
        Image.fromarray(pictures(1, *shape)[0]).save(tmp_path / f"{name}.png")

    def use(page):
        page.wait_for_selector("#endpoint option", state="attached")
        page.set_input_files("#upload", tmp_path / "one.png")
        page.wait_for_selector("text=one.png, as 24")
        page.click("#draw")
        page.wait_for_selector("#error:not([hidden])")
        assert "the style first" in page.text_content("#error")
        page.set_input_files("#upload_style", tmp_path / "two.png")
        page.wait_for_selector("text=two.png, as 9")
        page.click("#draw")
        page.wait_for_selector("#grid li img")
        return page.text_content("#request")

    service = serving.Service([artifact.path], hashes_only=True)
    service.load()
    with serving.Server(service, port=0, poll=0) as server:
        request = in_chromium(use, server.address + "/")
    assert re.search('"style_bytes":', request)
