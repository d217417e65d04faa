"""A training run: a folder that says what was done, and from which it can go on."""

import contextlib
import dataclasses
import datetime
import errno
import importlib.metadata
import inspect
import json
import math
import pathlib
import platform
import shutil
import sys

import keras

import kgen
from kgen import files, models
from kgen.checks import unknown_name
from kgen.image_generator import ImageGenerator
from kgen.training.callbacks import (
    Checkpointing,
    MetricsTable,
    SampleGrid,
    StopOnNonFinite,
    StopSignals,
    TensorBoardLogs,
    read_metrics,
)
from kgen.training.checkpoints import Checkpoints, Position, save_model
from kgen.training.distribution import data_parallel, is_main_host
from kgen.training.errors import Interrupted, NonFiniteError, RunError

__all__ = ["Interrupted", "NonFiniteError", "Run", "RunError", "load_model", "train"]

#: What `train` does when it is not told otherwise.
DEFAULTS = {
    "model_arguments": {},
    "conditional": False,
    "data_arguments": {},
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": None,
    "seed": 0,
    "mixed_precision": None,
    "jit": "auto",
    "devices": None,
    "hosts": False,
    "evaluate_every": None,
    "keep_best": None,
}

#: What a run that goes on may do otherwise than before.
_MAY_CHANGE = ("epochs", "devices", "hosts", "evaluate_every", "keep_best")

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

