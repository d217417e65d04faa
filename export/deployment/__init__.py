"""What operators mount: an artifact's models with the configuration of an engine that serves them.

One module for each engine, which fills the templates in a folder of its name and in `common`.
"""

import importlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from export import verification
from kgen import files
from kgen.checks import unknown_name

#: Written last, so that a folder which has it is whole: what it was made of.
RECORD = "deployment.json"

#: Each is a module here.
TARGETS = ("tf-serving", "triton", "kserve", "ray")


def deploy(
    artifacts: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    target: str = "tf-serving",
    *,
    image: str | None = None,
    backend: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a folder that an engine serves artifacts from: models, configuration, instructions.

    Artifacts of one name are versions of one model, 1 for the first; in TF Serving the first is
    labelled `stable` and the last, if there are several, `canary`. Every artifact's files are held
    to its manifest before they are copied (`export.verify` repeats the proof as well).

    Args:
        artifacts: Sequence of paths of artifacts' folders.
        path: Path of the folder to write.
        target: What serves them. Each folder has a README with a call of everything.
            `"tf-serving"`: the SavedModels, configuration files, `docker-compose.yml`, Kubernetes
            manifests. `"triton"`: a model repository of the ONNX files, a model `NAME.ENDPOINT` for
            each endpoint and `NAME` for `generate`, and the same around it. `"kserve"`: such a
            repository and an InferenceService. `"ray"`: the application of `kgen serve` for Ray
            Serve.
        image: String, the engine's container image; one that goes with this release by default.
        backend: For `"triton"` alone, what runs the models there: `"onnxruntime"`, the default, is
            Triton's own backend; `"python"` is Triton's Python backend with ONNX Runtime inside.
        overwrite: Bool, replace a deployment that is already there.

    Returns:
        Dict, what `deployment.json` holds: target, image, batch sizes, for each model its versions
        and labels, and the files.

    Raises:
        ValueError: An unknown target, or artifacts that the engine would refuse; the message names
            the artifact and the remedy.
        VerificationError: An artifact is none, or was changed.
        FileExistsError: `path` is not empty and `overwrite` is not set, or holds other files.
    """
    if target not in TARGETS:
        raise ValueError(unknown_name("target", str(target), TARGETS))
    if backend is not None and target != "triton":
        raise ValueError(f"{target} has no backends to choose from. Received: backend={backend!r}")
    if isinstance(artifacts, str | pathlib.Path) or not artifacts:
        raise ValueError(f"Give a sequence of one artifact or more. Received: {artifacts!r}")
    engine = importlib.import_module(f"export.deployment.{target.replace('-', '_')}")
    options = {} if backend is None else {"backend": backend}
    found = [verification.verify(each, hashes_only=True).artifact for each in artifacts]
    models = engine.models_of(found, **options)
    path = pathlib.Path(path)
    _check_path(path, overwrite)
    with files.new_folder(path, overwrite) as folder:
        written = engine.write(pathlib.Path(folder), models, image, **options)
        record = {"target": target, **written, "files": sorted(_files(folder))}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def _check_path(path, overwrite):
    files.recover(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / RECORD).is_file():
        raise FileExistsError(f"{path} exists and is no deployment; give a path that does not.")
    if not overwrite:
        raise FileExistsError(
            f"{path} holds a deployment already. Give another path, or overwrite."
        )
    own = set(json.loads((path / RECORD).read_text(encoding="utf-8"))["files"])
    if others := sorted(_files(path) - own - {RECORD}):
        raise FileExistsError(
            f"{path} holds files that no deployment wrote, so it is not overwritten: "
            f"{', '.join(others[:3])}. Move them, or give another path."
        )
