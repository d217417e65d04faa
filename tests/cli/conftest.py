import json
import os
import subprocess
import sys

import pytest

from kgen.cli import main


@pytest.fixture(scope="session")
def cli_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def surroundings(cli_cache, monkeypatch):
    """No test touches the user's cache, or leaves a backend behind in the environment."""
    import keras

    monkeypatch.setenv("KGEN_CACHE_DIR", str(cli_cache))
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def kgen(capfd):
    """Runs a command line in this process: `status, stdout, stderr = kgen("list")`."""

    def run(*arguments):
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def result(kgen):
    """What a command that must succeed prints with `--json`, which must be JSON alone."""

    def run(*arguments):
        status, out, err = kgen(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refused(kgen):
    """The message of a command that must fail: one line, without a traceback."""

    def run(*arguments, status=1):
        received, out, err = kgen(*arguments)
        assert received == status, err
        assert "Traceback" not in err and out == ""
        lines = [line for line in err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1 and err.endswith(lines[0] + "\n"), err
        return lines[0].removeprefix("Error: ")

    return run


@pytest.fixture
def start():
    """Starts `kgen` in a process of its own."""
    processes = []

    def run(*arguments, **environment):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "kgen", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )
        )
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def train(model, run, *arguments):
    arguments = [model, "--data", "digits", "--run", run, *arguments]
    assert main(["train", *map(str, arguments)]) == 0
    return run


@pytest.fixture(scope="session")
def vae_run(tmp_path_factory):
    """A trained run, which tests only read."""
    options = "--epochs 2 --batch-size 32 --learning-rate 0.002 --seed 3 --set latent-dim=3"
    return train(
        "vae_tiny",
        tmp_path_factory.mktemp("vae") / "run",
        *options.split(),
        *("--set", "beta=0.5"),
    )


@pytest.fixture(scope="session")
def dcgan_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("dcgan") / "run"
    return train("dcgan_tiny", run, "--conditional", "--epochs", 1, "--batch-size", 256)
