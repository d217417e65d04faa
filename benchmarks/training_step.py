"""One training step, side by side: kgen on TensorFlow, plain PyTorch, plain Keras.

    python benchmarks/training_step.py [--model vae|dcgan] [--batch-size 128] [--steps 50]
                                       [--repeats 5] [--threads N] [--json FILE]

All three train the same networks (equal parameter counts are asserted) with the same
optimizers and the same loss, each drawing its own noise, on one batch of uint8 images that
lies in memory:

- `kgen`     the function that `model.fit` calls, as `model.compile()` sets it up;
- `pytorch`  an eager loop as a tutorial would write it (`pip install torch`; it is left out
             where torch is missing);
- `keras`    a hand-written `keras.Model.train_step` with `keras.random` noise, compiled with
             Keras's defaults (`jit_compile="auto"`, which is XLA).

Each runs in a process of its own, so that no framework's threads or allocator are in
another's way, and the parent lets one run at a time, in rounds, in an order that changes
from round to round. What counts is the median over the rounds of the ratio within a round:
a machine that is busy for a while slows all three.
"""

import argparse
import copy
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time

FRAMEWORKS = ("kgen", "pytorch", "keras")
MODELS = ("vae", "dcgan")
PRESETS = {"vae": "vae_28x28", "dcgan": "dcgan_28x28"}
SEED = 0


