"""A training run: what it does, from its first step to `model.keras`, and how it goes on."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

import kgen
from kgen import files, models
from kgen.checks import check_int, unknown_name
from kgen.image_generator import ImageGenerator
from kgen.training.building import build, full_name, load_data, load_trained
from kgen.training.callbacks import (
    Checkpointing,
    LearningRateLog,
    MetricsTable,
    SampleGrid,
    StopOnNonFinite,
    StopSignals,
    TensorBoardLogs,
    TimeEstimate,
    in_words,
)
from kgen.training.checkpoints import Position, save_model, sha256
from kgen.training.distribution import data_parallel, is_main_host
from kgen.training.errors import Interrupted, NonFiniteError, RunError
from kgen.training.fitting import check_monitors
from kgen.training.header import header
from kgen.training.length import Ending, Length, Minutes, Pace, StepBar
from kgen.training.named_callbacks import load_callback
from kgen.training.run_config import FINE_TUNING_RATE, LENGTHS, MAY_CHANGE, RunConfig
from kgen.training.run_folder import (
    Run,
    load_keras,
    load_model,
    source_name,
    timestamp,
)
from kgen.training.schedules import plain_optimizer, rate_of, schedule_of, slow_down
from kgen.training.size import check_size
from kgen.training.tracking import check_trackers, trackers

#: Epochs of a run that ends by the clock.
FOR_EVER = 10**9

__all__ = ["Interrupted", "NonFiniteError", "Run", "RunConfig", "RunError", "load_model", "train"]


def train(
    model: Any = None,
    data: Any = None,
    run: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    num_samples: int = 64,
    callbacks: Sequence[Any] = (),
    verbose: int | str = "auto",
    report: Callable[[str], object] = print,
    **options: Any,
) -> Run:
    """Trains a model in a run folder, from which a run that was stopped goes on.

    The order of the images follows from the seed and the steps taken, all noise from the seed
    and the step, and a checkpoint holds everything else. So a run that was killed at any
    moment, and resumed, ends with the figures of one that was not, digit for digit on the
    same number of CPU cores. (Another number sums in another order, and so may a GPU.)

    Args:
        model: Name of a model (`"vae"`) or preset (`"vae_28x28"`), a trained model, or an
            `ImageGenerator`, which keeps its optimizer where it is compiled. By its name a model
            is built for the data: from a preset if there is one of that shape, and for black and
            white, grey levels or colours, as the images have them, see
            `kgen.training.choice.choose`. A trained model, to go on from, is what `kgen.load`
            takes: the name of a trained preset, a preset's or a run's folder, a `.keras` file,
            `hf://USER/NAME`. It is built anew as it was, for the data's shape and classes, begins
            with the weights of all layers that fit, see `ImageGenerator.begin_with`, and takes
            `FINE_TUNING_RATE` of its own learning rate.
        data: A source, as for `kgen.data.load`, or a `kgen.data.Data`.
        run: Path of the run's folder: a new or an empty one, outside the data's. While it trains,
            the folder is locked.
        resume: Bool, go on from the last checkpoint. Options that are not given are those
            of the run; others must equal them, except that `epochs` may be larger, and
            `devices`, `hosts`, `evaluate_every` and `keep_best` others. With more epochs a
            schedule of the learning rate becomes that of a run of so many: the rate goes on from
            where this one stands at that step, which is above where it had come to. So with more
            `steps` or `minutes`; of minutes those that are left are trained.
        force: Bool, replace a run that is in the folder. What it wrote is removed, other files
            stay.
        num_samples: Int, images in the grid that is drawn after every epoch.
        callbacks: Sequence of further `keras.callbacks.Callback`, or of texts such as
            `"module:Class(patience=3)"`, see `kgen.training.named_callbacks.load_callback`. They
            are code of your own, which a run that goes on is given again, and begin anew then.
        verbose: As in `keras.Model.fit`; with 0 `report` hears neither what trains on what nor
            how long it will take.
        report: Callable that is given lines for the user.
        **options: The fields of `RunConfig`; one that is `None` is not given.

    Returns:
        `Run`.

    Raises:
        TypeError: There is no such option.
        ValueError: An argument is not what it should be.
        RunError: The folder holds a run already, none that can go on, or one that another process
            trains; it holds anything else; the disk is full.
        NonFiniteError: A loss became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM; the run can go on with `resume`.

    Example:

    >>> run = kgen.training.run.train("vae", "digits", "runs/vae-digits", epochs=30)
    >>> run.metrics[-1]["val_loss"]
    """
    if isinstance(model, (str, pathlib.Path)):
        model = full_name(model)
    if run is None or str(run) == "":
        raise ValueError(f"run must be the path of a folder. Received: {run!r}")
    if isinstance(data, str) and not data:
        raise ValueError("data must name a source. Received: ''")
    num_samples = check_int(1, num_samples=num_samples)
    texts = [callback for callback in callbacks if isinstance(callback, str)]
    callbacks = [load_callback(c) if isinstance(c, str) else c for c in callbacks]
    run = Run(pathlib.Path(run))
    given = _given(options)
    before: Any = run.info if resume and run.exists else None
    if before is not None:
        model, data, config = _going_on(run, before, model, data, given)
    elif model is None or data is None:
        raise RunError(f"There is no run in {run.path} to resume, and no model and data to begin.")
    else:
        config = RunConfig(**given)
        _check_apart(run, data)
        if not config.hosts:  # of several hosts, the first one looks, below
            run.check_free(force)

    check_trackers(config.track)
    with contextlib.ExitStack() as stack:
        stack.enter_context(data_parallel(config.devices, config.hosts))
        keras.utils.set_random_seed(config.seed)
        if before is not None and is_main_host():
            run.settle()
            stack.enter_context(run.held())
        built: list[Any] = []  # the model, where the data's shape is known before it is decoded
        trained = None if before is not None else load_trained(model, config, report)
        if trained is not None:
            _check_not_replaced(run, trained.place)
        source, data = data, load_data(model, data, config, before, trained, built)
        restored = None
        if before is not None:
            _check_fingerprint(run, before, data)
            restored = _restore(run, before, data, config, report)
        name = model
        if restored is not None:
            model, position, sums = restored
            chosen = before["model"].get("chosen") or [["Model", before["model"]["name"]]]
            steps, way = _steps_per_epoch(model, data, config), before
            pace = Pace.read(run.pace_path) if before.get("pace") else None
            _refit(model, before, config, _total_steps(config, steps, pace), report)
        else:
            position, sums = Position(), []
            if before is not None:  # it had no checkpoint yet
                trained = load_trained(model, config, report)
            model, chosen = build(model, data, config, trained, *built[-1:])
            if config.batch_size is None:
                config = dataclasses.replace(config, batch_size=model.default_batch_size)
            if trained is not None:
                begun_with = model.begin_with(trained.model)
                chosen = [*chosen, *trained.lines(begun_with, config)]
            # What does not fit is refused before the folder is touched.
            steps = _steps_per_epoch(model, data, config)
            pace = _new_pace(run, config)
            slower = trained is not None and trained.goes_on
            way = _compile(model, config, steps, pace, FINE_TUNING_RATE if slower else 1)
        check_size(model, config.batch_size)
        check_monitors(model, callbacks)
        evaluation = _evaluation(run, model, data, config)
        named = source_name(source)
        if before is not None and named not in (None, before["data"]["source"]):
            run.update(data={**before["data"], "name": data.name, "source": named})
        if before is None:
            if is_main_host():
                stack.enter_context(run.held())
                run.check_free(force)
                about = _describe(name, model, source, data, config)
                about["model"]["chosen"] = chosen
                if trained is not None:
                    about["begun_with"] = {
                        "source": trained.place,
                        "taken": len(begun_with.taken),
                        "fresh": list(begun_with.fresh),
                    }
                run.create({**about, **way, "callbacks": texts})
        elif run.finished and _reached(config, before, position.steps(steps), steps, pace):
            report(f"{run.path} is finished: {_what_is_done(config, position, steps)}")
            return run
        else:
            report(f"Going on with {run.path} after {position}.")
            for text in sorted(set(before.get("callbacks", ())) - set(texts)):
                report(f"Without {text}, which is code of your own: give it again, --callback.")
            run.update(callbacks=texts)
        begun = Begun(position, sums, steps, pace, way.get("pace") or {})
        said = report if verbose != 0 and is_main_host() else (lambda line: None)
        total = _total_steps(config, steps, pace)
        for label, text in header(model, data, config, chosen, steps, total, begun.way):
            said(f"{label + ':':<12}{text}")
        stack.enter_context(files.recorded(run.path))
        # What it was built of may be gone, or another, when it goes on.
        own = isinstance(name, ImageGenerator) or trained is not None or config.pace is not None
        if before is None and own:
            if pace is not None and is_main_host():
                pace.write()
            run.checkpoints.save(model, position)
        _fit(run, model, data, config, begun, num_samples, callbacks, evaluation, verbose, said)
    return run


class Begun(NamedTuple):
    """Where a run goes on from, or begins: its `Position`, the sums behind the metrics, steps of an
    epoch, the `Pace` that it keeps or repeats, and what `run.json` says of that.
    """

    position: Position
    sums: list
    steps: int
    pace: Pace | None
    way: dict


# Arguments ----------------------------------------------------------------------------


def _given(options):
    known = [field.name for field in dataclasses.fields(RunConfig)]
    for name in options:
        if name not in known:
            raise TypeError(unknown_name("option of train", name, known))
    return {name: value for name, value in options.items() if value is not None}


def _going_on(run, info, model, data, given):
    """Model, data and `RunConfig` of a run that goes on; `RunError` where others are given."""
    before = RunConfig(**info["arguments"])
    kind, length = before.length
    for other in LENGTHS:
        if other != kind and other in given:
            raise RunError(
                f"{run.path} was begun with {kind}={length!r}, and goes on by its {kind}. "
                f"Received: {other}={given[other]!r}"
            )
    for name in ("model_arguments", "data_arguments"):
        given = {**given, name: {**getattr(before, name), **given.get(name, {})}}
    config = dataclasses.replace(before, **given)
    name = info["model"]["name"]
    if model is None:
        model = name
    begun = {**vars(before), "model": name}
    wanted = {**_plain(vars(config)), "model": model if isinstance(model, str) else name}
    for name, value in wanted.items():
        if name not in MAY_CHANGE and value != begun[name]:
            raise RunError(
                f"{run.path} was begun with {name}={begun[name]!r}. Received: {name}={value!r}. "
                "Leave it out to go on with the run, or begin another one with --run."
            )
    if data is None:
        data = info["data"]["source"]
        if data is None:
            raise RunError(f"The data of {run.path} was not loaded from a source: give it again.")
    return model, data, config


def _check_apart(run, source):
    """Raises `ValueError` where the data lies in the run's folder, or the run would in its."""
    if not isinstance(source, (str, pathlib.Path)) or source in kgen.data.SOURCES:
        return
    path = pathlib.Path(source).expanduser()
    if not path.exists():
        return
    path, folder = path.resolve(), run.path.resolve()
    if path.is_relative_to(folder) or folder.is_relative_to(path):
        raise ValueError(
            "Neither the data may lie in the run's folder, nor the run in the data's. Received: "
            f"data {source} and run {run.path}. Choose another folder with --run."
        )


