"""A folder for TF Serving: models, configuration, containers, and a call of every signature."""

import pathlib
import re
import shutil

import jinja2

from export import calls
from export import manifest as schema
from export.deployment import tf_serving_lint

#: The release that goes with the TensorFlow which kgen is tested with.
IMAGE = "tensorflow/serving:2.21.0"

#: Where it listens to gRPC.
GRPC_ADDRESS = "localhost:8500"

#: What a name may be that stands in URLs, in paths and, in lower case, in Kubernetes.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

_TEMPLATES = pathlib.Path(__file__).with_name("templates") / "tf-serving"


def models_of(artifacts):
    """Artifacts by the name of their model, in their order; a ValueError where TF Serving would
    refuse one.
    """
    models = {}
    for artifact in artifacts:
        name, section = artifact.name, artifact.manifest["formats"].get("saved_model")
        if section is None:
            raise ValueError(
                f"{artifact.path} has no SavedModel, which is what TF Serving runs: export it with "
                "--formats saved_model,onnx."
            )
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{artifact.path} has the name '{name}', which does not stand in a URL: export it "
                "with --name, of letters, digits, '-', '_' and '.'."
            )
        models.setdefault(name, []).append(artifact)
    sizes = _common_sizes(artifacts)
    described = ", ".join(f"{a.path}: {a.manifest['batch_sizes']}" for a in artifacts)
    if not sizes:
        raise ValueError(
            "TF Serving has one list of batch sizes for all models, and these were proven and are "
            f"warmed up at none in common ({described}): export them with the same --batch-sizes."
        )
    if any(artifact.manifest["batch_sizes"][-1] > sizes[-1] for artifact in artifacts):
        raise ValueError(
            "TF Serving would not load a model whose warmup requests have more rows than the "
            f"largest batch of all models together, which is {sizes[-1]} ({described}): export "
            "them with the same --batch-sizes."
        )
    return models


def write(folder, models, image):
    """Fills a folder with models as from `models_of`; returns what was made of them, as a dict."""
    folder = pathlib.Path(folder)
    described = {
        name: {"versions": list(range(1, len(versions) + 1)), "labels": _labels(versions)}
        for name, versions in models.items()
    }
    for name, versions in models.items():
        for number, artifact in enumerate(versions, 1):
            shutil.copytree(
                artifact.path / schema.SAVED_MODEL, folder / "models" / name / str(number)
            )
    every = [artifact for versions in models.values() for artifact in versions]
    sizes = _common_sizes(every)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values = {
        "models": described,
        "image": image,
        "batch_sizes": sizes,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "pixels": calls.PIXELS,
        "grpc_address": GRPC_ADDRESS,
        "calls": _calls(models, calls.curl),
        "grpc_calls": {name: lines.values() for name, lines in _calls(models, calls.grpc).items()},
    }
    for template in sorted(environment.list_templates()):
        target = folder / template
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(environment.get_template(template).render(values), encoding="utf-8")
    tf_serving_lint.check(folder)
    return {
        "image": image,
        "models": {
            name: {
                **described[name],
                "artifacts": [artifact.manifest["sha256"] for artifact in versions],
            }
            for name, versions in models.items()
        },
        "batch_sizes": sizes,
    }


def _common_sizes(artifacts):
    """The batch sizes that all of them were proven at, in their order."""
    return sorted(set.intersection(*(set(a.manifest["batch_sizes"]) for a in artifacts)))


def _calls(models, make):
    """By model a call of every signature of its last version, by the signature's name, but of
    `serving_default`, which is `generate`.
    """
    found = {}
    for name, versions in models.items():
        manifest = versions[-1].manifest
        signatures = manifest["formats"]["saved_model"]["signatures"].keys() - {"serving_default"}
        found[name] = {signature: make(manifest, signature) for signature in sorted(signatures)}
    return found


def _labels(versions):
    labels = {"stable": 1}
    return labels if len(versions) == 1 else {**labels, "canary": len(versions)}
