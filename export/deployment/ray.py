"""A folder for Ray Serve: artifacts, and the application of `kgen serve` with replicas."""

import shutil

from export import artifact as artifact_module
from export import manifest as schema
from export.deployment import common

IMAGE = "rayproject/ray:2.60.0-py311"


def models_of(artifacts):
    """Artifacts by the name of their model, in their order; a ValueError where `kgen serve` would
    refuse one.
    """
    return common.by_name(artifacts, "onnx", "kgen's server on Ray")


def write(folder, models, image=None):
    """Fills a folder with models as from `models_of`; returns what was made of them, as a dict."""
    for name, versions in models.items():
        for number, artifact in enumerate(versions, 1):
            place = folder / "models" / name / str(number)
            for file in sorted(artifact_module.own(artifact)):
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.path / file, place / file)
    record = {"image": image or IMAGE, "models": common.describe(models, labels=True)}
    first = next(iter(models.values()))[-1]
    main = schema.main(first.endpoints)
    inputs = first.endpoints[main]["inputs"]
    values = {
        **record,
        "bytes": common.size(folder),
        "first": first.name,
        "main": main,
        "first_has_classes": "label" in inputs,
        "has_seed": "seed" in inputs,
        "pictures": [
            name for name, spec in inputs.items() if schema.picture(spec["dtype"], spec["shape"])
        ],
    }
    others = ("docker-compose.yml", "kubernetes")
    common.render(folder, "ray", values, without=others)
    return record
