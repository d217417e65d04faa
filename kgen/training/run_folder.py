"""The folder of a training run, and the model in it."""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import kgen
from kgen import files, models, places
from kgen.data.loading import SPLITS, Data
from kgen.image_generator import ImageGenerator
from kgen.training.checkpoints import Checkpoints, sha256
from kgen.training.distribution import is_main_host
from kgen.training.errors import RunError
from kgen.training.metrics_csv import read_metrics


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a run, at `path`.

    - `run.json`: model, every argument, data and its fingerprint, seed, versions, status
    - `checkpoints/`: the last three, see `kgen.training.checkpoints`
    - `samples/epoch_NNNN.png`: images from the same seeds after every epoch
    - `metrics.csv`: a row per epoch
    - `pace.csv`: of a run of minutes, which share of the highest rate from which step on
    - `logs/`: the same for TensorBoard
    - `model.keras`: the model, when the run is done
    - `best.keras`: with `keep_best`, the model of the best epoch
    - `files.txt`: the names of all of these, and of what an evaluation wrote here, a line each
    """

    path: pathlib.Path

    @property
    def info(self) -> dict[str, Any]:
        """Dict, what `run.json` says; raises `RunError` where there is none."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"There is no run in {self.path}: it holds no run.json. Give the folder that "
                "`kgen train --run` wrote."
            ) from error
        except ValueError as error:
            raise RunError(f"{self.path / 'run.json'} is not JSON: {error}") from error

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    @property
    def model_path(self) -> pathlib.Path:
        return self.path / "model.keras"

    @property
    def pace_path(self):
        return self.path / "pace.csv"

    @property
    def checkpoints(self):
        return Checkpoints(self.path / "checkpoints")

    def load_checkpoint(self, report=print):
        """The newest good checkpoint, as `Checkpoints.load`, or `None`."""
        otherwise = "model.keras" if self.model_path.is_file() else "the beginning"
        return self.checkpoints.load_last(report, otherwise)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """List of dicts, the rows of `metrics.csv`."""
        return read_metrics(self.path / "metrics.csv")

    def load_data(
        self, report: Callable[[str], object] = print, source: Any = None, inputs: Any = None
    ) -> Data:
        """Loads the `kgen.data.Data` of the run again, or other images as those were loaded.

        Images of another `source` are decoded as the run's (shape, background, cropping, limits),
        and their classes get the run's numbers, by name. A source without splits of its own is
        held out as a whole: it is `test`, and there is no `train`. The run's own data, with its
        splits, is one that is named as in `run.json`, or has the same images at another place.

        Of pairs, `inputs` is the source of what other images are to be made of.

        `report` is given lines for the user: the data is not what it was, classes have no names.
        A `ValueError` where the model is class-conditional, and has not all of the classes, or
        there are no inputs of other images.
        """
        about = self.info["data"]
        own = source is None or source_name(source) == about["source"]
        of_pairs = self.info["arguments"]["data_arguments"].get("inputs") is not None
        if of_pairs and not own and inputs is None:
            raise ValueError(
                f"{self.path} was trained on pairs: give the inputs of {source} too (--inputs)."
            )
        if inputs is not None and (own or not of_pairs):
            raise ValueError(
                f"inputs (--inputs) go with other images (--data) for a run of pairs. Received: "
                f"inputs={inputs} and data={source}"
            )
        more = {} if inputs is None else {"inputs": str(inputs)}
        if source is None and about["source"] is None:
            raise RunError(f"The data of {self.path} was not loaded from a source: give it again.")
        if not own:
            whole = self._load(source, {"validation_fraction": 0, "test_fraction": 0, **more})
            # Drawn splits make no other number of images: only where it is equal, look again.
            if whole.count() != sum(about[name] or 0 for name in SPLITS):
                return self._held_out(whole, report)
        data = self._load(about["source"] if source is None else source, more)
        if data.fingerprint != about["fingerprint"]:
            if not own:
                return self._held_out(whole, report)
            report(f"{data.name} is not what it was in training: its fingerprint differs.")
        return data

    def owns(self, data):
        """Whether a `kgen.data.Data` is that of the run, as `load_data` tells it from another."""
        about = self.info["data"]
        named = source_name(data.source) == about["source"]
        return named or data.fingerprint == about["fingerprint"]

    def _load(self, source, options=()):
        info = self.info
        options = {**info["arguments"]["data_arguments"], **dict(options)}
        if info["data"].get("input_shape"):
            options["input_shape"] = info["data"]["input_shape"]
        return load_source(source, info["data"]["image_shape"], options)

    def _held_out(self, data, report):
        info = self.info
        if data.validation is None and data.test is None:
            data = dataclasses.replace(data, train=None, test=data.train)
        splits = {name: getattr(data, name) for name in SPLITS}
        if all(split is None or split.labels is None for split in splits.values()):
            return data
        names, count = info["data"].get("class_names"), info["data"].get("num_classes")
        numbers = _numbers_of_classes(data, names, count)
        if numbers is None:
            if info["model"]["config"].get("num_classes") is None:
                return data  # nobody asks for its classes
            raise ValueError(
                f"{data.source} has classes that the run {self.path} has not. Received: "
                f"{_listed(data.class_names, data.num_classes)}; the run's: "
                f"{_listed(names, count)}. Name them alike, or leave the others out."
            )
        if names is not None and data.class_names is None:
            pairs = [f"{i} for {names[number]}" for i, number in enumerate(numbers)]
            report(
                f"The classes of {data.name} have no names. Taken for the run's: "
                f"{_listed(pairs, count)}."
            )
        changed = {
            name: dataclasses.replace(split, labels=numbers[split.labels])
            for name, split in splits.items()
            if split is not None and split.labels is not None
        }
        return dataclasses.replace(data, class_names=names, num_classes=count, **changed)

    @property
    def finished(self) -> bool:
        """Whether `model.keras` is what the run was to end with, and not of fewer epochs."""
        if not self.model_path.is_file():
            return False
        info = self.info
        if info.get("status") == "finished":
            return True
        return sha256(self.model_path) != info.get("earlier_model")

    def check_free(self, force=False):
        """Raises `RunError` unless a run can begin here: in an empty folder, or with `force` in
        place of a run, of which is known what it wrote.
        """
        if self.exists:
            if not force:
                raise RunError(
                    f"{self.path} already holds a run. Go on with it by --resume, replace it by "
                    "--force, or choose another folder with --run."
                )
            if not (self.path / files.FILES).is_file():
                raise RunError(
                    f"{self.path} holds a run of an older kgen, without {files.FILES}, the list of "
                    "what it wrote: --force cannot tell its files from others. Remove the folder "
                    "yourself, or choose another one with --run."
                )
            return
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: choose another folder with --run.")
        if self.path.is_dir():
            begun = [self.path / name for name in (files.FILES, "run.json")]
            own = {files.lock_in(self.path), *begun, *sum(map(files.traces, begun), ())}
            other = sorted(path.name for path in set(self.path.iterdir()) - own)
            if other:
                raise RunError(
                    f"{self.path} is not empty and holds no run, so nothing is written there or "
                    f"removed, with --force neither. It holds: {', '.join(other[:3])}. Choose "
                    "another folder with --run."
                )

    @contextlib.contextmanager
    def held(self):
        """In the block, this process alone trains here; `RunError` where another one does."""
        new = not self.path.exists()
        with contextlib.ExitStack() as stack:
            with files.naming(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            if new:
                stack.callback(_remove_if_empty, self.path)
            try:
                stack.enter_context(files.locked(files.lock_in(self.path), self.path, wait=1))
            except BlockingIOError as error:
                raise RunError(str(error)) from error
            yield

    def settle(self):
        """Corrects the status in `run.json` that a process left which was killed."""
        if self.info.get("status") == "finished":
            return
        with contextlib.suppress(OSError), files.locked(files.lock_in(self.path), self.path):
            if self.finished:
                written = self.model_path.stat().st_mtime
                self.update(status="finished", finished=timestamp(written))
            elif self.info.get("status") == "running":
                self.update(status="interrupted")

    def update(self, **changes):
        """Changes entries of `run.json`. (Of several hosts, the first one does.)"""
        if is_main_host():
            self._write({**self.info, **changes})

    def create(self, info):
        """Begins a run here, in `held`. What another run wrote is removed, other files are not."""
        files.complete(self.path, "evaluation")  # so that it is listed
        try:
            with files.locked(files.lock_in(self.path, "evaluation"), self.path):
                files.remove_written(self.path, keep=("run.json",))
        except BlockingIOError as error:
            raise RunError(str(error)) from error
        files.write_text(self.path / files.FILES, "run.json\n")
        try:
            self._write(info)
        except BaseException:  # such as a full disk
            if not self.exists:
                (self.path / files.FILES).unlink(missing_ok=True)
            raise

    def _write(self, info):
        files.write_text(self.path / "run.json", json.dumps(info, indent=2) + "\n")


def timestamp(seconds=None):
    """A time, by default now, as `run.json` has it."""
    now = datetime.datetime.now(datetime.UTC)
    time = now if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return time.isoformat(timespec="seconds")


def _remove_if_empty(folder):
    with contextlib.suppress(OSError):
        folder.rmdir()


def load(path: str | os.PathLike[str]) -> ImageGenerator:
    """The `ImageGenerator` of a run's folder, of a `.keras` file or of a preset.

    A preset is a folder, the name of a trained one (`kgen.models.trained`), or `hf://USER/NAME`,
    with `@REVISION` or without, on the Hugging Face hub (`kgen[hub]`). Of a run that is not
    finished it is that of the last good checkpoint, with a warning.

    `RunError`, which names the path, where there is no model; `ValueError` where a preset's files
    do not fit each other, or its configuration builds what is no image generator.

    Example:

    >>> model = kgen.load("runs/vae-digits")
    >>> model = kgen.load("hf://someone/dcgan-faces")
    """
    return load_model(path, report=functools.partial(warnings.warn, stacklevel=3))[0]


def load_model(path, report=print):
    """The model that a path or a name means, see `load`, and its `Run`, or `None`.

    Of a run that is not finished, the last good checkpoint is taken, or what it had finished
    with before. `report` is given lines for the user. `RunError` where there is no model.
    """
    path = places.locate(path)
    models.registered()  # so that Keras knows the classes
    if (path / "config.json").is_file():  # a preset, whatever else a stranger has put beside it
        return ImageGenerator.from_preset(path), None
    run = Run(path)
    if run.exists:
        run.settle()
        if run.finished:
            return load_keras(run.model_path), run
        restored = run.load_checkpoint(report)
        if restored is None and run.model_path.is_file():
            report(f"{path} is not finished: using its model of fewer epochs.")
            return load_keras(run.model_path), run
        if restored is None:
            raise RunError(f"The run in {path} has no checkpoint yet. Wait for its first epoch.")
        model, position, _ = restored
        report(f"{path} is not finished: using its checkpoint after {position}.")
        return model, run
    beside = Run(path.parent)
    return load_keras(path), beside if beside.exists else None


def load_keras(path):
    """The `ImageGenerator` in a `.keras` file; `RunError` where there is none."""
    try:
        model = keras.saving.load_model(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise RunError(f"{path} is not a model that Keras can load: {reason}") from error
    if not isinstance(model, ImageGenerator):
        raise RunError(f"{path} holds a {type(model).__name__}, not an image generator of kgen.")
    return model


def source_name(source):
    """A source of data as `run.json` has it, `None` for arrays and datasets.

    A path is kept whole, so that the run can go on from any folder.
    """
    if not isinstance(source, (str, pathlib.Path)):
        return None
    is_path = source not in kgen.data.SOURCES and pathlib.Path(source).expanduser().exists()
    return str(pathlib.Path(source).expanduser().resolve() if is_path else source)


def _numbers_of_classes(data, names, count):
    """The number that each class of `data` has among `count` classes, an array; `None` where one
    of them is not there. `names` are those of the classes, or `None`; a class without a name is
    called by its number.
    """
    numbered = [str(i) for i in range(data.num_classes)]
    wanted = data.class_names or numbered
    known = [str(i) for i in range(count or 0)] if names is None else names
    if not set(wanted) <= set(known) and names is not None and data.class_names is None:
        known = known if data.num_classes > len(known) else numbered  # only numbers are given
    if not set(wanted) <= set(known):
        return None
    return np.array([known.index(name) for name in wanted], "int32")


def _listed(names, count):
    """Names of classes, or how many there are, for a message."""
    if names is None:
        return f"{count} classes without names" if count else "no classes"
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def load_source(source, image_shape, options):
    """Loads the data of a run, in the shape that it trains on.

    Beside those of `kgen.data.load`, options are `inputs`, the source of what the images are to be
    made of, or `side_by_side`, and those of `kgen.data.load_pairs`.
    """
    # The progress bar of a process that nobody watches would only fill its log.
    options = {"progress": sys.stderr.isatty(), **options, "image_shape": image_shape}
    inputs, side_by_side = options.pop("inputs", None), options.pop("side_by_side", False)
    if inputs is None and not side_by_side:
        for name in ("paired", "swap", "group_by", "input_shape"):
            if options.pop(name, None) is not None:
                raise ValueError(
                    f"{name} is of pairs: give inputs (--inputs FOLDER), or side_by_side "
                    "(--side-by-side)."
                )
        return kgen.data.load(source, **options)
    options.pop("check", None)  # of the shapes of both sides, which are known later
    if side_by_side:
        return kgen.data.load_pairs(source, None, **options)
    return kgen.data.load_pairs(inputs, source, **options)
