"""What the targets share: names, versions, batch sizes, templates."""

import pathlib
import re

import jinja2

#: What a name may be that stands in URLs, in paths and, in lower case, in Kubernetes.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

_TEMPLATES = pathlib.Path(__file__).with_name("templates")


def by_name(artifacts, format, engine):
    """Artifacts by the name of their model, in their order.

    A ValueError where one lacks the format that `engine` runs, or has a name for no URL.
    """
    models = {}
    for artifact in artifacts:
        if format not in artifact.formats:
            called = {"saved_model": "SavedModel", "onnx": "ONNX files"}[format]
            raise ValueError(
                f"{artifact.path} has no {called}, which {engine} runs: export it with "
                "--formats saved_model,onnx."
            )
        if not _NAME.fullmatch(artifact.name):
            raise ValueError(
                f"{artifact.path} has the name '{artifact.name}', which does not stand in a URL: "
                "export it with --name, of letters, digits, '-', '_' and '.'."
            )
        models.setdefault(artifact.name, []).append(artifact)
    return models


def common_sizes(artifacts):
    """The batch sizes that all of them were proven at, in their order."""
    return sorted(set.intersection(*(set(a.manifest["batch_sizes"]) for a in artifacts)))


def said_sizes(artifacts):
    """Which of the artifacts was proven at which batch sizes, for a message."""
    return ", ".join(f"{a.path}: {a.manifest['batch_sizes']}" for a in artifacts)


def describe(models, labels=False):
    """Models as from `by_name` as plain data: for each its versions, labels and artifacts."""
    return {
        name: {
            "versions": list(range(1, len(versions) + 1)),
            "labels": _labels(versions) if labels else {},
            "artifacts": [artifact.manifest["sha256"] for artifact in versions],
        }
        for name, versions in models.items()
    }


def _labels(versions):
    labels = {"stable": 1}
    return labels if len(versions) == 1 else {**labels, "canary": len(versions)}


def text(target, template, values):
    """One template, filled."""
    return _environment(target).get_template(template).render(values)


def render(folder, target, values, without=()):
    """Fills a folder from the templates in `templates/TARGET` and in `templates/common`.

    Of two of one name the target's own is taken. Those that begin with `_` are for others to
    include, and `without` are names of files or of the first folder to leave out.
    """
    environment = _environment(target)
    for name in environment.list_templates():
        if name.startswith("_") or {name, name.split("/")[0]} & set(without):
            continue
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(environment.get_template(name).render(values), encoding="utf-8")


def _environment(target):
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([_TEMPLATES / target, _TEMPLATES / "common"]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def size(folder):
    """Bytes of all files in a folder together."""
    return sum(p.stat().st_size for p in pathlib.Path(folder).rglob("*") if p.is_file())
