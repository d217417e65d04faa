"""Reports as HTML files that stand alone: of one model, and of several side by side.

A page fetches nothing, pictures and curves included: it can be mailed, kept in an archive
and opened without a network. The same report gives the same bytes.
"""

import base64
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from kgen import files
from kgen.evaluation import curves
from kgen.images import encode_png, save_png
from kgen.training.metrics_csv import read_metrics

MISSING = "\N{EN DASH}"

#: Of more classes than this, those are shown whose shares differ most.
MAX_CLASSES = 20

#: What the errors of reconstructions are called, and which is better.
RECONSTRUCTION = {
    "mae": ("mean absolute error in grey levels", "lower"),
    "rmse": ("root mean square error in grey levels", "lower"),
    "psnr": ("PSNR in dB", "higher"),
    "ssim": ("SSIM", "higher"),
}

#: Figures of pairs: what each is called, and which is better.
FIGURES = {
    "psnr": ("PSNR in dB", "higher"),
    "ssim": ("SSIM", "higher"),
    "ms_ssim": ("MS-SSIM", "higher"),
    "perceptual": ("perceptual distance", "lower"),
    "fd": ("FD", "lower"),
    "colourfulness": ("colourfulness", None),
}

_WIDTH, _HEIGHT = 968, 640  # of a picture on the page, in CSS pixels

# Numbers ------------------------------------------------------------------------------


def number(value, sd=None, digits=4):
    """A number for a reader: 4 significant digits, integers in full; a dash for `None` and NaN.

    >>> number(8.1), number(0.00004321), number(12345.6), number(10_000), number(0.5, 0.012)
    ('8.100', '4.321e-05', '12,350', '10,000', '0.5000 ± 0.012')
    """
    if value is None or math.isnan(value):
        return MISSING
    if sd is not None:
        return f"{number(value, digits=digits)} ± {number(sd, digits=2)}"
    sign, size = "\N{MINUS SIGN}" if value < 0 else "", abs(value)
    if math.isinf(value):
        return f"{sign}∞"
    if isinstance(value, int | np.integer):
        return f"{sign}{size:,}"
    if size == 0:
        return "0"
    rounded = f"{size:.{digits - 1}e}"
    exponent = int(rounded.partition("e")[2])
    if exponent < -4:
        return sign + rounded
    return f"{sign}{float(rounded):,.{max(0, digits - 1 - exponent)}f}"


def percent(value):
    """A share of 1: `"9.8%"`."""
    return MISSING if value is None else f"{value:.1%}"


# One model ----------------------------------------------------------------------------


def write(path, report, pictures, history=()):
    """Writes what `kgen.evaluation.evaluate` returns as an HTML file that needs no other.

    `pictures` are dicts of `"title"`, `"caption"`, `"image"` (uint8 `[h, w, C]`) and perhaps
    `"claim"` (the `kgen.origin.Claim` of what a model drew) by slug, and are also written beside
    the page, as `report/<slug>.png`. `history` is the rows of a run's `metrics.csv` as dicts; a
    value may be `None`. What `report` lacks is left out. Returns the pictures with `"file"`,
    relative to the page's folder, in place of `"image"` and `"claim"`.
    """
    path = pathlib.Path(path)
    written = {}
    for slug, picture in pictures.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", slug):
            raise ValueError(
                f"A picture's slug is made of letters, digits, '-' and '_'. Received: {slug!r}"
            )
        written[slug] = {
            "title": picture["title"],
            "caption": picture["caption"],
            "file": f"{path.stem}/{slug}.png",
        }
        file = path.parent / written[slug]["file"]
        save_png(picture["image"], file, picture.get("claim"))
    metrics = report.get("metrics", {})
    text = _template("report.html").render(
        report=report,
        facts=_facts(report),
        pictures={slug: _embedded(picture) for slug, picture in pictures.items()},
        has={
            name: any(m.get(name) is not None for m in metrics.values())
            for name in ("sd", "train", "floor")
        },
        classes=_class_shares(report.get("classes", ())),
        curves=curves.of_run(history),
        cost=curves.of_cost(report["cost"]) if "cost" in report else None,
        translation=of_translation(report),
        command=_command(report),
    )
    files.write_text(path, text)
    return written


