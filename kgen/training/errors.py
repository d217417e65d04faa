"""How a run ends before its time. Without Keras, so that the command line can tell."""

import pathlib


class RunError(RuntimeError):
    """A run that cannot begin or go on; the message says what to do."""


class NonFiniteError(RunError):
    """A loss or a weight is NaN or infinite."""


class Interrupted(RunError):
    """The run was asked to stop, by the signal `signum`, and did so without loss."""

    def __init__(self, message, signum):
        super().__init__(message)
        self.signum = signum


def check_model_path(path):
    """Raises `RunError` where there is no run, no file and no preset that could hold a model."""
    path = pathlib.Path(path)
    if path.is_file() or any((path / name).is_file() for name in ("run.json", "config.json")):
        return
    what = "is a folder without run.json or config.json" if path.is_dir() else "does not exist"
    raise RunError(
        f"There is no model in {path}: it {what}. Give the folder of a run, a .keras file or "
        "the folder of a preset."
    )
