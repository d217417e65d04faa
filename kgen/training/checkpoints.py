"""Checkpoints of a run: whole or not there, and never taken for good when they are not."""

import dataclasses
import hashlib
import json
import pathlib
import tempfile

import keras
import numpy as np

from kgen import files
from kgen.training.distribution import is_main_host
from kgen.training.errors import RunError


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """How far a run has come: complete epochs, and steps of the next one."""

    epoch: int = 0
    step: int = 0

    def __str__(self):
        return f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")

    def steps(self, steps_per_epoch):
        """Int, all steps so far."""
        return self.epoch * steps_per_epoch + self.step


class Checkpoints:
    """The checkpoints in a folder, the newest `keep` of them.

    A checkpoint is a `.keras` file with the weights, the state of every optimizer and the
    step counter, and beside it a `.json` file with its position, its sha256 and the sums
    behind the metrics of an epoch that is not complete. The `.json` is written last, so a
    run that is killed in between leaves no checkpoint rather than half of one.
    """

    def __init__(self, folder, keep=3):
        self.folder = pathlib.Path(folder)
        self.keep = keep

    def paths(self):
        """List of the `.keras` files that are complete by their names, oldest first."""
        found = self.folder.glob("epoch_*.json")
        return [path.with_suffix(".keras") for path in sorted(found, key=_position_of)]

    def last(self):
        """Path of the newest checkpoint, or `None`."""
        return self.paths()[-1] if self.paths() else None

    def save(self, model, position, sums=None):
        """Writes a checkpoint, whose path it returns, and removes all but the newest `keep`.

        Inside an epoch it keeps `sums`, floats, or where there are none those of the model now.
        `OSError` where the disk is full, or the folder cannot be written.
        """
        name = f"epoch_{position.epoch:04d}" + (f"_step_{position.step}" if position.step else "")
        path = self.folder / f"{name}.keras"
        digest = save_model(model, path)
        if not is_main_host():
            return path
        if position.step and sums is None:
            sums = sums_of_metrics(model)
        record = {
            **dataclasses.asdict(position),
            "sha256": digest,
            "metrics": list(sums) if position.step else [],
        }
        files.write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
        self._remove_old()
        return path

    def load(self, path):
        """Loads the `.keras` file of a checkpoint; `ValueError` unless it is what was written.

        Returns the compiled model, its `Position`, and the list of floats behind the metrics of an
        epoch that is not complete.
        """
        try:
            record = json.loads(path.with_suffix(".json").read_text())
            position = Position(record["epoch"], record["step"])
            expected, metrics = record["sha256"], record["metrics"]
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path.with_suffix('.json')} cannot be read") from error
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        if sha256(path) != expected:
            raise ValueError(f"{path} is not what was written: its sha256 differs")
        try:
            return keras.saving.load_model(path), position, metrics
        except Exception as error:  # it is whole, so that no older one would load either
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise RunError(f"{path} cannot be loaded here: {reason}") from error

    def load_last(self, report=print, otherwise="the beginning"):
        """The newest checkpoint that is good, as `load`; `None` where there is none.

        `report` is given a line for every one that is corrupt, which names what is taken instead,
        `otherwise` where there is no older one.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return self.load(path)
            except ValueError as error:
                older = paths[: paths.index(path)]
                instead = older[-1].name if older else otherwise
                report(f"Checkpoint is corrupt: {error}. Falling back to {instead}.")
        return None

    def forget_after(self, position):
        """Removes checkpoints that are newer than `position`: those found corrupt."""
        for path in self.paths():
            if _position_of(path) > position:
                self._remove(path)

    def _remove_old(self):
        paths = self.paths()
        for path in paths[: -self.keep]:
            self._remove(path)
        for path in set(self.folder.glob("epoch_*.keras")) - set(paths):
            path.unlink()  # of a run that was killed before it wrote the .json

    def _remove(self, path):
        # The .json first: without it there is no checkpoint.
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def save_model(model, path):
    """Writes a `.keras` file, as a whole or not at all; returns its sha256 in hexadecimal.

    Of several hosts all must call it, since all take part in Keras's `save`; the first one
    writes.
    """
    if not is_main_host():
        with tempfile.TemporaryDirectory() as folder:
            return _save(model, pathlib.Path(folder, path.name))
    with files.replacing(path) as temporary:
        return _save(model, temporary)


def sums_of_metrics(model):
    """The sums behind the metrics, a list of floats."""
    return [float(keras.ops.convert_to_numpy(value)) for value in model.metrics_variables]


def restore_metrics(model, values):
    """Sets the sums behind the metrics, so that an epoch goes on from its middle."""
    for variable, value in zip(model.metrics_variables, values, strict=True):
        variable.assign(np.asarray(value, variable.dtype))


def _position_of(path):
    numbers = [int(part) for part in path.stem.split("_") if part.isdigit()]
    return Position(*numbers)


def _save(model, path):
    model.save(path)
    return sha256(path)


def sha256(path):
    """The sha256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