def _check_not_replaced(run, place):
    """Raises `ValueError` where a run would begin with the weights of that which it replaces."""
    if pathlib.Path(place).expanduser().resolve().is_relative_to(run.path.resolve()):
        raise ValueError(
            f"{place} is what the run in {run.path} would replace, and begin with. Choose another "
            "folder with --run, or go on with --resume."
        )


def _plain(value):
    """A value as it comes back from `run.json`."""
    return json.loads(json.dumps(value, default=str))


# Length and rates -----------------------------------------------------------------------


def _steps_per_epoch(model, data, config):
    return len(model._batches(data.train, batch_size=config.batch_size, shuffle=True))


def _new_pace(run, config):
    """The `Pace` that a run begins with: none of its own yet, another's, or `None`."""
    kind, value = config.length
    if kind == "minutes":
        return Pace(run.pace_path)
    if kind != "pace":
        return None
    other = Run(pathlib.Path(value))
    rows = Pace.read(other.pace_path).rows
    if not rows:
        raise RunError(
            f"{value} has no {other.pace_path.name}: only a run of minutes has a pace that can be "
            "repeated. Repeat a run of epochs or steps by its arguments, which its run.json names."
        )
    return Pace(run.pace_path, rows)


def _total_steps(config, steps_per_epoch, pace):
    """Int, the steps of a whole run; `None` for one of minutes."""
    kind, value = config.length
    if kind == "epochs":
        return value * steps_per_epoch
    return {"steps": value, "minutes": None, "pace": pace and pace.steps}[kind]


