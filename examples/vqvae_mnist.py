"""A VQ-VAE on MNIST, a PixelCNN over its codes, and both as one generator.

    python examples/vqvae_mnist.py --data mnist.npz --out runs/vqvae_mnist
    python examples/vqvae_mnist.py --data mnist.npz --quantizer fsq --out runs/fsq_mnist

Measured on a busy machine with 2 cores (AMD EPYC), TensorFlow, seed 0: the VQ-VAE takes 9 CPU
minutes and uses 97.3 % of its 128 codes by the end of the first of 5 epochs and all of them
from then on. The prior takes 11 CPU minutes. Test: codes 113.55 nats + image given its codes
725.86 nats = 839.41 nats, 1.545 bits per dimension, an upper bound. Samples:
pictures/vqvae_mnist.png; images and their reconstructions:
pictures/vqvae_mnist_reconstructions.png.
"""

import argparse
import pathlib
import time

import keras
import numpy as np

import kgen

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="mnist.npz in the Keras layout")
parser.add_argument("--out", default="runs/vqvae_mnist")
parser.add_argument("--quantizer", default="ema", help="ema, gradient or fsq")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--prior-epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(args.seed)
data = kgen.data.load(args.data, validation_fraction=0.0)


def train(model, epochs, learning_rate):
    steps = epochs * (len(data.train) // args.batch_size)
    model.compile(learning_rate=keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    start, cpu_start = time.perf_counter(), time.process_time()
    history = model.fit(data.train, batch_size=args.batch_size, epochs=epochs, verbose=2).history
    minutes = (time.perf_counter() - start) / 60
    cpu_minutes = (time.process_time() - cpu_start) / 60
    print(f"{model.name}: training {minutes:.1f} min ({cpu_minutes:.0f} CPU minutes)", flush=True)
    return history


tokenizer = kgen.models.VQVAE.from_preset("vqvae_28x28", quantizer=args.quantizer, seed=args.seed)
history = train(tokenizer, args.epochs, 1e-3)
tokenizer.save(out / "tokenizer.keras")
used = " ".join(f"{100 * share:.1f}" for share in history["codes_used"])
figures = tokenizer.evaluate(data.test, return_dict=True, verbose=0)
print(
    f"{tokenizer.num_codes} codes, used by the end of each epoch: {used} %; on the test set "
    f"perplexity {figures['perplexity']:.0f} in a batch, reconstruction "
    f"{figures['reconstruction_loss']:.2f} nats",
    flush=True,
)
images = np.stack([data.test.images[:32], tokenizer(data.test.images[:32])], axis=1)
kgen.images.save_png(
    kgen.images.grid(images.reshape(-1, 28, 28, 1), columns=8), out / "reconstructions.png"
)

model = kgen.models.VQPixelCNN.from_preset("vq_pixelcnn_28x28", tokenizer=tokenizer, seed=args.seed)
train(model, args.prior_epochs, 2e-3)
figures = model.evaluate(data.test, return_dict=True, verbose=0)
print(
    f"test: codes {figures['loss']:.2f} nats + image given its codes "
    f"{figures['decoder_loss']:.2f} nats = {figures['loss'] + figures['decoder_loss']:.2f} nats",
    flush=True,
)
model.save(out / "model.keras")
kgen.images.save_png(kgen.images.grid(model.generate(64, seed=0)), out / "samples.png")
print(
    f"wrote {out}/tokenizer.keras, model.keras, samples.png, reconstructions.png (images, theirs)"
)
