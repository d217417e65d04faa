import dataclasses
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import kgen
from kgen import files, origin
from kgen.training.errors import Interrupted, NonFiniteError, RunError
from kgen.training.run import Run, RunConfig, load_model, train

pytestmark = pytest.mark.filterwarnings("ignore:.*collapse")

SLOW = pytest.mark.slow
MODELS = ("vae_tiny", pytest.param("dcgan_tiny", marks=SLOW))


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """No test touches the user's cache; JAX compiles what many runs share once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        if keras.backend.backend() == "jax":
            import jax

            compiled = str(tmp_path_factory.mktemp("compiled"))
            patch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)  # of processes of their own
            jax.config.update("jax_compilation_cache_dir", compiled)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        yield
        if keras.backend.backend() == "jax":
            jax.config.update("jax_compilation_cache_dir", None)


def begin(model, run, epochs=3, **options):
    return train(model, "digits", run, epochs=epochs, num_samples=9, verbose=0, **options)


def go_on(run, **options):
    return train(run=run, resume=True, num_samples=9, verbose=0, **options)


class Stop(keras.callbacks.Callback):
    """Sends this process a signal before a step."""

    def __init__(self, step, signum=signal.SIGINT):
        super().__init__()
        self.steps_left = step
        self.signum = signum

    def on_train_batch_begin(self, batch, logs=None):
        self.steps_left -= 1
        if self.steps_left < 0:
            self.steps_left = 10**9
            signal.raise_signal(self.signum)


def state(run):
    """All that a finished run ends with."""
    model, _ = load_model(run.path)
    variables = [*model.variables, *model.optimizer.variables]
    return {
        "metrics": (run.path / "metrics.csv").read_text(),
        "variables": [keras.ops.convert_to_numpy(variable) for variable in variables],
        "samples": [picture(path) for path in sorted((run.path / "samples").iterdir())],
    }


def picture(path):
    """The pixels of a picture, and what it says of its origin but for names: the run's, and that
    which Keras gives a model, a number more for each in a process, and which is in its sha256.
    """
    claim = dataclasses.replace(origin.read(path)["claim"], model="", model_sha256="")
    with Image.open(path) as image:
        return image.tobytes(), claim


def assert_equal(a, b):
    assert a["metrics"] == b["metrics"]
    for x, y in zip(a["variables"], b["variables"], strict=True):
        np.testing.assert_array_equal(x, y)
    assert a["samples"] == b["samples"]


@pytest.fixture(scope="module", params=MODELS)
def unbroken(request, tmp_path_factory):
    """The name of a preset and a run of three epochs that nothing stopped."""
    return request.param, begin(request.param, tmp_path_factory.mktemp("unbroken"))


def test_run_folder(unbroken):
    name, run = unbroken
    written = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    logs = {path for path in written if path.startswith("logs/")}
    assert len(logs) == 2
    assert set(files.written(run.path)) == written - {"files.txt"}
    assert written - logs == {
        "run.json",
        "files.txt",
        "metrics.csv",
        "model.keras",
        *(f"samples/epoch_{n:04d}.png" for n in (1, 2, 3)),
        *(f"checkpoints/epoch_{n:04d}.{kind}" for n in (1, 2, 3) for kind in ("json", "keras")),
    }
    info = run.info
    assert info["status"] == "finished"
    assert info["model"]["name"] == name
    assert info["model"]["config"]["image_shape"] == [8, 8, 1]
    assert info["arguments"]["epochs"] == 3 and info["arguments"]["batch_size"] == 64
    data = kgen.data.load("digits")
    assert info["data"]["fingerprint"] == data.fingerprint
    assert info["data"]["train"] == len(data.train)
    assert info["versions"]["kgen"] == kgen.__version__ and "python" in info["versions"]
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3]
    assert all(np.isfinite(list(row.values())).all() for row in run.metrics)


@SLOW
def test_the_same_seed_gives_the_same_run_and_another_does_not(unbroken, tmp_path):
    name, run = unbroken
    assert_equal(state(begin(name, tmp_path / "same")), state(run))
    other = begin(name, tmp_path / "other", epochs=1, seed=1)
    assert other.metrics[0] != run.metrics[0]


@pytest.mark.parametrize("unbroken", ["vae_tiny"], indirect=True)
@pytest.mark.parametrize("step", [9, *(pytest.param(step, marks=SLOW) for step in (0, 22, 30))])
def test_ctrl_c_loses_nothing(unbroken, tmp_path, step):
    name, run = unbroken
    with pytest.raises(Interrupted, match=f"Go on with: kgen train --resume {tmp_path}") as error:
        begin(name, tmp_path, callbacks=[Stop(step)])
    assert error.value.signum == signal.SIGINT
    assert Run(tmp_path).info["status"] == "interrupted"
    assert_equal(state(go_on(tmp_path)), state(run))


@SLOW
def test_two_stops_in_one_epoch(unbroken, tmp_path):
    name, run = unbroken
    with pytest.raises(Interrupted, match="epoch 1 and 5 steps"):
        begin(name, tmp_path, callbacks=[Stop(27, signal.SIGTERM)])
    with pytest.raises(Interrupted, match="epoch 1 and 11 steps") as error:
        go_on(tmp_path, callbacks=[Stop(6, signal.SIGTERM)])
    assert error.value.signum == signal.SIGTERM
    assert_equal(state(go_on(tmp_path)), state(run))


KILLED = """
import os, pathlib, signal, sys
from kgen import files
from kgen.training import callbacks, checkpoints
from kgen.training.run import train

