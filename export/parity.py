"""The proof: what was written gives what Keras gives, in the runtimes that will run it.

Golden inputs and Keras's outputs for them are stored in the artifact. Each format is run on
the same inputs at every batch size, all rows each time: at batch size 1 one row after the
other, so that the comparison also proves that a row does not depend on the batch around it.
ONNX files run in onnxruntime, those for browsers in onnxruntime-web, those of LiteRT in LiteRT's
interpreter; a SavedModel runs in TensorFlow's C API, in a process without TensorFlow's Python. This
module imports neither kgen nor Keras nor TensorFlow.
"""

import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
from PIL import Image

from export import _c_api, onnxruntime_web
from export import manifest as schema
from export.errors import ExportError

# The one place for them; the manifest repeats them. A float's limit grows with the largest
# magnitude of the golden output. Other types must be equal.
TOLERANCES = {
    "uint8": {"max_difference": 1, "min_equal": 0.99},
    "float32": {"max_difference": 1e-4, "scaled_by_magnitude": True},
    "other": {"max_difference": 0},
    # Where weights are rounded the mean counts: where two choices are almost as likely, what is
    # drawn place by place goes another way, which is as good.
    "onnx_fp16.uint8": {"max_difference": 255, "mean_difference": 1},
    "onnx_fp16.float32": {
        "max_difference": 0.05,
        "mean_difference": 0.005,
        "scaled_by_magnitude": True,
    },
    "onnx_fp16.other": {"max_difference": 2**32, "min_equal": 0.95},
    "onnx_int8.uint8": {"max_difference": 255, "mean_difference": 4},
    "onnx_int8.float32": {
        "max_difference": 0.5,
        "mean_difference": 0.05,
        "scaled_by_magnitude": True,
    },
    "onnx_int8.other": {"max_difference": 2**32, "min_equal": 0.8},
}

GOLDEN = "golden.npz"


def compare(expected, received, format_=None):
    """Figures of one output against its golden values.

    A dict with `max_difference`, `equal` (share of equal elements), `limit` (on the
    difference), `min_equal` and `passed`, of a format with rounded weights `mean_difference` and
    `mean_limit` too; or a string that says why there are no figures.
    """
    if expected.shape != received.shape or expected.dtype != received.dtype:
        return (
            f"is {received.dtype.name} {list(received.shape)} where Keras gives "
            f"{expected.dtype.name} {list(expected.shape)}"
        )
    if not np.isfinite(received).all():
        return "has values that are not finite"
    tolerance = tolerance_of(expected.dtype.name, format_)
    scale = 1.0
    if tolerance.get("scaled_by_magnitude"):
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
    limit = tolerance["max_difference"] * scale
    min_equal = tolerance.get("min_equal", 0.0)
    difference = np.abs(expected.astype("float64") - received.astype("float64"))
    figures = {
        "max_difference": float(difference.max(initial=0)),
        "equal": float(np.mean(difference == 0)) if difference.size else 1.0,
        "limit": float(limit),
        "min_equal": min_equal,
    }
    passed = figures["max_difference"] <= limit and figures["equal"] >= min_equal
    if "mean_difference" in tolerance:
        figures["mean_difference"] = float(difference.mean()) if difference.size else 0.0
        figures["mean_limit"] = tolerance["mean_difference"] * scale
        passed &= figures["mean_difference"] <= figures["mean_limit"]
    return {**figures, "passed": passed}


def tolerance_of(dtype, format_=None):
    """The one of `TOLERANCES` that holds for an output of a format."""
    kind = dtype if dtype in TOLERANCES else "other"
    return TOLERANCES.get(f"{format_}.{kind}", TOLERANCES[kind])


