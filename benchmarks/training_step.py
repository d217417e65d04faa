"""One training step, side by side: kgen on TensorFlow and on JAX, PyTorch, plain Keras.

    python benchmarks/training_step.py [--model vae|dcgan|r3gan|r3gan_differences|dit|
                                                flow_matching|image_gpt]
                                       [--frameworks NAME [NAME ...]] [--batch-size N]
                                       [--steps 50] [--repeats 5] [--threads N]
                                       [--peak-tflops N] [--json FILE]

All train the same networks (equal parameter counts are asserted) with the same optimizers and
the same loss, each drawing its own noise, on one batch of uint8 images that lies in memory:

- `kgen`              the function that `model.fit` calls, as `model.compile()` sets it up;
- `kgen_jax`          the same on Keras's JAX backend;
- `pytorch`           an eager loop as a tutorial would write it (`pip install torch`);
- `pytorch_compiled`  that loop with its networks, and where there is one loss also that,
                      through `torch.compile`;
- `keras`             a hand-written `keras.Model.train_step` with `keras.random` noise,
                      compiled with Keras's defaults (`jit_compile="auto"`, which is XLA); not
                      written for the transformers.

What is not installed is left out, and `torch.compile` where there is no C++ compiler. PyTorch
and JAX take a GPU where they find one; PyTorch may then multiply in TF32, as JAX and
TensorFlow do.

Each runs in a process of its own, so that no framework's threads or allocator are in
another's way, and the parent lets one run at a time, in rounds, in an order that changes
from round to round. What counts is the median over the rounds of the ratio within a round:
a machine that is busy for a while slows all. It does not slow them alike: PyTorch's threads
wait for one another in a busy loop, and where other programs held both of two cores (load 7),
two were 6 to 19 times slower than one. There, measure with `--threads 1`; the load before and
after is printed.

For the transformers the table also says how many floating-point operations of the model come
to pass in a second, and with `--peak-tflops`, the machine's peak, which share of it that is.
A step of the model takes, of B images of T tokens with L layers of D features,

    6 N T B + 12 L D T^2 B

operations (Chowdhery et al., "PaLM", 2022; arXiv 2204.02311, appendix B): a multiplication and
an addition, forward once and backward twice, for each of the N weights and for attention's two
products. N are the weights that every token is multiplied by, 12 D^2 a layer and those that
lead into and out of the network: not tables that are looked up, and not DiT's conditioning,
which is computed once an image. All pairs of tokens count, though causal attention could leave
out half of them.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

from training_steps.common import SEED

#: What each runs on. The first that takes part is the one that the others are compared with.
FRAMEWORKS = {
    "kgen": "tensorflow",
    "kgen_jax": "jax",
    "pytorch": "torch",
    "pytorch_compiled": "torch",
    "keras": "tensorflow",
}
#: Images in a batch.
MODELS = {
    "vae": 128,
    "dcgan": 128,
    "r3gan": 64,
    "r3gan_differences": 64,
    "dit": 128,
    "flow_matching": 32,
    "image_gpt": 16,
}
#: What plain Keras is written for.
BY_HAND = ("vae", "dcgan")
#: Tokens, layers, features, and numbers that go into and come out of a token.
TRANSFORMERS = {"dit": (7 * 7, 6, 128, 4 * 4 + 4 * 4), "image_gpt": (16 * 16, 4, 128, 2)}


# The parent ---------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, help="default: all")
    parser.add_argument("--frameworks", choices=FRAMEWORKS, nargs="+", default=list(FRAMEWORKS))
    parser.add_argument("--batch-size", type=int, help=f"default: {MODELS}")
    parser.add_argument("--steps", type=int, default=50, help="steps per round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peak-tflops", type=float, help="10^12 operations per second at best")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)
    load = describe_load()
    report = {"models": {}}
    for model in [arguments.model] if arguments.model else MODELS:
        batch_size = arguments.batch_size or MODELS[model]
        workers = start(model, batch_size, arguments)
        report["models"][model] = compare(model, batch_size, workers, arguments)
        print_table(model, report["models"][model], arguments)
    report["machine"] = describe_machine(arguments, load)
    print("\n".join(f"{name}: {value}" for name, value in report["machine"].items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=2)


def runs(framework, model):
    """Whether a framework is installed and the model written in it."""
    if framework == "pytorch_compiled" and not shutil.which(os.environ.get("CXX", "g++")):
        return False
    if framework == "keras" and model not in BY_HAND:
        return False
    return importlib.util.find_spec(FRAMEWORKS[framework])


def start(model, batch_size, arguments):
    """A `Worker` for every framework that runs the model here."""
    frameworks = [f for f in FRAMEWORKS if f in arguments.frameworks and runs(f, model)]
    if not frameworks:
        raise SystemExit(f"None of these runs {model} here: {', '.join(arguments.frameworks)}")
    return {f: Worker(f, model, batch_size, arguments) for f in frameworks}


def compare(model, batch_size, workers, arguments):
    """Milliseconds per step of every framework in every round."""
    frameworks = list(workers)
    made = {f: worker.read() for f, worker in workers.items()}
    parameters = {f: about["parameters"] for f, about in made.items()}
    assert len(set(parameters.values())) == 1, f"the networks differ: {parameters}"
    rounds = []
    for i in range(arguments.repeats):
        order = frameworks[i % len(frameworks) :] + frameworks[: i % len(frameworks)]
        rounds.append({f: workers[f].run() for f in order})
    for worker in workers.values():
        worker.close()
    figures = {
        "batch_size": batch_size,
        "parameters": parameters[frameworks[0]],
        "devices": {f: about["device"] for f, about in made.items()},
        "milliseconds_per_step": {},
        f"{frameworks[0]}_over": {},
    }
    for f in frameworks:
        times = [r[f] for r in rounds]
        figures["milliseconds_per_step"][f] = {
            "median": statistics.median(times),
            "rounds": times,
        }
        ratios = [r[frameworks[0]] / r[f] for r in rounds]
        figures[f"{frameworks[0]}_over"][f] = {
            "median": statistics.median(ratios),
            "smallest": min(ratios),
            "largest": max(ratios),
        }
    if model in TRANSFORMERS:
        figures["model_flops_per_step"] = flops = count_flops(model, batch_size)
        figures["gflops_per_second"] = {
            f: flops / times["median"] / 1e6
            for f, times in figures["milliseconds_per_step"].items()
        }
    return figures


def count_flops(model, batch_size):
    """Floating-point operations of the model in a training step: see the top of this file."""
    tokens, layers, dim, ends = TRANSFORMERS[model]
    weights = 12 * layers * dim**2 + dim * ends
    return (6 * weights * tokens + 12 * layers * dim * tokens**2) * batch_size


class Worker:
    """A process that trains with one framework, one round at a time, when it is told to."""

    def __init__(self, framework, model, batch_size, arguments):
        threads = str(arguments.threads)
        self.process = subprocess.Popen(
            [
                *(sys.executable, __file__, "--worker", framework, "--model", model),
                *("--batch-size", str(batch_size), "--threads", threads),
                *("--steps", str(arguments.steps)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": threads,
                "NPROC": threads,  # JAX's
                "KERAS_BACKEND": FRAMEWORKS[framework],
                # All have to fit on one GPU.
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            },
        )

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker failed: {' '.join(self.process.args)}")
        return json.loads(line)

    def run(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.read()["milliseconds"]

    def close(self):
        self.process.kill()  # left to itself, TensorFlow with XLA at times does not end
        self.process.wait()


def describe_load():
    """Processes at work on average over the last 1, 5 and 15 minutes."""
    return ", ".join(f"{load:.1f}" for load in os.getloadavg())


def describe_machine(arguments, load):
    from importlib.metadata import version

    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        cpu = models[0] if models else cpu
    packages = [p for p in ("tensorflow", "jax", "keras", "torch") if importlib.util.find_spec(p)]
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores, {arguments.threads} threads used",
        "load average": f"{load} before, {describe_load()} at the end",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
        ),
        "seed": SEED,
        "command": f"python benchmarks/training_step.py {' '.join(sys.argv[1:])}".strip(),
    }


def print_table(model, figures, arguments):
    first, *_ = figures["milliseconds_per_step"]
    devices = figures["devices"]
    if len(set(devices.values())) == 1:
        devices = devices[first]
    else:
        devices = ", ".join(f"{f} on {device}" for f, device in devices.items())
    print(
        f"\n{model}: {figures['parameters']:,} trainable parameters, batch "
        f"{figures['batch_size']}, {arguments.repeats} rounds of {arguments.steps} steps; {devices}"
    )
    columns = ["framework", "ms per step (median)", f"{first}'s time over its (median, range)"]
    if model in TRANSFORMERS:
        print(f"{figures['model_flops_per_step'] / 1e9:.2f} GFLOP per step of the model")
        columns.append("GFLOP/s")
        if arguments.peak_tflops:
            columns.append(f"of {arguments.peak_tflops:g} TFLOP/s")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for f, times in figures["milliseconds_per_step"].items():
        ratio = figures[f"{first}_over"][f]
        spread = f"{ratio['median']:.2f} ({ratio['smallest']:.2f} to {ratio['largest']:.2f})"
        cells = [f, f"{times['median']:.1f}", "" if f == first else spread]
        if model in TRANSFORMERS:
            speed = figures["gflops_per_second"][f]
            cells.append(f"{speed:.1f}")
            if arguments.peak_tflops:
                cells.append(f"{speed / arguments.peak_tflops / 1000:.1%}")
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


# The workers --------------------------------------------------------------------------


def work(arguments):
    package = FRAMEWORKS[arguments.worker]
    if package == "torch":
        import torch

        torch.set_num_threads(arguments.threads)
        torch.manual_seed(SEED)
        device = "CPU"
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")
            device = torch.cuda.get_device_name()
        wrap = torch.compile if arguments.worker == "pytorch_compiled" else as_it_is
        step, parameters = find_maker(arguments)(arguments.batch_size, wrap)
    else:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import keras

        if package == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
            tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
            found = tf.config.list_physical_devices("GPU")
            details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
            device = details[0]["device_name"] if details else "CPU"
        else:
            import jax

            device = jax.devices()[0].device_kind.replace("cpu", "CPU")
        keras.utils.set_random_seed(SEED)
        step, parameters = find_maker(arguments)(arguments.batch_size)
    for _ in range(5):
        float(step())
    print(json.dumps({"parameters": parameters, "device": device}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(arguments.steps):
            loss = step()
        float(loss)  # waits for the last step
        milliseconds = 1000 * (time.perf_counter() - start) / arguments.steps
        print(json.dumps({"milliseconds": milliseconds}), flush=True)


def find_maker(arguments):
    """The function that makes a training step."""
    kind = arguments.worker.removesuffix("_jax").removesuffix("_compiled")
    return getattr(importlib.import_module(f"training_steps.with_{kind}"), arguments.model)


def as_it_is(function):
    """What `torch.compile` is to the eager loop."""
    return function


if __name__ == "__main__":
    main()
