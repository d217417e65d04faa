"""Runs of the command that are stopped from outside, and go on."""

import signal
import time

import pytest

from kgen.training.run import Run

EPOCHS = 20  # some seconds, so that a signal comes in time


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    from kgen.cli import main

    path = tmp_path_factory.mktemp("unbroken") / "run"
    line = f"train vae_tiny --data digits --run {path} --epochs {EPOCHS} --batch-size 16"
    assert main(line.split()) == 0
    return (path / "metrics.csv").read_text()


def wait_for_an_epoch(run, process):
    deadline = time.monotonic() + 120
    while not Run(run).metrics:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "signum", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT]
)
def test_stopped_and_resumed_equals_unbroken(start, kgen, unbroken, tmp_path, signum):
    run = tmp_path / "run"
    line = f"train vae_tiny --data digits --run {run} --epochs {EPOCHS} --batch-size 16"
    process = start(*line.split())
    wait_for_an_epoch(run, process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert len(Run(run).metrics) < EPOCHS, "the signal came too late"
    if signum == signal.SIGKILL:
        assert process.returncode == -signum
    else:
        assert process.returncode == 128 + signum
        assert "Traceback" not in err
        last = err.splitlines()[-1]
        assert last.startswith("Stopped after epoch ")
        assert last.endswith(f"Go on with: kgen train --resume {run}")
        assert Run(run).info["status"] == "interrupted"
    assert kgen("train", "--resume", run)[0] == 0
    assert (run / "metrics.csv").read_text() == unbroken
