"""A second route to ONNX: from Keras on JAX, by jax2onnx, without TensorFlow.

    python benchmarks/jax_to_onnx.py MODEL ...        # all of the zoo without a name

For each model, in its tiny preset with random weights, `generate` is converted with a free batch
axis, or else for batches of 8; the file is checked, runs in ONNX Runtime and is compared with Keras
on JAX by `export.parity`, as the proof of an artifact does. Needs `pip install jax2onnx`, in an
environment of its own: it is no part of kgen.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import argparse
import importlib.metadata
import time

import jax
import jax.export
import jax2onnx
import keras
import numpy as np
import onnx
import onnxruntime

import kgen
from export import loops, parity

ROWS = 8
OPSET = 23


def convert(endpoint, specs, batch):
    """The endpoint's image as a function of what must be given, as ONNX."""

    def image(*tensors):
        return endpoint.function(**dict(zip(specs, tensors, strict=True)))["image"]

    def spec_of(spec):
        shape = (batch, *spec.shape)
        if batch == "B":
            shape = jax.export.symbolic_shape(", ".join(map(str, shape)))
        return jax.ShapeDtypeStruct(shape, spec.dtype)

    return jax2onnx.to_onnx(
        image,
        [spec_of(spec) for spec in specs.values()],
        opset=OPSET,
        input_names=list(specs),
        output_names=["image"],
    )


def run(name):
    keras.utils.set_random_seed(0)
    model_class = kgen.models.get(name)
    model = model_class.from_preset(model_class.tiny_preset, num_classes=3)
    rng = np.random.default_rng(0)
    for weight in model.weights:  # nothing at zero, as a new transformer's last layer is
        if weight.dtype == "float32" and not np.ptp(weight):
            weight.assign(weight + rng.normal(size=weight.shape) * 0.05)
    endpoint = model.endpoints()["generate"]
    specs = {key: spec for key, spec in endpoint.inputs.items() if spec.default is None}
    inputs = {"seed": np.arange(ROWS, dtype="int32") * 31}
    if "label" in specs:
        inputs["label"] = np.arange(ROWS, dtype="int32") % 3
    expected = endpoint.function(**{k: keras.ops.convert_to_tensor(v) for k, v in inputs.items()})
    expected = np.asarray(expected["image"])
    for batch in ("B", ROWS):
        said = f"batch {'free' if batch == 'B' else batch}"
        start = time.perf_counter()
        try:
            converted = convert(endpoint, specs, batch)
        except Exception as error:  # of any class
            yield f"{said}: does not convert: {first_line(error)}"
            continue
        seconds = time.perf_counter() - start
        size = len(converted.SerializeToString())
        nodes = sum(len(part.node) for part in loops.subgraphs(converted.graph))
        said += f": converts in {seconds:.0f} s, {size:,} bytes, {nodes} nodes"
        try:
            onnx.checker.check_model(converted, full_check=True)
        except Exception as error:
            said += f"; checker: {first_line(error)}"
        try:
            session = onnxruntime.InferenceSession(converted.SerializeToString())
            [images] = session.run(["image"], inputs)
        except Exception as error:
            yield f"{said}; does not run: {first_line(error)}"
            continue
        figures = parity.compare(expected, images)
        if isinstance(figures, dict):
            passed = "passes" if figures["passed"] else "FAILS"
            figures = (
                f"{passed}: largest difference {figures['max_difference']:g}, "
                f"{figures['equal']:.2%} equal"
            )
        yield f"{said}; {figures}"
        break


def first_line(error):
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help="names of models; all by default")
    names = parser.parse_args().models or list(kgen.models.registered())
    versions = ("jax2onnx", "jax", "keras", "onnx", "onnxruntime")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in versions), flush=True)
    for name in names:
        for line in run(name):
            print(f"{name}, {line}", flush=True)


if __name__ == "__main__":
    main()
