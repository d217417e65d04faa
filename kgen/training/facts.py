"""What a run says of its model to others: data, training, scores, and no place on this machine."""

import datetime
import json
import math
import os
import pathlib

from kgen import files


def facts(run, whole=True, report=print):
    """A dict for JSON of `"data"`, `"training"` and, where it was evaluated, `"scores"` of a `Run`.

    Of paths only the last part is told. `whole` says that the model is that of the run itself, and
    not of one of its epochs, of which there are no scores here; neither are there where the model
    was trained on after its evaluation, which `report` is told.
    """
    info = run.info
    last = (run.metrics or [None])[-1]
    arguments = {name: value for name, value in info["arguments"].items() if name != "track"}
    found = {
        "data": info["data"],
        "training": {
            **arguments,
            "steps": (last or {}).get("steps"),
            "seconds": info.get("seconds"),
            "backend": info["backend"],
            "metrics": last,
        },
    }
    if "begun_with" in info:
        found["training"]["begun_with"] = info["begun_with"]["source"]
    files.complete(run.path, "evaluation")
    evaluation = run.path / "evaluation.json"
    if whole and evaluation.is_file():
        if evaluation.stat().st_mtime < _trained_at(run, info):
            report(
                f"{run.path} was trained on after it was evaluated: its scores are left out. "
                f"Measure them again: kgen evaluate {run.path}"
            )
        else:
            found["scores"] = _scores(json.loads(evaluation.read_text(encoding="utf-8")))
    return _for_others(found)


def of_preset(path):
    """The same of a preset's folder, with `"license"` and `"datasets"`, from its `metadata.json`;
    nothing of anything else.
    """
    file = pathlib.Path(path, "metadata.json")
    if not file.is_file():
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(known, dict):
        raise ValueError(f"{file} holds no metadata of a preset. Received: {type(known).__name__}")
    told = {"license": str, "datasets": list, "data": dict, "training": dict, "scores": dict}
    return {key: known[key] for key, kind in told.items() if isinstance(known.get(key), kind)}


def _trained_at(run, info):
    """When the model got its weights, in seconds. (As it is written, so that copying the folder
    changes nothing.)
    """
    if info.get("finished"):
        return datetime.datetime.fromisoformat(info["finished"]).timestamp()
    last = run.checkpoints.last()
    return 0 if last is None else last.stat().st_mtime


def _scores(report):
    """What of an evaluation is told: figures, and what they rest on."""
    kept = (
        *("data", "losses", "reconstruction", "likelihood", "translation"),
        *("features", "samples", "reference"),
    )
    scores = {name: report[name] for name in kept if name in report}
    return {
        **scores,
        "metrics": {
            name: {key: entry[key] for key in ("value", "sd", "floor")}
            for name, entry in report.get("metrics", {}).items()
        },
    }


def _for_others(value):
    """A value for JSON in which paths are the names of their files or folders, and what is no
    number, which only Python's JSON has, is `None`.
    """
    if isinstance(value, dict):
        return {key: _for_others(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_for_others(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and os.sep in value and not value.startswith("hf://"):
        return pathlib.PurePath(value).name
    return value