def judge(golden, outputs, **where):
    """Compares all outputs of one run, by name; `ExportError` if one falls short.

    `where` is `format`, `runtime`, `signature`, `endpoint` and `batch_size` of the run. Returns
    a dict for each output: `where`, its name and its figures.
    """
    rows = []
    for name, received in outputs.items():
        expected = golden[name][: len(received)]
        figures = compare(expected, received, where["format"])
        place = (
            f"Endpoint '{where['endpoint']}', output '{name}', signature '{where['signature']}', "
            f"{where['runtime']}, batch size {where['batch_size']}:"
        )
        if isinstance(figures, str):
            raise ExportError(f"{place} {figures}.")
        if not figures["passed"]:
            raise ExportError(
                f"{place} differs from Keras by up to {figures['max_difference']:.4g} "
                f"(limit {figures['limit']:.4g}), {figures['equal']:.2%} of the elements are "
                f"equal (limit {figures['min_equal']:.0%}).{_of_means(figures)}"
            )
        rows.append({**where, "output": name, **figures})
    return rows


def _of_means(figures):
    if "mean_limit" not in figures:
        return ""
    mean, limit = figures["mean_difference"], figures["mean_limit"]
    return f" The mean difference is {mean:.4g} (limit {limit:.4g})."


def save_golden(path, golden):
    """Writes golden inputs and outputs: endpoint -> `inputs`/`outputs` -> name -> array."""
    np.savez_compressed(
        path,
        **{
            f"{endpoint}/{kind}/{name}": array
            for endpoint, kinds in golden.items()
            for kind, arrays in kinds.items()
            for name, array in arrays.items()
        },
    )


def load_golden(path):
    """Reads what `save_golden` wrote."""
    golden = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            endpoint, kind, name = key.split("/")
            golden.setdefault(endpoint, {"inputs": {}, "outputs": {}})[kind][name] = arrays[key]
    return golden


def num_runs(formats, batch_sizes):
    """How many runs `prove` makes, for a progress bar."""
    return len(batch_sizes) * sum(len(f["signatures"]) for f in formats.values())


def prove(folder, formats, golden, batch_sizes, step):
    """Runs every signature of every format at every batch size and compares it with Keras.

    `formats` are their sections of the manifest, by name, and `golden` is as from `load_golden`;
    `step` is told what runs next. Returns the figures of every signature, output and batch size,
    as `judge`. `ExportError` if a runtime refuses a file or an output falls short.
    """
    rows = []
    for name, section in formats.items():
        runtime, run = _RUNTIMES[name]
        for signature, batch_size, outputs in run(folder, section, golden, batch_sizes, step):
            endpoint = section["signatures"][signature]["endpoint"]
            rows += judge(
                golden[endpoint]["outputs"],
                outputs,
                format=name,
                runtime=runtime,
                signature=signature,
                endpoint=endpoint,
                batch_size=batch_size,
            )
    return rows


def whole_batches(arrays, batch_size):
    """How many rows fill whole batches; a smaller last one would be a third batch size."""
    rows = len(next(iter(arrays.values())))
    return rows - rows % batch_size


