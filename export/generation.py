"""Data sets of images that an artifact draws, in shards, on one machine or on a cluster.

A shard is the work of one call, and comes whole or not at all. What is done is kept in a journal
beside the shards, so that the same call goes on where it was stopped. Ray spreads the shards over
its workers, and gives those of a worker that died to others; the images of a shard are the same
wherever it is drawn.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import pickle
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from export import artifact as artifacts
from export import manifest as schema
from export import parity, shards, verification
from kgen import files
from kgen.checks import Number, check_ints, check_names, check_numbers, unknown_name
from kgen.streams import silenced

#: What a data set holds, in its folder, beside the shards.
RECORD = "dataset.json"
FORMAT, FORMAT_VERSION = "kgen.dataset", 1

_JOURNAL = ".dataset.kgen-shards.jsonl"  # until the record has all shards
_LAST_SEED = 2**31 - 1


def generate_dataset(
    artifact: artifacts.Artifact | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    num_images: int,
    *,
    file_format: str = "png",
    labels: int | Sequence[int] | str | None = None,
    first_seed: int = 0,
    endpoint: str = "generate",
    options: dict[str, Any] | None = None,
    images_per_shard: int = 1000,
    batch_size: int = 64,
    workers: int | None = None,
    address: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Draws the images of seeds `first_seed` to `first_seed + num_images - 1` into a folder.

    Each is there once, and is what ONNX Runtime draws from that seed. Called again with the same
    arguments it goes on with the shards that are missing, whatever has stopped it.

    Args:
        artifact: `Artifact`, or the path of one, with ONNX. On a cluster it and `folder` must be
            on a file system that all machines see.
        folder: Path of a folder that is missing, empty or holds a part of this data set.
        num_images: Int.
        file_format: `"png"` (folders of PNGs, by class where there are labels, as
            `kgen.data.load` reads them), `"webdataset"` (tar), `"npz"` (`x_train`, `y_train`,
            `seed`) or `"tfrecord"` (`image` as PNG, `label`, `seed`).
        labels: For a class-conditional model an int, a list of ints or `"each"` for all classes;
            seed `s` has label `labels[s % len(labels)]`. `None` means `"each"`.
        first_seed: Int.
        endpoint: Name of an endpoint that draws from a seed.
        options: Dict of its options that are inputs, such as `{"temperature": 0.7}`, for all
            images alike.
        images_per_shard: Int; the last shard has the rest.
        batch_size: Int, images per call of the endpoint.
        workers: Int, processes that draw; `None` for one on each core, which are the most; 0 to
            draw in this process and without Ray.
        address: Address of a Ray cluster, or `"auto"`; `None` starts Ray on this machine and ends
            it, unless `ray.init` was called before.
        progress: Bool, show a progress bar.

    Returns:
        Dict: what `dataset.json` says, and `made`, images that this call has drawn.

    Raises:
        ValueError: An argument is out of range, or the folder holds something else.
        VerificationError: The artifact was changed.
    """
    path = artifact.path if isinstance(artifact, artifacts.Artifact) else artifact
    found = verification.verify(path, hashes_only=True).artifact
    check_names(file_format=(file_format, shards.SUFFIXES))
    check_ints(1, num_images=num_images, images_per_shard=images_per_shard, batch_size=batch_size)
    check_ints(0, first_seed=first_seed, **({} if workers is None else {"workers": workers}))
    if first_seed + num_images - 1 > _LAST_SEED:
        raise ValueError(
            f"Seeds end at {_LAST_SEED}. Received: first_seed={first_seed}, num_images={num_images}"
        )
    if workers == 0 and address is not None:
        raise ValueError(f"workers=0 draws without Ray. Received: address={address!r}")
    signature = _signature(found, endpoint, file_format, options or {})
    plan = Plan(
        path=str(found.path.resolve()),
        artifact={"name": found.name, "sha256": found.manifest["sha256"]},
        endpoint=signature,
        options={name: float(value) for name, value in (options or {}).items()},
        labels=_labels(found, signature, labels),
        num_classes=found.manifest["model"]["num_classes"],
        first_seed=first_seed,
        num_images=num_images,
        file_format=file_format,
        images_per_shard=images_per_shard,
        batch_size=batch_size,
    )
    if workers != 0:
        _ray(address)  # before anything is written
        if address is not None:
            _check_address(address)
    return _generate(plan, pathlib.Path(folder), workers, address, progress)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that the images and their shards depend on, and where the artifact is."""

    path: str
    artifact: dict
    endpoint: str
    options: dict
    labels: list | None
    num_classes: int | None
    first_seed: int
    num_images: int
    file_format: str
    images_per_shard: int
    batch_size: int

    def record(self):
        """The plan as it stands in `dataset.json`: wherever the artifact is, it is the same."""
        plan = dataclasses.asdict(self)
        del plan["path"]
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **plan}

    @property
    def num_shards(self):
        return math.ceil(self.num_images / self.images_per_shard)

    def seeds(self, shard):
        """int32 array of the seeds of a shard."""
        begin = shard * self.images_per_shard
        end = min(begin + self.images_per_shard, self.num_images)
        return np.arange(self.first_seed + begin, self.first_seed + end, dtype=np.int32)

    def labels_of(self, seeds):
        """int32 array of the labels that go with seeds, or `None`."""
        if self.labels is None:
            return None
        return np.array(self.labels, np.int32)[seeds % len(self.labels)]

    def pattern(self, shard):
        return shards.pattern_of(self.file_format, shard, self.labels is not None)


class Painter:
    """Draws shards: `painter(shard)` writes one and returns what the record says of it."""

    def __init__(self, plan, folder, threads=1):
        self.plan, self.folder, self.threads = plan, folder, threads

    def __call__(self, shard):
        written = shards.write(
            self.folder,
            self.plan.file_format,
            shard,
            self._batches(self.plan.seeds(shard)),
            self._claim_of,
            self.plan.num_classes if self.plan.labels is not None else None,
        )
        return {
            "shard": shard,
            "path": self.plan.pattern(shard),
            "images": len(self.plan.seeds(shard)),
            **written,
        }

    @functools.cached_property
    def _artifact(self):
        found = artifacts.load(self.plan.path)
        if found.manifest["sha256"] != self.plan.artifact["sha256"]:
            raise ValueError(f"{found.path} has become another artifact; begin again with -o.")
        return found

    def _claim_of(self, seed, label):
        endpoint = self.plan.endpoint
        options = self._artifact.endpoints[endpoint].get("options", {}) | self.plan.options
        name = endpoint.removesuffix(schema.WITH_OPTIONS)
        return self._artifact.origin.claim(name, [seed], label, options)

    @functools.cached_property
    def _draw(self):
        """Function of seeds and labels, whole batches of them, that gives images."""
        found = self._artifact
        signature = found.manifest["formats"]["onnx"]["signatures"][self.plan.endpoint]
        session = parity.onnx_session(found.path / signature["file"], self.threads)
        size = self.plan.batch_size
        options = {
            signature["inputs"][name]: np.full(size, value, np.float32)
            for name, value in self.plan.options.items()
        }
        names, outputs = signature["inputs"], [signature["outputs"]["image"]]

        def draw(seeds, labels):
            inputs = {names["seed"]: seeds, **options}
            if labels is not None:
                inputs[names["label"]] = labels
            return session.run(outputs, inputs)[0]

        return draw

    def _batches(self, seeds):
        size = self.plan.batch_size
        for begin in range(0, len(seeds), size):
            batch = seeds[begin : begin + size]
            # A whole batch always, so that a seed's image does not depend on the shard's size.
            whole = np.resize(batch, size)
            images = self._draw(whole, self.plan.labels_of(whole))
            yield batch, self.plan.labels_of(batch), images[: len(batch)]


class _Worker:
    """A `Painter` in a process of Ray's. What goes wrong comes back as it is, in a pickle."""

    def __init__(self, plan, folder):
        self.painter = Painter(plan, folder)

    def __call__(self, row):
        try:
            return {"done": pickle.dumps(self.painter(int(row["shard"])))}
        except Exception as error:
            try:
                return {"done": pickle.dumps(error)}
            except Exception:  # not all errors of libraries can be pickled
                return {"done": pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))}


