"""Files and folders that are either whole or not there, and who is writing them.

What a process writes under another name, before it takes its place, has `.kgen` in that name. The
process holds a lock meanwhile, which the operating system frees when it ends, however it ends: what
bears such a name and is not locked was left by a process that was killed. The next one that writes
there removes it or completes it.
"""

import contextlib
import contextvars
import errno
import os
import pathlib
import re
import shutil
import socket
import stat

#: The list, in a folder that keeps one, of the files that were written there; see `recorded`.
FILES = "files.txt"

_WAIT = 10  # seconds for another process that writes the same file
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_recorder = contextvars.ContextVar("recorder", default=None)


# Files ----------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path`, of its suffix, that takes its place when the block ends well.

    A reader sees the old file or the new one, never a part; so does a run that is killed
    or a disk that is full. What was written is on the disk before the name changes. The
    folder of `path` is made when it is missing, links are followed. `ValueError` where `path` is
    no file, but a folder or a device.

    >>> with replacing("metrics.csv") as temporary:
    ...     temporary.write_text("epoch,loss")
    """
    given, path = path, target(path)
    temporary, lock = traces(path)
    with naming(given):
        path.parent.mkdir(parents=True, exist_ok=True)
        record(path)
        with locked(lock, given, _WAIT):
            try:
                temporary.unlink(missing_ok=True)
                yield temporary
                _to_disk(temporary)
                os.replace(temporary, path)
                _to_disk(path.parent)
            except BaseException:  # Ctrl-C too
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise


def write_text(path, text):
    """Writes a text file as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def target(path):
    """The file that is meant by `path`, whose links are followed; there may be none yet.

    `ValueError` where there is something else, such as a device, which would not survive being
    replaced.
    """
    path = pathlib.Path(path)
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
            raise ValueError(f"A file is to be written, and {path} is {what}: give another path.")
    return pathlib.Path(os.path.realpath(path))


