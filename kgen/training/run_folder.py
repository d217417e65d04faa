"""The folder of a training run, and the model in it."""

import dataclasses
import json
import pathlib
import shutil
import sys

import keras

import kgen
from kgen import files, models
from kgen.image_generator import ImageGenerator
from kgen.training.callbacks import read_metrics
from kgen.training.checkpoints import Checkpoints
from kgen.training.distribution import is_main_host
from kgen.training.errors import RunError

#: What a run, and `kgen evaluate`, write into its folder beside the folders.
_FILES = (
    "run.json",
    "metrics.csv",
    "model.keras",
    "best.keras",
    "best.keras.json",
    "evaluation.json",
    "report.html",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a run, at `path`.

    - `run.json`: model, every argument, data and its fingerprint, seed, versions, status
    - `checkpoints/`: the last three, see `kgen.training.checkpoints`
    - `samples/epoch_NNNN.png`: images from the same seeds after every epoch
    - `metrics.csv`: a row per epoch
    - `logs/`: the same for TensorBoard
    - `model.keras`: the model, when all epochs are done
    - `best.keras`: with `keep_best`, the model of the best epoch
    """

    path: pathlib.Path

    @property
    def info(self):
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
    def exists(self):
        return (self.path / "run.json").is_file()

    @property
    def model_path(self):
        return self.path / "model.keras"

    @property
    def checkpoints(self):
        return Checkpoints(self.path / "checkpoints")

    @property
    def metrics(self):
        """List of dicts, the rows of `metrics.csv`."""
        return read_metrics(self.path / "metrics.csv")

    def load_data(self, report=print):
        """Loads the `kgen.data.Data` of the run again; `report` hears if it is not what it was."""
        info = self.info
        about = info["data"]
        if about["source"] is None:
            raise RunError(f"The data of {self.path} was not loaded from a source: give it again.")
        data = load_source(
            about["source"], about["image_shape"], info["arguments"]["data_arguments"]
        )
        if data.fingerprint != about["fingerprint"]:
            report(f"{data.name} is not what it was in training: its fingerprint differs.")
        return data

    def update(self, **changes):
        """Changes entries of `run.json`. (Of several hosts, the first one does.)"""
        if is_main_host():
            self._write({**self.info, **changes})

    def create(self, info):
        """Begins a run here. What an older run wrote is removed, other files are not."""
        for name in ("checkpoints", "samples", "logs", "report"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        self._write(info)

    def _write(self, info):
        files.write_text(self.path / "run.json", json.dumps(info, indent=2) + "\n")


def load_model(path, report=print):
    """The model of a run, a `.keras` file or a preset's folder, and its `Run`, or `None`.

    Of a run that is not finished, the last good checkpoint is taken. `report` is given lines for
    the user. `RunError` where there is no model.
    """
    models.registered()  # so that Keras knows the classes
    path = pathlib.Path(path)
    run = Run(path)
    if run.exists:
        if run.model_path.is_file():
            return _load_keras(run.model_path), run
        restored = run.checkpoints.load_last(report)
        if restored is None:
            raise RunError(f"The run in {path} has no checkpoint yet. Wait for its first epoch.")
        model, position, _ = restored
        report(f"{path} is not finished: using its checkpoint after {position}.")
        return model, run
    if (path / "config.json").is_file():
        return ImageGenerator.from_preset(path), None
    if path.is_file():
        beside = Run(path.parent)
        return _load_keras(path), beside if beside.exists else None
    what = "is a folder without run.json or config.json" if path.is_dir() else "does not exist"
    raise RunError(
        f"There is no model in {path}: it {what}. Give the folder of a run, a .keras file or "
        "the folder of a preset."
    )


def _load_keras(path):
    try:
        model = keras.saving.load_model(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise RunError(f"{path} is not a model that Keras can load: {reason}") from error
    if not isinstance(model, ImageGenerator):
        raise RunError(f"{path} holds a {type(model).__name__}, not an image generator of kgen.")
    return model


def load_source(source, image_shape, options):
    """Loads the data of a run, in the shape that it trains on."""
    # The progress bar of a process that nobody watches would only fill its log.
    options = {"progress": sys.stderr.isatty(), **options, "image_shape": image_shape}
    return kgen.data.load(source, **options)
