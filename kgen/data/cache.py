"""The cache of decoded images: one folder per source, shape and split, whole or absent.

An entry holds `<split>_images.npy` (uint8 `[N, H, W, C]`), `<split>_labels.npy` (int32
`[N]`) where there are labels, and `entry.json`. It is written under another name and
renamed when it is complete, so that a reader never meets half an entry. Who writes it holds
its lock, which the operating system frees when the process ends, however it ends: a folder
under such a name whose lock is free is what a killed process has left behind.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import warnings

import numpy as np

from kgen.files import holder, locked

FORMAT = 1  # part of every key: raise it when decoding changes
LIMIT = "20GB"  # of the whole cache, unless KGEN_CACHE_LIMIT says otherwise
_BLOCKS, _BLOCK = 256, 2**20
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def default_folder():
    """`KGEN_CACHE_DIR`, or the folder `kgen` where the system keeps a user's caches."""
    if folder := os.environ.get("KGEN_CACHE_DIR"):
        return pathlib.Path(folder)
    import platformdirs

    folder = None
    with contextlib.suppress(RuntimeError):  # an older version leaves `~` in the path
        folder = platformdirs.user_cache_path("kgen", appauthor=False)
    if folder is None or not folder.is_absolute():
        raise OSError(
            "There is no place for the data cache, because no home folder is known: HOME is not "
            "set. Name a folder with cache_dir or KGEN_CACHE_DIR."
        )
    return folder


def limit():
    """Bytes that the cache may take, by `KGEN_CACHE_LIMIT`, such as `500MB`; `None` for `none`."""
    text = os.environ.get("KGEN_CACHE_LIMIT") or LIMIT
    return None if text.lower() == "none" else parse_size("KGEN_CACHE_LIMIT", text)


def parse_size(name, text):
    """`"1.5GB"` to bytes; a `ValueError` names what has another form."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{name} takes a size such as 500MB or 20GB. Received: {text!r}")
    number, unit = match.groups()
    return int(float(number) * 1000 ** " KMGT".index(unit.upper() or " "))


def digest(value):
    """sha256, in hexadecimal, of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def load(entry, fill):
    """An entry, read from the folder `entry`; one that is missing or damaged is written first.

    Of several processes that want an entry, one writes it and the others wait for it; locks are
    kept beside the folder that it is in. `fill` is given a `Writer`, adds all images and returns
    a dict of what else to keep. Returns a dict of split name to `(images, labels)`, the images
    memory-mapped, and what `fill` gave. An `OSError` where the entry cannot be written, for
    instance because the disk is full, leaves nothing of it. Once it is written, those that were
    not used for longest are removed where the cache is over its limit.
    """
    most = limit()
    with contextlib.suppress(*_DAMAGE):
        return _read(entry)
    loaded = _write(entry, fill)
    root = entry.parent.parent
    if most is not None and (removed := prune(root, most, spare=entry)):
        warnings.warn(
            f"The cache in {root} was over its limit: removed {len(removed)} of what was not used "
            f"for longest, {shown(sum(item.size for item in removed))}. KGEN_CACHE_LIMIT sets "
            "another limit, such as 100GB, or none.",
            stacklevel=3,
        )
    return loaded


