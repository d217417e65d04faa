"""Checks an artifact with no more than the artifact: no kgen model code, no Keras."""

import dataclasses
import pathlib
import time

from export import artifact, parity
from export.errors import ExportError, VerificationError
from export.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `export.verify` found: the artifact, the figures of now, as in the manifest, and how
    many seconds it took. It exists only when everything is in order.
    """

    artifact: artifact.Artifact
    parity: list
    seconds: float


def verify(path, formats=None, progress=True):
    """Checks every file of an artifact and repeats its proof.

    Each file must have the size and sha256 that the manifest names, and no file may be
    missing or extra. Then each signature runs on the golden inputs, in onnxruntime and in
    TensorFlow's C API, and must give Keras's golden outputs within the tolerances.

    Args:
        path: Path of the artifact's folder.
        formats: Tuple of formats to run; `None` for all. Hashes are always checked whole.
        progress: Bool, show a progress bar.

    Returns:
        `Verification`.

    Raises:
        VerificationError: In one line, naming the file or the endpoint that is wrong.
    """
    start = time.perf_counter()
    found = artifact.load(path)
    manifest = found.manifest
    names = tuple(manifest["formats"]) if formats is None else tuple(formats)
    unknown = [name for name in names if name not in manifest["formats"]]
    if unknown:
        raise VerificationError(
            f"{path} has no format '{unknown[0]}'. It has: {', '.join(manifest['formats'])}"
        )
    sections = {name: manifest["formats"][name] for name in names}
    batch_sizes = manifest["batch_sizes"]
    with progress_bar("Verifying", 1 + parity.num_runs(sections, batch_sizes), progress) as step:
        step("hashes")
        check_files(found)
        golden = parity.load_golden(found.path / parity.GOLDEN)
        try:
            rows = parity.prove(found.path, sections, golden, batch_sizes, step)
        except ExportError as error:
            raise VerificationError(f"{path}: {error}") from error
    return Verification(found, rows, time.perf_counter() - start)


def check_files(found):
    """Raises `VerificationError` naming the first file that is missing, extra or changed."""
    listed = found.manifest["files"]
    present = set(artifact.files(found.path))
    for name in sorted(present | set(listed)):
        path = pathlib.Path(found.path, name)
        if name not in present:
            raise VerificationError(f"{path} is missing.")
        if name not in listed:
            raise VerificationError(f"{path} is not in the manifest; remove it.")
        received = artifact.describe(path)
        if received != listed[name]:
            raise VerificationError(
                f"{path} was changed: it has {received['size']} bytes and sha256 "
                f"{received['sha256'][:12]}..., the manifest says {listed[name]['size']} bytes "
                f"and {listed[name]['sha256'][:12]}..."
            )
