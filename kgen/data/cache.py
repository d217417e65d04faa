"""The cache of decoded images: one folder per source, shape and split, whole or absent.

An entry holds `<split>_images.npy` (uint8 `[N, H, W, C]`), `<split>_labels.npy` (int32
`[N]`) where there are labels, and `entry.json`. It is written under another name and
renamed when it is complete, so that a reader never meets half an entry.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import uuid
import warnings

import numpy as np

FORMAT = 1  # part of every key: raise it when decoding changes
_BLOCKS, _BLOCK = 256, 2**20


def default_folder():
    """`KGEN_CACHE_DIR`, or the folder `kgen` in the user's cache (`XDG_CACHE_HOME`, `~/.cache`)."""
    if folder := os.environ.get("KGEN_CACHE_DIR"):
        return pathlib.Path(folder)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kgen"


def digest(value):
    """sha256, in hexadecimal, of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read(entry):
    """Reads an entry.

    Args:
        entry: Path of the entry's folder.

    Returns:
        Tuple of a dict of split name to `(images, labels)`, the images memory-mapped, and
        the dict that was given to `Writer.finish`; or `None` where there is no entry or,
        with a warning, where it is damaged; the damaged one is removed.
    """
    if not entry.exists():
        return None
    try:
        content = json.loads((entry / "entry.json").read_text("utf-8"))
        for file, expected in content["files"].items():
            if _file_digest(entry / file) != expected:
                raise ValueError(f"{file} has changed")
        return _load(entry, content["splits"]), content["info"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"Cache entry {entry} is damaged ({error}): rebuilding it.", stacklevel=3)
        with _errors_name(entry.parent):
            shutil.rmtree(entry)
        return None


@contextlib.contextmanager
def writing(entry):
    """Context manager that gives a `Writer`. The entry exists once it was left without error.

    Raises:
        OSError: If the entry cannot be written, for instance because the disk is full.
            Nothing of it is left.
    """
    unique = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
    partial = entry.parent / f".{entry.name}.{unique}"
    try:
        with _errors_name(entry.parent):
            partial.mkdir(parents=True)
            _remove_leftovers(entry.parent)
        with contextlib.closing(Writer(partial)) as writer:
            yield writer
        with _errors_name(entry.parent):
            try:
                os.rename(partial, entry)
            except OSError:
                if not entry.exists():  # else another process was faster: its entry is as good
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Writer:
    """Writes the images of an entry one after the other.

    The files are written, not memory-mapped: on a full disk a write raises an error where
    a memory map kills the process.
    """

    def __init__(self, folder):
        self._folder = folder
        self._files, self._labels = {}, {}

    def add(self, split, image, label):
        """Appends a uint8 image `[H, W, C]` and its label (or `None`) to a split."""
        with _errors_name(self._folder.parent):
            if split not in self._files:
                path = self._folder / f"{split}_images.npy"
                self._files[split] = open(path, "wb", buffering=_BLOCK)  # noqa: SIM115
                self._labels[split] = []
                self._image_shape = image.shape
                self._write_header(split)
            self._files[split].write(image.tobytes())
        self._labels[split].append(label)

    def arrays(self):
        """Completes the arrays and returns them as `read` does."""
        with _errors_name(self._folder.parent):
            for split, file in self._files.items():
                file.seek(0)
                self._write_header(split)
                file.close()
                labels = label_array(self._labels[split])
                if labels is not None:
                    np.save(self._folder / f"{split}_labels.npy", labels)
            return _load(self._folder, self._files)

    def finish(self, info):
        """Completes the entry, after `arrays`. `info` is a dict that `read` gives back."""
        with _errors_name(self._folder.parent):
            files = {path.name: _file_digest(path) for path in sorted(self._folder.iterdir())}
            content = {"splits": sorted(self._files), "files": files, "info": info}
            (self._folder / "entry.json").write_text(json.dumps(content), "utf-8")

    def close(self):
        for file in self._files.values():
            with contextlib.suppress(OSError):  # what is left in its buffer on a full disk
                file.close()

    def _write_header(self, split):
        # NumPy leaves room in the header for the number of images to grow.
        shape = (len(self._labels[split]), *self._image_shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._files[split], header)


def label_array(labels):
    """int32 array of a list of ints, or `None` if they are all `None`."""
    return None if labels[0] is None else np.array(labels, np.int32)


def _load(folder, splits):
    arrays = {}
    for split in splits:
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        labels = folder / f"{split}_labels.npy"
        arrays[split] = images, np.load(labels) if labels.exists() else None
    return arrays


@contextlib.contextmanager
def _errors_name(folder):
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"Cannot write the data cache in {folder}: {error.strerror}. Free some space "
            "there, or name another folder with cache_dir or KGEN_CACHE_DIR",
        ) from error


def _file_digest(path):
    """sha256 of a file's size and of 256 blocks of 1 MiB spread evenly over it.

    Up to 256 MiB that is the whole file. Beyond, it still takes only a fraction of a
    second, and finds every truncation and every larger damage.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = hashlib.sha256(str(size).encode())
        for block in range(_BLOCKS):
            file.seek(max(block * _BLOCK, block * (size - _BLOCK) // (_BLOCKS - 1)))
            content.update(file.read(_BLOCK))
    return content.hexdigest()


def _remove_leftovers(folder):
    """Removes what processes of this computer that were killed have left behind."""
    if os.name != "posix":
        return
    for path in folder.glob(".*"):
        host, _, rest = path.name.rpartition(f".{socket.gethostname()}.")
        pid = rest.split(".")[0]
        if host and pid.isdigit():
            try:
                os.kill(int(pid), 0)  # sends nothing: asks whether the process lives
            except ProcessLookupError:
                shutil.rmtree(path, ignore_errors=True)
            except PermissionError:
                pass  # it lives and is another user's
