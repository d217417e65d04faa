"""Checks an artifact with no more than the artifact: no kgen model code, no Keras."""

import dataclasses
import os
import pathlib
import time
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from export import artifact, signing
from export import manifest as schema
from export.errors import ExportError, VerificationError


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `export.verify` found. It exists only when everything is in order.

    Attributes:
        artifact: The `export.Artifact`.
        parity: List of dicts, the figures of now, as in the manifest; empty with `hashes_only`.
        seconds: Float, how long it took.
        signed_by: String, the sha256 of the public key that the manifest names, or `None`.
        authentic: Bool, whether the signature was checked, with a key that was given.
    """

    artifact: artifact.Artifact
    parity: list
    seconds: float
    signed_by: str | None = None
    authentic: bool = False


def verify(
    path: str | os.PathLike[str],
    formats: Sequence[str] | None = None,
    progress: bool = True,
    *,
    hashes_only: bool = False,
    key: Any = None,
    follow_links: bool = False,
) -> Verification:
    """Checks every file of an artifact and repeats its proof.

    The manifest must be one that kgen writes. Each file must have the size and sha256 that it
    names; no file may be missing, and nothing else may be in the folder. The graphs are read, and
    refused when they hold an operator that kgen does not export. Then each signature runs on the
    golden inputs, in onnxruntime and in TensorFlow's C API, and must give Keras's golden
    outputs within the tolerances.

    Args:
        path: Path of the artifact's folder.
        formats: Tuple of formats to run; `None` for all. All else is always checked whole.
        progress: Bool, show a progress bar.
        hashes_only: Bool, leave out the graphs and the proof: no runtime is imported.
        key: Path of an Ed25519 public key in PEM, or the `cryptography` package's object:
            the artifact must be signed with its private key.
        follow_links: Bool, take symbolic links in the folder for the files that they lead to,
            as hub caches have them. Otherwise a link is an error.

    Returns:
        `Verification`.

    Raises:
        ValueError: `key` is no public key.
        VerificationError: In one line, naming the file or the endpoint that is wrong.
    """
    start = time.perf_counter()
    public = None if key is None else signing.public_key(key)
    found = _load(path, public)
    manifest = found.manifest
    names = tuple(manifest["formats"]) if formats is None else tuple(formats)
    unknown = [name for name in names if name not in manifest["formats"]]
    if unknown:
        raise VerificationError(
            f"{path} has no format '{unknown[0]}'. It has: {', '.join(manifest['formats'])}"
        )
    if hashes_only:
        check_files(found, follow_links)
        rows = []
    else:
        sections = {name: manifest["formats"][name] for name in names}
        rows = _prove(found, sections, progress, follow_links)
    return Verification(
        found,
        rows,
        time.perf_counter() - start,
        manifest.get("signed_by"),
        public is not None,
    )


def _load(path, public):
    """The artifact; with a public key nothing is parsed that the key's owner has not signed."""
    path = pathlib.Path(path)
    if public is None:
        return artifact.load(path)
    file, signed = path / artifact.MANIFEST, path / signing.FILE
    text = artifact.read(file)
    if not signed.is_file():
        raise VerificationError(f"{path} is not signed: it has no {signing.FILE}.")
    signing.check(signed, text, artifact.read(signed), public)
    found = artifact.parse(path, text)
    if found.manifest.get("signed_by") != signing.fingerprint(public):
        raise VerificationError(f"{file} names another key than the one that signed it.")
    return found


def check_files(found, follow_links=False):
    """Raises `VerificationError` naming the first entry that is missing, extra or changed."""
    own = artifact.own(found)
    _check_entries(found.path, own, follow_links)
    for name in sorted(own):
        path = found.path / name
        if not path.is_file():
            raise VerificationError(f"{path} is missing.")
        expected = found.manifest["files"].get(name)
        received = artifact.describe(path) if expected else None
        if received != expected:
            raise VerificationError(
                f"{path} was changed: it has {received['size']} bytes and sha256 "
                f"{received['sha256'][:12]}..., the manifest says {expected['size']} bytes "
                f"and {expected['sha256'][:12]}..."
            )


def check_graphs(found):
    """Raises `VerificationError` naming the first operator that kgen does not export."""
    from export import graphs

    try:
        graphs.check(found.path, found.manifest["formats"])
    except ExportError as error:
        raise VerificationError(f"{found.path}: {error}") from error


def _check_entries(root, own, follow_links):
    """Everything in the folder is a file of its own, or one of the folders above these."""
    above = {str(folder) for name in own for folder in pathlib.PurePosixPath(name).parents}
    above |= {schema.ASSETS} if schema.SAVED_MODEL in above else set()
    folders = [root]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            name = path.relative_to(root).as_posix()
            if path.is_symlink() and not follow_links:
                raise VerificationError(
                    f"{path} is a link, to {os.readlink(path)}: an artifact holds its own files. "
                    f"Copy it with its links resolved, or follow them (--follow-links)."
                )
            if name not in own | above:
                raise VerificationError(f"{path} is not in the manifest; remove it.")
            if not (path.is_dir() if name in above else path.is_file()):
                wanted = "folder" if name in above else "regular file"
                raise VerificationError(f"{path} is no {wanted}, as an artifact has it there.")
            if name in above:
                folders.append(path)


def _prove(found, sections, progress, follow_links):
    # Here, for hashes need none of it.
    from export import graphs, parity
    from export.progress import progress_bar

    batch_sizes = found.manifest["batch_sizes"]
    with progress_bar("Verifying", 2 + parity.num_runs(sections, batch_sizes), progress) as step:
        step("hashes")
        check_files(found, follow_links)
        step("graphs")
        try:
            graphs.check(found.path, found.manifest["formats"])
            golden = _load_golden(found)
            return parity.prove(found.path, sections, golden, batch_sizes, step)
        except (ExportError, VerificationError) as error:
            raise VerificationError(f"{found.path}: {error}") from error
        except Exception as error:  # what a runtime or a decoder makes of what nobody has foreseen
            said = (str(error).splitlines() or [""])[0]
            raise VerificationError(
                f"{found.path}: the proof failed: {type(error).__name__}: {said}"
            ) from error


def _load_golden(found):
    """The golden arrays, which must be those of the endpoints, before one of them is read."""
    from export import parity

    rows = max(found.manifest["batch_sizes"])
    expected = {
        f"{endpoint}/{kind}/{key}.npy": ((rows, *schema.row_shape(spec)), np.dtype(spec["dtype"]))
        for endpoint, described in found.manifest["endpoints"].items()
        for kind in ("inputs", "outputs")
        for key, spec in described[kind].items()
    }
    try:
        with zipfile.ZipFile(found.path / schema.GOLDEN) as arrays:
            names = arrays.namelist()
            if sorted(names) != sorted(expected):
                wrong = min(set(names).symmetric_difference(expected), default=names[0])
                raise ValueError(f"it should hold each array of the endpoints once: {wrong}")
            for name in names:
                with arrays.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
                    shape, _, dtype = read(file)
                if (shape, dtype) != expected[name]:
                    raise ValueError(
                        f"{name} is {dtype} {list(shape)}, and should be "
                        f"{expected[name][1]} {list(expected[name][0])}"
                    )
        return parity.load_golden(found.path / schema.GOLDEN)
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(f"{schema.GOLDEN} is not read: {error}") from error
