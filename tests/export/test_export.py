"""What `export` writes, and that it writes all or nothing."""

import json
import os
import resource
import shutil

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import export
import kgen
from kgen import files
from kgen.endpoint import TensorSpec


def test_layout(artifact, tree, tmp_path):
    expected = {"manifest.json", "README.md", "samples.png", "golden.npz", "onnx/weights.bin"}
    expected |= {f"onnx/{name}.onnx" for name in artifact.endpoints}
    expected |= {
        f"saved_model/1/{name}"
        for name in (
            "saved_model.pb",
            "fingerprint.pb",
            "variables/variables.index",
            "variables/variables.data-00000-of-00001",
            "assets.extra/tf_serving_warmup_requests",
        )
    }
    assert set(tree(artifact.path)) == expected
    # TF Serving runs as somebody else: the folder's mode is an ordinary one.
    (tmp_path / "ordinary").mkdir()
    assert artifact.path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_manifest(artifact, tree, model):
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest == artifact.manifest == export.load(artifact.path).manifest
    hashes = {name: file["sha256"] for name, file in manifest["files"].items()}
    assert hashes == {k: v for k, v in tree(artifact.path).items() if k != "manifest.json"}
    assert manifest["name"] == "painter"
    assert manifest["model"]["class"] == "Painter"
    assert manifest["model"]["image_shape"] == [8, 12, 3]
    assert manifest["versions"]["keras"] == keras.__version__
    assert manifest["metadata"] == {"data": {"name": "none"}}
    assert manifest["endpoints"]["generate"]["inputs"]["label"]["maximum"] == 2
    assert manifest["endpoints"]["decode"]["inputs"]["latent"]["shape"] == ["batch", 8]


def test_parity_covers_everything(artifact):
    rows = artifact.manifest["parity"]
    runs = {(row["runtime"], row["signature"], row["batch_size"]) for row in rows}
    endpoints = {"generate", "encode", "decode", "reconstruct"}
    signatures = endpoints | {"serving_default", "generate_xla", "image_bytes"}
    signatures |= {"encode_image_bytes", "decode_image_bytes", "reconstruct_image_bytes"}
    assert runs == {
        (runtime, signature, batch_size)
        for runtime, names in (
            ("Keras", endpoints),
            ("onnxruntime", endpoints),
            ("TensorFlow C API", signatures),
        )
        for signature in names
        for batch_size in (1, 8)
    }
    assert all(row["passed"] for row in rows)
    assert all(row["max_difference"] <= 1 and row["equal"] > 0.99 for row in rows
               if row["output"] == "image")  # fmt: skip


def test_summary(artifact):
    rows = {(row["format"], row["signature"]): row for row in artifact.summary()}
    assert len(rows) == 10 + 4
    assert rows["onnx", "encode"]["path"] == "onnx/encode.onnx"
    assert 0 < rows["onnx", "encode"]["max_difference"] < 1e-4
    assert artifact.size == sum(
        path.stat().st_size
        for path in artifact.path.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    )


def test_golden_inputs_span_their_range(golden):
    inputs = golden["generate"]["inputs"]
    assert inputs["seed"].dtype == np.int32
    assert (inputs["seed"][0], inputs["seed"][-1]) == (0, 2**31 - 1)
    assert (inputs["label"].min(), inputs["label"].max()) == (0, 2)
    images = golden["encode"]["inputs"]["image"]
    np.testing.assert_array_equal(images[:4], golden["generate"]["outputs"]["image"][:4])
    assert images[4:].std() > 60  # uniform noise: 74


def test_samples_and_model_card(artifact):
    with Image.open(artifact.path / "samples.png") as image:
        assert image.mode == "RGB" and image.width > 8 * 12 and image.height > 8 * 8
    assert export.inspect(artifact.path / "samples.png", artifact).proven
    text = (artifact.path / "README.md").read_text()
    for wanted in ("# painter", "8x12", "3 classes", '"instances": [{"seed": 7, "label": 0}]',
                   "image_bytes", "weights.bin", "`input_image`", "TensorFlow C API", "OpenVINO",
                   '"signature_name": "encode_image_bytes", "instances": [{"image_bytes": {"b64"',
                   keras.__version__):  # fmt: skip
        assert wanted in text
    assert str(artifact.path.parent) not in text


