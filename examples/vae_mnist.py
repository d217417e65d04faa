"""A VAE on dynamically binarised MNIST: ELBO, importance-weighted likelihood, samples.

    python examples/vae_mnist.py --data mnist.npz --out runs/vae_mnist

The test set is binarised once, from seed 0, and is not Larochelle's static binarisation.

Measured on a busy machine with 2 cores (AMD EPYC), TensorFlow, seed 0: 12 epochs in 45 minutes,
19 CPU minutes; test ELBO -88.67 nats (KL 26.93, 27 active units), NLL with 5,000 importance
samples 84.05 nats on every 50th test image, 200 of them. Samples: pictures/vae_mnist.png.
"""

import argparse
import pathlib
import time

import keras

import kgen

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="mnist.npz in the Keras layout")
parser.add_argument("--out", default="runs/vae_mnist")
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--learning-rate", type=float, default=2e-3)
parser.add_argument("--dtype", default="mixed_bfloat16", help="in which the layers compute")
parser.add_argument("--importance-samples", type=int, default=5_000)
parser.add_argument("--test-images", type=int, default=200, help="for the IW likelihood")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(args.seed)
data = kgen.data.load(args.data, validation_fraction=0.0)
test = data.test.binarized(seed=0)

model = kgen.models.VAE.from_preset("vae_28x28", dtype=args.dtype, seed=args.seed)
steps = args.epochs * (len(data.train) // args.batch_size)
model.compile(learning_rate=keras.optimizers.schedules.CosineDecay(args.learning_rate, steps))

start, cpu_start = time.perf_counter(), time.process_time()
model.fit(data.train, batch_size=args.batch_size, epochs=args.epochs, verbose=2)
minutes = (time.perf_counter() - start) / 60
cpu_minutes = (time.process_time() - cpu_start) / 60

# What is measured and kept computes in float32, as what is exported does.
trained = model
model = type(trained).from_config({**trained.get_config(), "dtype": "float32"})
model.set_weights(trained.get_weights())
model.compile()
model.save(out / "model.keras")
figures = model.evaluate(test, return_dict=True, verbose=0)
print(
    f"training {minutes:.1f} min ({cpu_minutes:.0f} CPU minutes), test ELBO "
    f"-{figures['loss']:.2f} nats (KL {figures['kl_loss']:.2f}, {figures['active_units']:.0f} "
    "active units)",
    flush=True,
)
kgen.images.save_png(kgen.images.grid(model.generate(64, seed=0)), out / "samples.png")
print(f"wrote {out}/samples.png and {out}/model.keras", flush=True)

nll = model.negative_log_likelihood(
    test.images[:: len(test) // args.test_images], importance_samples=args.importance_samples
)
print(
    f"test NLL {nll.mean():.2f} nats ({len(nll):,} images, {args.importance_samples:,} importance "
    "samples)"
)