def written(folder):
    """The names of the files that an evaluation in a folder consists of; none without one."""
    try:
        report = json.loads(pathlib.Path(folder, "evaluation.json").read_text("utf-8"))
        pictures = [picture["file"] for picture in report.get("pictures", {}).values()]
        known = "model" in report
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return []
    pictures = [name for name in pictures if re.fullmatch(r"report/[\w-]+\.png", name)]
    return ["evaluation.json", "report.html", *pictures] if known else []


def read(folder):
    """What `evaluate` wrote into a folder, for `write_comparison`.

    A dict of `"name"` (the folder's), `"report"`, `"pictures"` and `"history"`, the rows of
    `metrics.csv` in a run's folder. `ValueError` without an evaluation, or of an older kgen.
    """
    from PIL import Image

    folder = pathlib.Path(folder)
    files.complete(folder, "evaluation")
    path = folder / "evaluation.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no evaluation.json; run `kgen evaluate {folder}` first.")
    report = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(report.get("model"), dict):
        raise ValueError(f"{path} was written by an older kgen; run `kgen evaluate {folder}` again")
    pictures = {}
    for slug, picture in report.get("pictures", {}).items():
        if (folder / picture["file"]).is_file():  # one that was thrown away is left out
            image = np.asarray(Image.open(folder / picture["file"]))
            image = image[..., None] if image.ndim == 2 else image
            pictures[slug] = {**picture, "image": image}
    return {
        "name": folder.resolve().name,
        "report": report,
        "pictures": pictures,
        "history": read_metrics(folder / "metrics.csv"),
    }


def of_translation(report):
    """The table of a translator: names of its columns, with which is better, and its rows."""
    found = report.get("translation")
    if found is None:
        return None
    keys = [key for key in FIGURES if any(key in row for row in found["rows"])]
    feature = report.get("features", {}).get("name")
    titles = {key: FIGURES[key] for key in keys}
    if "fd" in titles:
        titles["fd"] = (f"FD-{feature}" if feature else "FD", "lower")
    rows = [
        (found["names"][row["name"]], [number(row.get(key)) for key in keys])
        for row in found["rows"]
    ]
    return {"columns": list(titles.values()), "rows": rows}


def _facts(report):
    """Short strings that say what was evaluated."""
    model, facts = report["model"], []
    if model.get("parameters") is not None:
        facts.append(f"{number(model['parameters'])} parameters")
    height, width, channels = model["image_shape"]
    facts.append(f"images of {height}x{width}x{channels}")
    if model.get("num_classes"):
        facts.append(f"{number(model['num_classes'])} classes")
    if "samples" in report:
        facts.append(f"{number(report['samples']['n'])} images drawn")
    for title, metric in list(report.get("metrics", {}).items())[:1]:
        floor = metric.get("floor")
        beside = "" if floor is None else f" (real images {number(floor)})"
        facts.append(f"{title} {number(metric['value'])}{beside}")
    if "likelihood" in report:
        facts.append(f"{number(report['likelihood']['nats'])} nats per image")
    return facts


def _class_shares(classes):
    """The rows of the table of classes, with widths of bars in percent, and what is left out."""
    largest = max((max(c["real"], c["generated"]) for c in classes), default=0) or 1
    shown = sorted(classes, key=lambda c: -abs(c["generated"] - c["real"]))[:MAX_CLASSES]
    rows = [
        {**c, "widths": [round(100 * c[kind] / largest, 1) for kind in ("generated", "real")]}
        for c in sorted(shown, key=lambda c: c["class"])
    ]
    return {"rows": rows, "of": len(classes)}


def _command(report):
    """How to get the report again, as a line for a shell or for Python."""
    samples = report.get("samples", {})
    options = {
        "split": report["data"]["split"],
        "num_samples": samples.get("n"),
        "seed": samples.get("seed"),
        "features": report.get("features", {}).get("name"),
        "importance_samples": report.get("likelihood", {}).get("importance_samples"),
    }
    if options["features"] == "inception":
        options["features"] = "inception:WEIGHTS"
    path = report["model"].get("path")
    if path:
        options = {"data": report["data"].get("source"), **options}
    options = {name: value for name, value in options.items() if value is not None}
    drawn_with = samples.get("options", {})
    if path:
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        words += [f"--set={name}={json.dumps(value)}" for name, value in drawn_with.items()]
        words += ["--cost-curve"] if "cost" in report else []
        return shlex.join(["kgen", "evaluate", path, *words])
    options |= {"options": drawn_with} if drawn_with else {}
    options |= {"cost": True} if "cost" in report else {}
    words = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"kgen.evaluation.evaluate(model, data{words})"