def test_no_path_of_this_machine(artifact):
    here = str(artifact.path.parent).encode()
    for path in artifact.path.rglob("*"):
        if path.is_file():
            assert here not in path.read_bytes(), path


def test_readme_code_runs(artifact, monkeypatch):
    """The Python lines of the model card, as they stand."""
    text = (artifact.path / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(artifact.path)
    scope = {}
    exec(code, scope)
    assert scope["image"].shape == (1, 8, 12, 3)


def test_a_path_that_tensorflow_takes_for_a_pattern(one_endpoint, tmp_path):
    def image(seed):
        return {"image": ops.cast(kgen.random.uniform(seed, (2, 2, 1)) * 256, "uint8")}

    with pytest.raises(ValueError, match=r"finds none under one with \["):
        export.export(one_endpoint(image), tmp_path / "a [1]" / "b", progress=False)
    assert not any(tmp_path.iterdir())
    made = export.export(one_endpoint(image), tmp_path / "a [1]", ("onnx",), progress=False)
    assert export.verify(made.path, progress=False).parity


def test_keras_export_names_ours(tmp_path):
    model = kgen.models.VAE(**kgen.models.VAE.presets["vae_tiny"])
    with pytest.raises(ValueError, match=r"export\.export"):
        model.export(tmp_path / "vae")
    assert not any(tmp_path.iterdir())


def test_one_format(one_endpoint, tmp_path):
    def image(seed):
        return {"image": ops.cast(kgen.random.uniform(seed, (2, 2, 1)) * 256, "uint8")}

    only_onnx = export.export(one_endpoint(image), tmp_path / "a", formats="onnx", progress=False)
    assert sorted(p.name for p in (only_onnx.path / "onnx").iterdir()) == ["generate.onnx"]
    assert not (only_onnx.path / "saved_model").exists()
    only_saved_model = export.export(
        one_endpoint(image), tmp_path / "b", formats=("saved_model",), progress=False
    )
    assert only_saved_model.formats == ("saved_model",)
    with pytest.raises(ValueError, match="no ONNX file for endpoint 'generate'"):
        only_saved_model.onnx_session("generate")
    assert export.verify(tmp_path / "b", progress=False).parity


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16"])
def test_half_precision_is_exported_in_float32(dtype, tmp_path):
    model = kgen.models.VAE(**kgen.models.VAE.presets["vae_tiny"], num_classes=3, dtype=dtype)
    artifact = export.export(model, tmp_path / "vae", formats=("onnx",), progress=False)
    assert artifact.manifest["model"]["config"]["dtype"]["config"]["name"] == "float32"
    assert model.dtype_policy.name == dtype
    inputs = {"seed": np.arange(16, dtype="int32"), "label": np.zeros(16, "int32")}
    images = artifact.onnx_session().run(["image"], inputs)[0]
    half = model.generate(seeds=range(16), labels=0).astype("int32")
    # The same model: in half precision it gives nearly the same images.
    assert np.abs(images - half).max() <= 3


# Bad arguments -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": ("saved_model", "onx")}, "Unknown format 'onx'.*Did you mean 'onnx'"),
        ({"formats": ()}, "formats must name one of"),
        ({"opset": 17}, "opset must be 18 to 23. Received: opset=17"),
        ({"opset": 24}, "opset must be 18 to 23"),
        ({"batch_sizes": (8,)}, "batch_sizes must be two or more"),
        ({"batch_sizes": (0, 8)}, "batch_sizes must be two or more"),
        ({"batch_sizes": 8}, "batch_sizes must be two or more"),
        ({"batch_sizes": (1.5, 8)}, "batch_sizes must be two or more"),
        ({"metadata": {"score": float("nan")}}, "metadata must be plain, finite data"),
        ({"metadata": {"score": object()}}, "metadata must be plain, finite data"),
    ],
)
def test_bad_argument(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export.export(model, tmp_path / "a", progress=False, **arguments)
    assert not any(tmp_path.iterdir())


def test_model_without_endpoints(tmp_path):
    with pytest.raises(export.ExportError, match=r"must have endpoints.*Received: Sequential"):
        export.export(keras.Sequential(), tmp_path / "a", progress=False)


def test_path_in_use(model, tmp_path, tree):
    (tmp_path / "note.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not an artifact, so it is never overwritten"):
            export.export(model, tmp_path, overwrite=overwrite, progress=False)
    with pytest.raises(FileExistsError, match="not an artifact"):
        export.export(model, tmp_path / "note.txt", progress=False)
    assert list(tree(tmp_path)) == ["note.txt"]


@pytest.mark.any_backend
def test_jax_is_told_how(run_python, tmp_path):
    pytest.importorskip("jax")
    code = """
import sys, keras, export
try:
    export.export(keras.Sequential(), sys.argv[1])
except export.ExportError as error:
    print(error)
"""
    printed = run_python(code, tmp_path / "a", backend="jax").stdout
    assert "runs 'jax'" in printed and "KERAS_BACKEND=tensorflow" in printed
    assert not any(tmp_path.iterdir())


# All or nothing ----------------------------------------------------------------------


@pytest.fixture
def old_artifact(artifact, tmp_path):
    shutil.copytree(artifact.path, tmp_path / "painter")
    return tmp_path / "painter"


def test_overwrite(old_artifact, model, tree):
    with pytest.raises(FileExistsError, match="already holds an artifact"):
        export.export(model, old_artifact, progress=False)
    export.export(model, old_artifact, ("onnx",), name="new", overwrite=True, progress=False)
    assert export.load(old_artifact).name == "new"
    assert not (old_artifact / "saved_model").exists()
    assert [path.name for path in old_artifact.parent.iterdir()] == ["painter"]


def test_overwrite_removes_an_artifact_and_nothing_else(old_artifact, model, tree, tmp_path):
    (old_artifact / "onnx/mine.txt").write_text("mine")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/manifest.json").write_text("{}")  # of a web page, for instance
    (tmp_path / "app/index.html").write_text("mine")
    before = tree(tmp_path)
    for path, message in (
        (old_artifact, "files beside those of its artifact.*: onnx/mine.txt. Move them"),
        (tmp_path / "app", "cannot be told from other files, so it is never overwritten: .*app"),
    ):
        with pytest.raises(FileExistsError, match=message):
            export.export(model, path, overwrite=True, progress=False)
    assert tree(tmp_path) == before


def test_an_artifact_that_another_process_writes(model, tmp_path):
    path = tmp_path / "a"
    with files.new_folder(path):
        with pytest.raises(BlockingIOError, match=f"a is in use by process {os.getpid()} on "):
            export.export(model, path, progress=False)
        assert (tmp_path / ".a.kgen-new").is_dir()
    assert path.is_dir()


def test_interrupt_leaves_the_old_artifact(old_artifact, one_endpoint, tree):
    calls = []

    def image(seed):
        calls.append(seed)
        if len(calls) == 2:  # Keras's own graph is traced; the SavedModel is being made
            raise KeyboardInterrupt
        return {"image": ops.zeros((ops.shape(seed)[0], 2, 2, 1), "uint8")}

    before = tree(old_artifact.parent)
    with pytest.raises(KeyboardInterrupt):
        export.export(one_endpoint(image), old_artifact, overwrite=True, progress=False)
    assert tree(old_artifact.parent) == before
    assert len(list(old_artifact.parent.iterdir())) == 1


def test_failure_leaves_no_new_parent_folders(one_endpoint, tmp_path):
    def image(seed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export.export(one_endpoint(image), tmp_path / "new" / "deep" / "a", progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [1_000, 100_000])
def test_full_disk(model, tmp_path, limit):
    """Files that cannot grow: the golden arrays at 1 kB, the SavedModel at 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(export.ExportError, match=r"could not be written: .*too large"):
            export.export(model, tmp_path / "a", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(tmp_path.iterdir())


# Wrong models and wrong conversions ---------------------------------------------------


def grey(values, seed):
    """uint8 [B, 2, 2, 1] from one value per row."""
    values = ops.reshape(values, (-1, 1, 1, 1))
    return {"image": ops.cast(ops.broadcast_to(values, (ops.shape(seed)[0], 2, 2, 1)), "uint8")}


def silently_wrong(seed):
    # tf2onnx truncates towards zero where Python and TensorFlow round down.
    return grey(128 + ops.mod(seed, 100) + (ops.mod(seed, 100) - 90) // 7, seed)


def mixes_rows(seed):
    return grey(ops.mod(seed, 128) + ops.max(ops.mod(seed, 100)), seed)


def hidden_state(seed):
    return grey(keras.random.randint((ops.shape(seed)[0],), 0, 256), seed)


def not_finite(seed):
    return {"image": ops.zeros((ops.shape(seed)[0], 2, 2, 1)) / 0}


def unsupported(seed):
    return grey(100 + 50 * ops.erfinv(ops.mod(seed, 7) / 8), seed)


def unsupported_xla_op(seed):
    x = ops.zeros((ops.shape(seed)[0], 2, 2, 1), "uint8")
    return {"image": ops.slice_update(x, (0, 0, 0, 0), x)}


def wrong_name(seed):
    return {"picture": seed}


def wrong_type(seed):
    return {"image": ops.cast(grey(seed, seed)["image"], "float32")}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (silently_wrong, "Endpoint 'generate', output 'image'.*onnxruntime, batch size 1: differs"),
        (mixes_rows, "Endpoint 'generate', output 'image'.*Keras, batch size 1: differs"),
        (hidden_state, "Endpoint 'generate', output 'image'.*Keras, batch size 1: differs"),
        (unsupported, "Endpoint 'generate' does not convert to ONNX: .*Erfinv"),
        (unsupported_xla_op, "Endpoint 'generate' does not convert to ONNX: .*Xla"),
        (wrong_name, r"Endpoint 'generate' must return a dict with the keys \['image'\]"),
        (wrong_type, "Endpoint 'generate', output 'image' must be uint8.*Received: float32"),
    ],
)
def test_wrong_model_is_refused(one_endpoint, tmp_path, function, message):
    with pytest.raises(export.ExportError, match=message):
        export.export(one_endpoint(function), tmp_path / "a", ("onnx",), progress=False)
    assert not any(tmp_path.iterdir())


def test_operator_that_verify_would_refuse(one_endpoint, tmp_path):
    import tensorflow as tf

    def prints(seed):
        tf.print(seed)
        return grey(ops.mod(seed, 256), seed)

    with pytest.raises(export.ExportError, match=r"has the operator '(StringFormat|PrintV2)'"):
        export.export(one_endpoint(prints), tmp_path / "a", ("saved_model",), progress=False)
    with pytest.raises(export.ExportError, match=r"letters, digits and underscores. Received: im/"):
        model = one_endpoint(prints)
        endpoint = model.endpoints()["generate"]
        model.endpoints = lambda: {"generate": endpoint, "im/age": endpoint}
        export.export(model, tmp_path / "a", progress=False)
    assert not any(tmp_path.iterdir())


def test_output_that_is_not_finite(one_endpoint, tmp_path):
    class Diverged(one_endpoint):
        image = TensorSpec((2, 2, 1), "float32")

    with pytest.raises(export.ExportError, match="not finite, in Keras itself"):
        export.export(Diverged(not_finite), tmp_path / "a", progress=False)


def test_captured_eager_tensor_is_refused(one_endpoint, tmp_path):
    table = ops.convert_to_tensor(np.arange(256, dtype="int32"))
    with pytest.raises(export.ExportError, match="eager tensor of shape \\(256,\\)"):
        export.export(
            one_endpoint(lambda seed: grey(ops.take(table, ops.mod(seed, 256)), seed)),
            tmp_path / "a",
            progress=False,
        )
