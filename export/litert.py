"""LiteRT: one `.tflite` file per endpoint, of LiteRT's own operators alone.

It runs on phones and on boards, without TensorFlow and without a delegate. What needs one of
TensorFlow's operators is refused: a runtime with these is ten times the size, and is nowhere there
by default.
"""

import contextlib
import pathlib
import re
import tempfile

import tensorflow as tf

from export import tracing
from export.errors import ExportError

FOLDER = "litert"


def write(folder, calls, endpoints, step):
    """Writes `litert/<endpoint>.tflite` into an artifact's folder.

    A file has a signature for each of its endpoints: `generate`, and `generate_with_options` beside
    it, which share the weights. All inputs of a signature are asked for, at any batch size.

    `calls` are concrete functions by endpoint, as from `tracing.trace_all`; `step` is told what is
    converted next. Returns a dict for the manifest: path, and for each endpoint its file and the
    names that its inputs and outputs have there. `ExportError` names the operators that LiteRT does
    not have.
    """
    folder = pathlib.Path(folder) / FOLDER
    folder.mkdir()
    module = tf.train.Checkpoint()
    traced = {key: tracing.trace(calls[key], key, endpoint) for key, endpoint in endpoints.items()}
    module.weights = list(
        {id(v): v for concrete in traced.values() for v in concrete.variables}.values()
    )
    signatures = {}
    with tempfile.TemporaryDirectory() as saved_model:
        tf.saved_model.save(module, saved_model, signatures=traced)
        for whole in tracing.whole(endpoints):
            name = whole.removesuffix(tracing.WITH_OPTIONS)
            step(f"converting to LiteRT: {name}")
            keys = [key for key in endpoints if key in (name, whole)]
            file = folder / f"{name}.tflite"
            file.write_bytes(convert(name, saved_model, keys))
            for key in keys:
                signatures[key] = {
                    "endpoint": key,
                    "file": f"{FOLDER}/{file.name}",
                    "inputs": {each: each for each in endpoints[key].inputs},
                    "outputs": {each: each for each in endpoints[key].outputs},
                }
    return {"path": FOLDER, "signatures": {key: signatures[key] for key in endpoints}}


def convert(name, saved_model, signatures):
    """The content of a file for some signatures of the SavedModel in a folder."""
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=signatures
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        # The compiler writes to the process's own stderr whatever it raises.
        with contextlib.redirect_stderr(None):
            return converter.convert()
    except Exception as error:  # of any class
        raise ExportError(
            f"Endpoint '{name}' does not convert to LiteRT: {_reason(str(error))}. Leave 'litert' "
            f"out of the formats; ONNX and SavedModel have every operator."
        ) from error


def _reason(said):
    """What LiteRT lacks, in a line, of the many that its compiler says."""
    missing = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", said, re.MULTILINE)
    missing += re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", said)
    operators = {each.strip() for line in missing for each in line.split(",")}
    if not operators:
        return " ".join(said.split())[:300] or "its compiler gives no reason"
    details = re.findall(r"^\s*tf\.(\w+\(.*?\)) -> ", said, re.MULTILINE)
    shown = [next((d for d in details if d.startswith(f"{o}(")), o) for o in sorted(operators)]
    return f"LiteRT has no operator for TensorFlow's {', '.join(shown)}"