# Several models -----------------------------------------------------------------------


def compare(
    folders: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]
) -> dict[str, Any]:
    """Puts evaluated models side by side on one page.

    Args:
        folders: Sequence of folders in which `evaluate` or `kgen evaluate` wrote
            `evaluation.json`; a `ValueError` for fewer than two, or one without.
        path: Path of the HTML file to write.

    Returns:
        Dict for JSON: `"header"` and `"rows"` of the table, lists of strings; `"not_comparable"`,
        what was not alike in the measurements, to its value in each run, empty where scores may be
        compared; `"left_out"`, the name of a run to the scores that it lacks and others have, and
        why.
    """
    folders = [pathlib.Path(folder) for folder in folders]
    if len(folders) < 2:
        raise ValueError(f"A comparison needs two runs or more. Received: {len(folders)}")
    entries = [read(folder) for folder in folders]
    write_comparison(path, entries)
    header, rows = table(entries)
    names = [entry["name"] for entry in _named(entries)]
    differing = _differing([_settings(entry["report"]) for entry in entries])
    return {
        "header": header,
        "rows": rows,
        "not_comparable": {
            setting: dict(zip(names, values, strict=True)) for setting, values in differing.items()
        },
        "left_out": _left_out(entries),
    }


def write_comparison(path, entries):
    """Writes one page with a column for each of several runs, as `read` gives them."""
    entries = _named(entries)
    names = [entry["name"] for entry in entries]
    slugs = dict.fromkeys(slug for entry in entries for slug in entry["pictures"])
    pictures = []
    for slug in slugs:
        found = {e["name"]: e["pictures"][slug] for e in entries if slug in e["pictures"]}
        embedded = {name: _embedded(picture) for name, picture in found.items()}
        pictures.append({"title": next(iter(found.values()))["title"], "of": embedded})
    settings = [_settings(entry["report"]) for entry in entries]
    differing = _differing(settings)
    measured = next((s for s in settings if s is not None), {})
    text = _template("comparison.html").render(
        entries=entries,
        names=names,
        differing=differing,
        common={name: value for name, value in measured.items() if name not in differing},
        rows=_rows(entries),
        left_out=_left_out(entries),
        pictures=pictures,
        curves=curves.of_several([entry["history"] for entry in entries]),
        colours=curves.COLOURS,
    )
    files.write_text(path, text)


def table(entries):
    """The comparison of runs, as `read` gives them, as text: a header and rows of strings.

    A row is a metric, `"lower"` or `"higher"` for which is better, the value of real images, and
    a column for each run. A star marks the best value of those that can be compared.
    """
    entries = _named(entries)
    header = ["metric", "better", "real images", *(entry["name"] for entry in entries)]
    rows = [
        [row.title, row.better or "", row.floor]
        + [f"* {cell.text}" if cell.best else cell.text for cell in row.cells]
        for row in _rows(entries)
    ]
    return header, rows


@dataclasses.dataclass(frozen=True)
class _Cell:
    text: str
    best: bool = False


@dataclasses.dataclass(frozen=True)
class _Row:
    title: str
    better: str | None
    floor: str
    cells: list
    meaning: str = ""


def _rows(entries):
    """The rows of the comparison."""
    reports = [entry["report"] for entry in entries]
    rows = []
    for title in dict.fromkeys(title for r in reports for title in r.get("metrics", {})):
        metrics = [r.get("metrics", {}).get(title) for r in reports]
        first = next(metric for metric in metrics if metric)
        rows.append(
            _row(
                title,
                first["better"],
                [None if m is None else m["value"] for m in metrics],
                [_settings(r) for r in reports],
                sds=[None if m is None else m.get("sd") for m in metrics],
                floors=[m["floor"] for m in metrics if m and m.get("floor") is not None],
                meaning=first.get("meaning", ""),
            )
        )
    found = [r.get("likelihood", {}) for r in reports]
    for kind in dict.fromkeys(f["kind"] for f in found if f):
        for key, unit in (("nats", "nats per image"), ("bits_per_dimension", "bits per dimension")):
            values = [f[key] if f.get("kind") == kind else None for f in found]
            how = [
                (_data(r), f.get("protocol"), f.get("importance_samples"))
                for r, f in zip(reports, found, strict=True)
            ]
            rows.append(_row(f"{unit}, {kind}", "lower", values, how))
    for key, (title, better) in RECONSTRUCTION.items():
        values = [r.get("reconstruction", {}).get(key) for r in reports]
        rows.append(_row(f"reconstruction, {title}", better, values, [_data(r) for r in reports]))
    for key, (title, better) in FIGURES.items():
        if key not in ("fd", "colourfulness"):  # that is among the metrics
            values = [_of_model(r).get(key) for r in reports]
            rows.append(_row(title, better, values, [_data(r) for r in reports]))
    speeds = [r.get("sampling", {}).get("images_per_second") for r in reports]
    rows.append(_row("images drawn per second", None, speeds))  # on who knows what machine
    rows.append(_row("parameters", None, [r["model"].get("parameters") for r in reports]))
    return [row for row in rows if any(cell.text != MISSING for cell in row.cells)]


