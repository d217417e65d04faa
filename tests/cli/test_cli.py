import inspect
import json
import os
import re
import resource
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kgen import models
from kgen.training.run import Run, load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*collapse")

COMMANDS = (
    "list",
    "train",
    "sample",
    "interpolate",
    "complete",
    "edit",
    "evaluate",
    "compare",
    "export",
    "verify",
    "publish",
    "quickstart",
    "inspect",
)


def pixels(path):
    return np.asarray(Image.open(path))


# Help ------------------------------------------------------------------------------------


def test_help_is_quick_and_imports_no_framework():
    """In CPU seconds: a busy machine is not what is measured."""

    def children():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = children()
    result = subprocess.run(
        [sys.executable, "-m", "kgen", "--help"], capture_output=True, text=True, check=True
    )
    assert children() - before < 1.5
    for command in COMMANDS:
        assert f" {command} " in result.stdout
    code = (
        "import sys; from kgen.cli import main; main(['--help']); main(['train', '--help']); "
        "heavy = {'keras', 'tensorflow', 'jax', 'numpy', 'export'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(kgen, command):
    status, out, _ = kgen(command, "--help")
    assert status == 0
    assert f"Example: kgen {command}" in out


def test_without_a_command_there_is_help(kgen):
    assert "quickstart" in kgen()[1]


def test_version(kgen):
    import kgen as package

    assert kgen("--version")[:2] == (0, f"kgen {package.__version__}\n")


# list ------------------------------------------------------------------------------------


def test_list(kgen, result):
    listed = result("list")
    assert set(listed["models"]) >= {"vae", "dcgan"}
    assert listed["presets"]["vae_28x28"]["image_shape"] == [28, 28, 1]
    assert listed["presets"]["vae_28x28"]["model"] == "vae"
    assert "digits" in listed["sources"]
    assert listed["families"]["vae"]["models"] == ["vae", "ladder_vae", "vit_vae"]
    members = [name for family in listed["families"].values() for name in family["models"]]
    assert sorted(members) == sorted(listed["models"])
    status, out, _ = kgen("list")
    assert status == 0
    assert all(word in out for word in ("dcgan", "vae_tiny", "tfds:<name>"))
    shown = " ".join(re.sub("[│┃]", " ", out).split())
    for name, family in listed["families"].items():
        assert f"{name}: {family['what']}" in shown
        assert all(f"{member} {listed['models'][member]}" in shown for member in family["models"])


@pytest.mark.parametrize("name", models.registered())
def test_list_of_a_model_says_all_of_it(result, name):
    """From its docstrings, which must say something of every argument and option."""
    shown, model_class = result("list", name), models.get(name)
    assert list(shown["arguments"]) == list(inspect.signature(model_class).parameters)[:-1]
    options = list(inspect.signature(model_class.sample).parameters)
    assert list(shown["options"]) == [option for option in options[3:] if option != "styles"]
    for kind in ("arguments", "options"):
        for argument, said in shown[kind].items():
            assert len(said["meaning"]) > 5, argument
            assert "TransformerSpec" not in said["meaning"]
            assert argument not in model_class.__doc__ or said["meaning"]
    assert set(shown["presets"]) == set(model_class.presets)
    help_text = " ".join(model_class.__doc__.split())
    missing = [a for a in shown["arguments"] if f" {a}: " not in help_text.replace(", ", ": ")]
    assert set(missing) <= {"kernel_size", "first_kernel_size", "num_layers"}, "help() says it too"


@pytest.mark.slow
def test_list_of_a_preset_with_its_cost(result):
    shown = result("list", "vae_tiny", "--measure")
    assert list(shown["presets"]) == ["vae_tiny"]
    cost = shown["cost"]["vae_tiny"]
    assert cost["parameters"] > 1000 and cost["seconds"] > 0 and cost["batch_size"] == 64


def test_where_an_argument_is_explained(kgen, refused):
    status, out, _ = kgen("list", "vae_tiny")
    assert status == 0 and "temperature" in out and "kl_warmup_steps" in out
    assert "Did you mean 'vae'?" in refused("list", "vaee")
    assert "goes with a model" in refused("list", "--measure")
    said = refused("train", "vae", "--data", "digits", "--set", "latent=3", "--run", "nowhere")
    assert "kl_warmup_steps" in said and said.endswith("What they mean: kgen list vae")


def test_list_imports_no_framework(run_python):
    code = (
        "import sys; from kgen.cli import main; status = main(['list']); "
        "print(status, sorted({'keras', 'tensorflow', 'jax'} & set(sys.modules)))"
    )
    assert run_python(code).stdout.endswith("0 []\n")


# train -----------------------------------------------------------------------------------


def test_train_writes_a_run(vae_run):
    run = Run(vae_run)
    arguments = run.info["arguments"]
    assert (arguments["epochs"], arguments["batch_size"], arguments["seed"]) == (2, 32, 3)
    assert arguments["model_arguments"] == {"latent_dim": 3, "beta": 0.5}
    model, _ = load_model(run.path)
    assert (model.latent_dim, model.beta, model.seed) == (3, 0.5, 3)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    assert model.training_steps == 2 * 44


def test_train_options_of_data_and_precision(result, tmp_path, monkeypatch):
    """In the folder that a run has unless it is given one."""
    monkeypatch.chdir(tmp_path)
    shape = ["--image-shape", "12x8x3", "--horizontal-flip", "--background", "black", "--strict"]
    shape += ["--resize", "pad", "--interpolation", "nearest", "--max-pixels", 1000]
    shape += ["--validation-fraction", 0.2, "--test-fraction", 0.3, "--recursive"]
    done = result(
        *("train", "vae_tiny", "--data", "digits", "--epochs", 1, "--batch-size", 256),
        *("--no-jit", "--mixed-precision", "bfloat16", "--conditional", *shape),
    )
    run = Run(tmp_path / "runs" / "vae_tiny-digits")
    assert done["run"] == os.path.join("runs", "vae_tiny-digits")
    assert done["metrics"] == run.metrics[-1]
    assert all(os.path.exists(done[key]) for key in ("model", "samples"))
    info = run.info
    assert info["data"]["image_shape"] == [12, 8, 3]
    assert info["arguments"]["data_arguments"] == {
        "image_shape": [12, 8, 3],
        "horizontal_flip": True,
        "background": "black",
        "strict": True,
        "resize": "pad",
        "interpolation": "nearest",
        "max_pixels": 1000,
        "recursive": True,
        "validation_fraction": 0.2,
        "test_fraction": 0.3,
    }
    assert (info["data"]["validation"], info["data"]["test"]) == (359, 539)
    assert info["arguments"]["jit"] is False
    assert info["model"]["config"]["num_classes"] == 10
    assert info["model"]["config"]["dtype"]["config"]["name"] == "mixed_bfloat16"
    assert pixels(run.path / "samples/epoch_0001.png").shape == (10 * 26 + 2, 6 * 18 + 2, 3)


DEVICES = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kgen.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_devices_train_as_one(result, run_python, tmp_path):
    line = ("train", "vae_tiny", "--data", "digits", "--epochs", 1, "--run")
    result(*line, tmp_path / "one")
    run_python(DEVICES, *line, tmp_path / "two", "--devices", 2)
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    assert two.info["arguments"]["devices"] == 2
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    result("train", "--resume", tmp_path / "two", "--epochs", 2, "--devices", 1)


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_hosts_train_as_one(result, start, tmp_path):
    line = ("train", "vae_tiny", "--data", "digits", "--epochs", 1, "--run")
    workers = [f"localhost:{free_port()}" for _ in range(2)]
    hosts = []
    for i in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
        hosts.append(start(*line, tmp_path / "two", "--hosts", TF_CONFIG=json.dumps(config)))
    for host in hosts:
        _, err = host.communicate(timeout=120)
        assert host.returncode == 0, err[-2000:]
    result(*line, tmp_path / "one")
    two = Run(tmp_path / "two")
    assert two.metrics[0] == pytest.approx(Run(tmp_path / "one").metrics[0], rel=1e-3)
    assert two.info["status"] == "finished" and two.checkpoints.last() is not None
    assert result("train", "--resume", two.path, "--epochs", 2, "--no-hosts")["samples"]


NO_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from kgen.cli import main
run = sys.argv[1]
for line in (
    f"train dcgan_tiny --data digits --run {run} --epochs 1 --conditional",
    f"train --resume {run} --epochs 2",
    f"sample {run} -n 4 --label 1 -o {run}/grid.png",
    f"interpolate {run} --label 1 -o {run}/ways.png",
    f"evaluate {run} --num-samples 300",
    "list",
):
    assert main(line.split()) == 0, line
"""


@pytest.mark.slow
def test_jax_without_tensorflow(run_python, tmp_path):
    # The classifiers that evaluate run for longer than XLA takes to optimise them.
    result = run_python(NO_TENSORFLOW, tmp_path / "run", backend="jax", env={"XLA_FLAGS": ""})
    assert "Error" not in result.stderr
    assert list((tmp_path / "run/logs/train").iterdir()), "TensorBoard's logs need no TensorFlow"


def test_a_finished_run_is_left_as_it_is(kgen, result, vae_run):
    before = Run(vae_run).info
    status, _, err = kgen("train", "--resume", vae_run)
    assert status == 0 and "is finished: 2 epochs are done. Train on with --epochs 12." in err
    again = result("train", "vae_tiny", "--data", "digits", "--run", vae_run, "--resume")
    assert again["metrics"]["epoch"] == 2
    assert Run(vae_run).info == before


@pytest.mark.slow
def test_train_keeps_the_best_then_goes_on_then_begins_anew(result, tmp_path):
    run = tmp_path / "run"
    line = ("train", "vae_tiny", "--data", "digits", "--run", run, "--batch-size", 128)
    result(*line, "--epochs", 3, "--keep-best", "kd")
    metrics = [row["KD-general_cnn"] for row in Run(run).metrics]
    record = json.loads((run / "best.keras.json").read_text())
    assert len(metrics) == 3 and record["value"] == min(metrics)
    assert record["epoch"] == 1 + metrics.index(min(metrics))
    model, found = load_model(run / "best.keras")
    assert found.path == run and model.training_steps == record["epoch"] * 11

    # A run goes on with other evaluations; a new run in the folder forgets the old best.
    options = ("--epochs", 4, "--evaluate-every", 5)
    assert result("train", "--resume", run, *options)["metrics"]["epoch"] == 4
    assert len(Run(run).metrics) == 4 and "KD-general_cnn" not in Run(run).metrics[-1]
    result(*line, "--epochs", 1, "--force")
    assert len(Run(run).metrics) == 1
    assert not (run / "best.keras").exists()


# sample ----------------------------------------------------------------------------------


def test_sample_grid(result, vae_run, tmp_path):
    out = tmp_path / "new" / "grid.png"
    sampled = result("sample", vae_run, "-n", 12, "--seed", 5, "--columns", 4, "-o", out)
    assert (sampled["output"], sampled["images"]) == (str(out), 12)
    model, _ = load_model(vae_run)
    expected = model.generate(12, seed=5)
    grid = pixels(out)
    assert grid.shape == (3 * 34 + 2, 4 * 34 + 2)
    np.testing.assert_array_equal(grid[2:34:4, 36:68:4], expected[1, ..., 0])
    np.testing.assert_array_equal(model.generate(seeds=sampled["seeds"]), expected)


def test_sample_folder(result, dcgan_run, tmp_path):
    out = tmp_path / "pictures"
    labels = ["--label", "1,2,3", "--set", "temperature=0.5"]
    assert result("sample", dcgan_run, "--seeds", "7,8,9", *labels, "-o", out)["images"] == 3
    model, _ = load_model(dcgan_run)
    expected = model.generate(seeds=[7, 8, 9], labels=[1, 2, 3], temperature=0.5)
    for name, image in zip("012", expected, strict=True):
        np.testing.assert_array_equal(pixels(out / f"{name}.png"), image[..., 0])


def test_sample_each_class(result, dcgan_run, tmp_path):
    result("sample", dcgan_run, "-n", 20, "-o", tmp_path / "grid.png")
    assert pixels(tmp_path / "grid.png").shape == (2 * 34 + 2, 10 * 34 + 2), "a column per class"


def test_sample_from_a_file_and_from_a_preset_folder(result, vae_run, tmp_path):
    load_model(vae_run)[0].save_to_preset(tmp_path / "preset")
    sources = (vae_run, vae_run / "model.keras", tmp_path / "preset")
    for i, source in enumerate(sources):
        result("sample", source, "-n", 4, "-o", tmp_path / f"{i}.png")
    first, *others = (pixels(tmp_path / f"{i}.png") for i in range(3))
    for other in others:
        np.testing.assert_array_equal(other, first)


# interpolate -----------------------------------------------------------------------------


def test_interpolate(result, vae_run, dcgan_run, tmp_path):
    out = tmp_path / "ways.png"
    assert result("interpolate", vae_run, "--rows", 2, "--steps", 5, "-o", out)["rows"] == 2
    assert pixels(out).shape == (2 * 34 + 2, 5 * 34 + 2)
    result("interpolate", dcgan_run, "--rows", 2, "--label", "3,4", "-o", out)


# edit ------------------------------------------------------------------------------------


def test_edit(result, refused, vae_run, dcgan_run, tmp_path):
    out = tmp_path / "edits.png"
    done = result("edit", dcgan_run, "-n", 2, "-o", out)
    assert done["images"] == 2 and done["classes"] == list(range(10))
    assert pixels(out).shape == (2 * 34 + 2, 12 * 34 + 2)
    assert "draws every one: leave towards (--towards) out" in refused(
        "edit", dcgan_run, "--towards", 3
    )
    assert "general_cnn tells no classes apart" in refused("edit", vae_run, "-o", out)


# export and verify -----------------------------------------------------------------------


def test_export_and_verify(kgen, result, refused, vae_run, tmp_path, tensorflow_only):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    pair, pem = ed25519.Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(pair.private_bytes(pem, *plain))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(pair.public_key().public_bytes(pem, info))

    out = tmp_path / "artifacts" / "vae"
    options = ("--formats", "onnx", "--batch-sizes", "1,3", "--option", "temperature=0.7")
    assert "its own and options, such as" in refused("export", vae_run, "-o", out, "--variant", "x")
    options += ("--variant", "mean:temperature=0", "--sign", key)
    exported = result("export", vae_run, "-o", out, *options)
    assert exported["artifact"] == str(out) and len(exported["signed_by"]) == 64
    assert {row["format"] for row in exported["signatures"]} == {"onnx"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["batch_sizes"] == [1, 3]
    chosen = {name: each.get("options") for name, each in manifest["endpoints"].items()}
    assert chosen["generate"] == {"temperature": 0.7} and chosen["mean"] == {"temperature": 0}
    assert manifest["metadata"]["data"]["name"] == "digits"
    assert manifest["metadata"]["training"]["epochs"] == 2
    assert manifest["metadata"]["training"]["metrics"]["epoch"] == 2
    assert "already holds an artifact" in refused("export", vae_run, "-o", out)

    refusal = refused("deploy", out, "-o", tmp_path / "deployment")
    assert f"{out} has no SavedModel" in refusal and not (tmp_path / "deployment").exists()
    deployed = result(
        *("deploy", out, "-o", tmp_path / "deployment"),
        *("--target", "triton", "--backend", "python"),
    )
    name = manifest["name"]
    assert {name, f"{name}.generate_with_options", f"{name}.mean"} <= deployed["served"].keys()
    assert (tmp_path / "deployment/models" / name / "1/model.py").is_file()
    verified = result("verify", out, "--key", public)
    assert verified["verified"] is verified["authentic"] is True and verified["parity"]
    assert verified["files"] == len(manifest["files"])
    out.rename(out.with_name(".vae.kgen-old"))  # killed while it was replaced
    said = kgen("verify", out, "--hashes-only")[1]
    assert "is what was exported" in said and "nothing was run" in said
    assert "says that it was signed by the key sha256" in said
    assert f"signed by the owner of {public}" in kgen("verify", out, "--key", public)[1]
    assert "holds no public key" in refused("verify", out, "--key", key)
    assert [path.name for path in out.parent.iterdir()] == ["vae"]
    file = out / "onnx" / "generate.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert f"{file} was changed" in refused("verify", out)


# quickstart ------------------------------------------------------------------------------


@pytest.mark.slow
def test_quickstart(kgen, tmp_path, tensorflow_only):
    out = tmp_path / "quick"
    status, said, err = kgen("quickstart", "-o", out, "--epochs", 1)
    assert status == 0, err
    for path in (
        "run/model.keras",
        "run/evaluation.json",
        "run/report.html",
        "samples.png",
        "artifact/manifest.json",
        "artifact/saved_model/1/saved_model.pb",
        "artifact/onnx/generate.onnx",
    ):
        assert (out / path).is_file()
    assert "What to type next" in said and f"kgen verify {out / 'artifact'}" in said
    assert pixels(out / "samples.png").shape == (10 * 34 + 2, 10 * 34 + 2)
    assert kgen("quickstart", "-o", out, "--epochs", 1)[0] == 0, "it can be run again"


def test_quickstart_leaves_other_files_alone(refused, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    assert "holds other files" in refused("quickstart", "-o", tmp_path)
