"""How many of 1,000 modes a GAN draws: Stacked MNIST, for so many CPU minutes.

python benchmarks/stacked_mnist.py --data mnist.npz --model r3gan --cpu-minutes 20

An image is three digits, drawn at random, as its colour channels; its mode is the number that they
make. Of 26,000 drawn images `lenet128` reads every channel; reported are the modes that occur, and
the divergence of their shares from even ones, KL(drawn || even) in nats: Metz et al., "Unrolled
generative adversarial networks" (ICLR 2017; arXiv 1611.02163), section 3.3.1, with the count of Lin
et al., "PacGAN" (NeurIPS 2018; arXiv 1712.04086), section 4.1. The model is not told the digits.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

import kgen
from kgen.evaluation import features
from kgen.training.callbacks import CPUMinutes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="mnist.npz in the Keras layout")
parser.add_argument("--model", default="r3gan", help="dcgan, resnet_gan, r3gan or vit_gan")
parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", dest="settings")
parser.add_argument("--cpu-minutes", type=float, default=20.0, help="of training")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--num-samples", type=int, default=26_000)
parser.add_argument("--every", type=int, default=2, help="epochs of 1,000 steps between counts")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/stacked_mnist"))
args = parser.parse_args()

keras.utils.set_random_seed(args.seed)
digits = kgen.data.load(args.data, validation_fraction=0.0).train.images
lenet = features.get("lenet128", (28, 28, 1))


class Stacks(keras.utils.PyDataset):
    """Batches of images of three digits, others in every epoch."""

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        rng = np.random.default_rng([args.seed, self.epoch, index])
        chosen = digits[rng.integers(0, len(digits), (args.batch_size, 3)), ..., 0]
        return (chosen.transpose(0, 2, 3, 1),)

    def on_epoch_end(self):
        self.epoch += 1


def count(model):
    """Modes that are drawn, and the divergence of their shares in nats."""
    images = model.generate(args.num_samples, seed=args.seed, batch_size=250, progress=False)
    read = [
        np.argmax(lenet.probabilities(features.extract(lenet, part, cache=False)), axis=-1)
        for part in np.split(images, 3, axis=-1)
    ]
    shares = np.bincount(read[0] * 100 + read[1] * 10 + read[2], minlength=1000) / len(images)
    there = shares[shares > 0]
    return int(np.count_nonzero(shares)), float((there * np.log(1000 * there)).sum())


class Counts(keras.callbacks.Callback):
    """Counts the modes every few epochs."""

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % args.every == 0:
            logs["modes"], logs["kl"] = count(self.model)


settings = {name: json.loads(value) for name, _, value in (s.partition("=") for s in args.settings)}
preset = kgen.models.get(args.model).presets[f"{args.model}_28x28"]
model = kgen.models.get(args.model)(
    **{**preset, "image_shape": (28, 28, 3), "seed": args.seed, **settings}
)
model.compile()
minutes = CPUMinutes(args.cpu_minutes)
model.fit(Stacks(), epochs=100_000, callbacks=[minutes, Counts()], verbose=2)
modes, divergence = count(model)
print(
    f"{args.model}: {modes} of 1,000 modes, KL {divergence:.3f} nats after {minutes.minutes:.1f} "
    f"CPU minutes, {model.steps_trained} steps of {args.batch_size}"
)
kgen.images.save_png(kgen.images.grid(model.generate(64, seed=0)), args.out / f"{args.model}.png")