def _reached(config, info, done, steps_per_epoch, pace):
    """Whether a finished run, after `done` steps, is as long as it is to be."""
    total = _total_steps(config, steps_per_epoch, pace)
    if total is None:
        return config.minutes <= info["arguments"]["minutes"]
    return done >= total


def _what_is_done(config, position, steps_per_epoch):
    kind, value = config.length
    if kind == "epochs":
        return f"{position.epoch} epochs are done. Train on with --epochs {position.epoch + 10}."
    done = f"{position.steps(steps_per_epoch):,} steps are done"
    return f"{done}." if kind == "pace" else f"{done}. Train on with --{kind} {2 * value:g}."


def _compile(model, config, steps_per_epoch, pace, share=1):
    """Compiles a model that is not compiled yet, with a schedule for the whole run, or for rates
    that the run moves; another one keeps its optimizer, and its state. Of the model's own rate it
    takes a `share`. Returns what `run.json` says of the rates.
    """
    if model.compiled:
        for name in ("learning_rate", "schedule", "warmup_steps", "jit"):
            value = getattr(config, name)
            if value not in (None, "auto"):
                raise ValueError(
                    "A model that is compiled already keeps its optimizer and how it is compiled: "
                    f"give {name} to its compile(), or leave it out. Received: {name}={value!r}"
                )
        if config.pace is not None:
            raise ValueError(
                "A model that is compiled already keeps its rates, and takes no other run's pace: "
                f"give steps={pace.steps} to train as long. Received: pace={config.pace!r}"
            )
        return {"schedule": None, "pace": pace and {"schedule": "constant", "rates": []}}
    options = {"learning_rate": config.learning_rate, "jit_compile": config.jit}
    if pace is None:
        model.compile(
            schedule=config.schedule,
            warmup_steps=config.warmup_steps,
            total_steps=_total_steps(config, steps_per_epoch, pace),
            **options,
        )
    else:
        model.compile(schedule="constant", **options)
    if share != 1 and config.learning_rate is None:
        slow_down(model, share)
    if pace is None:
        return {"schedule": _schedule(model), "pace": None}
    schedule = config.schedule or model.default_schedule
    if config.length[0] == "pace":
        schedule = "pace"
        moves = any(row[-1] != 1 for row in pace.rows)
    else:
        moves = schedule != "constant" or bool(config.warmup_steps)
    optimizers = model._optimizers() if moves else []
    for optimizer in map(plain_optimizer, optimizers):
        if hasattr(optimizer, "burn_in_rate"):  # a way of its own
            optimizer.burn_in_rate = False
    rates = [rate_of(optimizer) for optimizer in optimizers]
    return {
        "schedule": None,
        "pace": {"schedule": schedule, "warmup_steps": config.warmup_steps, "rates": rates},
    }