def in_batches(function, inputs, batch_size):
    """Calls `function(dict) -> dict` batch by batch and joins the results."""
    batches = [
        function({name: array[start : start + batch_size] for name, array in inputs.items()})
        for start in range(0, whole_batches(inputs, batch_size), batch_size)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def onnx_session(path, threads=0):
    """An onnxruntime session on the CPU for the ONNX file at `path`, or of its bytes; 0 threads
    are one a core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised, warnings are about optimisation
    model = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run_onnx(folder, section, golden, batch_sizes, step):
    for signature, description in section["signatures"].items():
        path = pathlib.Path(folder) / description["file"]
        step(f"onnxruntime: {signature}")
        try:
            session = onnx_session(path)
        except Exception as error:  # onnxruntime's errors have no common class
            raise ExportError(
                f"{description['file']} does not load in onnxruntime: {_first_line(error)}"
            ) from error
        inputs = {
            description["inputs"][key]: array
            for key, array in golden[description["endpoint"]]["inputs"].items()
        }
        names = list(description["outputs"].values())
        for number, batch_size in enumerate(batch_sizes):
            if number:
                step(f"onnxruntime: {signature}, batch size {batch_size}")
            try:
                outputs = in_batches(
                    lambda batch, session=session, names=names: dict(
                        zip(names, session.run(names, batch), strict=True)
                    ),
                    inputs,
                    batch_size,
                )
            except Exception as error:
                raise ExportError(
                    f"{description['file']} does not run in onnxruntime at batch size "
                    f"{batch_size}: {_first_line(error)}"
                ) from error
            yield signature, batch_size, _by_key(description, outputs)


def _run_web(folder, section, golden, batch_sizes, step):
    folder = pathlib.Path(folder)
    weights = section.get("external_data")
    calls = []
    for description in section["signatures"].values():
        arrays = golden[description["endpoint"]]["inputs"]
        for batch_size in batch_sizes:
            rows = whole_batches(arrays, batch_size)
            inputs = {description["inputs"][key]: a[:rows] for key, a in arrays.items()}
            calls.append(
                {
                    "model": folder / description["file"],
                    "weights": weights and folder / weights,
                    "inputs": inputs,
                    "outputs": list(description["outputs"].values()),
                    "batch_size": batch_size,
                }
            )
    results = onnxruntime_web.run(folder / section["path"] / "onnxruntime", calls)
    for signature, description in section["signatures"].items():
        for batch_size in batch_sizes:
            step(f"onnxruntime-web: {signature}, batch size {batch_size}")
            yield signature, batch_size, _by_key(description, next(results))


def check_litert():
    """Raises `ExportError` where LiteRT, which proves its files, is not installed."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ExportError("LiteRT is not installed. pip install 'kgen[litert]'")


def _run_litert(folder, section, golden, batch_sizes, step):
    check_litert()
    from ai_edge_litert.interpreter import Interpreter

    for signature, description in section["signatures"].items():
        path = pathlib.Path(folder) / description["file"]
        step(f"LiteRT: {signature}")
        try:
            run = Interpreter(model_path=str(path)).get_signature_runner(signature)
        except Exception as error:
            raise ExportError(
                f"{description['file']} does not load in LiteRT: {_first_line(error)}"
            ) from error
        inputs = {
            description["inputs"][key]: array
            for key, array in golden[description["endpoint"]]["inputs"].items()
        }
        for number, batch_size in enumerate(batch_sizes):
            if number:
                step(f"LiteRT: {signature}, batch size {batch_size}")
            try:
                outputs = in_batches(
                    lambda batch, run=run: {k: v.copy() for k, v in run(**batch).items()},
                    inputs,
                    batch_size,
                )
            except Exception as error:
                raise ExportError(
                    f"{description['file']} does not run in LiteRT at batch size {batch_size}: "
                    f"{_first_line(error)}"
                ) from error
            yield signature, batch_size, _by_key(description, outputs)


def _run_saved_model(folder, section, golden, batch_sizes, step):
    calls = [
        (signature, batch_size) for signature in section["signatures"] for batch_size in batch_sizes
    ]
    with tempfile.TemporaryDirectory() as job_folder:
        job_folder = pathlib.Path(job_folder)
        # In the names that `_call` gives them.
        inputs = {
            f"{endpoint}/{name}": array
            for endpoint, kinds in golden.items()
            for name, array in _with_pngs(kinds["inputs"]).items()
        }
        np.savez(job_folder / "inputs.npz", **dict(_c_api.flatten(inputs)))
        # TensorFlow would take brackets in the path of the folder for a pattern.
        saved_model = job_folder / "saved_model"
        saved_model.symlink_to(pathlib.Path(folder, section["path"]).absolute())
        job = {
            "library": tensorflow_library(),
            "saved_model": str(saved_model),
            "tags": section["tags"],
            "calls": [_call(section, golden, *call) for call in calls],
        }
        (job_folder / "job.json").write_text(json.dumps(job))
        step("TensorFlow's C API: loading the SavedModel")
        for number in _lines_of_c_api(job_folder):
            signature, batch_size = calls[number]
            if number + 1 < len(calls):
                step(f"TensorFlow's C API: {calls[number + 1][0]}")
            tensors = _c_api.unflatten(np.load(job_folder / f"{number}.npz"))
            description = section["signatures"][signature]
            outputs = _by_key(description, tensors)
            if "image_bytes" in outputs:
                outputs["image"] = _decode_png(signature, outputs.pop("image_bytes"))
            yield signature, batch_size, outputs


def _by_key(description, tensors):
    """From a graph's names of its outputs to the endpoint's."""
    return {key: tensors[name] for key, name in description["outputs"].items()}


def _call(section, golden, signature, batch_size):
    description = section["signatures"][signature]
    endpoint = description["endpoint"]
    return {
        "signature": signature,
        "inputs": {tensor: f"{endpoint}/{name}" for name, tensor in description["inputs"].items()},
        "outputs": list(description["outputs"].values()),
        "batch_size": batch_size,
        "rows": whole_batches(golden[endpoint]["inputs"], batch_size),
    }


def _lines_of_c_api(job_folder):
    """Starts the C API's process; yields the number of each call when it is done."""
    script = pathlib.Path(__file__).with_name("_c_api.py")
    # On the CPU: a GPU would round differently, and may be busy.
    quiet_on_cpu = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    with (
        (job_folder / "stderr").open("w+") as stderr,
        subprocess.Popen(
            # -P keeps this folder and the caller's off its path.
            [sys.executable, "-P", str(script), str(job_folder)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **quiet_on_cpu},
        ) as process,
    ):
        modules = None
        try:
            for line in process.stdout:
                message = json.loads(line)
                modules = message.get("modules")
                if "call" in message:
                    yield message["call"]
        except BaseException:
            process.kill()
            raise
        if process.wait():
            stderr.seek(0)
            lines = [line for line in stderr.read().splitlines() if line.strip()]
            reason = next((line for line in lines if line.startswith("error: ")), None)
            reason = reason or f"exit status {process.returncode} {' '.join(lines[-1:])}"
            raise ExportError(f"TensorFlow's C API refuses the SavedModel: {reason}")
    python = {"kgen", "export", "keras", "tensorflow"} & set(modules or ())
    if modules is None or python:
        raise ExportError(f"The C API's process is not free of Python code: {sorted(python)}")


def check_tensorflow_reads(path):
    """Raises `ExportError` for a path where TensorFlow finds no SavedModel."""
    if wrong := sorted(set("[\\") & set(str(path.absolute()))):
        raise ExportError(
            f"TensorFlow takes the path of a SavedModel for a pattern, and finds none under one "
            f"with {' or '.join(wrong)}. Give a path without. Received: {path.absolute()}"
        )


def tensorflow_library():
    """Path of TensorFlow's C library, found without importing it; `ExportError` without one."""
    # The finder of files alone: it also finds what an import hook hides.
    spec = importlib.machinery.PathFinder.find_spec("tensorflow", sys.path)
    for folder in spec.submodule_search_locations if spec else ():
        for path in sorted(pathlib.Path(folder).glob("libtensorflow_cc*")):
            return str(path)
    raise ExportError(
        "A SavedModel is proven with the library libtensorflow_cc of the Python package "
        "tensorflow, which is not installed here."
    )


def _with_pngs(inputs):
    """Golden inputs, and pictures among them as PNG too, by the names of those signatures."""
    pngs = {}
    for name, array in inputs.items():
        if kind := schema.picture(array.dtype.name, array.shape):
            pictures = array if kind == "image" else array[..., None] * np.uint8(255)
            strings = [_encode_png(picture) for picture in pictures]
            pngs[schema.png_name(name)] = np.array(strings, dtype=object)
    return inputs | pngs


def _encode_png(array):
    file = io.BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(file, "PNG")
    return file.getvalue()


def _decode_png(signature, strings):
    images = []
    for string in strings:
        try:
            with Image.open(io.BytesIO(string), formats=["PNG"]) as image:
                array = np.asarray(image)
        except OSError as error:
            raise ExportError(f"Signature '{signature}' does not give PNG: {error}") from error
        images.append(array.reshape(*array.shape[:2], -1))
    return np.stack(images)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


_RUNTIMES = {
    "saved_model": ("TensorFlow C API", _run_saved_model),
    "onnx": ("onnxruntime", _run_onnx),
    "litert": ("LiteRT", _run_litert),
    "onnx_fp16": ("onnxruntime, float16 weights", _run_onnx),
    "onnx_int8": ("onnxruntime, int8 weights", _run_onnx),
    "web": ("onnxruntime-web", _run_web),
}
