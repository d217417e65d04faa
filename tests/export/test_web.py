"""The format `web`, and the page: in Node.js and in headless Chromium."""

import base64
import contextlib
import io
import json
import math
import pathlib
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import export
from export import serving, web
from kgen import random
from kgen.endpoint import Endpoint, TensorSpec, image_spec, label_spec, mask_spec, seed_spec

IMAGE_SHAPE = (8, 12, 3)
LATENT_DIM = 6


class Playground(keras.Model):
    """A model that has of everything that the page offers."""

    num_classes, image_shape = 3, IMAGE_SHAPE

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.decoder = keras.layers.Dense(math.prod(IMAGE_SHAPE), activation="sigmoid")
        self.decoder.build((None, LATENT_DIM + 3))
        self.built = True

    def get_config(self):
        return {}

    def decode(self, latent, label):
        both = ops.concatenate([latent, ops.one_hot(label, 3)], axis=1)
        pixels = ops.reshape(self.decoder(both), (-1, *IMAGE_SHAPE))
        return {"image": ops.cast(pixels * 255 + 0.5, "uint8")}

    def generate(self, seed, label, temperature=(1.0,)):
        noise = random.normal(seed, (LATENT_DIM,))
        return self.decode(noise * ops.reshape(temperature, (-1, 1)), label)

    def complete(self, image, mask, seed, label):
        drawn = self.generate(seed, label)["image"]
        return {"image": ops.where(ops.expand_dims(mask, -1) > 0, image, drawn)}

    def vary(self, image, seed, strength=(0.5,)):
        drawn = self.generate(seed, ops.zeros_like(seed))["image"]
        share = ops.reshape(strength, (-1, 1, 1, 1))
        mixed = share * ops.cast(drawn, "float32") + (1 - share) * ops.cast(image, "float32")
        return {"image": ops.cast(mixed, "uint8")}

    def score(self, image):
        return {"brightness": ops.mean(ops.cast(image, "float32"), axis=(1, 2, 3))}

    def endpoints(self):
        image, mask = {"image": image_spec(IMAGE_SHAPE)}, {"mask": mask_spec(IMAGE_SHAPE)}
        seed, label = {"seed": seed_spec()}, {"label": label_spec(3)}
        temperature = {"temperature": TensorSpec((), "float32", 0, None, "of the noise", 1.0)}
        strength = {"strength": TensorSpec((), "float32", 0, 1, "how far from it", 0.5)}
        latent = {"latent": TensorSpec((LATENT_DIM,), "float32")}
        brightness = {"brightness": TensorSpec((), "float32")}
        return {
            "generate": Endpoint(self.generate, seed | label | temperature, image, "draws images"),
            "decode": Endpoint(self.decode, latent | label, image, "draws latent vectors"),
            "complete": Endpoint(self.complete, image | mask | seed | label, image, "completes"),
            "vary": Endpoint(self.vary, image | seed | strength, image, "varies an image"),
            "score": Endpoint(self.score, image, brightness, "measures an image"),
        }


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return Playground(name="playground")


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    try:
        path = tmp_path_factory.mktemp("web") / "playground"
        return export.export(model, path, formats=("onnx", "web"), progress=False)
    except export.ExportError as error:
        if "npm" in str(error):
            pytest.skip(str(error))
        raise


# The format -----------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_proven_and_proven_again(artifact):
    section = artifact.manifest["formats"]["web"]
    whole = {"generate_with_options", "decode", "complete", "vary_with_options", "score"}
    assert section["signatures"].keys() == whole
    found = export.verify(artifact.path, progress=False)
    proven = {(row["runtime"], row["signature"], row["batch_size"]) for row in found.parity}
    expected = {("onnxruntime-web", name, size) for name in whole for size in (1, 8)}
    assert expected == {row for row in proven if row[0] == "onnxruntime-web"}
    web_rows = [row for row in found.parity if row["format"] == "web"]
    assert web_rows == [row for row in artifact.manifest["parity"] if row["format"] == "web"]
    assert all(row["max_difference"] <= row["limit"] for row in web_rows)
    files = {name for name in artifact.manifest["files"] if name.startswith("web/")}
    assert {"web/index.html", "web/models.json", "web/static/page.js"} <= files
    [described] = json.loads((artifact.path / "web" / "models.json").read_text())["models"]
    assert described["endpoints"] == artifact.manifest["endpoints"]
    assert all((artifact.path / "web" / file).is_file() for file in described["files"].values())


