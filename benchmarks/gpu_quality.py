"""A model trained for some minutes on JAX and a GPU, then measured and drawn from.

    export KERAS_BACKEND=jax XLA_PYTHON_CLIENT_MEM_FRACTION=0.2
    python benchmarks/gpu_quality.py image_gpt --data mnist.npz --minutes 5.9 &
    python benchmarks/gpu_quality.py gated_pixelcnn --data mnist.npz --minutes 5.9 &
    python benchmarks/gpu_quality.py gated_pixelcnn_256 --data mnist.npz --minutes 5.9 &
    python benchmarks/gpu_quality.py dit --data cifar10 --minutes 5.9 &
    wait

So run, the four share one GPU, and each has about a quarter of it. Layers compute in bfloat16, in
training and, of the DiT, in sampling; likelihoods and the samples of the others in float32 (whose
products JAX takes in TF32 on such a GPU). The learning rate rises for `--warmup` steps and falls
to 0 as a cosine of the time, compilation included: a faster GPU sees more images. Test sets that
are binarised are drawn once, from seed 0. `curve.json` has the losses after every epoch, also those
on 2,000 test images (`val_`), which choose nothing.

Measured so on an H200: see RESULTS.md, "On a GPU". Pictures: ../examples/pictures/*_gpu*.png.
"""

import argparse
import json
import math
import pathlib
import time

import jax
import keras
import numpy as np

import kgen

GATED = {"image_shape": (28, 28, 1), "filters": 96, "num_layers": 10, "kernel_size": 5}
#: Class, its arguments, batch size, highest learning rate.
MODELS = {
    "image_gpt": (
        kgen.models.ImageGPT,
        {"image_shape": (28, 28, 1), "num_levels": 2, "dim": 256, "num_layers": 8},
        *(64, 1e-3),
    ),
    "gated_pixelcnn": (kgen.models.GatedPixelCNN, {**GATED, "num_levels": 2}, 64, 1e-3),
    "gated_pixelcnn_256": (kgen.models.GatedPixelCNN, {**GATED, "num_levels": 256}, 64, 1e-3),
    "dit": (
        kgen.models.DiT,
        {
            "image_shape": (32, 32, 3),
            "num_classes": 10,
            "patch_size": 2,
            "dim": 256,
            "num_layers": 8,
            "num_heads": 4,
        },
        *(256, 1e-3),
    ),
}


class CosineOfTime(keras.callbacks.Callback):
    """Sets the learning rate by the time since training began, and ends it."""

    def __init__(self, seconds, highest, warmup, path, every=10):
        super().__init__()
        self.seconds, self.highest, self.warmup, self.every = seconds, highest, warmup, every
        self.path, self.steps, self.curve = path, 0, []

    def on_train_begin(self, logs=None):
        self.begun = time.perf_counter()

    @property
    def elapsed(self):
        return time.perf_counter() - self.begun

    def on_train_batch_begin(self, batch, logs=None):
        if self.steps % self.every == 0:
            share = min(1.0, self.elapsed / self.seconds)
            rate = self.highest * 0.5 * (1 + math.cos(math.pi * share))
            rate *= min(1.0, (self.steps + 1) / self.warmup)
            self.model.jax_state_sync()
            self.model.optimizer.learning_rate.assign(rate)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps % self.every == 0:
            float(logs["loss"])  # waits for the step: the device is not far behind the clock
            if self.elapsed > self.seconds:
                self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        point = {"seconds": round(self.elapsed, 1), "steps": self.steps}
        self.curve.append({**point, **{name: round(float(v), 4) for name, v in logs.items()}})
        print(self.curve[-1], flush=True)
        self.path.write_text(json.dumps(self.curve, indent=1))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", choices=MODELS)
