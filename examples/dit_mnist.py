"""A diffusion transformer on MNIST: samples, FD-lenet128 as it trains, inpainting, variations.

python examples/dit_mnist.py --data mnist.npz --out runs/dit_mnist
"""

import argparse
import pathlib
import time

import keras
import numpy as np

import kgen

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="mnist.npz in the Keras layout")
parser.add_argument("--out", default="runs/dit_mnist")
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--batch-size", type=int, help="by default the model's")
parser.add_argument("--learning-rate", type=float, help="by default the model's")
parser.add_argument("--num-samples", type=int, default=10_000, help="for FD")
parser.add_argument("--num-steps", type=int, default=16, help="of the sampler")
parser.add_argument("--dtype", default="mixed_bfloat16", help="in which the layers compute")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(args.seed)
data = kgen.data.load(args.data, validation_fraction=0.0)

model = kgen.models.DiT.from_preset("dit_28x28", dtype=args.dtype, seed=args.seed)
batch_size = args.batch_size or model.default_batch_size
model.compile(
    learning_rate=args.learning_rate, total_steps=args.epochs * (len(data.train) // batch_size)
)

start, cpu_start = time.perf_counter(), time.process_time()
model.fit(
    data.train,
    batch_size=batch_size,
    epochs=args.epochs,
    callbacks=[
        kgen.evaluation.EvaluateSamples(data.test, every=2, num_samples=1024, metrics=["fd"]),
        keras.callbacks.ModelCheckpoint(out / "last.keras"),
    ],
    verbose=2,
)
minutes = (time.perf_counter() - start) / 60
cpu_minutes = (time.process_time() - cpu_start) / 60

# What is measured and kept computes in float32, as what is exported does.
trained = model
model = type(trained).from_config({**trained.get_config(), "dtype": "float32"})
model.set_weights(trained.get_weights())
model.save(out / "model.keras")
print(f"training {minutes:.1f} min ({cpu_minutes:.0f} CPU minutes)", flush=True)

kgen.images.save_png(
    kgen.images.grid(model.generate(64, seed=0, num_steps=args.num_steps)), out / "samples.png"
)
images = data.test.images[:8]
mask = np.arange(28)[:, None] < np.full((28, 28), 14)
drawn = model.inpaint(np.repeat(images, 7, axis=0), mask, num_steps=args.num_steps)
strengths = np.tile(np.linspace(0.2, 0.95, 7), 8)
varied = model.vary(np.repeat(images, 7, axis=0), strengths, num_steps=args.num_steps)
for name, rows in (("inpainted", drawn), ("varied", varied)):
    rows = np.concatenate([images[:, None], rows.reshape(8, 7, 28, 28, 1)], axis=1)
    kgen.images.save_png(
        kgen.images.grid(rows.reshape(-1, 28, 28, 1), columns=8), out / f"{name}.png"
    )
print(f"wrote {out}/model.keras, samples.png, inpainted.png and varied.png", flush=True)

reference = kgen.evaluation.Reference(data.test, data.train)
start = time.perf_counter()
drawn = model.generate(args.num_samples, seed=1, num_steps=args.num_steps)
seconds = time.perf_counter() - start
figures = reference.measure(drawn, metrics=("fd", "precision", "recall"))["metrics"]
for title, entry in figures.items():
    print(f"{title} {entry['value']:.4g} (floor {entry['floor']:.4g})")
print(f"{args.num_samples:,} images of {args.num_steps} steps in {seconds:.0f} s")