name, run, where = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def write_half_and_die(path):
    if path.name.startswith(".epoch_0002") and path.suffix == ".keras":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        die()

def die_before_record(path, text):
    if path.name == "epoch_0002.json":
        die()
    write_text(path, text)

write_text = files.write_text
if where == "while it writes a checkpoint":
    files._to_disk = write_half_and_die
elif where == "before a checkpoint is recorded":
    checkpoints.files.write_text = die_before_record
else:
    stop = callbacks.Checkpointing.on_train_batch_begin
    callbacks.Checkpointing.on_train_batch_begin = lambda self, batch, logs=None: (
        die() if (self.position.epoch, batch) == (1, 12) else stop(self, batch)
    )
train(name, "digits", run, epochs=3, num_samples=9, verbose=0)
"""


@SLOW
@pytest.mark.parametrize(
    ("unbroken", "where"),
    [
        ("vae_tiny", "inside an epoch"),
        ("vae_tiny", "while it writes a checkpoint"),
        ("dcgan_tiny", "before a checkpoint is recorded"),
    ],
    indirect=["unbroken"],
)
def test_kill_loses_nothing_but_the_epoch(unbroken, tmp_path, run_python, where):
    name, run = unbroken
    path = tmp_path / "run"
    result = run_python(KILLED, name, path, where, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    assert [row["epoch"] for row in Run(path).metrics] == ([1] if "inside" in where else [1, 2])
    said = []
    resumed = go_on(path, report=said.append)
    assert said == [f"Going on with {path} after epoch 1."]
    assert_equal(state(resumed), state(run))
    assert not [p for p in path.rglob(".*") if p.is_file()], "temporary files are left"


@SLOW
@pytest.mark.parametrize("unbroken", ["vae_tiny"], indirect=True)
def test_kill_before_the_first_checkpoint(tmp_path, unbroken):
    _, run = unbroken
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_text((run.path / "run.json").read_text())
    assert_equal(state(go_on(path)), state(run))


@SLOW
@pytest.mark.parametrize("unbroken", ["vae_tiny"], indirect=True)
def test_corrupt_checkpoint(tmp_path, unbroken):
    name, run = unbroken
    begin(name, tmp_path / "run", epochs=2)
    with open(tmp_path / "run/checkpoints/epoch_0002.keras", "r+b") as file:
        file.truncate(1000)
    said = []
    resumed = go_on(tmp_path / "run", epochs=3, report=said.append)
    assert "epoch_0002.keras is not what was written" in said[0]
    assert said[0].endswith("Falling back to epoch_0001.keras.")
    assert_equal(state(resumed), state(run))


@pytest.mark.parametrize("unbroken", ["vae_tiny"], indirect=True)
def test_finished_run_is_extended_by_more_epochs_alone(tmp_path, unbroken):
    name, run = unbroken
    two = begin(name, tmp_path / "run", epochs=2)
    said = []
    before = two.metrics
    assert go_on(two.path, report=said.append).metrics == before
    assert said == [
        f"{two.path} is finished: 2 epochs are done. Train on with --epochs 12.",
    ]
    assert_equal(state(go_on(two.path, epochs=3)), state(run))
    assert two.info["arguments"]["epochs"] == 3


@pytest.mark.parametrize("unbroken", ["vae_tiny"], indirect=True)
@pytest.mark.parametrize("lost", ["missing", pytest.param("corrupt", marks=SLOW)])
def test_a_finished_run_goes_on_without_its_checkpoints(tmp_path, unbroken, lost):
    name, run = unbroken
    two = begin(name, tmp_path / "run", epochs=2)
    for path in two.checkpoints.paths():
        path.write_bytes(b"") if lost == "corrupt" else path.unlink()
        if lost == "missing":
            path.with_suffix(".json").unlink()
    said, before = [], two.model_path.read_bytes()
    assert go_on(two.path, report=said.append).metrics == two.metrics
    assert "is finished: 2 epochs are done" in said[-1] and two.model_path.read_bytes() == before

    with pytest.raises(Interrupted):  # before it has a checkpoint again
        go_on(two.path, epochs=3, callbacks=[Stop(0)])
    assert two.model_path.read_bytes() == before, "it is there until there is a better one"
    assert two.info["status"] == "interrupted" and not two.finished
    load_model(two.path, report=said.append)
    assert said[-1] == f"{two.path} is not finished: using its model of fewer epochs."
    assert_equal(state(go_on(two.path)), state(run))
    assert two.finished and two.model_path.read_bytes() != before


def test_a_checkpoint_that_does_not_load_here_is_not_given_up(tmp_path, vae_run):
    """It is whole, but for instance of a newer Keras."""
    run = Run(shutil.copytree(vae_run.path, tmp_path / "run"))
    path = run.checkpoints.last()
    path.write_bytes(b"of a newer Keras")
    record = json.loads(path.with_suffix(".json").read_text())
    record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(record))
    before = tree(run.path)
    with pytest.raises(RunError, match="cannot be loaded here"):
        go_on(run.path, epochs=2)
    assert tree(run.path) == before


def test_what_a_killed_process_left_in_run_json_is_corrected(tmp_path, vae_run):
    run = Run(shutil.copytree(vae_run.path, tmp_path / "run"))
    run.update(status="running", finished=None)  # killed after model.keras was written
    with run.held():
        run.settle()
        assert run.info["status"] == "running", "it is alive"
    load_model(run.path)
    assert run.info["status"] == "finished" and run.info["finished"] >= run.info["started"]
    run.update(status="running", finished=None)
    run.model_path.unlink()  # killed before that
    load_model(run.path)
    assert run.info["status"] == "interrupted"


HOLD = """
import pathlib, sys
from kgen import files
with files.locked(files.lock_in(sys.argv[1], sys.argv[2]), sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("lock", ["run", "evaluation"])
def test_a_run_that_another_process_writes_is_left_alone(tmp_path, vae_run, lock):
    path = shutil.copytree(vae_run.path, tmp_path / "run")
    (path / "checkpoints/.epoch_0001.kgen.keras").write_text("half")
    line = [sys.executable, "-c", HOLD, str(path), lock]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        before = tree(path)
        said = f"{path} is in use by process {process.pid} on {socket.gethostname()}"
        with pytest.raises(RunError, match=said):
            begin("vae_tiny", path, epochs=1, force=True)
        if lock == "run":
            with pytest.raises(RunError, match=said):
                go_on(path, epochs=2)
        assert tree(path) == before
        process.kill()
    go_on(path)  # a lock that nobody holds is no obstacle
    assert not list(path.rglob(".*.keras"))


@pytest.mark.parametrize(
    ("name", "value", "before"),
    [
        ("batch_size", 32, "64"),
        ("seed", 3, "0"),
        ("learning_rate", 0.1, "None"),
        ("schedule", "linear", "None"),
        ("mixed_precision", "bfloat16", "None"),
        ("model_arguments", {"latent_dim": 3}, "{}"),
        ("conditional", True, "False"),
        ("model", "vae_8x8", "'vae_tiny'"),
    ],
)
def test_resume_with_another_argument_names_it(vae_run, name, value, before):
    with pytest.raises(RunError) as error:
        go_on(vae_run.path, **{name: value})
    assert f"was begun with {name}={before}. Received: {name}=" in str(error.value)


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory):
    return begin("vae_tiny", tmp_path_factory.mktemp("vae"), epochs=1)