def _generate(plan, folder, workers, address, progress):
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder with -o.")
    _check_folder(plan, folder)
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with files.locked(files.lock_in(folder, "dataset"), folder):
        done = _done(plan, _check_folder(plan, folder), folder)
        _write_record(plan, folder, done, len(done) == plan.num_shards)
        missing = [shard for shard in range(plan.num_shards) if shard not in done]
        made = 0
        if missing:
            painted = _here if workers == 0 else functools.partial(_on_ray, workers, address)
            with _Journal(folder / _JOURNAL) as journal, _bar(plan, done, progress) as step:
                for row in painted(plan, str(folder), missing):
                    journal.add(row)
                    done[row["shard"]] = row
                    made += row["images"]
                    step(row["images"])
            _write_record(plan, folder, done, True)
        _tidy(folder)
    return {**json.loads((folder / RECORD).read_text()), "made": made}


# Who draws --------------------------------------------------------------------------------


def _here(plan, folder, missing):
    painter = Painter(plan, folder, threads=0)
    return map(painter, missing)


def _on_ray(workers, address, plan, folder, missing):
    """What the record says of the missing shards, one after the other, as Ray's workers end."""
    ray = _ray(address)
    with _ray_session(ray, workers, address):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # one of ours has images in it
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        workers = min(workers or cores, cores)
        # A block for each shard, and so a task, which Ray gives to another worker when its own
        # dies. Two at a worker: the next one is there when it has done one.
        rows = ray.data.from_items(
            [{"shard": shard} for shard in missing], override_num_blocks=len(missing)
        )
        pool = ray.data.ActorPoolStrategy(
            size=min(workers, len(missing)), max_tasks_in_flight_per_actor=2
        )
        rows = rows.map(_Worker, fn_constructor_args=(plan, folder), compute=pool, num_cpus=1)
        for row in rows.iter_rows():
            done = pickle.loads(row["done"])
            if isinstance(done, Exception):
                raise done
            yield done


