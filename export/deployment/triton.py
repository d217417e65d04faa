"""A model repository for Triton, of an artifact's ONNX files, and what starts it and calls it."""

import dataclasses

from export import calls
from export import manifest as schema
from export.deployment import common

IMAGE = "nvcr.io/nvidia/tritonserver:25.11-py3"
#: What the Python backend's image is called: Triton's with ONNX Runtime added.
PYTHON_IMAGE = "kgen-triton-python:latest"

BACKENDS = ("onnxruntime", "python")

_ENGINE = {
    "name": "triton",
    "args": ["tritonserver", "--model-repository=/models", "--strict-readiness=true"],
    "ports": {"rest": 8000, "grpc": 8001, "metrics": 8002},
    "config": [],
    "metrics": (8002, "/metrics"),
    "ready": "/v2/health/ready",
}

#: Protobuf refuses more.
_LARGEST_FILE = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Served:
    """A model of Triton's: an endpoint of an artifact's, and of its later versions.

    `versions` are artifacts by number; `inputs` and `outputs` are dicts of the names in the ONNX
    file to what the manifest tells of each.
    """

    name: str
    endpoint: str
    versions: dict
    inputs: dict
    outputs: dict
    batch_sizes: list


def models_of(artifacts, backend="onnxruntime"):
    """Artifacts by the name of their model, in their order; a ValueError where Triton would refuse
    one.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}. Received: {backend!r}")
    models = common.by_name(artifacts, "onnx", "Triton")
    names = [served.name for served in served_models(models)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"An artifact's endpoints are models 'NAME.ENDPOINT' in Triton, and "
            f"{', '.join(sorted(twice))} would be there twice: export with another --name."
        )
    for artifact in artifacts:
        section, files = artifact.manifest["formats"]["onnx"], artifact.manifest["files"]
        weights = files[section["external_data"]]["size"] if "external_data" in section else 0
        for signature in section["signatures"].values():
            if files[signature["file"]]["size"] + weights > _LARGEST_FILE:
                raise ValueError(
                    f"{artifact.path}: {signature['file']} with its weights inside is over 2 GiB, "
                    "which ONNX does not allow in one file."
                )
    return models


def write(folder, models, image=None, backend="onnxruntime"):
    """Fills a folder with models as from `models_of`; returns what was made of them, as a dict."""
    served = served_models(models)
    write_repository(folder / "models", served, backend)
    python = backend == "python"
    record = {
        "image": PYTHON_IMAGE if python else image or IMAGE,
        "backend": backend,
        "models": common.describe(models),
        "served": {each.name: list(each.versions) for each in served},
    }
    engine = {
        **_ENGINE,
        "image": record["image"],
        "build": python,
        "shared_memory": "256Mi" if python else None,  # between Triton and its Python processes
    }
    values = {
        **record,
        "engine": engine,
        "base_image": image or IMAGE,
        "bytes": common.size(folder),
        "first": served[0],
        **described(served, "http://localhost:8000"),
    }
    common.render(folder, "triton", values, without=() if python else ("Dockerfile",))
    return record


def described(served, address):
    """What READMEs tell of models: their names with a call of each."""
    return {
        "endpoints": {each.name: each.versions[max(each.versions)].endpoints[each.endpoint]
                      for each in served},
        "calls": {
            each.name: calls.infer(
                each.versions[max(each.versions)].manifest, each.endpoint, each.name, address
            )
            for each in served
        },
    }  # fmt: skip


def write_repository(folder, served, backend="onnxruntime"):
    """Writes a model repository of models as from `served_models`."""
    import onnx

    from export import onnx_inputs

    for each in served:
        place = folder / each.name
        for number, artifact in each.versions.items():
            version = place / str(number)
            version.mkdir(parents=True)
            section = artifact.manifest["formats"]["onnx"]["signatures"][each.endpoint]
            model = onnx.load(str(artifact.path / section["file"]))
            if each.endpoint.endswith(schema.WITH_OPTIONS):
                onnx_inputs.required(model)
            else:
                onnx_inputs.constant(model)
            (version / "model.onnx").write_bytes(model.SerializeToString())
            if backend == "python":
                (version / "model.py").write_text(common.text("triton", "_model.py", {}), "utf-8")
        values = {"served": each, "backend": backend}
        (place / "config.pbtxt").write_text(common.text("triton", "_config.pbtxt", values), "utf-8")


def served_models(models):
    """All models that Triton is given, what a model is for under the artifact's own name too."""
    found = []
    for name, versions in models.items():
        numbered = dict(enumerate(versions, 1))
        endpoints = dict.fromkeys(key for artifact in versions for key in artifact.endpoints)
        found.append(_one(name, schema.main(endpoints), numbered))
        found += [_one(f"{name}.{endpoint}", endpoint, numbered) for endpoint in endpoints]
    return found


def _one(name, endpoint, numbered):
    versions = {n: a for n, a in numbered.items() if endpoint in a.endpoints}
    tensors = {number: _tensors(artifact, endpoint) for number, artifact in versions.items()}
    first, *others = tensors
    for other in others:
        if tensors[other] != tensors[first]:
            raise ValueError(
                f"Triton has one description of a model's inputs and outputs for all versions, and "
                f"'{endpoint}' of {versions[other].path} has others than that of "
                f"{versions[first].path}: export it with another --name."
            )
    sizes, said = common.common_sizes(versions.values()), common.said_sizes(versions.values())
    if not sizes:
        raise ValueError(
            "Triton has one list of batch sizes for all versions of a model, and these were proven "
            f"at none in common ({said}): export them with the same --batch-sizes."
        )
    return Served(name, endpoint, versions, *tensors[first], sizes)


def _tensors(artifact, endpoint):
    """Inputs and outputs by their names in the ONNX file, each its datatype and a row's shape."""
    section = artifact.manifest["formats"]["onnx"]["signatures"][endpoint]
    described = artifact.endpoints[endpoint]
    return tuple(
        {
            section[side][key]: {
                "type": calls.DATATYPES[spec["dtype"]],
                "shape": [-1 if isinstance(side, str) else side for side in spec["shape"][1:]],
                "example": schema.row_shape(spec),
            }
            for key, spec in described[side].items()
        }
        for side in ("inputs", "outputs")
    )