# The parent ---------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, help="default: both")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="steps per round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)
    frameworks = [f for f in FRAMEWORKS if f != "pytorch" or importlib.util.find_spec("torch")]
    report = {"machine": describe_machine(arguments), "models": {}}
    for model in [arguments.model] if arguments.model else MODELS:
        report["models"][model] = compare(model, frameworks, arguments)
        print_table(model, report["models"][model], arguments)
    print("\n".join(f"{name}: {value}" for name, value in report["machine"].items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=2)


def compare(model, frameworks, arguments):
    """Milliseconds per step of every framework in every round."""
    workers = {f: Worker(f, model, arguments) for f in frameworks}
    parameters = {f: worker.read()["parameters"] for f, worker in workers.items()}
    assert len(set(parameters.values())) == 1, f"the networks differ: {parameters}"
    rounds = []
    for i in range(arguments.repeats):
        order = frameworks[i % len(frameworks) :] + frameworks[: i % len(frameworks)]
        rounds.append({f: workers[f].run() for f in order})
    for worker in workers.values():
        worker.close()
    figures = {"parameters": parameters["kgen"], "milliseconds_per_step": {}, "kgen_over": {}}
    for f in frameworks:
        times = [r[f] for r in rounds]
        figures["milliseconds_per_step"][f] = {
            "median": statistics.median(times),
            "rounds": times,
        }
        ratios = [r["kgen"] / r[f] for r in rounds]
        figures["kgen_over"][f] = {
            "median": statistics.median(ratios),
            "smallest": min(ratios),
            "largest": max(ratios),
        }
    return figures


class Worker:
    """A process that trains with one framework, one round at a time, when it is told to."""

    def __init__(self, framework, model, arguments):
        threads = str(arguments.threads)
        self.process = subprocess.Popen(
            [
                *(sys.executable, __file__, "--worker", framework, "--model", model),
                *("--batch-size", str(arguments.batch_size), "--threads", threads),
                *("--steps", str(arguments.steps)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "KERAS_BACKEND": "tensorflow"},
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
        self.process.stdin.close()
        self.process.wait()


def describe_machine(arguments):
    from importlib.metadata import version

    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        cpu = models[0] if models else cpu
    packages = [p for p in ("tensorflow", "keras", "torch") if importlib.util.find_spec(p)]
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores, {arguments.threads} threads used",
        "load average at the end": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
        ),
        "seed": SEED,
        "command": f"python benchmarks/training_step.py {' '.join(sys.argv[1:])}".strip(),
    }


def print_table(model, figures, arguments):
    print(
        f"\n{PRESETS[model]}: {figures['parameters']:,} trainable parameters, batch "
        f"{arguments.batch_size}, {arguments.repeats} rounds of {arguments.steps} steps\n"
    )
    print("| framework | ms per step (median) | kgen's time over its (median, range) |")
    print("|---|---|---|")
    for f, times in figures["milliseconds_per_step"].items():
        ratio = figures["kgen_over"][f]
        spread = f"{ratio['median']:.2f} ({ratio['smallest']:.2f} to {ratio['largest']:.2f})"
        print(f"| {f} | {times['median']:.1f} | {'' if f == 'kgen' else spread} |")
    print(flush=True)


# The workers --------------------------------------------------------------------------


def work(arguments):
    make = globals()[f"{arguments.worker}_{arguments.model}"]
    if arguments.worker != "pytorch":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import keras
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
        keras.utils.set_random_seed(SEED)
    else:
        import torch

        torch.set_num_threads(arguments.threads)
        torch.manual_seed(SEED)
    step, parameters = make(arguments.batch_size)
    for _ in range(5):
        float(step())
    print(json.dumps({"parameters": parameters}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(arguments.steps):
            loss = step()
        float(loss)  # waits for the last step
        milliseconds = 1000 * (time.perf_counter() - start) / arguments.steps
        print(json.dumps({"milliseconds": milliseconds}), flush=True)


def images(batch_size, shape=(28, 28, 1)):
    import numpy as np

    return np.random.default_rng(SEED).integers(0, 256, (batch_size, *shape), "uint8")


def fit_function(model, batch_size, loss):
    """A step through the function that `model.fit` calls."""
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors((images(batch_size),)).repeat())
    model.make_train_function()
    function = model.train_function
    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    return lambda: function(batches)[loss], parameters


# VAE


def kgen_vae(batch_size):
    import kgen

    model = kgen.models.VAE(**kgen.models.VAE.presets[PRESETS["vae"]])
    model.compile()
    return fit_function(model, batch_size, "loss")


def keras_vae(batch_size):
    import keras
    import tensorflow as tf
    from keras import ops

    import kgen

    networks = kgen.models.VAE(**kgen.models.VAE.presets[PRESETS["vae"]])

    class PlainVAE(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = networks.encoder, networks.decoder
            self.seed_generator = keras.random.SeedGenerator(SEED)
            self.trackers = [
                keras.metrics.Mean(name=name)
                for name in ("loss", "reconstruction_loss", "kl_loss", "active_units")
            ]

        @property
        def metrics(self):
            return self.trackers

        def train_step(self, data):
            x = ops.cast(data[0], "float32") / 255
            noise = keras.random.uniform(ops.shape(x), seed=self.seed_generator)
            x = ops.cast(x > noise, "float32")
            with tf.GradientTape() as tape:
                mean, log_variance = ops.split(self.encoder(2 * x - 1), 2, axis=-1)
                noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
                logits = self.decoder(mean + ops.exp(0.5 * log_variance) * noise)
                entropy = ops.binary_crossentropy(x, logits, from_logits=True)
                reconstruction = ops.mean(ops.sum(entropy, axis=(1, 2, 3)))
                kl = 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1 - log_variance)
                kl = ops.mean(ops.sum(kl, axis=-1))
                loss = reconstruction + kl
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            active = ops.sum(ops.cast(ops.var(mean, axis=0) > 0.01, "float32"))
            values = (loss, reconstruction, kl, active)
            for tracker, value in zip(self.trackers, values, strict=True):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    model = PlainVAE()
    model.compile(keras.optimizers.Adam(1e-3))
    return fit_function(model, batch_size, "loss")


def pytorch_vae(batch_size):
    import torch
    from torch import nn
    from torch.nn import functional

    class Residual(nn.Module):
        def __init__(self, filters):
            super().__init__()
            self.first = nn.Conv2d(filters, filters, 3, padding=1)
            self.second = nn.Conv2d(filters, filters, 3, padding=1)

        def forward(self, x):
            return x + self.second(functional.silu(self.first(functional.silu(x))))

    encoder = nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), Residual(32), nn.SiLU()),
        *(nn.Conv2d(32, 64, 4, 2, 1), Residual(64), nn.SiLU()),
        *(nn.Flatten(), nn.Linear(7 * 7 * 64, 256), nn.SiLU(), nn.Linear(256, 64)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(32, 256), nn.SiLU(), nn.Linear(256, 7 * 7 * 64), nn.Unflatten(1, (64, 7, 7))),
        *(Residual(64), nn.SiLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1)),
        *(Residual(32), nn.SiLU(), nn.ConvTranspose2d(32, 32, 4, 2, 1)),
        *(nn.SiLU(), nn.Conv2d(32, 1, 3, padding=1)),
    )
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    data = torch.from_numpy(images(batch_size)).permute(0, 3, 1, 2).contiguous()

    def step():
        x = (data / 255 > torch.rand(data.shape)).float()
        mean, log_variance = encoder(2 * x - 1).chunk(2, dim=1)
        logits = decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        entropy = functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        loss = entropy.sum((1, 2, 3)).mean() + kl.sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, sum(p.numel() for p in parameters)