parser.add_argument("--data", required=True)
parser.add_argument("--out", help="default: runs/gpu_<model>")
parser.add_argument("--minutes", type=float, default=7.0)
parser.add_argument("--warmup", type=int, default=200)
parser.add_argument("--test-images", type=int, default=10_000)
parser.add_argument("--num-samples", type=int, default=10_000, help="for FD")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out or f"runs/gpu_{args.model}")
out.mkdir(parents=True, exist_ok=True)
results = {"model": args.model, "seed": args.seed}


def write(**found):
    """Adds to the results, on disk at once."""
    results.update(found)
    print(found, flush=True)
    (out / "results.json").write_text(json.dumps(results, indent=2))


model_class, arguments, batch_size, rate = MODELS[args.model]
likelihood = model_class is not kgen.models.DiT
keras.utils.set_random_seed(args.seed)
data = kgen.data.load(args.data, validation_fraction=0.0, horizontal_flip=not likelihood)
test = data.test.binarized(seed=0) if arguments.get("num_levels") == 2 else data.test
test = kgen.data.Split(test.images[: args.test_images], test.labels[: args.test_images])
part = kgen.data.Split(test.images[:2000], test.labels[:2000])
model = model_class(**arguments, seed=args.seed, dtype="mixed_bfloat16")
model.compile(learning_rate=rate)
write(
    device=jax.devices()[0].device_kind,
    versions={"jax": jax.__version__, "keras": keras.__version__},
    arguments={**arguments, "batch_size": batch_size, "learning_rate": rate},
    parameters=sum(math.prod(v.shape) for v in model.trainable_variables),
)
clock = CosineOfTime(60 * args.minutes, rate, args.warmup, out / "curve.json")
model.fit(
    data.train,
    batch_size=batch_size,
    epochs=10**6,
    validation_data=part,
    validation_batch_size=500,
    callbacks=[clock],
    verbose=0,
)
epochs = clock.steps * batch_size / len(data.train)
write(minutes=clock.elapsed / 60, steps=clock.steps, epochs=round(epochs, 2))
model.save_weights(out / "model.weights.h5")

if likelihood:
    # What is measured computes in float32, as what is exported does.
    trained = model
    model = model_class.from_config({**trained.get_config(), "dtype": "float32"})
    model.set_weights(trained.get_weights())
    nats = model.negative_log_likelihood(test, batch_size=250, progress=False)
    write(
        images=len(nats),
        nats=float(nats.mean()),
        standard_error=float(nats.std() / len(nats) ** 0.5),
        bits_per_dimension=float(nats.mean() / math.log(2) / math.prod(model.image_shape)),
    )
    drawn = model.generate(64, seed=0)
    kgen.images.save_png(kgen.images.grid(drawn), out / "samples.png")
    images = np.repeat(model.cut_to_levels(test.images[:8]), 8, axis=0)
    mask = np.arange(28)[:, None] < np.full((28, 28), 14)
    drawn = model.complete(images, mask).reshape(8, 8, 28, 28, 1)
    rows = np.concatenate([test.images[:8, None], drawn], axis=1).reshape(-1, 28, 28, 1)
    kgen.images.save_png(kgen.images.grid(rows, columns=9), out / "completions.png")
else:
    reference = kgen.evaluation.Reference(test)
    classes = np.repeat(np.arange(10), 10)
    labels = reference.labels_like(args.num_samples, seed=1)
    for scale in (1.5, 1.0, 2.0):
        options = {"batch_size": 500, "guidance_scale": scale, "progress": False}
        drawn = model.generate(100, classes, seed=0, **options)  # a row per class
        kgen.images.save_png(kgen.images.grid(drawn, columns=10), out / f"samples_{scale}.png")
        drawn = model.generate(len(labels), labels, seed=1, **options)
        metrics = ("fd", "precision", "recall", "label_accuracy")
        measured = reference.measure(drawn, labels, metrics, floor=False)["metrics"]
        figures = {title: round(entry["value"], 4) for title, entry in measured.items()}
        write(**{f"guidance_scale_{scale}": {"num_samples": len(labels), **figures}})
