"""PixelCNN, PixelRNN, PixelCNN++ or ImageGPT on dynamically binarised MNIST, small and brief.

    python examples/autoregressive_mnist.py pixelcnn --data mnist.npz

The test set is binarised once, from seed 0, and is not Larochelle's static binarisation. For
a model trained in earnest see gated_pixelcnn_mnist.py.

Measured with 2 cores (AMD EPYC), TensorFlow, seed 0, 1 epoch, exact test NLL:

    pixelcnn                                                 5 CPU minutes, 91.72 nats
    pixelrnn    --train-images 30000 --test-images 2000      3 CPU minutes, 94.76 nats
    pixelcnn_pp --train-images 30000 --test-images 2000      3 CPU minutes, 85.82 nats
    image_gpt   --batch-size 16 --points 8                  33 CPU minutes, 83.98 nats

Samples: pictures/<model>_mnist.png; completions of the lower half:
pictures/<model>_mnist_completions.png.
"""

import argparse
import pathlib
import time

import keras
import numpy as np

import kgen

# Small enough for minutes on two cores.
MODELS = {
    "pixelcnn": {"filters": 64, "num_layers": 6},
    "pixelrnn": {"filters": 16, "num_layers": 2},
    "pixelcnn_pp": {"filters": 16, "num_blocks": 1, "dropout": 0.0, "ema_decay": 0.99},
    "image_gpt": {"dim": 64, "num_layers": 3, "num_heads": 2},
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", choices=MODELS)
parser.add_argument("--data", required=True, help="mnist.npz in the Keras layout")
parser.add_argument("--out", help="default: runs/<model>_mnist")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--train-images", type=int, default=60_000)
parser.add_argument("--test-images", type=int, default=10_000)
parser.add_argument("--points", type=int, default=1, help="lines of the curve per epoch")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out or f"runs/{args.model}_mnist")
out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(args.seed)
data = kgen.data.load(args.data, validation_fraction=0.0)
images = data.train.images[: args.train_images]
test = data.test.binarized(seed=0).images[:: len(data.test) // args.test_images]

model = kgen.models.get(args.model)((28, 28, 1), num_levels=2, seed=args.seed, **MODELS[args.model])
steps = len(images) // args.batch_size // args.points
model.compile(
    learning_rate=keras.optimizers.schedules.CosineDecay(2e-3, args.epochs * args.points * steps)
)

start, cpu_start = time.perf_counter(), time.process_time()
model.fit(
    images,
    batch_size=args.batch_size,
    epochs=args.epochs * args.points,
    steps_per_epoch=steps,
    verbose=2,
)
minutes = (time.perf_counter() - start) / 60
cpu_minutes = (time.process_time() - cpu_start) / 60
model.save(out / "model.keras")
nats = model.negative_log_likelihood(test)
print(
    f"{args.model}: training {minutes:.1f} min ({cpu_minutes:.0f} CPU minutes) on "
    f"{args.epochs} x {len(images):,} images; test NLL {nats.mean():.2f} nats (exact, "
    f"{len(test):,} images)",
    flush=True,
)

# Samples, and images (left) whose lower halves are drawn again.
kgen.images.save_png(kgen.images.grid(model.generate(64, seed=0)), out / "samples.png")
mask = np.arange(28)[:, None] < np.full((28, 28), 14)
drawn = model.complete(np.repeat(test[:8], 7, axis=0), mask).reshape(8, 7, 28, 28, 1)
rows = np.concatenate([test[:8, None], drawn], axis=1).reshape(-1, 28, 28, 1)
kgen.images.save_png(kgen.images.grid(rows, columns=8), out / "completions.png")
print(f"wrote {out}/model.keras, samples.png and completions.png")
