"""A folder for TF Serving: models, configuration, containers, and a call of every signature."""

import shutil

from export import calls
from export import manifest as schema
from export.deployment import common, tf_serving_lint

#: The release that goes with the TensorFlow which kgen is tested with.
IMAGE = "tensorflow/serving:2.21.0"

#: Where it listens to gRPC.
GRPC_ADDRESS = "localhost:8500"

_ENGINE = {
    "name": "tf-serving",
    "args": [
        "--model_config_file=/config/models.config",
        "--model_config_file_poll_wait_seconds=60",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        "--batching_parameters_file=/config/batching.config",
        "--monitoring_config_file=/config/monitoring.config",
    ],
    "ports": {"grpc": 8500, "rest": 8501},
    "config": ["models.config", "batching.config", "monitoring.config"],
    "metrics": (8501, "/monitoring/prometheus/metrics"),
    "build": False,
    "shared_memory": None,
}


def models_of(artifacts):
    """Artifacts by the name of their model, in their order; a ValueError where TF Serving would
    refuse one.
    """
    models = common.by_name(artifacts, "saved_model", "TF Serving")
    sizes, described = common.common_sizes(artifacts), common.said_sizes(artifacts)
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


def write(folder, models, image=None):
    """Fills a folder with models as from `models_of`; returns what was made of them, as a dict."""
    for name, versions in models.items():
        for number, artifact in enumerate(versions, 1):
            shutil.copytree(
                artifact.path / schema.SAVED_MODEL, folder / "models" / name / str(number)
            )
    every = [artifact for versions in models.values() for artifact in versions]
    record = {
        "image": image or IMAGE,
        "models": common.describe(models, labels=True),
        "batch_sizes": common.common_sizes(every),
    }
    ready = f"/v1/models/{next(iter(models))}"
    values = {
        **record,
        "engine": {**_ENGINE, "image": record["image"], "ready": ready},
        "bytes": common.size(folder),
        "pixels": calls.PIXELS,
        "grpc_address": GRPC_ADDRESS,
        "calls": _calls(models, calls.curl),
        "grpc_calls": {name: lines.values() for name, lines in _calls(models, calls.grpc).items()},
    }
    common.render(folder, "tf-serving", values)
    tf_serving_lint.check(folder)
    return record


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