_POLICIES = {
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
    "mixed_bfloat16": "mixed_bfloat16",
    "mixed_float16": "mixed_float16",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a run.

    - `run.json`: model, every argument, data and its fingerprint, seed, versions, status
    - `checkpoints/`: the last three, see `kgen.training.checkpoints`
    - `samples/epoch_NNNN.png`: images from the same seeds after every epoch
    - `metrics.csv`: a row per epoch
    - `logs/`: the same for TensorBoard
    - `model.keras`: the model, when all epochs are done
    - `best.keras`: with `keep_best`, the model of the best epoch

    Args:
        path: `pathlib.Path` of the folder.
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
        """Loads the data of the run again.

        Args:
            report: Callable that is given a line when the data is not what it was.

        Returns:
            `kgen.data.Data`.
        """
        info = self.info
        about = info["data"]
        if about["source"] is None:
            raise RunError(f"The data of {self.path} was not loaded from a source: give it again.")
        data = _load(about["source"], about["image_shape"], info["arguments"]["data_arguments"])
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


def train(
    model=None,
    data=None,
    run=None,
    *,
    model_arguments=None,
    conditional=None,
    data_arguments=None,
    epochs=None,
    batch_size=None,
    learning_rate=None,
    seed=None,
    mixed_precision=None,
    jit=None,
    devices=None,
    hosts=None,
    evaluate_every=None,
    keep_best=None,
    resume=False,
    force=False,
    num_samples=64,
    callbacks=(),
    verbose="auto",
    report=print,
):
    """Trains a model in a run folder, from which a run that was stopped goes on.

    The order of the images follows from the seed and the epoch, all noise from the seed
    and the step, and a checkpoint holds everything else. So a run that was killed at any
    moment, and resumed, ends with the figures of one that was not, digit for digit on the
    same number of CPU cores. (Another number sums in another order, and so may a GPU.)

    Args:
        model: Name of a model (`"vae"`) or preset (`"vae_28x28"`), the folder of a
            preset, or an `ImageGenerator`. By its name a model is built for the shape of
            the data, from a preset if there is one of that shape.
        data: A source, as for `kgen.data.load`, or a `kgen.data.Data`.
        run: Path of the run's folder.
        model_arguments: Dict of arguments of the model that replace the preset's.
        conditional: Bool, train on the labels of the data.
        data_arguments: Dict of further arguments of `kgen.data.load`.
        epochs: Int, the epoch to train up to; 20.
        batch_size: Int, images per step; 64.
        learning_rate: Float; `None` for the model's own default.
        seed: Int, for the initial weights, the order of the images and all noise; 0.
        mixed_precision: `"bfloat16"`, `"float16"` or `None`.
        jit: Bool or `"auto"`, compile with XLA.
        devices: `"all"` or int, the devices that share each batch, see
            `kgen.training.distribution.data_parallel`; `None` for one.
        hosts: Bool, train together with other hosts. The first one writes the run; there
            are no samples, and Ctrl-C goes back to the last epoch.
        evaluate_every: Int, epochs between evaluations of samples on the validation
            images, see `kgen.evaluation.EvaluateSamples`; `None` for none.
        keep_best: Name of a metric; the model of the epoch that is best by it is kept as
            `best.keras`. Without `evaluate_every` every epoch is evaluated.
        resume: Bool, go on from the last checkpoint. Arguments that are `None` are those
            of the run; others must equal them, except that `epochs` may be larger, and
            `devices`, `hosts`, `evaluate_every` and `keep_best` others.
        force: Bool, replace a run that is in the folder.
        num_samples: Int, images in the grid that is drawn after every epoch.
        callbacks: Sequence of further `keras.callbacks.Callback`.
        verbose: As in `keras.Model.fit`.
        report: Callable that is given lines for the user.

    Returns:
        `Run`.

    Raises:
        ValueError: An argument is not what it should be.
        RunError: The folder holds a run already, or none that can go on; the disk is full.
        NonFiniteError: A loss became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM; the run can go on with `resume`.

    Example:

    >>> run = kgen.training.run.train("vae", "digits", "runs/vae-digits", epochs=30)
    >>> run.metrics[-1]["val_loss"]
    """
    if run is None:
        raise ValueError("run must be the path of a folder. Received: None")
    run = Run(pathlib.Path(run))
    given = {
        "model_arguments": model_arguments,
        "conditional": conditional,
        "data_arguments": data_arguments,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "mixed_precision": mixed_precision,
        "jit": jit,
        "devices": devices,
        "hosts": hosts,
        "evaluate_every": evaluate_every,
        "keep_best": keep_best,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not (resume or force or hosts):  # of several hosts, the first one looks, below
        _check_free(run)
    before = run.info if resume and run.exists else None
    if before is not None:
        model, data, arguments = _arguments_of(run, before, model, data, given)
    elif model is None or data is None:
        raise RunError(f"There is no run in {run.path} to resume, and no model and data to begin.")
    else:
        arguments = {**DEFAULTS, **given}
    arguments["mixed_precision"] = _policy(arguments["mixed_precision"])
    _check_positive(arguments)

    with data_parallel(arguments["devices"], arguments["hosts"]):
        keras.utils.set_random_seed(arguments["seed"])
        source, data = data, _load_data(model, data, arguments, before)
        restored = None
        if before is not None:
            _check_fingerprint(run, before, data)
            restored = _restore(run, report)
        if restored is not None:
            model, position, sums = restored
        else:
            name, position, sums = model, Position(), []
            model = _build(model, data, arguments)
            model.compile(learning_rate=arguments["learning_rate"], jit_compile=arguments["jit"])
            # What does not fit is refused before the folder is touched.
            model._batches(data.train, batch_size=arguments["batch_size"])
        evaluation = _evaluation(run, model, data, arguments)
        if before is None:
            if is_main_host():
                if not force:
                    _check_free(run)
                run.create(_describe(name, model, source, data, arguments))
        elif run.model_path.is_file() and position.epoch >= arguments["epochs"]:
            report(
                f"{run.path} is finished: {position.epoch} epochs are done. "
                f"Train on with --epochs {position.epoch + 10}."
            )
            return run
        else:
            report(f"Going on with {run.path} after {position}.")
            changes = {name: arguments[name] for name in _MAY_CHANGE}
            run.update(arguments=_plain({**before["arguments"], **changes}))
        callbacks = [*callbacks, *evaluation]
        _fit(run, model, data, arguments, position, sums, num_samples, callbacks, verbose)
    return run


def load_model(path, report=print):
    """Loads the model of a run, a `.keras` file or a preset's folder.

    Args:
        path: Path. Of a run that is not finished, the last good checkpoint is taken.
        report: Callable that is given lines for the user.

    Returns:
        Tuple of the `ImageGenerator` and the `Run` in whose folder it lies, or `None`.

    Raises:
        RunError: There is no model.
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


# Arguments ----------------------------------------------------------------------------


def _arguments_of(run, info, model, data, given):
    """The arguments of a run that goes on; `RunError` where other ones are given."""
    before = {**DEFAULTS, **info["arguments"]}
    now = {**before, **given}
    for name in ("model_arguments", "data_arguments"):
        now[name] = {**before[name], **given.get(name, {})}
    now["mixed_precision"] = _policy(now["mixed_precision"])
    if model is None:
        model = info["model"]["name"]
    if isinstance(model, str):
        before["model"], now["model"] = info["model"]["name"], model
    for name, value in _plain(now).items():
        if name not in _MAY_CHANGE and value != before[name]:
            raise RunError(
                f"{run.path} was begun with {name}={before[name]!r}. Received: {name}={value!r}. "
                "Leave it out to go on with the run, or begin another one with --run."
            )
    if data is None:
        data = info["data"]["source"]
        if data is None:
            raise RunError(f"The data of {run.path} was not loaded from a source: give it again.")
    now.pop("model", None)
    return model, data, now


def _check_free(run):
    if run.exists:
        raise RunError(
            f"{run.path} already holds a run. Go on with it by --resume, replace it by --force, "
            "or choose another folder with --run."
        )


def _policy(name):
    if name in (None, *_POLICIES):
        return _POLICIES.get(name)
    raise ValueError(unknown_name("mixed precision", str(name), _POLICIES))


def _check_positive(arguments):
    for name in ("epochs", "batch_size", "learning_rate", "evaluate_every"):
        value = arguments[name]
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive. Received: {name}={value}")


def _plain(value):
    """A value as it comes back from `run.json`."""
    return json.loads(json.dumps(value, default=str))


# Data and model -----------------------------------------------------------------------


def _load_data(model, data, arguments, before):
    """The data, in the shape that the run, the user or a preset asks for, or in its own."""
    if not isinstance(data, (str, pathlib.Path)):
        return data
    image_shape = (
        (before and before["data"]["image_shape"])
        or arguments["data_arguments"].get("image_shape")
        or _preset_shape(model, arguments["model_arguments"])
    )
    return _load(data, image_shape, arguments["data_arguments"])


def _load(source, image_shape, options):
    # The progress bar of a process that nobody watches would only fill its log.
    options = {"progress": sys.stderr.isatty(), **options, "image_shape": image_shape}
    return kgen.data.load(source, **options)


def _preset_shape(model, model_arguments):
    if "image_shape" in model_arguments:
        return tuple(model_arguments["image_shape"])
    if isinstance(model, ImageGenerator):
        return model.image_shape
    if _is_preset_folder(model):
        config = json.loads(pathlib.Path(model, "config.json").read_text())
        return tuple(config["config"]["image_shape"])
    for model_class in models.registered().values():
        if model in model_class.presets:
            return tuple(model_class.presets[model]["image_shape"])
    return None


def _is_preset_folder(model):
    return pathlib.Path(model, "config.json").is_file()


def _build(model, data, arguments):
    """The model that trains: from an object, a preset's name or folder, or a model's name."""
    given = dict(arguments["model_arguments"])
    if arguments["mixed_precision"]:
        given["dtype"] = arguments["mixed_precision"]
    if isinstance(model, ImageGenerator) or _is_preset_folder(model):
        if given:
            raise ValueError(
                f"A model that is built already takes no arguments. Received: {', '.join(given)}"
            )
        if not isinstance(model, ImageGenerator):
            model = ImageGenerator.from_preset(model)
        return model
    model_class, preset = _find(model, data.image_shape)
    known = inspect.signature(model_class).parameters.keys() - {"kwargs"} | {"dtype", "name"}
    for name in given:
        if name not in known:
            raise ValueError(unknown_name(f"argument of {model_class.__name__}", name, known))
    if arguments["conditional"]:
        if data.num_classes is None:
            raise ValueError(f"A conditional model needs labels, and {data.name} has none.")
        given.setdefault("num_classes", data.num_classes)
    defaults = {"image_shape": data.image_shape, "seed": arguments["seed"]}
    values = {**model_class.presets.get(preset, {}), **defaults, **given}
    try:
        return model_class(**values)
    except (TypeError, ValueError) as error:
        if _raised_in_kgen(error):
            raise
        said = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "its defaults"
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{model_class.__name__} cannot be built with {said}: {reason}") from error


def _raised_in_kgen(error):
    """Whether kgen itself said what is wrong, not Keras somewhere below."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals["__name__"].startswith("kgen.")


def _find(name, image_shape):
    """A model's class and the name of the preset to begin with, or `None`."""
    classes = models.registered()
    for model_class in classes.values():
        if name in model_class.presets:
            return model_class, name
    if name not in classes:
        presets = [preset for c in classes.values() for preset in c.presets]
        raise ValueError(unknown_name("model or preset", name, [*classes, *presets]))
    model_class = classes[name]
    fits = [
        preset
        for preset, values in model_class.presets.items()
        if tuple(values["image_shape"]) == image_shape and preset != model_class.tiny_preset
    ]
    return model_class, fits[0] if fits else None


def _restore(run, report):
    """The model, position and metrics of the last good checkpoint, or `None`."""
    models.registered()  # so that Keras knows the classes
    restored = run.checkpoints.load_last(report)
    if is_main_host():
        files.remove_leftovers(run.path)
        run.checkpoints.forget_after(Position() if restored is None else restored[1])
    return restored


def _check_fingerprint(run, info, data):
    if data.fingerprint != info["data"]["fingerprint"]:
        raise RunError(
            f"The data is not what {run.path} was begun with: its fingerprint was "
            f"{info['data']['fingerprint'][:12]}. Received: {data.fingerprint[:12]} from "
            f"{data.name}. Bring the data back, or begin another run with --run."
        )


def _describe(name, model, source, data, arguments):
    """What `run.json` says of a run that begins."""
    if isinstance(source, (str, pathlib.Path)):
        # A path is kept whole, so that the run can go on from any folder.
        is_path = source not in kgen.data.SOURCES and pathlib.Path(source).exists()
        source = str(pathlib.Path(source).resolve() if is_path else source)
    else:
        source = None
    packages = ("keras", "tensorflow", "jax", "numpy")
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return _plain(
        {
            "status": "running",
            "started": _now(),
            "model": {
                "name": name if isinstance(name, str) else type(model).__name__,
                "class": type(model).__name__,
                "config": model.get_config(),
                "parameters": sum(math.prod(v.shape) for v in model.trainable_weights),
            },
            "arguments": arguments,
            "data": {
                "name": data.name,
                "source": source,
                "fingerprint": data.fingerprint,
                "image_shape": data.image_shape,
                "num_classes": data.num_classes,
                "class_names": data.class_names,
                "train": len(data.train),
                "validation": None if data.validation is None else len(data.validation),
                "test": None if data.test is None else len(data.test),
                "skipped": len(data.skipped),
            },
            "backend": keras.backend.backend(),
            "versions": {
                "kgen": kgen.__version__,
                "python": platform.python_version(),
                **versions,
            },
        }
    )


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# Training -----------------------------------------------------------------------------


def _fit(run, model, data, arguments, position, sums, num_samples, callbacks, verbose):
    """Trains from `position` to the last epoch and writes `model.keras`."""
    finite = StopOnNonFinite(lambda: _last_good(run))
    callbacks = [*callbacks, finite]
    signals, samples = StopSignals(), None
    if not arguments["hosts"]:  # the sampler runs on one host, and its devices are everywhere
        samples = SampleGrid(run.path / "samples", num_samples, arguments["seed"])
        callbacks.append(samples)
    if is_main_host():
        callbacks.append(MetricsTable(run.path / "metrics.csv", position.epoch))
        callbacks.append(TensorBoardLogs(run.path / "logs", samples))
    callbacks.append(Checkpointing(run.checkpoints, position, sums, signals))
    options = {
        "batch_size": arguments["batch_size"],
        "validation_data": data.validation,
        "callbacks": callbacks,
        "verbose": verbose,
    }
    try:
        run.update(status="running", finished=None)
        run.model_path.unlink(missing_ok=True)  # of fewer epochs
        epoch = position.epoch
        with contextlib.nullcontext() if arguments["hosts"] else signals:
            if position.step:
                finite.first_step = position.step
                rest = _Rest(model, data.train, arguments["batch_size"], position)
                model.fit(rest, epochs=epoch + 1, initial_epoch=epoch, **options)
                epoch += 1
            model.fit(data.train, epochs=arguments["epochs"], initial_epoch=epoch, **options)
        save_model(model, run.model_path)
        run.update(status="finished", finished=_now())
    except BaseException as error:
        explained = _explain(run, error)
        stopped = isinstance(explained, (Interrupted, KeyboardInterrupt))
        with contextlib.suppress(OSError):
            run.update(status="interrupted" if stopped else f"failed: {explained}")
        if explained is error:
            raise
        raise explained from error


def _evaluation(run, model, data, arguments):
    """The callback that measures samples, in a list; an empty one where it is not wanted."""
    every, best = arguments["evaluate_every"], arguments["keep_best"]
    if every is None and best is None:
        return []
    from kgen.evaluation import METRICS, EvaluateSamples, Reference

    if arguments["hosts"]:
        raise ValueError("Samples cannot be evaluated with several hosts; leave hosts out.")
    if data.validation is None:
        raise ValueError(f"Samples are evaluated on validation images, and {data.name} has none.")
    choices = [name for name, metric in METRICS.items() if metric.better]
    if best not in (None, *choices):
        raise ValueError(unknown_name("metric to choose the best by", best, choices))
    metrics = ("fd", "kd", "precision", "recall")
    evaluation = EvaluateSamples(
        Reference(data.validation, data.train, split="validation"),
        every or 1,
        metrics=metrics if best in (None, *metrics) else (*metrics, best),
        seed=arguments["seed"],
        best=best,
        path=None if best is None else run.path / "best.keras",
    )
    evaluation.prepare(model)
    return [evaluation]


def _last_good(run):
    return str(run.checkpoints.last() or "none")


def _explain(run, error):
    """The error, or a better one: what is left, and how to go on."""
    resume = f"kgen train --resume {run.path}"
    if isinstance(error, Interrupted):
        return Interrupted(f"{error} Go on with: {resume}", error.signum)
    if _disk_is_full(error):
        return RunError(
            f"The disk is full: nothing more can be written to {run.path}. Last good "
            f"checkpoint: {_last_good(run)}. Make room, then go on with: {resume}"
        )
    return error


class _Rest(keras.utils.PyDataset):
    """What is left of an epoch after its first steps."""

    def __init__(self, model, split, batch_size, position):
        super().__init__()
        self.batches = model._batches(split, batch_size=batch_size, shuffle=True)
        self.batches.epoch = position.epoch
        self.first_step = position.step

    def __len__(self):
        return len(self.batches) - self.first_step

    def __getitem__(self, index):
        return self.batches[self.first_step + index]


def _disk_is_full(error):
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return "No space left on device" in str(error)  # HDF5 has no errno