def _of_model(report):
    """A translator's own figures of pairs; a dict."""
    rows = report.get("translation", {}).get("rows", ())
    return next((row for row in rows if row["name"] == "model"), {})


def _row(title, better, values, settings=(), sds=None, floors=(), meaning=""):
    """A row, whose best value is marked if all its values were taken in the same way."""
    there = [i for i, value in enumerate(values) if value is not None and not math.isnan(value)]
    alike = all(settings[i] == settings[there[0]] for i in there) if settings else False
    best = None
    if better and alike and len({values[i] for i in there}) > 1:
        best = {"lower": min, "higher": max}[better](values[i] for i in there)
    texts = map(number, values, sds or [None] * len(values))
    cells = [
        _Cell(text, best is not None and value == best)
        for text, value in zip(texts, values, strict=True)
    ]
    floors = list(dict.fromkeys(number(floor) for floor in sorted(floors)))
    floor = floors[0] if len(floors) == 1 else f"{floors[0]} to {floors[-1]}" if floors else MISSING
    return _Row(title, better, floor, cells, meaning)


def _data(report):
    data = report["data"]
    return {
        "data": data["name"],
        "split": data["split"],
        "fingerprint of the data": short(data.get("fingerprint")),
    }


def _settings(report):
    """What must be equal for two values of a metric to be comparable."""
    if "metrics" not in report:
        return None
    features, reference = report["features"], report["reference"]
    return {
        "images drawn": number(report["samples"]["n"]),
        "data": report["data"]["name"],
        "reference split": reference["split"],
        "reference images": number(reference["n"]),
        "reference fingerprint": short(
            reference.get("fingerprint") or report["data"].get("fingerprint")
        ),
        "features": features["name"],
        "features sha256": short(features["sha256"]),
    }


def _differing(settings):
    """Dict of setting to its value in each run, for those that are not equal in all."""
    measured = [s for s in settings if s is not None]
    return {
        name: [MISSING if s is None else s[name] for s in settings]
        for name in (measured[0] if measured else ())
        if len({s[name] for s in measured}) > 1
    }


def _left_out(entries):
    """Dict of the name of a run to the scores that it lacks and others have, and why."""
    scores = {title for entry in entries for title in entry["report"].get("metrics", {})}
    found = {}
    for entry in _named(entries):
        reasons = entry["report"].get("left_out", {})
        reasons = {title: why for title, why in reasons.items() if title in scores}
        if reasons:
            found[entry["name"]] = reasons
    return found


def short(hexadecimal):
    """The head of a hash, enough to tell two apart."""
    return hexadecimal[:12] if hexadecimal else MISSING


def _named(entries):
    """Entries whose names differ: a second `vae` becomes `vae (2)`."""
    seen, named = {}, []
    for entry in entries:
        name = entry["name"]
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name} ({seen[name]})"
        named.append({**entry, "name": name})
    return named


# Templates ----------------------------------------------------------------------------


@functools.cache
def _template(name):
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "short": short,
    }
    environment.globals["reconstruction_errors"] = RECONSTRUCTION
    return environment.get_template(name)


def _embedded(picture):
    """A picture for a template: the PNG itself, its size on the page, its words."""
    height, width = picture["image"].shape[:2]
    zoom = max(1, min(_WIDTH // width, _HEIGHT // height, 2))
    png = encode_png(picture["image"], picture.get("claim"))
    png = base64.b64encode(png).decode("ascii")
    return {
        "title": picture["title"],
        "caption": picture["caption"],
        "src": f"data:image/png;base64,{png}",
        "width": zoom * width,
        "height": zoom * height,
    }
