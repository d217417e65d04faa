"""Every model of the zoo on JAX and a GPU: images per second, FLOPs, losses.

    KERAS_BACKEND=jax python benchmarks/gpu_training.py --data mnist.npz
    KERAS_BACKEND=jax python benchmarks/gpu_training.py --data mnist.npz --peak-tflops 989 dit

Each model trains in a process of its own. All compile at once, which takes the processors; then
one after the other has the device to itself for `--seconds` of `model.fit`, after some steps that
do not count. Layers compute in bfloat16. Models are the presets for the data's shape; those over
codes take an untrained VQ-VAE, which is as fast as a trained one.

FLOPs are those that XLA counts in a training step as lowered for a CPU, by another process (for a
GPU there is no such count, and attention would be one call to cuDNN). A loop's body counts once,
so that a PixelRNN has too few; of causal attention all pairs count. Their share of `--peak-tflops`
is the utilisation, which counts all operations and not those of the matrices alone. A loss is the
mean of its epoch so far.
"""

import argparse
import json
import os
import subprocess
import sys
import time

ORDER = (
    *("vae", "ladder_vae", "vit_vae", "dcgan", "pixelcnn", "gated_pixelcnn", "pixelcnn_pp"),
    *("pixelrnn", "image_gpt", "dit", "vqvae", "vq_pixelcnn", "vq_transformer", "maskgit"),
)
POINTS = 16  # of a curve


# The parent ---------------------------------------------------------------------------


def main():
    arguments = parse()
    if arguments.worker == "train":
        return train(arguments)
    if arguments.worker == "count":
        return count(arguments)
    if os.environ.get("KERAS_BACKEND") != "jax":
        raise SystemExit("Set the environment variable KERAS_BACKEND to jax.")
    report(start(arguments), arguments)


def parse(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(ORDER), metavar="MODEL")
    parser.add_argument("--data", required=True)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each model")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--warmup", type=int, default=20, help="steps that do not count")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in bfloat16")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--worker", choices=("train", "count"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    for name in arguments.models:
        if name not in ORDER:
            parser.error(f"unknown model {name!r}; there are {', '.join(ORDER)}")
    return arguments


def start(arguments):
    """Two processes for every model: one counts FLOPs, the other compiles and waits."""
    names = [name for name in ORDER if name in arguments.models]
    return {
        name: (
            Worker(name, "count", arguments, JAX_PLATFORMS="cpu"),
            # All have to fit on one GPU.
            Worker(name, "train", arguments, XLA_PYTHON_CLIENT_PREALLOCATE="false"),
        )
        for name in names
    }


class Worker(subprocess.Popen):
    """A process that prints lines of JSON, the second when it is told to go on."""

    def __init__(self, name, role, arguments, **environment):
        options = ("--data", arguments.data, "--seconds", str(arguments.seconds))
        options += ("--batch-size", str(arguments.batch_size), "--warmup", str(arguments.warmup))
        super().__init__(
            [sys.executable, __file__, name, "--worker", role, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def read(self):
        """The next line's dict; none, where the process failed."""
        return json.loads(self.stdout.readline() or "{}")

    def go_on(self):
        if self.poll() is None:
            self.stdin.write("go on\n")
            self.stdin.flush()


def report(workers, arguments):
    """Waits until all have compiled, lets one after the other train, and prints a line each."""
    made = {name: {**count.read(), **train.read()} for name, (count, train) in workers.items()}
    found = {"batch_size": arguments.batch_size, "models": {}}
    for name, (_, train) in workers.items():
        train.go_on()
        row = {**made[name], **train.read()}
        train.kill()
        train.wait()
        if "images_per_second" not in row:
            print(f"{name:15} failed", flush=True)
            continue
        text = f"{name:15} {row['images_per_second']:>10,.0f} images/s"
        if "flop_per_step" in row:
            steps_per_second = row["images_per_second"] / arguments.batch_size
            row["tflops"] = row["flop_per_step"] * steps_per_second / 1e12
            text += f", {row['tflops']:.2f} TFLOP/s"
            if arguments.peak_tflops:
                row["utilisation"] = row["tflops"] / arguments.peak_tflops
                text += f", {row['utilisation']:.1%} of the peak"
        first, last = row["curve"][0], row["curve"][-1]
        names = [name for name in last if name != "images"]
        curve = ", ".join(f"{name} {first[name]:g} -> {last[name]:g}" for name in names)
        print(f"{text}; {curve}; {row['device']}", flush=True)
        found["models"][name] = row
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(found, file, indent=2)


# The workers --------------------------------------------------------------------------


def build(arguments):
    """The one model of the arguments, compiled, and its training images."""
    import keras

    import kgen

    (name,) = arguments.models
    keras.utils.set_random_seed(0)
    data = kgen.data.load(arguments.data, validation_fraction=0.0).train
    height, width, _ = data.images.shape[1:]
    options = {"num_classes": int(data.labels.max()) + 1, "dtype": "mixed_bfloat16"}
    if name in ("vq_pixelcnn", "vq_transformer", "maskgit"):
        options["tokenizer"] = f"vqvae_{height}x{width}"
    if name == "vqvae":
        del options["num_classes"]
    model = kgen.models.get(name).from_preset(f"{name}_{height}x{width}", **options)
    model.compile()
    return model, data


def count(arguments):
    """Floating-point operations of one training step, counted by XLA."""
    import jax

    model, data = build(arguments)
    groups = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    state = tuple([v.value for v in group] for group in groups)
    batch = (data.images[: arguments.batch_size],)
    if model.num_classes is not None:
        batch = (*batch, data.labels[: arguments.batch_size])
    lowered = jax.jit(model.train_step).lower(state, batch)
    print(json.dumps({"flop_per_step": lowered.cost_analysis()["flops"]}), flush=True)


def train(arguments):
    import jax
    import keras

    class Clock(keras.callbacks.Callback):
        """Stops training in time, and says how fast it was and how the loss went."""

        def on_train_begin(self, logs=None):
            self.steps, self.curve = 0, []

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps < arguments.warmup:
                return
            if self.steps == arguments.warmup:
                self.read(logs)
                self.begun = time.perf_counter()
            elapsed = time.perf_counter() - self.begun
            if elapsed > arguments.seconds * len(self.curve) / POINTS:
                self.read(logs)
                self.elapsed = time.perf_counter() - self.begun
            self.model.stop_training = len(self.curve) > POINTS

        def read(self, logs):
            """Waits for the step, and adds a point to the curve."""
            losses = {name: round(float(value), 4) for name, value in logs.items()}
            self.curve.append({"images": self.steps * arguments.batch_size, **losses})

        @property
        def images_per_second(self):
            steps = self.steps - arguments.warmup
            return steps * arguments.batch_size / self.elapsed

    model, data = build(arguments)
    begun = time.perf_counter()
    model.fit(data, batch_size=arguments.batch_size, steps_per_epoch=1, verbose=0)
    made = {
        "device": jax.devices()[0].device_kind,
        "parameters": model.count_params(),
        "first_step_seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(made), flush=True)
    sys.stdin.readline()
    clock = Clock()
    model.fit(data, batch_size=arguments.batch_size, epochs=10**6, callbacks=[clock], verbose=0)
    row = {"images_per_second": round(clock.images_per_second, 1), "curve": clock.curve}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
