"""Files that are either whole or not there."""

import contextlib
import os
import pathlib
import re
import uuid


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path`, of its suffix, that takes its place when the block ends well.

    A reader sees the old file or the new one, never a part; so does a run that is killed
    or a disk that is full. What was written is on the disk before the name changes. The
    folder of `path` is made when it is missing.

    >>> with replacing("metrics.csv") as temporary:
    ...     temporary.write_text("epoch,loss")
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_leftovers(folder):
    """Removes the temporary files under `folder` of a process that was killed."""
    for path in pathlib.Path(folder).rglob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)?", path.name) and path.is_file():
            path.unlink()


def write_text(path, text):
    """Writes a text file as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _to_disk(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