def _write(entry, fill):
    with _errors_name(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        _lock(entry).parent.mkdir(exist_ok=True)
        _remove_leftovers(entry.parent)
    with _locked(entry):
        if entry.exists():  # another process has just written it, or it is damaged
            try:
                return _read(entry)
            except _DAMAGE as error:
                warnings.warn(
                    f"Cache entry {entry} is damaged ({error}): rebuilding it.", stacklevel=4
                )
                with _errors_name(entry.parent):
                    shutil.rmtree(entry)
        partial = entry.with_name(f".{entry.name}")
        try:
            with _errors_name(entry.parent):
                partial.mkdir()
            with contextlib.closing(Writer(partial)) as writer:
                writer.finish(fill(writer))
            with _errors_name(entry.parent):
                partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return _read(entry)


def _read(entry):
    content = json.loads((entry / "entry.json").read_text("utf-8"))
    for file, expected in content["files"].items():
        if _file_digest(entry / file) != expected:
            raise ValueError(f"{file} has changed")
    loaded = _load(entry, content["splits"]), content["info"]
    with contextlib.suppress(OSError):  # the cache may be another user's
        os.utime(entry)  # the folder's time says when it was last used
    return loaded


def alike(entry, what):
    """The entries beside `entry` whose `info` has `what` as `alike`: pairs of path and `info`."""
    for other in entry.parent.glob(f"{entry.name[:-24]}{24 * '[0-9a-f]'}"):
        with contextlib.suppress(*_DAMAGE):
            info = json.loads((other / "entry.json").read_text("utf-8"))["info"]
            if info.get("alike") == what:
                yield other, info


def _lock(entry):
    """Path of the lock of an entry."""
    return entry.parent.with_name("locks") / f"{entry.name}.lock"


@contextlib.contextmanager
def _locked(entry):
    with contextlib.ExitStack() as stack:
        with _errors_name(entry.parent):
            lock = _lock(entry)
            try:
                stack.enter_context(locked(lock, entry, wait=1))  # a shorter wait needs no word
            except BlockingIOError:
                text = f"Waiting for the process that writes {entry}: {holder(lock)}."
                warnings.warn(text, stacklevel=6)
                stack.enter_context(locked(lock, entry, wait=None))
        yield


class Writer:
    """Writes the images of an entry one after the other.

    The files are written, not memory-mapped: on a full disk a write raises an error where
    a memory map kills the process.
    """

    def __init__(self, folder):
        self._folder = folder
        self._files, self._labels = {}, {}
        self._splits = None  # those of an entry that was linked

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
        """Completes the arrays and returns them as `load` does."""
        with _errors_name(self._folder.parent):
            for split, file in self._files.items():
                file.seek(0)
                self._write_header(split)
                file.close()
                labels = label_array(self._labels[split])
                if labels is not None:
                    np.save(self._folder / f"{split}_labels.npy", labels)
            return _load(self._folder, self._files)

    def link(self, entry):
        """Takes the arrays of another entry, in place of `add` and `arrays`, without copying them.

        Returns whether it could: not where that one is damaged, or the file system has no links.
        """
        linked = []
        try:
            _read(entry)
            content = json.loads((entry / "entry.json").read_text("utf-8"))
            for file in content["files"]:
                os.link(entry / file, self._folder / file)
                linked.append(self._folder / file)
        except _DAMAGE:
            for file in linked:
                file.unlink()
            return False
        self._splits = content["splits"]
        return True

    def finish(self, info):
        """Completes the entry, after `arrays`. `info` is a dict that `load` gives back."""
        with _errors_name(self._folder.parent):
            files = {path.name: _file_digest(path) for path in sorted(self._folder.iterdir())}
            splits = self._splits or sorted(self._files)
            content = {"splits": splits, "files": files, "info": info}
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
    """Removes what processes that were killed have left behind."""
    for partial in folder.glob(".*"):
        if not _is_own(partial):
            continue
        lock = _lock(folder / partial.name[1:])
        with contextlib.suppress(BlockingIOError), locked(lock, partial):
            shutil.rmtree(partial, ignore_errors=True)


def _is_own(folder):
    """Whether a folder holds nothing but what a `Writer` writes, so that it may be removed."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        names = os.listdir(folder)
    except FileNotFoundError:  # another process has renamed it
        return False
    return all(re.fullmatch(r"\w+_(images|labels)\.npy|entry\.json", name) for name in names)


# What is kept -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Kept:
    """An entry of the cache, or the features of some images, at `path`.

    `size` is in bytes, `used` the time of the last use, or of the writing of features, in seconds.
    """

    path: pathlib.Path
    size: int
    used: float


def kept(folder):
    """What a cache holds and may remove: a list of `Kept`, the last used first."""
    entries = pathlib.Path(folder, "data").glob("*-" + 24 * "[0-9a-f]")
    features = pathlib.Path(folder, "features").glob(64 * "[0-9a-f]" + ".npy")
    found = []
    for path in (*entries, *features):
        with contextlib.suppress(FileNotFoundError):  # another process removes it
            files = [path]
            if path.suffix != ".npy":
                hidden = path.name.startswith(".")  # being written, or removed
                if hidden or not ((path / "entry.json").is_file() and _is_own(path)):
                    continue
                files = path.iterdir()
            stats = [file.stat() for file in files]
            size = sum(stat.st_size // max(1, stat.st_nlink) for stat in stats)  # some are shared
            found.append(Kept(path, size, path.stat().st_mtime))
    return sorted(found, key=lambda item: item.used, reverse=True)


def prune(folder, most, spare=None):
    """Removes what was not used for longest, until no more than `most` bytes are kept.

    `spare` is the path of an entry that stays, as one stays that another process writes. A process
    that has an entry mapped goes on with it. Returns a list of the `Kept` that were removed.
    """
    items = kept(folder)
    total = sum(item.size for item in items)
    removed = []
    for item in reversed(items):
        if total > most and item.path != spare and _remove(item.path):
            total -= item.size
            removed.append(item)
    return removed


def _remove(path):
    """Whether an entry, or a file of features, could be removed."""
    try:
        if path.suffix == ".npy":
            path.unlink(missing_ok=True)
            return True
        lock = _lock(path)
        lock.parent.mkdir(exist_ok=True)
        with locked(lock, path):
            partial = path.with_name(f".{path.name}")
            path.rename(partial)  # first, so that nobody reads half of it
            shutil.rmtree(partial)
    except OSError:  # it is being written, is mapped on Windows, or is another user's
        return False
    return True


def shown(size):
    """A number of bytes as text."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