@pytest.mark.slow
def test_it_may_be_the_only_format(artifact, one_endpoint, tmp_path):
    model = one_endpoint(
        lambda seed: {"image": ops.cast(random.uniform(seed, (2, 2, 1)) * 255, "uint8")}
    )
    made = export.export(model, tmp_path / "artifact", formats="web", progress=False)
    assert made.formats == ("web",) and not (tmp_path / "artifact" / "onnx").exists()
    assert "weights" not in json.loads((made.path / "web" / "models.json").read_text())["models"][0]
    export.verify(made.path, progress=False)


def resigned(folder, name, change):
    """A copy of an artifact in which somebody changed a file, and its hash with it."""
    from export import artifact as artifacts

    (folder / name).write_bytes(change((folder / name).read_bytes()))
    manifest = export.load(folder).manifest
    artifacts.write_manifest(folder, manifest)


@pytest.mark.slow
def test_verify_runs_no_other_code(artifact, tmp_path):
    """An artifact brings the JavaScript along that proves it: only npm's own is run."""
    folder = shutil.copytree(artifact.path, tmp_path / "changed")
    flag = tmp_path / "ran"
    code = f"import fs from 'node:fs'; fs.writeFileSync('{flag}', '');".encode()
    resigned(folder, "web/onnxruntime/ort.wasm.bundle.min.mjs", lambda before: code + before)
    with pytest.raises(export.VerificationError, match=r"is not the file of onnxruntime-web@1"):
        export.verify(folder, progress=False)
    assert not flag.exists()