def _schedule(model):
    """What `run.json` says of the learning rate that this run has fitted to its length."""
    schedule = schedule_of(model._optimizers()[0])
    return schedule and schedule.get_config()


def _refit(model, info, config, total, report):
    """Makes the schedule, where the run has one, that of a run of the length that it has now."""
    way, (kind, value) = info.get("pace") or {}, config.length
    if kind == "minutes" and way["rates"] and value != info["arguments"]["minutes"]:
        report(f"The {way['schedule']} schedule is now that of a run of {value:g} minutes.")
    if not info.get("schedule"):
        return
    for optimizer in model._optimizers():
        schedule = schedule_of(optimizer)
        if schedule is None or schedule.schedule == "constant" or schedule.total_steps == total:
            continue
        rates = [rate_of(optimizer)]
        plain_optimizer(optimizer).learning_rate = schedule.over(total)
        rates.append(rate_of(optimizer))
        report(
            f"The {schedule.schedule} schedule is now that of a run of {value} {kind}: the "
            f"learning rate goes on at {rates[1]:.3g}; it had come to {rates[0]:.3g}."
        )


def _restore(run, info, data, config, report):
    """The model, position and metrics to go on from, or `None`: those of the last good checkpoint,
    or of `model.keras` where that has come further.
    """
    models.registered()  # so that Keras knows the classes
    restored = run.load_checkpoint(report)
    behind = restored is None or (
        restored[1].steps(_steps_per_epoch(restored[0], data, config)) < info.get("steps", math.inf)
    )
    if behind and run.model_path.is_file():
        model = load_keras(run.model_path)
        steps = _steps_per_epoch(model, data, config)
        position = Position(*divmod(int(model.training_steps), steps))
        if restored is None or restored[1] < position:
            restored = model, position, []
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


