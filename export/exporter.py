"""`export`: from a Keras model to a proven artifact."""

import contextlib
import dataclasses
import datetime
import difflib
import importlib.metadata
import os
import pathlib
import platform
import tempfile
from collections.abc import Sequence
from typing import Any

from export import artifact, signing
from export import manifest as schema
from export.errors import ExportError, VerificationError
from kgen import files, origin

#: Those that there are; `export` writes the default ones where nobody asks for others.
FORMATS = ("saved_model", "onnx", "litert", "onnx_fp16", "onnx_int8", "web")
DEFAULT_FORMATS = ("saved_model", "onnx")
OPSETS = range(18, 24)


def export(
    model: Any,
    path: str | os.PathLike[str],
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    opset: int = 18,
    batch_sizes: Sequence[int] = (1, 8),
    options: dict[str, Any] | None = None,
    variants: dict[str, dict[str, Any]] | None = None,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    seed: int = 0,
    sign: Any = None,
) -> artifact.Artifact:
    """Writes a model as an artifact that runs without kgen, and proves it.

    Every endpoint of the model becomes a SavedModel signature and an ONNX file. All of them
    run on golden inputs at every batch size, in TensorFlow's C API and in onnxruntime, and
    are compared with Keras; so are files of LiteRT, and of ONNX with rounded weights. The folder
    appears under `path` when everything has passed; a failure or an interruption leaves nothing
    behind and an older artifact as it was.

    A model in half precision is exported in float32.

    Args:
        model: Built `kgen.ImageGenerator`, or any Keras model with `endpoints()`.
        path: Path of the folder to write.
        formats: Tuple with some of `"saved_model"`, `"onnx"`, `"litert"` (needs `kgen[litert]`),
            `"onnx_fp16"` and `"onnx_int8"` (weights of half and of a quarter of the size; images
            differ by what `export.parity.TOLERANCES` allows), and `"web"`, a static folder with a
            page that draws in a browser (needs Node.js and npm).
        opset: Int, 18 to 23, the ONNX operator set.
        batch_sizes: Two or more ints: batch sizes to prove, and to warm up in TF Serving.
        options: Dict of options of the model's `sample`, for all endpoints that draw: those that
            shape a graph, such as `{"num_steps": 8}`, and the defaults of those that each request
            may choose, such as `temperature`.
        variants: Dict of name to such a dict: further endpoints, `generate` with other options.
        name: String for the manifest, the model card and TF Serving; the folder's name by default.
        metadata: Dict for the manifest, such as `{"data": ..., "scores": ...}`.
        overwrite: Bool, replace an artifact that is already there, unless other files are in its
            folder.
        progress: Bool, show a progress bar.
        seed: Int, from which the golden inputs are drawn.
        sign: Path of an Ed25519 private key in PEM, or the `cryptography` package's object: signs
            the manifest, for `export.verify(path, key=...)`.

    Returns:
        `export.Artifact`.

    Raises:
        ValueError: An argument is not what it should be.
        FileExistsError: `path` is not empty and `overwrite` is not set, or holds other files.
        BlockingIOError: Another process exports to `path`.
        ExportError: The model does not convert, or an output differs from Keras.

    Example:

    >>> artifact = export.export(model, "artifacts/vae", metadata={"data": "mnist"})
    >>> artifact.onnx_session("generate").run(None, {"seed": np.array([7], "int32")})
    >>> export.export(dit, "artifacts/dit", variants={"generate_4_steps": {"num_steps": 4}})
    """
    formats = _check_formats(formats)
    if opset not in OPSETS:
        raise ValueError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}. Received: opset={opset}")
    batch_sizes = _check_batch_sizes(batch_sizes)
    metadata = {} if metadata is None else metadata
    artifact.check_json("metadata", metadata)
    artifact.check_json("options", options or {})
    artifact.check_json("variants", variants or {})
    key = None if sign is None else signing.private_key(sign)
    _check_model(model)
    path = pathlib.Path(path)
    _check_path(path, overwrite)

    # From here on TensorFlow is needed.
    import kgen
    from export import (
        golden,
        graphs,
        model_card,
        onnx,
        onnx_precision,
        onnxruntime_web,
        parity,
        saved_model,
        tracing,
        web,
    )
    from export.progress import progress_bar

    if "saved_model" in formats:
        parity.check_tensorflow_reads(path)
    if "web" in formats:
        onnxruntime_web.check()
    if "litert" in formats:
        parity.check_litert()
    model = _in_float32(model)
    endpoints = tracing.publish(_chosen(model, options or {}, variants or {}))
    described = origin.describe_model(model)
    # Keras numbers its own names (vae_1), so they depend on what was built before.
    name = name or path.absolute().name
    drawn_by = origin.Origin(name, described["sha256"])
    reduced = [key for key in formats if key in onnx_precision.FORMATS]
    of_onnx = {"onnx", "web", *reduced} & set(formats)
    whole = tracing.whole(endpoints)
    num_signatures = {"saved_model": saved_model.num_signatures(endpoints), "web": len(whole)}
    num_written = {"saved_model": 1, "litert": len(whole), "web": 1}
    num_steps = (
        3  # golden outputs, samples, hashes
        + sum(num_written.get(key, 0) for key in formats)
        + (len(whole) if of_onnx else 0)
        + len(batch_sizes)
        * sum(num_signatures.get(key, len(endpoints)) for key in ("keras", *formats))
    )

    with (
        progress_bar("Exporting", num_steps, progress) as step,
        _staged(path, overwrite) as folder,
        contextlib.ExitStack() as stack,
    ):
        step("Keras: golden outputs")
        reference = golden.Reference(endpoints)
        arrays = golden.make(reference, rows=max(batch_sizes), seed=seed)
        parity.save_golden(folder / parity.GOLDEN, arrays)
        descriptions = {
            key: _describe_endpoint(endpoint, arrays[key]) for key, endpoint in endpoints.items()
        }
        figures = golden.prove_rows(reference, arrays, batch_sizes, step)
        # Traced anew, so that what only seems to be a function, and is another one each time it is
        # traced, differs from the reference; and once for all formats.
        calls = tracing.trace_all(endpoints)
        sections = {}
        if "saved_model" in formats:
            step("writing the SavedModel")
            sections["saved_model"] = saved_model.write(
                folder, calls, endpoints, drawn_by, batch_sizes, arrays
            )
        if of_onnx:
            properties = {
                "name": name,
                "model_sha256": described["sha256"],
                "kgen": kgen.__version__,
            }
            models = onnx.convert(calls, endpoints, opset, step, properties)
            for format_ in reduced:
                rounded = onnx_precision.reduced(models, format_)
                sections[format_] = onnx.write(folder, rounded, endpoints, opset, format_)
        if {"onnx", "web"} & of_onnx:
            # The web's are made of ONNX files; where these are not asked for, they lie elsewhere.
            place = (
                folder if "onnx" in formats else stack.enter_context(tempfile.TemporaryDirectory())
            )
            written = onnx.write(place, models, endpoints, opset)
            if "onnx" in formats:
                sections["onnx"] = written
        if "web" in formats:
            step("writing the page, with onnxruntime-web from npm")
            known = {"name": name, "model": described, "endpoints": descriptions}
            sections["web"] = web.write(folder, place, {**known, "formats": {"onnx": written}})
        if "litert" in formats:
            from export import litert

            sections["litert"] = litert.write(folder, calls, endpoints, step)
        sections = {key: sections[key] for key in formats}
        graphs.check(folder, sections)
        figures += parity.prove(folder, sections, arrays, batch_sizes, step)
        step("samples and model card")
        manifest = {
            "format": schema.FORMAT,
            "format_version": schema.FORMAT_VERSION,
            "name": name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": described,
            "versions": _versions(),
            "endpoints": descriptions,
            "batch_sizes": batch_sizes,
            "formats": sections,
            "metadata": metadata,
            "tolerances": parity.TOLERANCES,
            "parity": figures,
        }
        model_card.write_samples(folder, reference, drawn_by)
        model_card.write_readme(folder, manifest)
        step("hashes")
        manifest = artifact.write_manifest(folder, manifest, key)
    return artifact.Artifact(path, manifest)