@contextlib.contextmanager
def _ray_session(ray, workers, address):
    """Connects to Ray, or starts it on this machine; leaves it as it was found."""
    if ray.is_initialized() and address is None:
        yield
        return
    arguments = {"address": address}
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        if address is None:
            temporary = tempfile.mkdtemp(prefix="kgen-ray-")
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            arguments = {
                "address": "local",
                "num_cpus": workers,
                "include_dashboard": False,
                "object_store_memory": 2**27,  # of what goes through it: a few numbers
                "_temp_dir": temporary,
            }
        stack.callback(ray.shutdown)
        with _silenced():
            ray.init(**arguments, log_to_driver=False, logging_level=logging.ERROR)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process on the spot
        yield


def _check_address(address):
    """`ConnectionError` where nothing listens at HOST:PORT, for which Ray waits for minutes."""
    host, colon, port = address.rpartition("://")[-1].rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            said = f"No Ray cluster answers at {address}: {error.strerror or error}."
            raise ConnectionError(said) from error


def _ray(address=None):
    """Ray, which tells nobody of its use, and alone on a machine listens to that alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:  # Ray then takes the loopback address for the machine's
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f"To draw with several workers needs Ray ({error}): pip install 'kgen[ray]', or draw "
            "in one process with --workers 0."
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def _silenced():
    """Keeps what Ray's C++ has to say from standard error; what goes wrong is raised."""
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    try:
        with silenced():
            yield
    finally:
        del os.environ["RAY_BACKEND_LOG_LEVEL"]


# What is there ----------------------------------------------------------------------------


def _check_folder(plan, folder):
    """The record in a folder, or `None` where it is empty; `ValueError` if it is another's."""
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
    except FileNotFoundError:
        if folder.exists() and any(".kgen-" not in name for name in os.listdir(folder)):
            other = f"{folder} holds other files; choose another folder with -o."
            raise ValueError(other) from None
        return None
    try:
        record = json.loads(text)
        written = record["format"], record["format_version"], record["shards"]
        if written[:2] != (FORMAT, FORMAT_VERSION) or not isinstance(written[2], list):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / RECORD} is none that this kgen writes.") from None
    for name, value in plan.record().items():
        if record.get(name) != value:
            raise ValueError(
                f"{folder} holds another data set: its {name} is {_short(record.get(name))}, and "
                f"{_short(value)} is asked for. Choose another folder with -o."
            )
    return record


def _done(plan, record, folder):
    """Dict of the shards that are done, by number, and there."""
    rows = [] if record is None else [*record["shards"], *_Journal.read(folder / _JOURNAL)]
    done = {}
    for row in rows:
        try:
            shard, size = row["shard"], row["bytes"]
            there = [path.stat().st_size for path in folder.glob(plan.pattern(shard))]
            images = len(plan.seeds(shard))
        except (KeyError, TypeError, ValueError):
            continue  # cut off, as by a full disk
        count = images if plan.file_format == "png" else 1
        if shard in range(plan.num_shards) and (len(there), sum(there)) == (count, size):
            done[shard] = row
    return done