def _describe(name, model, source, data, config):
    """What `run.json` says of a run that begins."""
    packages = ("keras", "tensorflow", "jax", "numpy")
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return _plain(
        {
            "status": "running",
            "started": timestamp(),
            "model": {
                "name": name if isinstance(name, str) else type(model).__name__,
                "class": type(model).__name__,
                "config": model.get_config(),
                "parameters": sum(math.prod(v.shape) for v in model.trainable_weights),
            },
            "arguments": vars(config),
            "data": {
                "name": data.name,
                "source": source_name(source),
                "fingerprint": data.fingerprint,
                "image_shape": data.image_shape,
                "input_shape": data.input_shape,
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


# Training -----------------------------------------------------------------------------


def _fit(run, model, data, config, begun, num_samples, callbacks, evaluation, verbose, report):
    """Trains from where the run is begun to its end and writes `model.keras`."""
    position, pace, rates = begun.position, begun.pace, begun.way.get("rates", ())
    finite = StopOnNonFinite(lambda: _last_good(run))
    callbacks = [*evaluation, *callbacks, LearningRateLog(bool(rates)), finite]
    signals, samples, told = StopSignals(), None, []
    if not config.hosts:  # the sampler runs on one host, and its devices are everywhere
        shown = data.train if data.validation is None else data.validation
        name = run.path.resolve().name
        samples = SampleGrid(run.path / "samples", num_samples, config.seed, shown, name)
        callbacks.append(samples)
    if is_main_host():
        callbacks.append(MetricsTable(run.path / "metrics.csv", position.epoch))
        callbacks.append(TensorBoardLogs(run.path / "logs", samples))
        told = trackers(config.track, run, samples)
    total = _total_steps(config, begun.steps, pace)
    if total is None:
        pace.forget_after(position.steps(begun.steps))
        length = Minutes(
            config.minutes,
            begun.steps,
            position,
            pace,
            rates,
            endings=_endings(run, model, data, config, begun, samples, *evaluation),
            evaluation=evaluation[0] if evaluation else None,
            schedule=begun.way["schedule"],
            warmup_steps=begun.way.get("warmup_steps"),
            report=report,
        )
    else:
        callbacks.append(TimeEstimate(total, begun.steps, position, report))
        length = Length(total, begun.steps, position, pace, rates)
    before = run.info if is_main_host() else {}  # of several hosts, the first one writes it
    began = time.monotonic() - (before.get("seconds") or 0)

    def spent():
        used = length.used() if total is None else time.monotonic() - began
        return round(used, 1)

    def record(step):  # of a process that is killed, what it has done since is lost
        length.record(step)
        run.update(seconds=spent())

    checkpointing = Checkpointing(
        run.checkpoints, position, begun.sums, signals, begun.steps, record
    )
    if verbose != 0:
        callbacks.append(StepBar(total is not None))
    options = {
        "batch_size": config.batch_size,
        "validation_data": data.validation,
        "callbacks": [*callbacks, *told, checkpointing, length],
        "verbose": verbose,
    }
    try:
        # A model of fewer epochs stays until it is replaced, and is told from the new one by this.
        earlier = sha256(run.model_path) if run.model_path.is_file() else None
        arguments = _plain(vars(config))
        run.update(status="running", finished=None, earlier_model=earlier, arguments=arguments)
        if is_main_host() and run.info.get("schedule"):
            run.update(schedule=_schedule(model))
        if is_main_host() and pace is not None:
            pace.write()
        epoch, over = position.epoch, total is not None and position.steps(begun.steps) >= total
        epochs = FOR_EVER if total is None else math.ceil(total / begun.steps)
        with contextlib.ExitStack() as stack:
            for tracker in told:
                stack.enter_context(tracker)
            with contextlib.nullcontext() if config.hosts else signals:
                if position.step and not over:
                    finite.first_step = position.step
                    rest = _Rest(model, data.train, config.batch_size, position)
                    model.fit(rest, epochs=epoch + 1, initial_epoch=epoch, **options)
                    epoch, over = epoch + 1, model.stop_training
                if not over:
                    model.fit(data.train, epochs=epochs, initial_epoch=epoch, **options)
            save_model(model, run.model_path)
            done = {"steps": checkpointing.position.steps(begun.steps), "seconds": spent()}
            if total is None:
                report(
                    f"{'Time:':<12}{in_words(length.used())} of {in_words(length.seconds)}: "
                    f"{done['steps']:,} steps, {done['steps'] / begun.steps:.3g} epochs"
                )
            run.update(status="finished", finished=timestamp(), **done)
    except BaseException as error:
        explained = _explain(run, error)
        stopped = isinstance(explained, (Interrupted, KeyboardInterrupt))
        with contextlib.suppress(OSError):
            status = "interrupted" if stopped else f"failed: {explained}"
            run.update(status=status, seconds=spent())
        if explained is error:
            raise
        raise explained from error


def _endings(run, model, data, config, begun, samples, evaluation=None):
    """What follows the last step of an epoch, in parts that are measured: a list of `Ending`."""
    endings = []
    if data.validation is not None:
        count, size = len(data.validation), config.batch_size
        part = data.validation.part(slice(size + count % size))  # and the batch that is smaller

        def validate():
            model.evaluate(part, batch_size=size, verbose=0)

        endings.append(Ending(validate, count / len(part)))
    if samples is not None:
        evaluated = 0 if evaluation is None else evaluation.num_samples / samples.n
        endings.append(Ending(lambda: samples.draw(model), 1, evaluated))

    def save():
        run.checkpoints.save(model, begun.position, begun.sums)

    return [*endings, Ending(save, 1, after=1)]


def _evaluation(run, model, data, config):
    """The callback that measures samples, in a list; an empty one where it is not wanted."""
    every, best = config.evaluate_every, config.keep_best
    if every is None and best is None:
        return []
    from kgen.evaluation import METRICS, EvaluateSamples, Reference

    if config.hosts:
        raise ValueError("Samples cannot be evaluated with several hosts; leave hosts out.")
    if data.validation is None:
        raise ValueError(f"Samples are evaluated on validation images, and {data.name} has none.")
    choices = [name for name, metric in METRICS.items() if metric.better]
    if best not in (None, *choices):
        raise ValueError(unknown_name("metric to choose the best by", best, choices))
    evaluation = EvaluateSamples(
        Reference(data.validation, data.train, split="validation"),
        every or 1,
        seed=config.seed,
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
    if files.is_disk_full(error):
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
        self.batches.go_to(model.steps_trained)
        self.first_step = position.step

    def __len__(self):
        return len(self.batches) - self.first_step

    def __getitem__(self, index):
        return self.batches[index]