def test_run_json_keeps_the_config(vae_run):
    arguments = vae_run.info["arguments"]
    # The size of a batch is the model's own, and named.
    assert arguments == json.loads(json.dumps(vars(RunConfig(epochs=1, batch_size=64))))
    assert RunConfig(**arguments) == RunConfig(epochs=1, batch_size=64)


@SLOW
def test_a_run_of_an_older_kgen_goes_on(tmp_path, vae_run):
    """Its run.json lacks options that there are now."""
    info = vae_run.info
    names = ("devices", "hosts", "evaluate_every", "keep_best", "schedule", "warmup_steps")
    for name in (*names, "steps", "minutes", "pace", "track"):
        del info["arguments"][name]
    (tmp_path / "run.json").write_text(json.dumps(info))
    resumed = go_on(tmp_path, epochs=2, evaluate_every=None)
    assert resumed.info["arguments"] == vars(RunConfig(epochs=2, batch_size=64))
    assert resumed.metrics[0] == vae_run.metrics[0]


def test_an_option_that_there_is_not(tmp_path):
    with pytest.raises(TypeError, match="Did you mean 'batch_size'"):
        begin("vae_tiny", tmp_path / "run", batch_sizes=3)
    assert not (tmp_path / "run").exists()


@SLOW
def test_resume_with_other_data(tmp_path):
    def images(seed):
        return np.random.default_rng(seed).integers(0, 255, (80, 8, 8)).astype("uint8")

    source = tmp_path / "images.npz"
    np.savez(source, x_train=images(0))
    run = train("vae_tiny", str(source), tmp_path / "run", epochs=1, verbose=0, num_samples=1)
    assert run.info["data"]["source"] == str(source)
    np.savez(source, x_train=images(1))
    with pytest.raises(RunError, match=r"The data is not what .* was begun with: its fingerprint"):
        go_on(run.path, epochs=2)
    np.savez(tmp_path / "moved.npz", x_train=images(0))
    source.unlink()
    resumed = train(
        data=tmp_path / "moved.npz", run=run.path, epochs=2, resume=True, verbose=0, num_samples=1
    )
    assert len(resumed.metrics) == 2, "the same data may lie elsewhere"