def is_disk_full(error):
    """Whether an error says that the disk, or what a user may have of it, is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    # HDF5, TensorFlow and NumPy keep the number to themselves.
    said = r"No space left on device|File too large|\d+ requested and \d+ written"
    return isinstance(error, Exception) and re.search(said, str(error)) is not None


@contextlib.contextmanager
def naming(path):
    """Where the block finds the disk full, the `OSError` names what was written, `path`."""
    try:
        yield
    except Exception as error:
        named = getattr(error, "filename", None)
        if not is_disk_full(error) or (named is not None and ".kgen" not in str(named)):
            raise
        number = getattr(error, "errno", None)
        if number not in _FULL:
            number = errno.EFBIG if "too large" in str(error) else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(path)) from error


def traces(path):
    """The temporary file and the lock of a file that is being written."""
    return path.with_name(f".{path.stem}.kgen{path.suffix}"), lock_of(path)


def lock_of(path):
    return path.with_name(f".{path.name}.kgen-lock")


def _to_disk(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Folders --------------------------------------------------------------------------------


@contextlib.contextmanager
def new_folder(path, overwrite=False):
    """A temporary folder beside `path` that takes its place when the block ends well.

    What stands at `path` must be an empty folder or nothing, unless `overwrite`; then it is
    removed in the end. `BlockingIOError` where another process writes `path`.
    """
    given, path = path, pathlib.Path(os.path.realpath(path))
    missing = [parent for parent in path.parents if not parent.exists()]
    new, old = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(given), locked(lock_of(path), given):
            _recover(path)
            try:
                new.mkdir()
                yield new
                if overwrite and path.exists():
                    path.rename(old)
                new.rename(path)
            finally:  # after Ctrl-C too
                _recover(path)
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def recover(path):
    """Puts a folder back that `new_folder` had moved aside when its process was killed."""
    path = pathlib.Path(os.path.realpath(path))
    if any(left.exists() for left in _beside(path)):
        with contextlib.suppress(OSError), locked(lock_of(path), path):
            _recover(path)


def _beside(path):
    """The folder that is to take the place of `path`, and the one that stood there before."""
    return path.with_name(f".{path.name}.kgen-new"), path.with_name(f".{path.name}.kgen-old")


def _recover(path):
    new, old = _beside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def together(folder, name, wait=0):
    """A temporary folder in `folder`, whose files take their places in `folder` all together.

    They do when the block ends well. A process that is killed before has changed nothing, one
    that is killed while it moves them leaves the rest to the next one, or to `complete`.
    `BlockingIOError` where another process writes what is called `name` there, for more than
    `wait` seconds.
    """
    given, folder = folder, pathlib.Path(os.path.realpath(folder))
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    new, done = _inside(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with naming(given), recorded(folder), locked(lock_in(folder, name), given, wait):
            _complete(folder, name)
            try:
                new.mkdir()
                yield new
                new.rename(done)
            finally:  # after Ctrl-C too
                _complete(folder, name)
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def complete(folder, name):
    """Completes what a process that was killed had begun to move, see `together`."""
    folder = pathlib.Path(os.path.realpath(folder))
    if any(left.exists() for left in _inside(folder, name)):
        lock = lock_in(folder, name)
        with contextlib.suppress(OSError), recorded(folder), locked(lock, folder):
            _complete(folder, name)


def _inside(folder, name):
    """The folder that is being filled, and the one that is complete."""
    return folder / f".{name}.kgen-new", folder / f".{name}.kgen-done"


def _complete(folder, name):
    new, done = _inside(folder, name)
    shutil.rmtree(new, ignore_errors=True)
    for path in sorted(done.rglob("*")):
        if path.is_file():
            to = folder / path.relative_to(done)
            to.parent.mkdir(parents=True, exist_ok=True)
            record(to)
            os.replace(path, to)
    shutil.rmtree(done, ignore_errors=True)


# Who writes -----------------------------------------------------------------------------


def lock_in(folder, name="run"):
    """Path of the lock of what is called `name` in a folder."""
    return pathlib.Path(folder, f".{name}.kgen-lock")


@contextlib.contextmanager
def locked(lock, what, wait=0):
    """Holds the lock in the file `lock`, which is there as long as the block runs.

    `BlockingIOError`, which says what `what` is used by, where another process holds it for more
    than `wait` seconds; `None` waits for ever.
    """
    import filelock  # here, so that `kgen --help` is quick

    lock = pathlib.Path(lock)
    with contextlib.ExitStack() as stack:
        try:
            held = filelock.FileLock(lock)
            stack.enter_context(held.acquire(timeout=-1 if wait is None else wait))
        except filelock.Timeout:
            raise BlockingIOError(
                f"{what} is in use by {holder(lock)}. Wait until that has ended, or stop it."
            ) from None
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise OSError(error.errno, error.strerror, str(what)) from error
        else:
            if not isinstance(held, filelock.SoftFileLock):  # where it must do, it keeps its own
                # Before the lock is freed: who has waited for this file finds it gone and makes
                # another one.
                stack.callback(_unlink, lock)
                with contextlib.suppress(OSError):  # such as a full disk
                    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def holder(lock):
    """Who holds a lock, as a phrase."""
    with contextlib.suppress(OSError):
        if said := pathlib.Path(lock).read_text(errors="replace").strip():
            return " ".join(said.split())[:200]
    return "another process"


def _unlink(path):
    with contextlib.suppress(OSError):
        path.unlink()


# What was written -----------------------------------------------------------------------


class _Recorder:
    """Appends to the list of a folder's files, each once."""

    def __init__(self, folder):
        self.folder = folder
        self.known = set(written(folder))

    def add(self, path):
        if not path.is_relative_to(self.folder):
            return
        name = path.relative_to(self.folder).as_posix()
        if name not in self.known and name != FILES and ".kgen-" not in name:
            # On a line of its own, also after one that a full disk has cut off.
            with naming(self.folder / FILES), open(self.folder / FILES, "ab", buffering=0) as file:
                file.write(f"\n{name}".encode())
            self.known.add(name)


@contextlib.contextmanager
def recorded(folder):
    """What the block writes under `folder` is listed there, in `files.txt`, if that is there.

    A file is listed before it is written, so that a process that is killed leaves none that is
    not.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    token = _recorder.set(_Recorder(folder) if (folder / FILES).is_file() else _recorder.get())
    try:
        yield
    finally:
        _recorder.reset(token)


def record(path):
    """Lists a file that is about to be written, see `recorded`. (`replacing` does.)"""
    if (recorder := _recorder.get()) is not None:
        recorder.add(pathlib.Path(os.path.realpath(path)))


def written(folder):
    """The names in `files.txt` of a folder, relative to it; none where there is no such list."""
    try:
        lines = pathlib.Path(folder, FILES).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    inside = [line for line in lines if line and not pathlib.PurePosixPath(line).is_absolute()]
    return list(dict.fromkeys(name for name in inside if ".." not in name.split("/")))


def remove_written(folder, keep=()):
    """Removes the files that `files.txt` of a folder lists, and the folders that get empty."""
    folder = pathlib.Path(folder)
    for name in written(folder):
        path = folder / name
        for file in traces(path) if name in keep else (path, *traces(path)):
            if file.is_symlink() or file.is_file():
                file.unlink()
        for parent in path.relative_to(folder).parents[:-1]:
            with contextlib.suppress(OSError):
                (folder / parent).rmdir()


def remove_leftovers(folder):
    """Removes the temporary files and locks of what `files.txt` lists; the folder is locked."""
    for name in written(folder):
        for file in traces(pathlib.Path(folder, name)):
            file.unlink(missing_ok=True)
