"""MaskGIT and a causal transformer over the same codes of MNIST, side by side.

python examples/vqvae_mnist.py --data mnist.npz --out runs/vqvae_mnist
python examples/maskgit_mnist.py --data mnist.npz --tokenizer runs/vqvae_mnist/tokenizer.keras

Measured with one core (AMD EPYC), TensorFlow, seed 0: the causal transformer, 2 epochs, 8 CPU
minutes: FD-lenet128 32.13, label accuracy 0.811, codes 114.4 nats. MaskGIT, 6 epochs, 16 CPU
minutes: 18.78 and 0.961 in 8 steps, 17.60 in 12, 17.29 in 16 (real images 2.828). Time of an image
in shares of the causal transformer's: 0.95, 1.24 and 1.49 alone, 2.91, 4.63 and 6.09 in batches of
64. Digits 0 to 7, a row each: pictures/vq_transformer_mnist.png and maskgit_mnist.png; upper halves
kept: pictures/maskgit_mnist_completions.png.
"""

import argparse
import pathlib
import time

import keras
import numpy as np

import kgen

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="mnist.npz in the Keras layout")
parser.add_argument("--tokenizer", required=True, help="tokenizer.keras of vqvae_mnist.py")
parser.add_argument("--out", default="runs/maskgit_mnist")
parser.add_argument("--epochs", type=int, default=2, help="of the causal transformer")
parser.add_argument("--maskgit-epochs", type=int, default=6)
parser.add_argument("--num-layers", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--num-samples", type=int, default=10_000, help="for FD")
parser.add_argument("--dtype", default="mixed_bfloat16", help="in which the layers compute")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

data = kgen.data.load(args.data, validation_fraction=0.0)
reference = kgen.evaluation.Reference(data.test, data.train)
labels = reference.labels_like(args.num_samples, seed=1)


def train(model_class, epochs):
    name = model_class.__name__.lower()
    if (out / f"{name}.keras").exists():
        print(f"{name}: as in {out}/{name}.keras", flush=True)
        return keras.saving.load_model(out / f"{name}.keras")
    keras.utils.set_random_seed(args.seed)
    model = model_class(
        (28, 28, 1),
        num_classes=10,
        tokenizer=args.tokenizer,
        num_layers=args.num_layers,
        dtype=args.dtype,
        seed=args.seed,
    )
    steps = epochs * (len(data.train) // args.batch_size)
    model.compile(learning_rate=keras.optimizers.schedules.CosineDecay(2e-3, steps))
    start, cpu_start = time.perf_counter(), time.process_time()
    model.fit(data.train, batch_size=args.batch_size, epochs=epochs, verbose=2)
    minutes = (time.perf_counter() - start) / 60
    cpu_minutes = (time.process_time() - cpu_start) / 60
    # What is measured and kept computes in float32, as what is exported does.
    trained = model
    model = model_class.from_config({**trained.get_config(), "dtype": "float32"})
    model.set_weights(trained.get_weights())
    model.compile()
    figures = model.evaluate(data.test, return_dict=True, verbose=0)
    spelled = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"{name}: training {minutes:.1f} min ({cpu_minutes:.0f} CPU minutes); test {spelled}")
    model.save(out / f"{name}.keras")
    classes = np.repeat(np.arange(8), 8)
    kgen.images.save_png(kgen.images.grid(model.generate(64, classes, seed=0)), out / f"{name}.png")
    return model


def measure(text, model, **options):
    images = model.generate(args.num_samples, labels, 1, progress=False, **options)
    found = reference.measure(images, labels, ("fd", "label_accuracy"))["metrics"]
    print(f"{text}:", ", ".join(f"{t} {e['value']:.4g}" for t, e in found.items()), flush=True)


def time_samplers(batch_size, rounds=5):
    """One after the other in every round, so that all meet the same load."""
    times = {text: [] for text in samplers}
    for i in range(-1, rounds):  # the first round compiles
        for text, (model, options) in samplers.items():
            start = time.perf_counter()
            model.generate(batch_size, labels[:batch_size], i + 1, batch_size=batch_size, **options)
            times[text].append(time.perf_counter() - start)
    first = np.array(next(iter(times.values()))[1:])
    for text, seconds in times.items():
        share = np.median(seconds[1:] / first)
        print(
            f"batch {batch_size}, {text}: {1000 * np.median(seconds[1:]) / batch_size:.2f} ms an "
            f"image, {share:.2f} of the first's",
            flush=True,
        )


def complete(model):
    """Each row: an image, its upper half completed, and as digits of the classes 0 to 4."""
    images = data.test.images[:8]
    mask = np.arange(28)[:, None] < np.full((28, 28), 14)
    own = np.repeat(data.test.labels[:8], 3).reshape(8, 3)
    others = np.broadcast_to(np.arange(5), (8, 5))
    classes = np.concatenate([own, others], axis=1).reshape(-1)
    drawn = model.complete(np.repeat(images, 8, axis=0), mask, classes)
    rows = np.concatenate([images[:, None], drawn.reshape(8, 8, 28, 28, 1)], axis=1)
    kgen.images.save_png(
        kgen.images.grid(rows.reshape(-1, 28, 28, 1), columns=9), out / "completions.png"
    )


floor = reference.measure(data.train.images[: args.num_samples], metrics=("fd",), floor=False)
print("floor:", {title: round(entry["value"], 3) for title, entry in floor["metrics"].items()})
causal = train(kgen.models.VQTransformer, args.epochs)
model = train(kgen.models.MaskGIT, args.maskgit_epochs)
samplers = {"causal transformer": (causal, {})}
for num_steps in (8, 12, 16):
    samplers[f"MaskGIT, {num_steps} steps"] = (model, {"num_steps": num_steps})
for batch_size in (1, 64):
    time_samplers(batch_size)
for text, (one, options) in samplers.items():
    measure(text, one, **options)
reconstructed = model.predict(data.test.images[: args.num_samples], batch_size=64, verbose=0)
found = reference.measure(reconstructed, metrics=("fd",), floor=False)["metrics"]
print("the codes' own limit, reconstructions:", {t: round(e["value"], 3) for t, e in found.items()})
complete(model)
print(f"wrote {out}/vqtransformer.keras, maskgit.keras, their .png, and completions.png")