# DCGAN: non-saturating loss, the generator first, the discriminator on the images of its
# move, then the moving average of the generator's weights.


def kgen_dcgan(batch_size):
    import kgen

    model = kgen.models.DCGAN(**kgen.models.DCGAN.presets[PRESETS["dcgan"]])
    model.compile()
    return fit_function(model, batch_size, "generator_loss")


def keras_dcgan(batch_size):
    import keras
    import tensorflow as tf
    from keras import ops

    import kgen

    networks = kgen.models.DCGAN(**kgen.models.DCGAN.presets[PRESETS["dcgan"]])
    for network in (networks.generator, networks.discriminator):
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = False  # Keras's default

    class PlainDCGAN(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator, self.discriminator = networks.generator, networks.discriminator
            self.average = networks.ema_generator
            self.seed_generator = keras.random.SeedGenerator(SEED)
            self.trackers = [
                keras.metrics.Mean(name=name)
                for name in (
                    *("generator_loss", "discriminator_loss"),
                    *("real_accuracy", "fake_accuracy", "sample_spread"),
                )
            ]

        @property
        def metrics(self):
            return self.trackers

        def compile(self):
            super().compile()
            self.generator_optimizer = keras.optimizers.Adam(2e-4, 0.5)
            self.discriminator_optimizer = keras.optimizers.Adam(2e-4, 0.5)
            self.generator_optimizer.build(self.generator.trainable_weights)
            self.discriminator_optimizer.build(self.discriminator.trainable_weights)

        def train_step(self, data):
            real = ops.cast(data[0], "float32") / 127.5 - 1
            shape = (ops.shape(real)[0], networks.latent_dim)
            latents = keras.random.normal(shape, seed=self.seed_generator)
            weights = self.generator.trainable_weights
            with tf.GradientTape() as tape:
                fake = self.generator(latents, training=True)
                loss = ops.mean(ops.softplus(-self.discriminator(fake, training=True)))
            gradients = tape.gradient(loss, weights)
            self.generator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
            weights = self.discriminator.trainable_weights
            with tf.GradientTape() as tape:
                on_real = self.discriminator(real, training=True)
                on_fake = self.discriminator(fake, training=True)
                other = ops.mean(ops.softplus(-on_real)) + ops.mean(ops.softplus(on_fake))
            gradients = tape.gradient(other, weights)
            self.discriminator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
            for mean, variable in zip(self.average.weights, self.generator.weights, strict=True):
                mean.assign(variable + 0.999 * (mean - variable))
            values = (
                loss,
                other,
                ops.mean(ops.cast(on_real > 0, "float32")),
                ops.mean(ops.cast(on_fake < 0, "float32")),
                ops.mean(ops.std(fake, axis=0)) / ops.mean(ops.std(real, axis=0)),
            )
            for tracker, value in zip(self.trackers, values, strict=True):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    model = PlainDCGAN()
    model.compile()
    return fit_function(model, batch_size, "generator_loss")


def pytorch_dcgan(batch_size):
    import torch
    from torch import nn
    from torch.nn import functional

    def batch_norm(filters):
        return nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)

    generator = nn.Sequential(
        *(nn.Linear(100, 7 * 7 * 64, bias=False), nn.Unflatten(1, (64, 7, 7))),
        *(batch_norm(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False)),
        *(batch_norm(32), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(32, 64, 4, 2, 1, bias=False), batch_norm(64), nn.LeakyReLU(0.2)),
        *(nn.Flatten(), nn.Linear(7 * 7 * 64, 1)),
    )
    average = copy.deepcopy(generator)
    state = [*generator.parameters(), *(b for b in generator.buffers() if b.is_floating_point())]
    means = [*average.parameters(), *(b for b in average.buffers() if b.is_floating_point())]
    generator_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    data = torch.from_numpy(images(batch_size)).permute(0, 3, 1, 2).contiguous()

    def step():
        real = data / 127.5 - 1
        discriminator.requires_grad_(False)  # the generator's move needs no gradients of it
        fake = generator(torch.randn(len(real), 100))
        loss = functional.softplus(-discriminator(fake)).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        discriminator.requires_grad_(True)
        on_real, on_fake = discriminator(real), discriminator(fake.detach())
        other = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
        discriminator_optimizer.zero_grad()
        other.backward()
        discriminator_optimizer.step()
        with torch.no_grad():
            for mean, value in zip(means, state, strict=True):
                mean.lerp_(value, 0.001)
        return loss.detach()

    parameters = [*generator.parameters(), *discriminator.parameters()]
    return step, sum(p.numel() for p in parameters)


if __name__ == "__main__":
    main()