@pytest.mark.slow
def test_verify_names_what_it_needs(artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(export.VerificationError, match=r"proven with Node\.js.* Install"):
        export.verify(artifact.path, formats=("web",), progress=False)
    export.verify(artifact.path, formats=("onnx",), progress=False)


@pytest.mark.slow
def test_another_image_is_refused(artifact, tmp_path):
    folder = shutil.copytree(artifact.path, tmp_path / "changed")
    resigned(folder, "web/onnx/decode.onnx", lambda model: model.replace(b"Sigmoid", b"Softmax"))
    with pytest.raises(export.VerificationError, match=r"'decode'.*onnxruntime-web.* differs from"):
        export.verify(folder, progress=False)


@pytest.mark.parametrize("missing", ["node", "npm"])
def test_what_is_missing_is_named_before_anything_is_written(model, missing, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in {"node", "npm"} - {missing}:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(export.ExportError, match=rf"needs {missing} .*Install Node\.js"):
        export.export(model, tmp_path / "artifact", formats=("onnx", "web"), progress=False)
    assert not (tmp_path / "artifact").exists()


def test_when_npm_fails_it_is_said_what_npm_said(tmp_path, monkeypatch):
    from export import onnxruntime_web

    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("node", "npm"):
        (programs / name).write_text("#!/bin/sh\necho no such registry >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    with pytest.raises(export.ExportError, match=r"npm pack .* failed: no such registry"):
        onnxruntime_web._files.__wrapped__()  # a process that has fetched them asks no more


@pytest.mark.any_backend
def test_the_page_has_nothing_inline_and_no_address():
    page = (web.PAGE / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "unsafe-inline" not in policy and "default-src 'none'" in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    assert len(web.page_files()) > 5
    for path in (web.PAGE / "index.html", *web.page_files()):
        addresses = re.findall(r"https?://[^\s\"'`]+", path.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path  # the name of a format


# The page -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visit(artifact, in_chromium, file_server):
    """`visit(function, **options)`: what `in_chromium` makes of the page."""

    def run(function, **options):
        def ready(page):
            page.wait_for_selector("#endpoint option", state="attached")
            return function(page)

        return in_chromium(ready, file_server.url(artifact.path / "web"), **options)

    return run


def draw(page, count=4):
    page.fill("#count", str(count))
    page.click("#draw")
    finish(page)
    assert page.locator("#grid li").count() == count


def finish(page):
    page.wait_for_selector("#results[aria-busy=false]")
    assert not page.is_visible("#error"), page.text_content("#error")


def shown(page, selector):
    """The pixels of the images on the page, from the files that stand behind them."""
    pixels = page.eval_on_selector_all(
        selector,
        """async (images) => Promise.all(images.map(async (image) => {
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
        }))""",
    )
    return np.array(pixels, "uint8").reshape(-1, *IMAGE_SHAPE[:2], 4)[..., :3]


def by_keras(function, *arguments):
    arguments = [np.asarray(array) for array in arguments]
    return ops.convert_to_numpy(function(*map(ops.convert_to_tensor, arguments))["image"])


def close(images, expected):
    difference = np.abs(images.astype(int) - expected.astype(int))
    return images.shape == expected.shape and difference.max() <= 1


@pytest.mark.slow
def test_the_grid_shows_what_keras_draws(visit, model):
    def use(page):
        page.fill("#seed", "40")
        draw(page, 6)
        seeds, labels = np.arange(40, 46, dtype="int32"), np.arange(6, dtype="int32") % 3
        assert close(shown(page, "#grid img"), by_keras(model.generate, seeds, labels))
        assert re.fullmatch(
            r"6 images in this browser in [\d.]+ m?s, [\d.]+ m?s each\.",
            page.text_content("#status"),
        )
        page.fill("#option_temperature", "0.25")
        page.select_option("#label", "2")
        draw(page, 6)
        labels, temperatures = np.full(6, 2, "int32"), np.full(6, 0.25, "float32")
        expected = by_keras(model.generate, seeds, labels, temperatures)
        assert close(shown(page, "#grid img"), expected)
        assert not page.is_visible("#request_panel")  # there is no request

    visit(use)


@pytest.mark.slow
def test_a_click_keeps_a_seed(visit, model, artifact):
    def use(page):
        draw(page)
        page.click("#grid li:nth-child(3) button")
        page.click("#grid li:nth-child(2) button")
        assert page.locator("#kept li").all_inner_texts() == [
            "seed 2, class 2\nRemove",
            "seed 1, class 1\nRemove",
        ]
        assert page.get_attribute("#large", "alt") == "Image of seed 1, class 1, enlarged"
        assert "Temperature" in page.inner_text("#facts_of_image").title()
        with page.expect_download() as download:
            page.click("#save")
        with Image.open(download.value.path()) as image:
            assert image.format == "PNG" and image.mode == "RGB"
            one = np.array([1], "int32")
            assert close(np.asarray(image)[None], by_keras(model.generate, one, one))
        assert export.inspect(download.value.path(), artifact).proven
        with page.expect_download() as download:
            page.click("#save_grid")
        assert export.inspect(download.value.path(), artifact).figures["images"] == 4
        page.check("#use_kept")
        page.select_option("#label", "0")
        page.click("#draw")
        finish(page)
        expected = by_keras(model.generate, np.array([2, 1], "int32"), np.zeros(2, "int32"))
        assert close(shown(page, "#grid img"), expected)
        page.click("#kept li:nth-child(1) button")
        assert page.evaluate("document.activeElement.textContent") == "Remove"
        page.click("#forget")
        assert page.is_disabled("#use_kept") and not page.is_visible("#kept_panel")

    visit(use, accept_downloads=True)


@pytest.mark.slow
def test_a_walk_goes_from_seed_to_seed(visit, model):
    def use(page):
        page.fill("#walk_from", "3")
        page.fill("#walk_to", "4")
        page.fill("#walk_steps", "5")
        page.select_option("#walk_label", "1")
        page.click("#walk_go")
        finish(page)
        alt = page.eval_on_selector_all("#way img", "images => images.map(image => image.alt)")
        assert alt[0] == "0 % of the way, seed 3" and alt[2] == "50 % of the way"
        return shown(page, "#way img")

    way = visit(use)
    labels = np.ones(5, "int32")
    ends = ops.convert_to_numpy(random.normal(ops.convert_to_tensor([3, 4]), (LATENT_DIM,)))
    from kgen.evaluation.interpolation import spherical

    latents = spherical(ends[:1], ends[1:], 5)[0].astype("float32")
    assert close(way, by_keras(model.decode, latents, labels))
    assert close(way[[0, -1]], by_keras(model.generate, np.array([3, 4], "int32"), labels[:2]))


def erased(page):
    label = page.get_attribute("#canvas", "aria-label")
    return int(re.search(r"(\d+) of 96 erased", label)[1])


@pytest.mark.slow
def test_a_mask_is_painted_by_pointer_and_by_keyboard(visit, model):
    def use(page):
        draw(page, 1)
        page.select_option("#endpoint", "complete")
        assert erased(page) == 48  # the lower half
        page.click("#mask_none")
        assert erased(page) == 0
        page.select_option("#brush_size", "1")
        # By pointer: a line along the second row of pixels, from the first to the fifth.
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        side = box["width"] / 12
        page.mouse.move(box["x"] + 0.5 * side, box["y"] + 1.5 * side)
        page.mouse.down()
        page.mouse.move(box["x"] + 4.5 * side, box["y"] + 1.5 * side)
        page.mouse.up()
        assert erased(page) == 5
        page.check("input[value=keep]")
        page.mouse.click(box["x"] + 0.5 * side, box["y"] + 1.5 * side)
        assert erased(page) == 4
        page.check("input[value=erase]")
        # By keyboard: two steps down, one right; Space turns a cell over, and back.
        page.focus("#canvas")
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", " "):
            page.keyboard.press(key)
        assert page.text_content("#place") == "Row 4, column 2: erased"
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("ArrowLeft")
        assert erased(page) == 6
        page.keyboard.press(" ")
        assert erased(page) == 5
        page.fill("#seed", "9")
        page.select_option("#label", "1")
        draw(page, 2)
        return shown(page, "#grid img")

    mask = np.ones((8, 12), bool)
    mask[1, 1:5] = mask[3, 2] = False
    picture = by_keras(model.generate, np.zeros(1, "int32"), np.zeros(1, "int32"))
    ones = np.ones(2, "int32")
    drawn = by_keras(model.generate, np.array([9, 10], "int32"), ones)
    expected = np.where(mask[None, :, :, None], picture, drawn)
    assert close(visit(use), expected)


@pytest.mark.slow
def test_an_uploaded_picture_goes_in(visit, model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, *IMAGE_SHAPE), "uint8")
    Image.fromarray(pixels[0]).save(tmp_path / "own.png")
    (tmp_path / "no.png").write_text("no picture")

    def use(page):
        page.select_option("#endpoint", "vary")
        finish(page)  # it has drawn one to begin with
        page.set_input_files("#upload", tmp_path / "no.png")
        page.wait_for_selector("#error:not([hidden])")
        assert "no.png is no picture" in page.text_content("#error")
        page.set_input_files("#upload", tmp_path / "own.png")
        page.wait_for_selector("text=own.png, as 12")
        page.locator("#option_strength").press("ArrowRight")
        assert page.text_content("#options output >> nth=0") == "0.51"
        draw(page, 1)
        varied = shown(page, "#grid img")
        page.select_option("#endpoint", "score")
        page.click("#draw")
        finish(page)
        page.click("#grid button")
        return varied, page.inner_text("#facts_of_image")

    varied, facts = visit(use)
    zero, strength = np.zeros(1, "int32"), np.array([0.51], "float32")
    assert close(varied, by_keras(model.vary, pixels, zero, strength))
    assert abs(float(re.search(r"[\d.]+$", facts)[0]) - pixels.mean()) < 0.01


@pytest.mark.slow
def test_the_page_at_any_width_and_light(visit, tmp_path_factory):
    """Nothing is wider than a phone, and axe finds nothing, in light and dark."""
    axe = _axe(tmp_path_factory)

    def use(page):
        draw(page)
        page.click("#grid li:nth-child(2) button")
        page.select_option("#endpoint", "complete")
        assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
        for control in page.query_selector_all("input, select, button"):
            if control.is_visible():
                named = control.evaluate(NAME)
                assert named.strip(), control.evaluate("e => e.outerHTML")
        if axe:
            page.evaluate(axe)
            found = page.evaluate("axe.run()")["violations"]
            assert not found, [(each["id"], each["nodes"][0]["html"]) for each in found]

    for scheme, width in (("light", 390), ("dark", 1280)):
        visit(use, color_scheme=scheme, viewport={"width": width, "height": 844})


@pytest.mark.slow
def test_what_keeps_the_page_from_starting_is_shown(artifact, in_chromium, file_server, tmp_path):
    shutil.copytree(artifact.path / "web", tmp_path / "web")
    (tmp_path / "web" / "models.json").unlink()

    def use(page):
        page.wait_for_selector("text=models.json: 404")
        assert not page.is_visible("#main")

    in_chromium(use, file_server.url(tmp_path / "web"), allowed="404")


# The page of a server --------------------------------------------------------------------


@contextlib.contextmanager
def served(artifact, **options):
    service = serving.Service([artifact.path], hashes_only=True)
    service.load()
    with serving.Server(service, port=0, poll=0, **options) as server:
        yield server.address + "/"


@pytest.mark.slow
def test_the_page_asks_a_server(artifact, model, in_chromium):
    def use(page):
        page.wait_for_selector("#endpoint option", state="attached")
        page.fill("#seed", "40")
        page.fill("#option_temperature", "0.25")
        draw(page, 3)
        seeds, labels = np.arange(40, 43, dtype="int32"), np.arange(3, dtype="int32")
        expected = by_keras(model.generate, seeds, labels, np.full(3, 0.25, "float32"))
        assert close(shown(page, "#grid img"), expected)
        assert "3 images on the server in" in page.text_content("#status")
        assert close(asked(page.text_content("#request")), expected)
        page.click("#copy")
        page.wait_for_selector("#status:has-text('the request')")  # copied, or selected
        # A picture and a mask go there as PNG.
        page.select_option("#endpoint", "complete")
        draw(page, 2)
        expected[1:] = expected[0]
        drawn = by_keras(model.generate, seeds[:2], labels[:2])
        drawn[:, :4] = expected[:2, :4]
        assert close(shown(page, "#grid img"), drawn)
        assert close(asked(page.text_content("#request")), drawn)
        page.click("#walk_go")
        finish(page)
        assert page.locator("#way li").count() == 10
        page.select_option("#version", "1")
        page.select_option("#endpoint", "score")
        page.click("#draw")
        finish(page)
        assert "/versions/1:predict" in page.text_content("#request")

    with served(artifact) as address:
        in_chromium(use, address)


def asked(command):
    """The images that a request of the page brings in a shell."""
    answer = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    strings = [base64.b64decode(row["b64"]) for row in json.loads(answer)["predictions"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(string))) for string in strings])


@pytest.mark.slow
def test_the_page_asks_for_the_token(artifact, in_chromium):
    def use(page):
        page.wait_for_selector("#token_dialog[open]")
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type("wrong token")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=does not know this token")
        page.fill("#token", "right token")
        page.keyboard.press("Enter")
        page.wait_for_selector("#endpoint option", state="attached")
        draw(page, 1)
        assert "Bearer $TOKEN" in page.text_content("#request")
        assert "right token" not in page.content()

    with served(artifact, token="right token") as address:
        in_chromium(use, address, allowed="401")


@pytest.mark.slow
def test_what_a_server_refuses_is_shown(artifact, in_chromium):
    def use(page):
        page.wait_for_selector("#endpoint option", state="attached")
        page.fill("#count", "64")
        page.click("#draw")
        page.wait_for_selector("#error:not([hidden])")
        return page.text_content("#error")

    service = serving.Service(
        [artifact.path], hashes_only=True, limits=serving.Limits(rows=8, loop_rows=8)
    )
    service.load()
    with serving.Server(service, port=0, poll=0) as server:
        said = in_chromium(use, server.address + "/", allowed="40[0-9]|413")
    assert "64" in said and "8" in said


NAME = "control => control.labels?.[0]?.innerText || control.innerText || control.ariaLabel"


def _axe(tmp_path_factory):
    """The source of axe-core, or `None` where npm does not fetch it."""
    folder = tmp_path_factory.mktemp("axe")
    try:
        command = ["npm", "pack", "axe-core@4.10.2", "--prefer-offline", "--silent"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return None
    [archive] = folder.glob("*.tgz")
    shutil.unpack_archive(archive, folder, "gztar")
    return pathlib.Path(folder, "package", "axe.min.js").read_text()