def tree(folder):
    """The files under a folder, with what they hold."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_folder_that_holds_a_run(tmp_path):
    run = begin("vae_tiny", tmp_path, epochs=2)
    mine = ("notes.txt", "samples/mine.png", "checkpoints/mine.keras", "logs/mine", "report/1.png")
    mine += ("report.html", "best.keras")  # names that a run may write, and this one has not
    (tmp_path / "report").mkdir()
    for name in mine:
        (tmp_path / name).write_text("mine")
    before = run.info
    with pytest.raises(RunError, match=r"already holds a run. .*--resume.*--force"):
        begin("vae_tiny", tmp_path, epochs=1)
    assert run.info == before
    begin("vae_tiny", tmp_path, epochs=1, force=True)
    assert len(run.metrics) == 1
    kept = {name: content for name, content in tree(tmp_path).items() if content == b"mine"}
    assert sorted(kept) == sorted(mine)
    assert tree(tmp_path).keys() - kept == {*files.written(tmp_path), files.FILES}
    assert not (tmp_path / "samples/epoch_0002.png").exists()

    (tmp_path / files.FILES).unlink()  # as of an older kgen
    before = tree(tmp_path)
    with pytest.raises(RunError, match=r"of an older kgen, without files.txt.*Remove the folder"):
        begin("vae_tiny", tmp_path, epochs=1, force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("source", "run", "message"),
    [
        ("photos", "project", r"not empty and holds no run, .*--force neither. It holds: check"),
        ("photos", "project/mine.txt", "mine.txt is a file: choose another folder"),
        ("photos", "photos", "Neither the data may lie in the run's folder, nor"),
        ("photos", "photos/run", "Neither the data may lie"),
        ("photos", "link/run", "Neither the data may lie"),
        ("photos/images.npz", "photos", "Neither the data may lie"),
        ("photos", ".", "Neither the data may lie"),
        ("photos", "", "run must be the path of a folder. Received: ''"),
        ("", "run", "data must name a source. Received: ''"),
    ],
)
def test_a_folder_of_other_files_is_left_alone(tmp_path, monkeypatch, source, run, message, force):
    monkeypatch.chdir(tmp_path)
    for folder in ("project", "photos"):
        for name in ("samples", "checkpoints", "logs", "report"):
            (tmp_path / folder / name).mkdir(parents=True)
        for name in ("mine.txt", "samples/1.png", "report.html", "model.keras", "images.npz"):
            (tmp_path / folder / name).write_text("mine")
    (tmp_path / "link").symlink_to("photos")
    before = tree(tmp_path)
    with pytest.raises((RunError, ValueError), match=message):
        train("vae_tiny", source, run, force=force, verbose=0)
    assert tree(tmp_path) == before


def test_a_killed_beginning_is_no_obstacle(tmp_path):
    """What stands in the folder before run.json does."""
    run = Run(tmp_path)
    before = (files.FILES, files.lock_in(tmp_path), *files.traces(tmp_path / "run.json"))
    for path in before:
        (tmp_path / path).touch()
    run.check_free()
    with run.held():
        run.create({"status": "running"})
    assert tree(tmp_path).keys() == {files.FILES, "run.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vea"}, "Unknown model or preset 'vea'. Did you mean 'vae'?"),
        ({"model_arguments": {"latent_dims": 4}}, "Did you mean 'latent_dim'?"),
        ({"model_arguments": {"likelihood": "gausian"}}, "Did you mean 'gaussian'?"),
        (
            {"model_arguments": {"latent_dim": "many"}},
            "latent_dim must be a positive int. Received: .*='many'",
        ),
        ({"data_arguments": {"image_shape": (9, 9, 1)}}, "sides divide by 4"),
        ({"epochs": 0}, "epochs must be a positive int. Received: epochs=0"),
        ({"epochs": 2, "minutes": 3}, "one length: .* Received: epochs=2, minutes=3"),
        ({"epochs": None, "minutes": 0}, "minutes must be above 0. Received: minutes=0"),
        ({"epochs": None, "minutes": 1, "hosts": True}, "clocks of their own .* minutes=1"),
        ({"epochs": None, "pace": "x", "schedule": "cosine"}, "pace of another run .*'cosine'"),
        ({"epochs": None, "pace": "nowhere"}, "nowhere has no pace.csv: only a run of minutes"),
        ({"epochs": 2.7}, "epochs must be a positive int. Received: epochs=2.7"),
        ({"seed": 1.5}, "A seed must be an integer in 0 to .* Received: 1.5"),
        ({"evaluate_every": 0.5}, "evaluate_every must be a positive int. Received: .*=0.5"),
        ({"learning_rate": -1.0}, "learning_rate must be positive. Received: learning_rate=-1.0"),
        ({"mixed_precision": "bfloat61"}, "Did you mean 'bfloat16'?"),
        ({"resume": True, "model": None}, "no run in .* to resume"),
    ],
)
def test_what_does_not_fit_leaves_no_folder(tmp_path, options, message):
    with pytest.raises((ValueError, RunError), match=message.replace("?", r"\?")):
        begin(**{"model": "vae_tiny", "run": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_conditional_model_needs_labels(tmp_path):
    images = np.zeros((40, 8, 8, 1), "uint8")
    data = kgen.data.load(images)
    with pytest.raises(ValueError, match="A conditional model needs labels"):
        train("vae_tiny", data, tmp_path / "run", conditional=True)
    assert not (tmp_path / "run").exists()


def test_model_for_the_shape_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("kgen.training.run._fit", lambda *args: None)
    said, options = [], {"conditional": True, "schedule": "cosine", "warmup_steps": 3}
    options |= {"epochs": 2, "report": said.append, "verbose": 2}
    digits = train("vae", "digits", tmp_path / "digits", **options)
    config = digits.info["model"]["config"]
    assert config["latent_dim"] == kgen.models.VAE.presets["vae_8x8"]["latent_dim"]
    assert config["num_classes"] == 10
    assert config["likelihood"] == "discretized_logistic", "digits have grey levels"
    schedule = digits.info["schedule"]
    assert (schedule["schedule"], schedule["total_steps"]) == ("cosine", 44)
    told = {line.split(":")[0]: line.partition(":")[2].strip() for line in said}
    assert told["Data"] == "digits: 1,437 to train on, 180 for validation, 180 for test"
    assert told["Images"] == "8x8x1" and told["Classes"] == "10 (0, 1, 2, 3, 4, ...)"
    assert told["Model"].startswith("vae (vae_8x8): latent_dim=8")
    assert "preset of 8x8x1; likelihood=discretized_logistic, for the images" in told["Chosen"]
    assert told["Parameters"] == f"{digits.info['model']['parameters']:,} that train"
    assert told["Steps"] == "22 an epoch of 64 images, 44 in 2 epochs"
    assert told["Rate"] == (
        "Adam, cosine, at most 0.001 after 3 steps of warm-up, 1 % of it after 44"
    )
    assert keras.backend.backend() in told["Device"]
    larger = begin("vae_28x28", tmp_path / "larger")
    assert larger.info["data"]["image_shape"] == [28, 28, 1], "what the preset takes"
    other = begin("vae_28x28", tmp_path / "other", data_arguments={"image_shape": (16, 12, 3)})
    assert other.info["model"]["config"]["image_shape"] == [16, 12, 3]


def test_non_finite_loss(tmp_path):
    with pytest.raises(NonFiniteError, match=r"at step \d of epoch 1. .*checkpoint: none"):
        begin("vae_tiny", tmp_path / "run", learning_rate=1e30)
    assert Run(tmp_path / "run").info["status"].startswith("failed: ")
    assert not (tmp_path / "run/model.keras").exists()


FULL = """
import resource, sys
from kgen.training.run import train
from kgen.training.errors import RunError
run = sys.argv[1]
train("vae_tiny", "digits", run, epochs=1, verbose=0, num_samples=9)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # a checkpoint has 180,000
try:
    train(run=run, epochs=2, resume=True, verbose=0, num_samples=9)