def _check_formats(formats):
    known = FORMATS
    formats = (formats,) if isinstance(formats, str) else tuple(dict.fromkeys(formats))
    if not formats:
        raise ValueError(f"formats must name one of {', '.join(known)}. Received: none")
    for key in formats:
        if key not in known:
            nearest = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=0.4)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            raise ValueError(f"Unknown format '{key}'; there are {', '.join(known)}.{hint}")
    return formats


def _check_batch_sizes(batch_sizes):
    sizes = list(batch_sizes) if isinstance(batch_sizes, tuple | list | set) else [batch_sizes]
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not whole or len(set(sizes)) < 2 or min(sizes) < 1:
        raise ValueError(
            "batch_sizes must be two or more different ints of at least 1, such as (1, 8). "
            f"Received: batch_sizes={batch_sizes}"
        )
    return sorted(set(sizes))


def _check_model(model):
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"Export runs on Keras's TensorFlow backend; this process runs "
            f"'{keras.backend.backend()}'. Save the model here with model.save('model.keras'), "
            f"then load and export it in a process with KERAS_BACKEND=tensorflow."
        )
    endpoints = model.endpoints() if callable(getattr(model, "endpoints", None)) else {}
    outputs = endpoints[schema.main(endpoints)].outputs if endpoints else {}
    if "image" not in outputs or len(outputs["image"].shape) != 3:
        raise ExportError(
            f"The model must have endpoints(), of which 'generate', or the first without it, has "
            f"an output 'image' [H, W, C]. Received: {type(model).__name__} with "
            f"{', '.join(endpoints) or 'no endpoints'}"
        )
    names = {*endpoints, *(key for e in endpoints.values() for key in (*e.inputs, *e.outputs))}
    if wrong := sorted(name for name in names if not (name.isidentifier() and name.isascii())):
        raise ExportError(
            f"Names of endpoints, of their inputs and of their outputs are made of letters, digits "
            f"and underscores. Received: {', '.join(wrong)}"
        )
    artifact.check_json("The model's get_config()", model.get_config())


