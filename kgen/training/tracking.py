"""Trackers of experiments, which are told of a run: Weights & Biases and MLflow.

A run of `kgen.training.run.train(track=["wandb"])` tells its arguments, the figures of every epoch,
the pictures and where its model lies; `kgen evaluate` and `kgen export` tell the same tracker's run
of the report and of the artifact. Where and whether anything is sent is a matter of the library's
own settings, such as `WANDB_MODE=offline` and `MLFLOW_TRACKING_URI`.

A tracker that fails, since there is no network, is left out from then on, which is said once.
"""

import contextlib
import importlib.util
import numbers
import os
import pathlib
import re
import time
import warnings

import keras

from kgen.checks import unknown_name
from kgen.training.checkpoints import sha256
from kgen.training.errors import Interrupted

#: The project of W&B, or the experiment of MLflow, that runs go to where none is named.
PROJECT = "kgen"


class Tracker(keras.callbacks.Callback):
    """What a tracker is told while a run trains, as a callback and a context manager around `fit`.

    A subclass says how by `open`, which returns the id of the tracker's run, `log`, `files`,
    `refer` and `close`.

    Args:
        run: `kgen.training.run_folder.Run`.
        project: String, or `None`.
        samples: `SampleGrid`, or `None`.
    """

    def __init__(self, run, project=None, samples=None):
        super().__init__()
        self.run, self.samples = run, samples
        known = run.info.get("trackers", {}).get(self.name, {})
        self.id = known.get("id")
        self.project = project or known.get("project") or self.default_project()
        self.failed = False

    @classmethod
    def default_project(cls):
        return os.environ.get(cls.project_variable) or PROJECT

    def tell(self, method, *arguments):
        """Calls a method; an error is warned of, and the tracker left out from then on."""
        if self.failed:
            return
        try:
            method(*arguments)
        except Exception as error:
            self.failed = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            warnings.warn(f"{self.title} fails, and all goes on without it: {reason}", stacklevel=2)

    def begin(self):
        """Opens the tracker's run: a new one, or that which the run has had before."""
        self.id = self.open(self.run.path.resolve().name, self.id) or self.id
        trackers = self.run.info.get("trackers", {})
        known = {"id": self.id, "project": self.project}
        self.run.update(trackers={**trackers, self.name: known})

    def __enter__(self):
        self.tell(self.begin)
        return self

    def __exit__(self, kind, error, trace):
        status = "finished"
        if error is None:
            self.tell(self._finished)
        else:
            stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
            status = "interrupted" if stopped else "failed"
        self.tell(self.close, status)

    def on_epoch_end(self, epoch, logs=None):
        figures = {"epoch": epoch + 1, **logs}
        picture = None if self.samples is None else self.samples.path(epoch)
        self.tell(self.log, self.model.steps_trained, figures, picture)

    def _finished(self):
        path = self.run.model_path
        self.refer("model", path, sha256(path), {"steps": self.run.info.get("steps")})


class WandbTracker(Tracker):
    """Weights & Biases."""

    name, title, project_variable = "wandb", "Weights & Biases", "WANDB_PROJECT"

    def open(self, name, id):
        import wandb

        self.wandb = wandb
        self.inner = wandb.init(
            project=self.project,
            id=id,
            name=name,
            config=_about(self.run.info),
            resume="allow",
            settings=wandb.Settings(console="off", quiet=True),
        )
        return self.inner.id

    def log(self, step, figures, picture):
        pictures = {} if picture is None else {"samples": self.wandb.Image(str(picture))}
        self.inner.log({**figures, **pictures}, step=step)

    def files(self, kind, folder, names, figures, step):
        artifact = self.wandb.Artifact(self._title(kind), type=kind, metadata=figures)
        for name in names:
            artifact.add_file(str(folder / name), name)
        self.inner.log_artifact(artifact)
        self.inner.summary.update({f"{kind}/{name}": value for name, value in figures.items()})

    def refer(self, kind, path, digest, about):
        metadata = {"path": str(path.resolve()), "sha256": digest, **about}
        artifact = self.wandb.Artifact(self._title(kind), type=kind, metadata=metadata)
        artifact.add_reference(path.resolve().as_uri())
        self.inner.log_artifact(artifact)

    def close(self, status):
        self.inner.finish(exit_code=0 if status == "finished" else 1)

    def _title(self, kind):
        return re.sub(r"[^\w.-]", "-", f"{self.run.path.resolve().name}-{kind}", flags=re.ASCII)


