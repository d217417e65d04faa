"""Several devices, and several hosts, train as one device does on the same batches."""

import functools
import json
import os
import re
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from kgen.training.distribution import data_parallel, is_main_host

# Trains and uses each tiny model and writes all figures to a file. 22 rows in batches of 8
# leave out a part in training; 11 and 9 rows end with batches of 3 rows and of 1, which two
# devices cannot share evenly.
PROGRAM = """
import contextlib, json, os, sys
import numpy as np

file, devices, hosts, models, steps = sys.argv[1:]
virtual = 1 if devices == "None" else int(devices)
if virtual == 1 and hosts == "False":
    pass
elif os.environ["KERAS_BACKEND"] == "jax":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={virtual}"
else:
    import tensorflow as tf
    one = tf.config.LogicalDeviceConfiguration()
    if hosts == "False":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [one] * virtual)

import keras
import kgen
from kgen.training.distribution import data_parallel, is_main_host

def train(model, steps):
    images = np.random.default_rng(0).integers(0, 256, (22, 8, 8, 1), "uint8")
    optimizers = [keras.optimizers.Adam(1e-3, clipnorm=0.01) for _ in model.compile_with]
    model.compile(*optimizers, steps_per_execution=steps)
    history = model.fit(
        images, batch_size=8, epochs=2, validation_data=images[:11], verbose=0
    ).history
    model.save(file + ".keras")
    loaded = keras.saving.load_model(file + ".keras")
    return {
        **history,
        "measured": model.evaluate(images[:9], batch_size=8, verbose=0),
        "measured after loading": loaded.evaluate(images[:9], batch_size=8, verbose=0),
        "images": model.generate(3).tolist(),
        "weights": [np.asarray(w).tolist() for w in model.get_weights()],
        "steps": np.asarray(model.training_steps).item(),
    }

results = {}
within = {} if devices == "None" else {"devices": "all" if hosts == "True" else int(devices)}
with data_parallel(**within, hosts=hosts == "True") if within else contextlib.nullcontext():
    for name in models.split(","):
        keras.utils.set_random_seed(0)
        model_class = kgen.models.get(name)
        arguments = model_class.presets[model_class.tiny_preset]
        if name == "vae":
            arguments = {**arguments, "free_bits": 0.05}  # not a mean of rows
        model = model_class(**arguments)
        model.compile_with = range(2 if name == "dcgan" else 1)
        results[name] = train(model, int(steps))
    results["main"] = is_main_host()
with open(file, "w") as stream:
    json.dump(results, stream)
"""


def start(file, devices, hosts=False, models="vae,dcgan,vqvae", steps=1, env=None):
    arguments = [file, devices, hosts, models, steps]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend(), **(env or {})},
    )


def results_of(processes):
    """What the processes wrote, when all have ended well."""
    try:
        for process, _ in processes:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process, _ in processes:
            process.kill()
    return [json.loads(file.read_text()) for _, file in processes]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """`one_device(model)`: what this process gives."""

    @functools.cache
    def run(model):
        file = tmp_path_factory.mktemp("one") / "results.json"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KERAS_BACKEND", keras.backend.backend())
            patch.setattr(sys, "argv", ["-c", str(file), "None", "False", model, "1"])
            exec(PROGRAM, {"__name__": "__main__"})
        return json.loads(file.read_text())

    return run


def check(results, one_device, models=("vae", "dcgan", "vqvae")):
    for model in models:
        ours, theirs = results[model], one_device(model)[model]
        assert ours.keys() == theirs.keys()
        for name in set(ours) - {"images", "weights"}:
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=f"{model}: {name}"
            )
        for a, b in zip(ours["weights"], theirs["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=model)
        assert np.abs(np.subtract(ours["images"], theirs["images"])).max() <= 1


@pytest.mark.slow
def test_two_devices(tmp_path, one_device):
    file = tmp_path / "results.json"
    result = results_of([(start(file, 2, models="vae"), file)])[0]
    check(result, one_device, models=["vae"])


@pytest.mark.slow
def test_two_devices_and_other_models(tmp_path, one_device):
    file = tmp_path / "results.json"
    result = results_of([(start(file, 2, models="dcgan,vqvae"), file)])[0]
    check(result, one_device, models=["dcgan", "vqvae"])


@pytest.mark.slow
def test_three_devices_share_unevenly(tmp_path, one_device):
    """Batches of 8 on 3 devices; the last one, of a single row, on all; 3 steps per call."""
    file = tmp_path / "results.json"
    result = results_of([(start(file, 3, models="vae", steps=3), file)])[0]
    check(result, one_device, models=["vae"])


@pytest.mark.slow
def test_two_hosts(tmp_path, one_device):
    """Two processes that are each given all data; every step is that of one process."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("localhost", 0))
    workers = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        file = tmp_path / f"host{index}.json"
        process = start(file, 1, hosts=True, env={"TF_CONFIG": json.dumps(task)})
        processes.append((process, file))
    first, second = results_of(processes)
    check(first, one_device)
    check(second, one_device)
    assert [first["main"], second["main"], one_device("vae")["main"]] == [True, False, True]


def test_nothing_changes_without_devices():
    with data_parallel(None):
        assert keras.distribution.distribution() is None
        assert is_main_host()


@pytest.mark.parametrize("devices", [0, 99, 1.5, "many"])
def test_impossible_number_of_devices(devices):
    expected = pytest.raises(ValueError, match=f"from 1 to .* Received: devices={devices!r}")
    with expected, data_parallel(devices):
        pass


# And a strategy of the user's own on two devices, for which no process more is started.
WRONG_HOSTS = """
import json, os
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [one] * 2)
from kgen.training.distribution import data_parallel
try:
    with data_parallel(hosts=True):
        pass
except ValueError as error:
    print("without names:", error)
os.environ["TF_CONFIG"] = json.dumps(
    {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}
)
import keras
keras.ops.ones((2,)) + 1
try:
    with data_parallel(hosts=True):
        pass
except RuntimeError as error:
    print("too late:", error)
if keras.backend.backend() == "tensorflow":
    import kgen
    del os.environ["TF_CONFIG"]
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    outside = kgen.models.VAE.from_preset("vae_tiny")
    outside.compile()
    with strategy.scope():
        for use in (
            kgen.models.VAE.from_preset("vae_tiny").compile,
            lambda: outside.fit(tf.zeros((8, 8, 8, 1), "uint8").numpy(), verbose=0),
        ):
            try:
                use()
            except ValueError as error:
                print(error)
"""


def test_hosts_are_named_and_come_first(run_python):
    env = {"TF_CONFIG": ""}
    said = run_python(WRONG_HOSTS, backend=keras.backend.backend(), env=env).stdout
    without_names, too_late = said.split("too late:")
    assert "TF_CONFIG" in without_names and "before anything else" in too_late
    if keras.backend.backend() == "tensorflow":
        refused = r"data_parallel\(\).*Received: MirroredStrategy with 2 replicas"
        assert len(re.findall(refused, too_late)) == 2
