"""The artifact: a folder with a manifest that names, measures and hashes all of it."""

import dataclasses
import hashlib
import json
import os
import pathlib
import stat
from typing import Any

import numpy as np

from export import manifest as schema
from export import signing
from export.errors import ExportError, VerificationError

MANIFEST = "manifest.json"

_LARGEST_MANIFEST = 2**26  # bytes; those of the zoo have some 50 kB


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An exported model on disk, made by `export.export` or `export.load`.

    `path` is its folder, `manifest` the dict that `manifest.json` holds.

    Example:

    >>> session = export.load("artifacts/vae").onnx_session("generate")
    >>> session.run(["image"], {"seed": np.array([7], "int32")})[0].shape
    (1, 28, 28, 1)
    """

    path: pathlib.Path
    manifest: dict

    def __repr__(self):
        return f"Artifact({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest["name"]

    @property
    def formats(self) -> tuple[str, ...]:
        """Tuple of the formats it holds."""
        return tuple(self.manifest["formats"])

    @property
    def endpoints(self) -> dict[str, dict[str, Any]]:
        """Dict of endpoint name to its description, inputs and outputs."""
        return self.manifest["endpoints"]

    @property
    def origin(self):
        """The `kgen.origin.Origin` of what it draws, for the marks of its pictures."""
        from kgen.origin import Origin  # here, for `verify` does without kgen

        main = schema.main(self.endpoints)
        return Origin(self.name, self.manifest["model"]["sha256"], self.manifest["sha256"], main)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file["size"] for file in self.manifest["files"].values())

    def summary(self) -> list[dict[str, Any]]:
        """One row per signature, for a table: dicts with `format`, `signature`, `endpoint`, `path`,
        `max_difference` (from Keras, over outputs and batch sizes) and `equal` (smallest share of
        equal elements).
        """
        rows = []
        for name, section in self.manifest["formats"].items():
            for signature, description in section["signatures"].items():
                figures = [
                    row
                    for row in self.manifest["parity"]
                    if row["format"] == name and row["signature"] == signature
                ]
                rows.append(
                    {
                        "format": name,
                        "signature": signature,
                        "endpoint": description["endpoint"],
                        "path": description.get("file", section["path"]),
                        "max_difference": max(row["max_difference"] for row in figures),
                        "equal": min(row["equal"] for row in figures),
                    }
                )
        return rows

    def onnx_session(self, endpoint: str = "generate", format: str = "onnx") -> Any:
        """An `onnxruntime.InferenceSession` for one endpoint, on the CPU.

        `format` may be `"onnx_fp16"` or `"onnx_int8"` too.
        """
        from export import parity

        return parity.onnx_session(self._onnx_file(endpoint, format))

    def save_onnx(self, endpoint: str, path: str | os.PathLike[str], format: str = "onnx") -> None:
        """Writes one endpoint, by its name, as a single ONNX file with its weights inside."""
        import onnx

        from kgen.files import replacing  # here, for `verify` does without kgen

        with replacing(path) as temporary:
            onnx.save(onnx.load(str(self._onnx_file(endpoint, format))), str(temporary))

    def _onnx_file(self, endpoint, format_):
        if format_ not in ("onnx", "onnx_fp16", "onnx_int8"):
            raise ValueError(
                f"format must be onnx, onnx_fp16 or onnx_int8. Received: format={format_!r}"
            )
        signatures = self.manifest["formats"].get(format_, {}).get("signatures", {})
        if endpoint not in signatures:
            kind = "ONNX" if format_ == "onnx" else format_
            raise ValueError(
                f"{self.path} has no {kind} file for endpoint '{endpoint}'. "
                f"It has: {', '.join(signatures) or 'none'}"
            )
        return self.path / signatures[endpoint]["file"]


def load(path: str | os.PathLike[str]) -> Artifact:
    """Opens the artifact in a folder; reads its manifest and nothing else.

    `VerificationError` where there is none, it was changed, or it is none that kgen writes.
    """
    return parse(path, read(pathlib.Path(path, MANIFEST)))


def read(path):
    """The bytes of an artifact's manifest or of its signature."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_MANIFEST:
            raise OSError
        return path.read_bytes()
    except OSError as error:
        raise VerificationError(
            f"{path.parent} is not an artifact: {path.name} is missing or cannot be read. "
            f"Give a folder that `kgen export` wrote."
        ) from error


def parse(path, text):
    """The artifact in a folder, from the bytes of its manifest; see `load`."""
    path = pathlib.Path(path)
    file = path / MANIFEST
    try:
        manifest = json.loads(text)
        # Its hash covers everything else in it; written out anew it must be the same bytes.
        if _dumps({**manifest, "sha256": _manifest_hash(manifest)}) != text:
            raise ValueError
    except RecursionError as error:
        raise VerificationError(f"{file} is nested too deeply for a manifest.") from error
    except (ValueError, TypeError) as error:  # ValueError: not JSON, not UTF-8
        raise VerificationError(
            f"{file} was changed after it was written: it does not have its own sha256."
        ) from error
    said = manifest.get("format"), manifest.get("format_version")
    if said != (schema.FORMAT, schema.FORMAT_VERSION):
        raise VerificationError(
            f"{file} has format {str(said[0])[:100]} {str(said[1])[:100]}; this kgen reads "
            f"{schema.FORMAT} {schema.FORMAT_VERSION}."
        )
    try:
        schema.check(manifest)
    except ValueError as error:
        raise VerificationError(f"{file} is no manifest that kgen writes: {error}.") from error
    return Artifact(path, manifest)


def write_manifest(folder, manifest, key=None):
    """Hashes every file in `folder` and writes `manifest.json` beside them, which it returns.

    With a private `key`, as from `signing.private_key`, its signature is written too.
    """
    folder = pathlib.Path(folder)
    manifest = {**manifest, "files": {name: describe(folder / name) for name in files(folder)}}
    manifest.pop("signed_by", None)
    if key is not None:
        manifest["signed_by"] = signing.fingerprint(key.public_key())
    # As a reader will see it: tuples are lists, keys are strings.
    manifest = json.loads(_dumps(manifest))
    manifest["sha256"] = _manifest_hash(manifest)
    try:
        schema.check(manifest)
    except ValueError as error:
        raise ExportError(f"The manifest is none that kgen reads: {error}.") from error
    text = _dumps(manifest)
    (folder / MANIFEST).write_bytes(text)
    if key is not None:
        (folder / signing.FILE).write_bytes(key.sign(text))
    return manifest


def files(folder):
    """Sorted names of all files under `folder` but the manifest, with forward slashes."""
    folder = pathlib.Path(folder)
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in (MANIFEST, signing.FILE))


def own(found):
    """Names of all files of an artifact, the manifest and its signature among them."""
    signed = {signing.FILE} if "signed_by" in found.manifest else set()
    return {MANIFEST, *found.manifest["files"]} | signed


def others(found):
    """Sorted names of what lies in an artifact's folder beside its own files."""
    paths = (path for path in found.path.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({path.relative_to(found.path).as_posix() for path in paths} - own(found))


def describe(path):
    """Dict with the `sha256` and `size` of one file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size": path.stat().st_size}


def check_json(name, value):
    """Raises `ExportError` if `value` cannot stand in the manifest."""
    try:
        _dumps(value)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"{name} must be plain, finite data for JSON. Received: {error}"
        ) from error


def _manifest_hash(manifest):
    return hashlib.sha256(_dumps({**manifest, "sha256": ""})).hexdigest()


def _dumps(value):
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    return (text + "\n").encode()


def _plain(value):
    """What configs and scores hold besides JSON's own types."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, pathlib.PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r}")