class MLflowTracker(Tracker):
    """MLflow."""

    name, title, project_variable = "mlflow", "MLflow", "MLFLOW_EXPERIMENT_NAME"

    def open(self, name, id):
        # By default it asks a server that is not there for minutes, and tells its makers of use.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.inner = MlflowClient()
        if id is not None:
            self.inner.update_run(id, status="RUNNING")
            return id
        experiment = self.inner.get_experiment_by_name(self.project)
        number = experiment and experiment.experiment_id
        created = self.inner.create_run(
            number or self.inner.create_experiment(self.project), run_name=name
        )
        parameters = [Param(key, str(value)[:500]) for key, value in _flat(_about(self.run.info))]
        for begin in range(0, len(parameters), 100):
            self.inner.log_batch(created.info.run_id, params=parameters[begin : begin + 100])
        return created.info.run_id

    def log(self, step, figures, picture):
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in figures.items()]
        self.inner.log_batch(self.id, metrics=metrics)
        if picture is not None:
            self.inner.log_artifact(self.id, str(picture), "samples")

    def files(self, kind, folder, names, figures, step):
        for name in names:
            self.inner.log_artifact(self.id, str(folder / name), kind)
        self.log(step, {f"{kind}/{name}": value for name, value in figures.items()}, None)

    def refer(self, kind, path, digest, about):
        named = {"path": path.resolve(), "sha256": digest, **about}
        for name, value in named.items():
            self.inner.set_tag(self.id, f"kgen.{kind}.{name}", str(value))

    def close(self, status):
        states = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
        self.inner.set_terminated(self.id, states[status])


TRACKERS = {tracker.name: tracker for tracker in (WandbTracker, MLflowTracker)}


def check_trackers(track):
    """Raises `ValueError` for an unknown tracker, `ImportError` for one that is not installed.

    `track` is a sequence of names in `TRACKERS`, each with a project where it is to be another than
    `kgen`: `"wandb:digits"`.
    """
    for text in track:
        name, colon, project = text.partition(":")
        if name not in TRACKERS:
            raise ValueError(unknown_name("tracker", name, TRACKERS))
        if colon and not project:
            raise ValueError(f"After the colon comes a project's name. Received: {text}")
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"Tracking by {TRACKERS[name].title} needs {name}: {_remedy(name)}")


def trackers(track, run, samples=None):
    """List of a `Tracker` for each text of `track`, see `check_trackers`."""
    made = []
    for text in track:
        name, _, project = text.partition(":")
        made.append(TRACKERS[name](run, project or None, samples))
    return made


@contextlib.contextmanager
def _reopened(run):
    """The trackers that a run has been told to, to tell them more: a list."""
    info = run.info
    names = info.get("trackers", {})
    if names and info["status"] == "running":  # the training tells them, at the same time
        warnings.warn(f"{run.path} has not ended: its trackers are not told of it.", stacklevel=4)
        names = {}
    with contextlib.ExitStack() as stack:
        opened = []
        for name in names:
            if importlib.util.find_spec(name) is None:
                title = TRACKERS[name].title
                warnings.warn(f"{title} is not told of it: {_remedy(name)}", stacklevel=4)
                continue
            tracker = TRACKERS[name](run)
            tracker.tell(tracker.begin)
            known = ("finished", "interrupted")
            status = info["status"] if info["status"] in known else "failed"
            stack.callback(tracker.tell, tracker.close, status)
            opened.append(tracker)
        yield opened


def tell_evaluation(run, report, folder):
    """Tells the trackers of a `Run` of its evaluation: a report's figures, and its files."""
    figures = dict(report["losses"])
    for title, entry in report.get("metrics", {}).items():
        figures |= {title: entry["value"], f"{title} of real images": entry["floor"]}
    if "likelihood" in report:
        figures["nats"] = report["likelihood"]["nats"]
    figures = {name: value for name, value in figures.items() if value is not None}
    what = ("evaluation", pathlib.Path(folder), ["evaluation.json", "report.html"], figures)
    with _reopened(run) as opened:
        for tracker in opened:
            tracker.tell(tracker.files, *what, run.info.get("steps", 0))


def tell_artifact(run, artifact):
    """Tells the trackers of a `Run` where its `export.Artifact` lies."""
    manifest = artifact.path / "manifest.json"
    with _reopened(run) as opened:
        for tracker in opened:
            about = {"name": artifact.name, "bytes": artifact.size}
            tracker.tell(tracker.refer, "artifact", manifest, sha256(manifest), about)


def _remedy(name):
    return f"pip install 'kgen[{name}]'"


def _about(info):
    """What a tracker keeps of a run beside its figures: a dict of `run.json`."""
    names = ("arguments", "model", "data", "backend", "versions")
    return {name: info[name] for name in names if name in info}


def _flat(values, prefix=""):
    """Pairs of a dict in dicts, with names such as `model.config.seed`."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (str, numbers.Number)) or value is None:
            yield f"{prefix}{name}", value
        else:
            yield f"{prefix}{name}", str(value)
