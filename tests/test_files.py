"""Files, folders, locks and lists: what a kill, a full disk or another process leaves."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from kgen import files


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def run(code, *arguments):
    """Python in a process of its own; these modules load in no time."""
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def killed(code, *arguments):
    """A process that is killed at `die()`."""
    start = "import os, pathlib, sys; from kgen import files; die = lambda: os.kill(os.getpid(), 9)"
    result = run(f"{start}\n{code}", *arguments)
    assert result.returncode == -signal.SIGKILL, result.stderr


# Targets ---------------------------------------------------------------------------------


def fifo(path):
    os.mkfifo(path)


def socket_file(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def device(path):
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))  # what /dev/null is
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("make", [fifo, socket_file, device, pathlib.Path.mkdir])
@pytest.mark.parametrize("through_a_link", [False, True])
def test_only_a_file_is_replaced(tmp_path, monkeypatch, make, through_a_link):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(pathlib.Path("there"))
    os.symlink("there", "link")
    path = pathlib.Path("link" if through_a_link else "there")
    before = os.lstat("there")
    with pytest.raises(ValueError, match=f"A file is to be written, and {path} is a "):
        files.write_text(path, "mine")
    after = os.lstat("there")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert names(tmp_path) == ["link", "there"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/file.txt").write_text("old")
    (tmp_path / "link").symlink_to("far/file.txt")
    (tmp_path / "dangling").symlink_to("far/new.txt")
    for name in ("link", "dangling"):
        files.write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
    assert names(tmp_path) == ["dangling", "far", "far/file.txt", "far/new.txt", "link"]
    assert (
        (tmp_path / "far/file.txt").read_text() == (tmp_path / "far/new.txt").read_text() == "new"
    )
    with files.new_folder(tmp_path / "folder") as new:
        (new / "a").touch()
    (tmp_path / "to folder").symlink_to("folder")
    with files.new_folder(tmp_path / "to folder", overwrite=True) as new:
        (new / "b").touch()
    assert names(tmp_path / "folder") == ["b"] and (tmp_path / "to folder").is_symlink()


# Locks -----------------------------------------------------------------------------------

HOLD = """
import sys
from kgen import files
with files.locked(sys.argv[1], "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["well", "killed"])
def test_a_lock_names_its_holder_and_goes_with_it(tmp_path, end):
    lock = tmp_path / "lock"
    line = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        said = f"runs/a is in use by process {process.pid} on {socket.gethostname()}. Wait"
        with pytest.raises(BlockingIOError, match=said), files.locked(lock, "runs/a"):
            pass
        assert lock.is_file(), "it is the other's"
        if end == "killed":
            process.kill()
        process.stdin.close()
        process.wait()
    assert lock.exists() == (end == "killed")
    with files.locked(lock, "runs/a"):
        assert str(os.getpid()) in lock.read_text()
        with pytest.raises(BlockingIOError), files.locked(lock, "runs/a"):
            pass
    assert not lock.exists()


def test_one_after_the_other(tmp_path):
    """Who waits for a lock file that is removed meanwhile makes another one."""
    code = """
import pathlib, sys
from kgen import files
count = pathlib.Path(sys.argv[1], "count")
for _ in range(100):
    with files.locked(count.with_name("lock"), count, wait=None):
        count.write_text(str(int(count.read_text()) + 1))
"""
    (tmp_path / "count").write_text("0")
    line = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(line) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "300" and names(tmp_path) == ["count"]


# Kills -----------------------------------------------------------------------------------


def test_a_killed_write_is_cleaned_up_by_the_next_one(tmp_path):
    path = tmp_path / "grid.png"
    path.write_text("old")
    killed("with files.replacing(sys.argv[1]) as new:\n    new.write_text('half')\n    die()", path)
    assert path.read_text() == "old" and len(names(tmp_path)) == 3
    files.write_text(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["grid.png"]


OVERWRITE = """
rename = pathlib.Path.rename
def rename_and_die(path, to):
    rename(path, to)
    if "{when}" in str(to):
        die()
pathlib.Path.rename = rename_and_die
with files.new_folder(sys.argv[1], overwrite=True) as new:
    (new / "file").write_text("new")
    if "{when}" == "before":
        die()
"""


@pytest.mark.parametrize(("when", "after"), [("before", "old"), ("kgen-old", "old"), ("/x", "new")])
@pytest.mark.parametrize("by", ["recover", "the next one"])
def test_a_killed_overwrite_loses_nothing(tmp_path, when, after, by):
    path = tmp_path / "x"
    path.mkdir()
    (path / "file").write_text("old")
    killed(OVERWRITE.format(when=when), path)
    assert path.exists() == (when != "kgen-old"), "the artifact is missing between two renames"
    assert len(list(tmp_path.iterdir())) > 1
    if by == "recover":
        files.recover(path)
    else:
        with pytest.raises(KeyboardInterrupt), files.new_folder(path, overwrite=True):
            raise KeyboardInterrupt
    assert (path / "file").read_text() == after
    assert names(tmp_path) == ["x", "x/file"]


TOGETHER = """
replace, count = os.replace, 0
def replace_and_die(path, to):
    global count
    replace(path, to)
    count += ".kgen-done" in str(path)
    if count == {moved}:
        die()
os.replace = replace_and_die
with files.together(sys.argv[1], "evaluation") as new:
    for name in "abc":
        (new / name).write_text("new")
    if not {moved}:
        die()
"""


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_files_change_together(tmp_path, moved):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abx":
        (folder / name).write_text("old")
    killed(TOGETHER.format(moved=moved), folder)
    files.complete(folder, "evaluation")
    expected = "abcx" if moved else "abx"
    assert names(folder) == sorted(expected)
    values = {name: (folder / name).read_text() for name in expected}
    assert values == {name: "new" if moved and name != "x" else "old" for name in expected}


def test_what_fails_leaves_no_folders(tmp_path):
    for make in (files.new_folder, lambda path: files.together(path, "evaluation")):
        with pytest.raises(KeyboardInterrupt), make(tmp_path / "new" / "deep") as new:
            (new / "file").touch()
            raise KeyboardInterrupt
    assert names(tmp_path) == []


# Lists -----------------------------------------------------------------------------------


def test_only_what_was_written_is_removed(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside.txt"
    (folder / "samples").mkdir(parents=True)
    for path in (folder / files.FILES, folder / "samples/mine.png", folder / "mine.txt", outside):
        path.touch()
    with files.recorded(folder), files.together(folder, "evaluation") as new:
        files.write_text(new / "page.html", "")
        for name in ("a.txt", "samples/1.png", "logs/train/1", "a.txt"):
            files.write_text(folder / name, "")
        files.write_text(outside, "")
    files.write_text(folder / "unlisted.txt", "")
    assert files.written(folder) == ["a.txt", "samples/1.png", "logs/train/1", "page.html"]
    with open(folder / files.FILES, "a") as file:
        file.write(f"\n../outside.txt\n{outside}\nsamples\nnowhere.txt\n")
    files.remove_written(folder)
    left = [files.FILES, "mine.txt", "samples", "samples/mine.png", "unlisted.txt"]
    assert names(folder) == left and outside.exists()


def test_a_file_is_listed_before_it_is_written(tmp_path):
    (tmp_path / files.FILES).touch()
    killed(
        "with files.recorded(sys.argv[1]), files.replacing(sys.argv[1] + '/a.txt') as new:\n"
        "    new.touch()\n    die()",
        tmp_path,
    )
    assert files.written(tmp_path) == ["a.txt"]
    assert names(tmp_path) == [".a.kgen.txt", ".a.txt.kgen-lock", files.FILES]
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == [files.FILES]


# A full disk -----------------------------------------------------------------------------

FULL = """
import resource, sys
from kgen import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
def write(path):
    open(path, "wb", buffering=0).write(b"x" * 1000)
    open(path, "ab", buffering=0).write(b"x" * 1000)
def file(path):
    with files.replacing(path) as new:
        write(new)
def folder(path):
    with files.new_folder(path) as new:
        write(new / "file")
def together(path):
    with files.together(path, "evaluation") as new:
        write(new / "file")
for kind in (file, folder, together):
    try:
        kind(sys.argv[1])
    except OSError as error:
        print(error.filename, error.errno, sep="|")
"""


def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "there"
    result = run(FULL, path)
    assert result.stdout == 3 * f"{path}|27\n", result.stderr
    assert names(tmp_path) == []