def _write_record(plan, folder, done, complete):
    rows = [done[shard] for shard in sorted(done)]
    record = {**plan.record(), "complete": complete, "shards": rows}
    files.write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


class _Journal:
    """A new file with a line for each shard that is done since the record was written."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.file = open(self.path, "wb", buffering=0)
        return self

    def __exit__(self, *error):
        self.file.close()

    def add(self, row):
        with files.naming(self.path):
            # On a line of its own, also after one that a full disk has cut off.
            self.file.write(f"\n{json.dumps(row)}".encode())

    @staticmethod
    def read(path):
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_text("utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


def _tidy(folder):
    """Removes the journal of a data set that is complete, and what killed workers have left."""
    (folder / _JOURNAL).unlink(missing_ok=True)
    for left in folder.glob(".shard-*.kgen*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


# What is asked for ------------------------------------------------------------------------


def _signature(found, endpoint, file_format, options):
    """The name of the ONNX signature that draws, with options where some are given."""
    endpoints = found.endpoints
    signatures = found.manifest["formats"].get("onnx", {}).get("signatures", {})
    if not signatures:
        raise ValueError(f"{found.path} has no ONNX files: export it with --formats onnx.")
    drawing = [name for name in signatures if _draws(endpoints[name])]
    if endpoint not in drawing:
        raise ValueError(
            f"{found.path} has no endpoint '{endpoint}' that draws images from seeds. "
            f"It has: {', '.join(name for name in drawing if _is_plain(name)) or 'none'}"
        )
    name = endpoint
    if options and endpoint + schema.WITH_OPTIONS in drawing:
        name = endpoint + schema.WITH_OPTIONS
    specs = endpoints[name]["inputs"]
    known = {key for key, spec in specs.items() if "default" in spec}
    for key, value in options.items():
        if key not in known:
            raise ValueError(unknown_name("option", key, known))
        bounds = Number(least=specs[key]["minimum"], most=specs[key]["maximum"])
        check_numbers(bounds, **{key: value})
    image = endpoints[name]["outputs"]["image"]
    if file_format != "npz" and schema.picture(image["dtype"], image["shape"]) != "image":
        raise ValueError(f"PNG cannot hold images of {image['shape'][1:]}: choose npz.")
    return name


def _is_plain(name):
    return not name.endswith(schema.WITH_OPTIONS)


def _draws(endpoint):
    """Whether an endpoint makes images of seeds, and of labels and options at most."""
    needed = {key for key, spec in endpoint["inputs"].items() if "default" not in spec}
    image = endpoint["outputs"].get("image", {})
    return "seed" in needed <= {"seed", "label"} and len(image.get("shape", ())) == 4


def _labels(found, signature, labels):
    """The labels as a list, whose place for a seed is the seed modulo its length, or `None`."""
    spec = found.endpoints[signature]["inputs"].get("label")
    if spec is None:
        if labels is not None:
            raise ValueError(f"{found.name} is not class-conditional. Received: labels={labels!r}")
        return None
    if labels is None or (isinstance(labels, str) and labels == "each"):
        return list(range(spec["minimum"], spec["maximum"] + 1))
    array = np.atleast_1d(np.asarray(labels))
    whole = array.ndim == 1 and array.size > 0 and array.dtype.kind in "iu"
    if not whole or array.min() < spec["minimum"] or array.max() > spec["maximum"]:
        raise ValueError(
            f"labels must be classes in {spec['minimum']} to {spec['maximum']}, or 'each'. "
            f"Received: {_short(labels)}"
        )
    return array.tolist()


def _short(value):
    said = repr(value)
    return said if len(said) <= 100 else f"{said[:100]}..."


@contextlib.contextmanager
def _bar(plan, done, enabled):
    """A bar of images on standard error, as a context manager that gives `step(images)`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )
    from rich.progress import (
        TimeRemainingColumn as Remaining,
    )

    columns = (TextColumn("Drawing"), BarColumn(), MofNCompleteColumn(), Remaining())
    columns += (TextColumn("{task.description}"),)
    begin, made = time.perf_counter(), 0
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not enabled) as bar:
        before = sum(row["images"] for row in done.values())
        task = bar.add_task("", total=plan.num_images, completed=before)

        def step(images):
            nonlocal made
            made += images
            rate = made / (time.perf_counter() - begin)
            bar.update(task, completed=before + made, description=f"{rate:.0f} images/s")

        yield step