except RunError as error:
    print(error)
"""


@SLOW
def test_full_disk(tmp_path, run_python):
    path = tmp_path / "run"
    result = run_python(FULL, path)
    message = result.stdout.splitlines()[-1]
    assert message.startswith(f"The disk is full: nothing more can be written to {path}.")
    assert "Last good checkpoint: " in message and "epoch_0001.keras" in message
    assert message.endswith(f"go on with: kgen train --resume {path}")
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == [
        "epoch_0001.json",
        "epoch_0001.keras",
    ]
    assert not [p for p in path.rglob(".*") if p.is_file()], "a half-written file is left"
    resumed = go_on(path)
    assert_equal(state(resumed), state(begin("vae_tiny", tmp_path / "unbroken", epochs=2)))


@SLOW
@pytest.mark.parametrize("policy", ["bfloat16", "mixed_float16"])
def test_mixed_precision(tmp_path, policy):
    with pytest.raises(Interrupted):
        begin("vae_tiny", tmp_path / "run", 2, mixed_precision=policy, callbacks=[Stop(30)])
    run = go_on(tmp_path / "run")
    model, _ = load_model(run.path)
    assert model.dtype_policy.name == f"mixed_{policy.removeprefix('mixed_')}"
    unbroken = begin("vae_tiny", tmp_path / "unbroken", 2, mixed_precision=policy)
    assert_equal(state(run), state(unbroken))


@SLOW
def test_a_model_of_ones_own(tmp_path):
    model = kgen.models.VAE((8, 8, 1), latent_dim=3, filters=4, num_blocks=0, units=8)
    data = kgen.data.load("digits")
    run = train(model, data, tmp_path / "run", epochs=1, verbose=0)
    assert run.info["data"]["source"] is None
    loaded, _ = load_model(run.path)
    np.testing.assert_array_equal(loaded.generate(2), model.generate(2))
    with pytest.raises(RunError, match="give it again"):
        go_on(run.path, epochs=2)
    assert len(train(data=data, run=run.path, epochs=2, resume=True, verbose=0).metrics) == 2


def test_load_model(tmp_path, vae_run):
    model, run = load_model(vae_run.path)
    assert run == vae_run
    images = model.generate(3)
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    for path in (tmp_path / "model.keras", tmp_path / "preset"):
        loaded, run = load_model(path)
        assert run is None
        np.testing.assert_array_equal(loaded.generate(3), images)
    for path in (vae_run.path, tmp_path / "model.keras", tmp_path / "preset"):
        for load in (kgen.load, kgen.models.VAE.from_preset):
            np.testing.assert_array_equal(load(str(path)).generate(3), images)
        with pytest.raises(ValueError, match="is a VAE, not a DCGAN"):
            kgen.models.DCGAN.from_preset(path)
        with pytest.raises(ValueError, match="own arguments only"):
            kgen.models.VAE.from_preset(path, latent_dim=9)


def test_load_model_of_a_run_that_is_not_finished(tmp_path):
    with pytest.raises(Interrupted):
        begin("vae_tiny", tmp_path, callbacks=[Stop(30)])
    said = []
    model, _ = load_model(tmp_path, said.append)
    assert said == [f"{tmp_path} is not finished: using its checkpoint after epoch 1 and 8 steps."]
    assert int(model.training_steps) == 30
    with pytest.warns(UserWarning, match="is not finished"):
        assert int(kgen.load(tmp_path).training_steps) == 30


def test_no_model(tmp_path):
    with pytest.raises(RunError, match=r"There is no model in .*nowhere: it does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is a folder without"):
        load_model(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"no model")
    with pytest.raises(RunError, match="not a model that Keras can load"):
        load_model(tmp_path / "model.keras")
    (tmp_path / "run.json").write_text(json.dumps({}))
    (tmp_path / "model.keras").unlink()
    with pytest.raises(RunError, match="has no checkpoint yet"):
        load_model(tmp_path)


def test_a_compiled_model_keeps_its_optimizer(tmp_path):
    model = kgen.models.VAE.from_preset("vae_tiny")
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    model.compile(optimizer, run_eagerly=True)
    images = kgen.data.load("digits").train.images[:128]
    model.fit(images, batch_size=64, verbose=0)
    run = begin(model, tmp_path / "run", epochs=1, batch_size=512)
    steps = len(kgen.data.load("digits").train) // 512
    assert model.optimizer is optimizer
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 2 + steps
    assert type(load_model(run.path)[0].optimizer) is keras.optimizers.SGD
    for option in ({"learning_rate": 0.1}, {"jit": True}, {"schedule": "cosine"}):
        with pytest.raises(ValueError, match="compiled already keeps its optimizer"):
            begin(model, tmp_path / "other", **option)
    assert not (tmp_path / "other").exists()


@SLOW
def test_a_model_that_has_trained_before_goes_on_from_the_middle_too(tmp_path):
    """A run of it counts its steps from where they are, and what is frozen stays so."""
    model = kgen.models.VAE.from_preset("vae_tiny")
    model.encoder.trainable = False
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(kgen.data.load("digits").train.images[:192], batch_size=64, verbose=0)
    model.save(tmp_path / "before.keras")
    whole = begin(keras.saving.load_model(tmp_path / "before.keras"), tmp_path / "whole", epochs=2)
    stopped = keras.saving.load_model(tmp_path / "before.keras")
    steps = len(kgen.data.load("digits").train) // 64
    with pytest.raises(Interrupted):
        begin(stopped, tmp_path / "stopped", epochs=2, callbacks=[Stop(steps + 5)])
    resumed = go_on(tmp_path / "stopped")
    assert_equal(state(resumed), state(whole))
    frozen = load_model(resumed.path)[0].encoder
    assert not frozen.trainable
    for a, b in zip(frozen.get_weights(), model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
