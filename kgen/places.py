"""Where a model is: the one place that knows what a name or a path of a model means."""

import pathlib

from kgen import hub, models
from kgen.training.errors import RunError

#: What a folder that holds a model has in it: a run's and a preset's file.
_IN_A_FOLDER = ("run.json", "config.json")


def find(model):
    """The path of the run, the file or the preset that `model` means; `None` where there is none.

    `model` is the path of one, the name of a trained preset (`kgen.models.trained`), or
    `hf://USER/NAME`, whose preset is fetched into the hub's cache.
    """
    if hub.is_place(model):
        return hub.fetch(model)
    path = pathlib.Path(model)
    if path.is_file() or any((path / name).is_file() for name in _IN_A_FOLDER):
        return path
    trained = models.TRAINED / path
    if len(path.parts) == 1 and (trained / "config.json").is_file():
        return trained
    return None


def check(model):
    """Raises `RunError` where `find` would find none. Of the hub it looks at the spelling alone."""
    if hub.is_place(model):
        hub.parse(model)
    else:
        locate(model)


def locate(model):
    """As `find`; a `RunError` where there is none."""
    path = find(model)
    if path is None:
        folder = pathlib.Path(model).is_dir()
        what = "is a folder without run.json or config.json" if folder else "does not exist"
        raise RunError(
            f"There is no model in {model}: it {what}. Give the folder of a run, a .keras file, "
            "the folder of a preset, a trained preset that `kgen list` shows, or hf://USER/NAME."
        )
    return path
