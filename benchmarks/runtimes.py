"""ONNX Runtime against TensorFlow: the time of every model's sampler, as a ratio.

    python benchmarks/runtimes.py                        # the whole zoo, 28x28, batch 1 and 64
    python benchmarks/runtimes.py gated_pixelcnn_28x28 --batches 1 --repeats 5
    python benchmarks/runtimes.py --threads 1 --cpu      # on a machine that others use

For each preset and batch: seconds of ONNX Runtime, of TensorFlow's graph as it is and compiled by
XLA, in turn, and the median ratios; how many kernels ONNX Runtime starts; and how many pixels are
equal. Weights are random: they do not matter to the time.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import onnxruntime
import tensorflow as tf

import kgen
from export import onnx, tracing
from kgen import models

GOAL = {"TensorFlow": 1.0, "XLA": 3.0}  # the latter for one image


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="all of 28x28 by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of both; 0: as they choose")
    parser.add_argument("--cpu", action="store_true", help="CPU time in place of the clock's")
    parser.add_argument("--no-xla", action="store_true", help="leave out TensorFlow with XLA")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    known = sorted(name for each in models.registered().values() for name in each.presets)
    for preset in args.presets or [name for name in known if name.endswith("_28x28")]:
        if preset not in known:
            parser.error(f"unknown preset {preset!r}; there are {', '.join(known)}")
        measure(preset, args)


def measure(preset, args):
    keras.utils.set_random_seed(0)
    model = kgen.ImageGenerator.from_preset(preset)
    rng = np.random.default_rng(0)
    for variable in model.variables:  # outputs are 0 at first: all images would be alike
        if "logits" in variable.path and variable.trainable:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    if "generate" not in model.endpoints():
        return
    endpoints = tracing.publish({"generate": model.endpoints()["generate"]})
    endpoint, calls = endpoints["generate"], tracing.trace_all(endpoints)
    call = tracing.trace(calls["generate"], "generate", endpoint)
    with tempfile.TemporaryDirectory() as folder:
        models = onnx.convert(calls, endpoints, 18, lambda step: None, {})
        onnx.write(folder, models, endpoints, 18)
        file = pathlib.Path(folder) / onnx.FOLDER / "generate.onnx"
        session = open_session(file, args)
        count = kernels(file, inputs(endpoint, 1), args)
    print(f"{preset}: ONNX Runtime starts {count:,} kernels for an image", flush=True)
    runs = {
        "ONNX Runtime": lambda batch: session.run(["image"], batch)[0],
        "TensorFlow": lambda batch: call(*map(tf.constant, batch.values()))["image"].numpy(),
    }
    if not args.no_xla:
        compiled = tracing.trace(
            tracing.function("generate", endpoint), "generate", endpoint, jit_compile=True
        )
        runs["XLA"] = lambda batch: compiled(*map(tf.constant, batch.values()))["image"].numpy()
    for size in args.batches:
        report(size, runs, inputs(endpoint, size), args)


def inputs(endpoint, size):
    """Seeds and labels of a batch."""
    return {name: np.arange(size, dtype=spec.dtype) for name, spec in endpoint.inputs.items()}


def open_session(file, args, **options):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = args.threads
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def kernels(file, batch, args):
    """How many kernels ONNX Runtime starts, the loops themselves apart, by its own profile."""
    prefix = str(file.parent / "profile")
    session = open_session(file, args, enable_profiling=True, profile_file_prefix=prefix)
    session.run(None, batch)
    events = json.loads(pathlib.Path(session.end_profiling()).read_text())
    ends = [event for event in events if event["name"].endswith("_kernel_time")]
    return sum(event["args"]["op_name"] != "Loop" for event in ends)


def report(size, runs, batch, args):
    """All runtimes in turn, so that they meet the same load."""
    clock = time.process_time if args.cpu else time.perf_counter
    images = {name: run(batch) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            start = clock()
            run(batch)
            times[name].append(clock() - start)
    ours = times.pop("ONNX Runtime")
    print(f"  batch {size}: ONNX Runtime {statistics.median(ours):.4f} s", flush=True)
    for name, theirs in times.items():
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        missed = ratio > GOAL[name] and (name == "TensorFlow" or size == 1)
        equal = np.mean(images[name] == images["ONNX Runtime"])
        print(
            f"    {name:10} {statistics.median(theirs):.4f} s: ONNX Runtime takes {ratio:.2f} of it"
            f"{f', over the goal of {GOAL[name]}' if missed else ''}; {equal:.3%} of the pixels "
            "equal",
            flush=True,
        )


if __name__ == "__main__":
    main()
