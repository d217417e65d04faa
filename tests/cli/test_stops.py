"""Runs of the command that are stopped from outside, and go on."""

import os
import signal
import threading
import time

import pytest

from kgen.training.run import Run

EPOCHS = 6  # so that a signal after the first comes in time


def line(run):
    text = f"train vae_tiny --data digits --run {run} --epochs {EPOCHS} --batch-size 64"
    return text.split()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    from kgen.cli import main

    path = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(line(path)) == 0
    return (path / "metrics.csv").read_text()


def wait_for_an_epoch(run, ended):
    deadline = time.monotonic() + 120
    while not Run(run).metrics:
        assert not ended() and time.monotonic() < deadline
        time.sleep(0.02)


def stopped_well(run, err):
    """What a run says that Ctrl-C stopped."""
    assert len(Run(run).metrics) < EPOCHS, "the signal came too late"
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("Stopped after epoch ")
    assert last.endswith(f"Go on with: kgen train --resume {run}")
    assert Run(run).info["status"] == "interrupted"
    return True


@pytest.mark.slow
def test_interrupted_and_resumed_equals_unbroken(kgen, unbroken, tmp_path):
    run, ended = tmp_path / "run", threading.Event()

    def interrupt():
        wait_for_an_epoch(run, ended.is_set)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status, _, err = kgen(*line(run))
    ended.set()
    thread.join()
    assert status == 128 + signal.SIGINT and stopped_well(run, err)
    assert kgen("train", "--resume", run)[0] == 0
    assert (run / "metrics.csv").read_text() == unbroken


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_process_stopped_and_resumed_equals_unbroken(start, kgen, unbroken, tmp_path, signum):
    run = tmp_path / "run"
    process = start(*line(run))
    wait_for_an_epoch(run, lambda: process.poll() is not None)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    if signum == signal.SIGKILL:
        assert process.returncode == -signum
        assert len(Run(run).metrics) < EPOCHS, "the signal came too late"
    else:
        assert process.returncode == 128 + signum and stopped_well(run, err)
    assert kgen("train", "--resume", run)[0] == 0
    assert (run / "metrics.csv").read_text() == unbroken