def _chosen(model, options, variants):
    """The model's endpoints, with the options of `export` chosen."""
    endpoints = model.endpoints()
    if not options and not variants:
        return endpoints
    if not hasattr(model, "check_options"):
        raise ValueError(
            f"options and variants are those of a kgen.ImageGenerator. Received: "
            f"{type(model).__name__}"
        )
    generate = endpoints[schema.main(endpoints)]
    taken = {*endpoints, "serve", "serving_default"}
    options = model.check_options(options)
    for name, endpoint in endpoints.items():
        if "seed" in endpoint.inputs:
            endpoints[name] = endpoint.choose(**options)
    for name, others in variants.items():
        ends = (schema.WITH_OPTIONS, "image_bytes", "_xla")
        plain = isinstance(name, str) and name.isidentifier() and name.isascii()
        if not plain or name in taken or name.endswith(ends):
            raise ValueError(
                "A variant needs a name of its own of letters, digits and underscores, such as "
                f"generate_4_steps. Received: {name!r}"
            )
        others = options | model.check_options(others)
        words = ", ".join(f"{key}={value}" for key, value in others.items())
        endpoints[name] = dataclasses.replace(
            generate.choose(**others), description=f"{generate.description}, with {words}"
        )
    return endpoints


def _check_path(path, overwrite):
    files.recover(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / artifact.MANIFEST).is_file():
        raise FileExistsError(
            f"{path} exists and is not an artifact, so it is never overwritten. "
            f"Give a path that does not exist."
        )
    if not overwrite:
        raise FileExistsError(
            f"{path} already holds an artifact. Give another path, or overwrite=True."
        )
    try:
        others = artifact.others(artifact.load(path))
    except VerificationError as error:
        raise FileExistsError(
            f"What {path} holds cannot be told from other files, so it is never overwritten: "
            f"{error} Remove it, or give another path."
        ) from error
    if others:
        raise FileExistsError(
            f"{path} holds files beside those of its artifact, so it is not overwritten: "
            f"{', '.join(others[:3])}. Move them, or give another path."
        )


@contextlib.contextmanager
def _staged(path, overwrite):
    """A new folder that takes the place of `path` when the block ends well."""
    try:
        with files.new_folder(path, overwrite) as folder:
            yield folder
    except BlockingIOError:
        raise
    except OSError as error:  # such as a full disk
        raise ExportError(f"{path} could not be written: {error}") from error


def _in_float32(model):
    """The model itself, or a copy in float32: ONNX knows no bfloat16, and CPUs are slow in it."""
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    if policies <= {"float32"}:
        return model
    try:
        copy = type(model).from_config({**model.get_config(), "dtype": "float32"})
        copy.set_weights(model.get_weights())
    except Exception as error:
        raise ExportError(
            f"The model has the dtype policies {', '.join(sorted(policies))} and is exported in "
            f"float32, but it cannot be rebuilt from its config: {error}"
        ) from error
    left = {layer.dtype_policy.name for layer in copy._flatten_layers()} - {"float32"}
    if left:
        raise ExportError(
            f"The model is exported in float32, but built from its config with dtype='float32' "
            f"it still has layers in {', '.join(sorted(left))}."
        )
    return copy


def _describe_endpoint(endpoint, arrays):
    """What the manifest says of an endpoint, whose golden inputs and outputs are `arrays`."""

    def describe(kind):
        specs = getattr(endpoint, kind)
        return {key: _describe_tensor(spec, arrays[kind][key]) for key, spec in specs.items()}

    return {
        "description": endpoint.description,
        **({"options": endpoint.options} if endpoint.options else {}),
        "inputs": describe("inputs"),
        "outputs": describe("outputs"),
    }


def _describe_tensor(spec, array):
    sides = [
        name if side is None else side
        for name, side in zip(("height", "width", "channels"), spec.shape, strict=False)
    ]
    return {
        "shape": ["batch", *sides],
        "dtype": spec.dtype,
        "minimum": spec.minimum,
        "maximum": spec.maximum,
        "description": spec.description,
        **({} if spec.default is None else {"default": spec.default}),
        **({"example": list(array.shape[1:])} if None in spec.shape else {}),
    }


def _versions():
    import kgen

    packages = ("keras", "tensorflow", "numpy", "onnx", "tf2onnx", "onnxruntime")
    return {
        "kgen": kgen.__version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }
