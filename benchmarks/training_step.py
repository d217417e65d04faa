"""One training step, side by side: kgen on TensorFlow and on JAX, PyTorch, plain Keras.

    python benchmarks/training_step.py [--model vae|dcgan|r3gan|r3gan_differences|dit|image_gpt]
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
import copy
import importlib.util
import itertools
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

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
    "image_gpt": 16,
}
PRESETS = {
    "vae": "vae_28x28",
    "dcgan": "dcgan_28x28",
    "r3gan": "r3gan_28x28",
    "r3gan_differences": "r3gan_28x28",
    "dit": "dit_28x28",
}
#: No preset: those of MNIST's 784 pixels and of 8x8 pixels are too slow and too small.
IMAGE_GPT = {"image_shape": (16, 16, 1), "num_levels": 2, "dim": 128, "num_layers": 4}
#: Tokens, layers, features, and numbers that go into and come out of a token.
TRANSFORMERS = {"dit": (7 * 7, 6, 128, 4 * 4 + 4 * 4), "image_gpt": (16 * 16, 4, 128, 2)}
SEED = 0


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
    return find_maker(framework, model) and importlib.util.find_spec(FRAMEWORKS[framework])


def find_maker(framework, model):
    """The function that makes a training step, or `None`."""
    kind = framework.removesuffix("_jax").removesuffix("_compiled")
    return globals().get(f"{kind}_{model}")


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
    make = find_maker(arguments.worker, arguments.model)
    package = FRAMEWORKS[arguments.worker]
    if package == "torch":
        import torch

        torch.set_num_threads(arguments.threads)
        torch.manual_seed(SEED)
        device = "CPU"
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")
            device = torch.cuda.get_device_name()
        compiled = arguments.worker == "pytorch_compiled"
        step, parameters = make(arguments.batch_size, torch.compile if compiled else as_it_is)
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
        step, parameters = make(arguments.batch_size)
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


def images(batch_size, shape=(28, 28, 1)):
    import numpy as np

    return np.random.default_rng(SEED).integers(0, 256, (batch_size, *shape), "uint8")


def fit_function(model, batch_size, loss, shape=(28, 28, 1)):
    """A step through the function that `model.fit` calls."""
    import keras

    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    model.make_train_function()
    function = model.train_function
    data = images(batch_size, shape)
    if keras.backend.backend() == "jax":
        return jax_step(model, function, data, loss), parameters
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors((data,)).repeat())
    return lambda: function(batches)[loss], parameters


def jax_step(model, function, data, loss):
    """A step that hands the state on to the next, as `model.fit` does on JAX."""
    import jax

    batches = itertools.repeat((jax.device_put(data),))
    groups = (model.trainable_variables, model.non_trainable_variables)
    groups += (model.optimizer.variables, model.metrics_variables)
    state = tuple([v.value for v in group] for group in groups)

    def step():
        nonlocal state
        logs, state = function(state, batches)
        return logs[loss]

    return step


def pytorch_data(batch_size, shape=(28, 28, 1)):
    """Images `[B, C, H, W]`, on the GPU where there is one."""
    import torch

    data = torch.from_numpy(images(batch_size, shape)).permute(0, 3, 1, 2).contiguous()
    return data.to("cuda" if torch.cuda.is_available() else "cpu")


def as_it_is(function):
    """What `torch.compile` is to the eager loop."""
    return function


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


def pytorch_vae(batch_size, wrap):
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
    data = pytorch_data(batch_size)
    parameters = [*encoder.to(data.device).parameters(), *decoder.to(data.device).parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    @wrap
    def objective():
        x = (data / 255 > torch.rand(data.shape, device=data.device)).float()
        mean, log_variance = encoder(2 * x - 1).chunk(2, dim=1)
        logits = decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        entropy = functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return entropy.sum((1, 2, 3)).mean() + kl.sum(1).mean()

    def step():
        loss = objective()
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


def pytorch_dcgan(batch_size, wrap):
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
    data = pytorch_data(batch_size)
    generator, discriminator = generator.to(data.device), discriminator.to(data.device)
    average = copy.deepcopy(generator)
    state = [*generator.parameters(), *(b for b in generator.buffers() if b.is_floating_point())]
    means = [*average.parameters(), *(b for b in average.buffers() if b.is_floating_point())]
    generator_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    parameters = [*generator.parameters(), *discriminator.parameters()]
    generator, discriminator = wrap(generator), wrap(discriminator)

    def step():
        real = data / 127.5 - 1
        discriminator.requires_grad_(False)  # the generator's move needs no gradients of it
        fake = generator(torch.randn(len(real), 100, device=data.device))
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

    return step, sum(p.numel() for p in parameters)


# R3GAN: the relativistic loss with R1 and R2, on residual networks without normalisation.


def kgen_r3gan(batch_size, penalty="exact"):
    import kgen

    model = kgen.models.R3GAN(**kgen.models.R3GAN.presets[PRESETS["r3gan"]], penalty=penalty)
    model.compile()
    return fit_function(model, batch_size, "generator_loss")


def kgen_r3gan_differences(batch_size):
    return kgen_r3gan(batch_size, "finite_difference")


def pytorch_r3gan(batch_size, wrap, differences=False):
    import torch
    from torch import nn
    from torch.nn import functional

    class Residual(nn.Module):
        def __init__(self, filters):
            super().__init__()
            self.first = nn.Conv2d(filters, 2 * filters, 1)
            self.second = nn.Conv2d(2 * filters, 2 * filters, 3, padding=1, groups=2 * filters)
            self.third = nn.Conv2d(2 * filters, filters, 1, bias=False)
            nn.init.zeros_(self.third.weight)

        def forward(self, x):
            y = functional.leaky_relu(self.first(x), 0.2)
            return x + self.third(functional.leaky_relu(self.second(y), 0.2))

    class Basis(nn.Module):
        def __init__(self):
            super().__init__()
            self.patterns = nn.Parameter(torch.randn(64, 7, 7))

        def forward(self, x):
            return x[:, :, None, None] * self.patterns

    generator = nn.Sequential(
        *(nn.Linear(64, 64, bias=False), Basis(), Residual(64)),
        *(nn.Conv2d(64, 32, 1, bias=False), nn.Upsample(scale_factor=2, mode="bilinear")),
        *(Residual(32), nn.Conv2d(32, 4, 1), nn.PixelShuffle(2), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(nn.PixelUnshuffle(2), nn.Conv2d(4, 32, 1), Residual(32)),
        *(nn.AvgPool2d(2), nn.Conv2d(32, 64, 1, bias=False), Residual(64)),
        *(nn.Conv2d(64, 64, 7, groups=64, bias=False), nn.Flatten(), nn.Linear(64, 1, bias=False)),
    )
    data = pytorch_data(batch_size)
    generator, discriminator = generator.to(data.device), discriminator.to(data.device)
    average = copy.deepcopy(generator)
    state, means = list(generator.parameters()), list(average.parameters())
    generator_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, (0.0, 0.99))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.0, 0.99))
    parameters = [*generator.parameters(), *discriminator.parameters()]
    generator = wrap(generator)
    if differences:
        discriminator = wrap(discriminator)

    def penalty(pixels, logits):
        if differences:
            moved = discriminator(pixels + 0.01 * torch.randn_like(pixels))
            return 0.5 * ((logits - moved) / 0.01).square().mean()
        (slopes,) = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
        return 0.5 * slopes.square().sum((1, 2, 3)).mean()

    def step():
        real = data / 127.5 - 1
        discriminator.requires_grad_(False)  # the generator's move needs no gradients of it
        fake = generator(torch.randn(len(real), 64, device=data.device))
        loss = functional.softplus(discriminator(real) - discriminator(fake)).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        discriminator.requires_grad_(True)
        fake = fake.detach()
        if not differences:
            real.requires_grad_(True)
            fake.requires_grad_(True)
        on_real, on_fake = discriminator(real), discriminator(fake)
        other = functional.softplus(on_fake - on_real).mean()
        other = other + penalty(real, on_real) + penalty(fake, on_fake)
        discriminator_optimizer.zero_grad()
        other.backward()
        discriminator_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(means, state, 0.001)
        return loss.detach()

    return step, sum(p.numel() for p in parameters)


def pytorch_r3gan_differences(batch_size, wrap):
    return pytorch_r3gan(batch_size, wrap, differences=True)


# Transformers


def pytorch_transformer(dim, num_heads, grid, conditional, causal):
    """A block of a transformer with rotary positions, as PyTorch's users write it."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(
                nn.LayerNorm(dim, eps=1e-6, elementwise_affine=not conditional) for _ in range(2)
            )
            self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
            self.first, self.second = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
            if conditional:
                self.modulation = nn.Linear(dim, 6 * dim)
                nn.init.zeros_(self.modulation.weight)
                nn.init.zeros_(self.modulation.bias)
            # A head's pairs of features are turned, one half by the row, one by the column.
            pairs = dim // num_heads // 4
            frequencies = 100.0 ** -(torch.arange(pairs) / pairs)
            places = torch.cartesian_prod(*(torch.arange(side) for side in grid))
            angles = (places[:, :, None] * frequencies).flatten(1)
            self.register_buffer("cosine", angles.cos())
            self.register_buffer("sine", angles.sin())

        def rotate(self, x):
            first, second = x.chunk(2, dim=-1)
            turned = (
                first * self.cosine - second * self.sine,
                first * self.sine + second * self.cosine,
            )
            return torch.cat(turned, dim=-1)

        def attention(self, x):
            heads = self.qkv(x).unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
            query, key, value = heads.unbind()
            x = functional.scaled_dot_product_attention(
                self.rotate(query), self.rotate(key), value, is_causal=causal
            )
            return self.out(x.transpose(1, 2).flatten(2))

        def mlp(self, x):
            return self.second(functional.gelu(self.first(x), approximate="tanh"))

        def forward(self, x, condition=None):
            if not conditional:
                x = x + self.attention(self.norms[0](x))
                return x + self.mlp(self.norms[1](x))
            parts = self.modulation(functional.silu(condition))[:, None].chunk(6, dim=-1)
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
            x = x + gate * self.attention(self.norms[0](x) * (1 + scale) + shift)
            return x + mlp_gate * self.mlp(self.norms[1](x) * (1 + mlp_scale) + mlp_shift)

    return Block()


def pytorch_step(objective, parameters, betas, means=None):
    """Adam with gradients of bounded length, and a moving average of the weights."""
    import torch
    from torch import nn

    parameters = list(parameters)
    means = None if means is None else list(means)
    optimizer = torch.optim.Adam(parameters, 1e-3, betas, fused=True)
    counter = itertools.count(1)

    def step():
        loss = objective()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if means:
            i = next(counter)
            with torch.no_grad():
                torch._foreach_lerp_(means, parameters, 1 - min(0.999, (1 + i) / (10 + i)))
        return loss.detach()

    return step, sum(p.numel() for p in parameters)


# DiT: the velocity of a rectified flow at times from a logit-normal distribution, and the moving
# average of the weights.


def kgen_dit(batch_size):
    import kgen

    model = kgen.models.DiT(**kgen.models.DiT.presets[PRESETS["dit"]])
    model.compile()
    return fit_function(model, batch_size, "loss")


def pytorch_dit(batch_size, wrap):
    import torch
    from torch.nn import functional

    data = pytorch_data(batch_size)
    network = pytorch_dit_network().to(data.device)
    average = copy.deepcopy(network).requires_grad_(False)

    @wrap
    def objective():
        x = data / 127.5 - 1
        noise = torch.randn_like(x)
        times = torch.sigmoid(torch.randn(len(x), device=x.device))
        mixed = torch.lerp(x, noise, times[:, None, None, None])
        return functional.mse_loss(network(mixed, times), noise - x)

    return pytorch_step(objective, network.parameters(), (0.9, 0.99), average.parameters())


def pytorch_dit_network(dim=128, num_layers=6, num_heads=4, size=4, grid=(7, 7)):
    import torch
    from torch import nn
    from torch.nn import functional

    class DiT(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Linear(size * size, dim)
            self.rows = nn.Parameter(0.02 * torch.randn(grid[0], 1, dim))
            self.columns = nn.Parameter(0.02 * torch.randn(grid[1], dim))
            self.register_buffer("frequencies", 10_000.0 ** -(torch.arange(128) / 128))
            self.time = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
            self.blocks = nn.ModuleList(
                pytorch_transformer(dim, num_heads, grid, conditional=True, causal=False)
                for _ in range(num_layers)
            )
            self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
            self.modulation = nn.Linear(dim, 2 * dim)
            self.velocity = nn.Linear(dim, size * size)
            for layer in (self.modulation, self.velocity):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, x, times):
            angles = 1000 * times[:, None] * self.frequencies
            condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
            x = x.reshape(-1, grid[0], size, grid[1], size).transpose(2, 3)
            x = self.patches(x.reshape(-1, grid[0] * grid[1], size * size))
            x = x + (self.rows + self.columns).flatten(0, 1)
            for block in self.blocks:
                x = block(x, condition)
            parts = self.modulation(functional.silu(condition))[:, None]
            shift, scale = parts.chunk(2, dim=-1)
            x = self.velocity(self.norm(x) * (1 + scale) + shift)
            x = x.reshape(-1, *grid, size, size).transpose(2, 3)
            return x.reshape(-1, 1, grid[0] * size, grid[1] * size)

    return DiT()


# ImageGPT: the likelihood of binarised pixels, each given those before it.


def kgen_image_gpt(batch_size):
    import kgen

    model = kgen.models.ImageGPT(**IMAGE_GPT)
    model.compile()
    return fit_function(model, batch_size, "loss", IMAGE_GPT["image_shape"])


def pytorch_image_gpt(batch_size, wrap):
    import torch
    from torch.nn import functional

    data = pytorch_data(batch_size, IMAGE_GPT["image_shape"])
    network = pytorch_image_gpt_network().to(data.device)

    @wrap
    def objective():
        tokens = (data / 255 > torch.rand(data.shape, device=data.device)).long().flatten(1)
        logits = network(tokens)
        entropy = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum")
        return entropy / len(data)

    return pytorch_step(objective, network.parameters(), (0.9, 0.95))


def pytorch_image_gpt_network(dim=128, num_layers=4, num_heads=4, levels=2, grid=(16, 16)):
    import torch
    from torch import nn

    class ImageGPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(levels, dim)
            self.start = nn.Parameter(0.02 * torch.randn(dim))
            self.rows = nn.Parameter(0.02 * torch.randn(grid[0], 1, dim))
            self.columns = nn.Parameter(0.02 * torch.randn(grid[1], dim))
            self.channels = nn.Parameter(0.02 * torch.randn(dim))  # of the only one
            self.blocks = nn.ModuleList(
                pytorch_transformer(dim, num_heads, grid, conditional=False, causal=True)
                for _ in range(num_layers)
            )
            self.norm = nn.LayerNorm(dim, eps=1e-6)
            self.logits = nn.Linear(dim, levels)
            nn.init.zeros_(self.logits.weight)
            nn.init.zeros_(self.logits.bias)

        def forward(self, tokens):
            start = self.start.expand(len(tokens), 1, -1)
            x = torch.cat([start, self.tokens(tokens[:, :-1])], dim=1)
            x = x + (self.rows + self.columns + self.channels).flatten(0, 1)
            for block in self.blocks:
                x = block(x)
            return self.logits(self.norm(x))

    return ImageGPT()


if __name__ == "__main__":
    main()
