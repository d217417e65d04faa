"""What `-o` may replace, and what a command that is stopped leaves."""

import importlib
import os
import signal
import sys
import threading
import time

import pytest

from kgen import cli

pytestmark = pytest.mark.filterwarnings("ignore:.*collapse")


def tree(folder):
    """All that is under a folder: what is in its files, and which one each of the others is."""
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes() if path.is_file() else path.lstat()[:3]
        )
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample RUN -o pipe.png", "pipe.png is a device, a pipe or a socket"),
        ("sample RUN -o link.png", "link.png is a device, a pipe or a socket"),
        ("sample RUN -o folder.png", "folder.png is a folder"),
        ("sample RUN -o pipe", "pipe exists and is not an empty folder"),
        ("sample RUN -o grid.jpg", "-o takes a .png file, or a new folder. Received: -o grid.jpg"),
        ("interpolate RUN -o train.py", "-o takes the path of a .png file. Received: -o train.py"),
        ("interpolate RUN -o pipe.png", "pipe.png is a device, a pipe or a socket"),
        ("complete RUN -o train.py", "a .png file. Received: -o train.py"),
        ("vary RUN -o train.py", "a .png file. Received: -o train.py"),
        ("compare RUN RUN -o train.py", "a .html file. Received: -o train.py"),
        ("compare RUN RUN -o pipe.html", "pipe.html is a device, a pipe or a socket"),
        ("evaluate RUN -o train.py", "train.py is a file; choose a folder"),
        ("evaluate RUN -o mine", "has not written: report.html, report/samples.png. Move it"),
        ("train vae_tiny --data digits --run mine", "mine is not empty and holds no run"),
        ("train vae_tiny --data digits --run mine --force", "mine is not empty and holds no run"),
        ("train vae_tiny --data mine --run mine/run", "Neither the data may lie in the run's"),
        ("quickstart -o mine", "mine holds other files"),
        ("quickstart -o project", "project holds other files"),
        ("export RUN -o mine --overwrite", "mine exists and is not an artifact"),
        ("export RUN -o pipe --overwrite", "pipe exists and is not an artifact"),
    ],
)
def test_nothing_of_others_is_replaced(refused, vae_run, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    for name in ("pipe", "pipe.png", "pipe.html"):
        os.mkfifo(name)
    os.symlink("pipe", "link.png")
    for name in ("mine/report", "mine/samples", "folder.png", "project/run"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("train.py", "mine/report.html", "mine/report/samples.png", "mine/samples/1.png"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "project/run/run.json").write_text((vae_run / "run.json").read_text())
    before = tree(tmp_path)
    assert message in refused(*line.replace("RUN", str(vae_run)).split())
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (("train", "vae", "--data", "", "--run", "a"), "--data"),
        (("train", "vae", "--data", "digits", "--run", ""), "--run"),
        (("train", "vae", "--data", "digits", "--run="), "--run"),
        (("sample", "a", "-o", ""), "-o"),
        (("sample", ""), "An argument"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(refused, tmp_path, monkeypatch, line, name):
    monkeypatch.chdir(tmp_path)
    assert refused(*line, status=2) == f"{name} is empty: give it a value, or leave it out."
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["export", "evaluate"])
@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_command_leaves_nothing(
    kgen, vae_run, tmp_path, tensorflow_only, command, signum
):
    """`docker stop`, as soon as the command has begun to write."""
    out = tmp_path / "out"
    out.mkdir()
    begun = {"export": tmp_path / ".out.kgen-new", "evaluate": out / ".evaluation.kgen-new"}
    ended = threading.Event()

    def stop():
        while not begun[command].exists():
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        status, _, err = kgen(command, vae_run, "-o", out)
    finally:
        ended.set()
        thread.join()
    assert status == 128 + signum and err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert tree(tmp_path).keys() == {"out"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_a_stopped_process_leaves_nothing(start, vae_run, tmp_path):
    """SIGTERM to a process of its own, whenever: its status says so, and nothing is left.

    Before Python has come to kgen's first line the system ends it, which a shell calls 143 too.
    """
    for seconds in (1, 4, 7):
        process = start("sample", vae_run, "-n", 100_000, "-o", tmp_path / "pictures")
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM), err
        assert not list(tmp_path.iterdir())


OPTIONAL = """
import signal
try:
    signal.raise_signal(signal.{name})
except BaseException:
    pass
"""


class Dropped:
    def __init__(self, signum):
        self.signum = signum

    def __del__(self):
        signal.raise_signal(self.signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["import", "__del__"])
def test_a_signal_is_not_lost(tmp_path, monkeypatch, signum, where):
    """Where what its handler raises is swallowed."""
    (tmp_path / "kgen_optional.py").write_text(OPTIONAL.format(name=signum.name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kgen_optional", raising=False)
    hook, received, passed = sys.unraisablehook, [], False
    with pytest.raises(KeyboardInterrupt), cli._stoppable(received):
        if where == "import":
            importlib.import_module("kgen_optional")
        else:
            Dropped(signum)
        passed = True
        time.sleep(10)
    assert passed and set(received) == {signum}
    assert sys.unraisablehook is hook and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
