"""Trains the classifiers behind the bundled feature extractors and writes their weights.

    python benchmarks/train_extractors.py --mnist mnist.npz --cifar10 cifar10/ --emoji emoji64/ \
        --out weights/

Measured on a machine with 4 cores (AMD EPYC), TensorFlow, seed 0: lenet128, 12 epochs in
0.8 minutes, test accuracy 0.9930 on MNIST; cifar_cnn, 16 epochs in 7.8 minutes on a busy
machine, test accuracy 0.8200 on CIFAR-10 (JPEG copy). On one core of two, busy: general_cnn,
3,000 steps in 53 minutes, test accuracy 0.572 on CIFAR-10 (JPEG copy), 0.880 on MNIST and 0.113
on 99 kinds of emoji.

Weights are stored, and measured, in float16. What is shipped lies in
`kgen/layers/weights`, and its sha256 in `kgen/layers/pretrained.py`: a new training
gives new features, whose scores do not compare with the old ones.
"""

import argparse
import hashlib
import json
import pathlib
import time
import zlib

import degradations
import keras
import numpy as np
from keras import layers
from PIL import Image

import kgen
from kgen.evaluation import classifiers
from kgen.layers import pretrained


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", help="mnist.npz in the Keras layout")
    parser.add_argument("--cifar10", help="folder with train/<class>/ and test/<class>/")
    parser.add_argument(
        "--emoji", help="folder of studios with metadata.jsonl; general_cnn needs all three"
    )
    parser.add_argument("--only", choices=["lenet128", "cifar_cnn", "general_cnn"])
    parser.add_argument("--out", default="weights")
    parser.add_argument("--mnist-epochs", type=int, default=12)
    parser.add_argument("--cifar10-epochs", type=int, default=16)
    parser.add_argument("--general-steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    wanted = {args.only} if args.only else {"lenet128", "cifar_cnn", "general_cnn"}
    mnist = args.mnist and kgen.data.load(args.mnist, validation_fraction=0)
    cifar10 = args.cifar10 and kgen.data.load(
        args.cifar10, validation_fraction=0, horizontal_flip=True
    )
    if mnist and "lenet128" in wanted:
        train("lenet128", pretrained.lenet, mnist, args.mnist_epochs, args.seed, out)
    if cifar10 and "cifar_cnn" in wanted:
        train("cifar_cnn", pretrained.cifar_network, cifar10, args.cifar10_epochs, args.seed, out)
    if mnist and cifar10 and args.emoji and "general_cnn" in wanted:
        train_general(mnist, cifar10, Emoji(args.emoji), args.general_steps, args.seed, out)


def train(name, build, data, epochs, seed, out):
    """Trains one network, rounds its weights to float16, measures and writes it."""
    network = build(data.image_shape, data.num_classes, seed)
    start = time.perf_counter()
    classifiers.train(network, data.train, epochs, seed=seed, verbose=2)
    minutes = (time.perf_counter() - start) / 60
    stored = in_float16(network)
    accuracy = np.mean(classifiers.classify(network, data.test.images) == data.test.labels)
    sha256 = write(stored, out / f"{name}.npz")
    print(
        f"{name}: {epochs} epochs in {minutes:.1f} min on {keras.backend.backend()}, test accuracy "
        f"{accuracy:.4f}, {network.count_params()} parameters, sha256 {sha256}"
    )


def in_float16(network):
    """The weights of a network, which it has rounded from now on."""
    stored = [weight.astype("float16") for weight in network.get_weights()]
    network.set_weights(stored)
    return stored


def write(weights, path):
    np.savez(path, **{f"weight_{i}": weight for i, weight in enumerate(weights)})
    return hashlib.sha256(path.read_bytes()).hexdigest()


# general_cnn ------------------------------------------------------------------------------

#: What images are spoiled with, and the level from the strength 0 to 1.
DEGRADATIONS = {
    "blur": (degradations.blur, lambda t: 0.4 * 10**t),  # pixels of an image of 32
    "noise": (degradations.noise, lambda t: 6 * 12**t),
    "palette": (degradations.palette, lambda t: 30 + 150 * t),
    "mixture": (degradations.mixture, lambda t: 1 + int(4 * t)),
    "shuffle": (degradations.shuffle, lambda t: 2 if t < 0.5 else 4),
}


class Emoji:
    """Emoji of several studios: uint8 `[N, 64, 64, 4]`, subcategories, and which are held out.

    Variants of one emoji are held out together, whoever drew them.
    """

    def __init__(self, folder):
        images, names, held_out = [], [], []
        for metadata in sorted(pathlib.Path(folder).glob("*/metadata.jsonl")):
            for line in metadata.read_text().splitlines():
                entry = json.loads(line)
                base = entry["text"].split(",")[0].split(":")[0]
                with Image.open(metadata.parent / entry["file_name"]) as image:
                    images.append(np.asarray(image.convert("RGBA").resize((64, 64))))
                names.append(entry["subcategory"])
                held_out.append(zlib.crc32(base.encode()) % 10 == 0)
        self.images, self.held_out = np.stack(images), np.array(held_out)
        self.classes, self.labels = np.unique(names, return_inverse=True)
        # Persons of every skin colour are most of the emoji: rare kinds are drawn more often.
        often = np.bincount(self.labels[~self.held_out], minlength=len(self.classes))
        weights = np.where(self.held_out, 0, 1 / np.sqrt(np.maximum(often[self.labels], 1)))
        self.probabilities = weights / weights.sum()


class Mixed:
    """Batches of the three kinds of images at one of four sizes, half of the images spoiled."""

    def __init__(self, mnist, cifar10, emoji, seed):
        self.mnist, self.cifar10, self.emoji, self.seed = mnist, cifar10, emoji, seed

    def batch(self, step):
        """Images for the network, their classes, and `[N, degradations]`, 0 to 1."""
        rng = np.random.default_rng([self.seed, step])
        side = int(rng.choice([24, 32, 48, 64], p=[0.1, 0.72, 0.12, 0.06]))
        found = [
            part
            for images, labels in self._images(side, rng)
            for part in _spoiled(_jittered(images, rng), labels, rng)
        ]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _images(self, side, rng):
        split = self.cifar10.train
        chosen = np.sort(rng.integers(len(split.images), size=56))
        images = _resized(split.images[chosen], side)
        if rng.uniform() < 0.15:
            images = _grey(images)
        yield _flipped(images, rng), np.asarray(split.labels)[chosen]

        classes = self.cifar10.num_classes
        split = self.mnist.train
        chosen = np.sort(rng.integers(len(split.images), size=16))
        images = _resized(split.images[chosen], side)
        if rng.uniform() < 0.4:  # in two colours
            ink, paper = rng.integers(256, size=(2, 3))
            images = np.rint(paper + images / 255 * (ink - paper)).astype("uint8")
        yield images, classes + np.asarray(split.labels)[chosen]

        classes += self.mnist.num_classes
        chosen = rng.choice(len(self.emoji.images), size=56, p=self.emoji.probabilities)
        images = _resized(self.emoji.images[chosen], side)
        alone = rng.uniform()
        if alone < 0.4:  # on white, black or any colour
            paper = (
                rng.choice([0, 255], size=1) if rng.uniform() < 0.6 else rng.integers(256, size=3)
            )
            alpha = images[..., 3:] / 255
            images = np.rint(paper + alpha * (images[..., :3] - paper.astype(float))).astype(
                "uint8"
            )
        if alone < 0.1:
            images = _grey(images)
        yield _flipped(images, rng), classes + self.emoji.labels[chosen]


def _spoiled(images, labels, rng):
    """Half of the images as they are, and the other half in groups, each spoiled in its way."""
    half = len(images) // 2
    none = np.zeros((half, len(DEGRADATIONS)), "float32")
    yield classifiers.for_general_network(images[:half]), labels[:half], none
    groups = np.array_split(np.arange(half, len(images)), 4 if len(images) > 20 else 2)
    for group in groups:
        kind = rng.integers(len(DEGRADATIONS))
        name, (spoil, level) = list(DEGRADATIONS.items())[kind]
        strength = rng.uniform()
        level = level(strength)
        if name == "blur":
            level *= images.shape[1] / 32
        elif name == "palette":
            level *= rng.choice([-1, 1])
        given = classifiers.for_general_network(spoil(images[group], level, rng))
        target = np.zeros((len(group), len(DEGRADATIONS)), "float32")
        target[:, kind] = 0.25 + 0.75 * strength
        yield given, labels[group], target


def _resized(images, side):
    if images.shape[1] == side:
        return images
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[images.shape[-1]]
    resized = [
        np.asarray(
            Image.fromarray(image[..., 0] if mode == "L" else image, mode).resize((side, side))
        )
        for image in images
    ]
    return np.stack(resized).reshape(len(images), side, side, -1)


def _grey(images):
    return np.rint(images @ np.array([0.299, 0.587, 0.114])).astype("uint8")[..., None]


def _flipped(images, rng):
    chosen = rng.uniform(size=(len(images), 1, 1, 1)) < 0.5
    return np.where(chosen, images[:, :, ::-1], images)


def _jittered(images, rng):
    """Moved by up to a sixteenth of the side."""
    side = images.shape[1]
    margin = max(1, side // 16)
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    places = rng.integers(2 * margin + 1, size=(len(images), 2))
    return np.stack(
        [image[y : y + side, x : x + side] for image, (y, x) in zip(padded, places, strict=True)]
    )


def train_general(mnist, cifar10, emoji, steps, seed, out):
    """Trains the network of any size, rounds its weights to float16, measures and writes it."""
    network = pretrained.general_network(seed)
    ones = [cifar10.num_classes, mnist.num_classes, len(emoji.classes)]
    initial = [keras.initializers.HeNormal(seed=1000 * seed + 6 + i) for i in range(2)]
    logits = layers.Dense(sum(ones), kernel_initializer=initial[0])(network.output)
    spoiled = layers.Dense(len(DEGRADATIONS), kernel_initializer=initial[1])(network.output)
    model = keras.Model(network.input, [logits, spoiled])
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                2e-5, steps, warmup_target=2e-3, warmup_steps=min(100, steps // 10)
            )
        ),
        [
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            keras.losses.BinaryCrossentropy(from_logits=True),
        ],
        loss_weights=[1, 3],
        metrics=[["accuracy"], []],
        jit_compile=False,
    )
    batches = Mixed(mnist, cifar10, emoji, seed)
    start = time.perf_counter()
    for step in range(steps):
        images, labels, strengths = batches.batch(step)
        logs = model.train_on_batch(images, (labels, strengths), return_dict=True)
        if step % 100 == 99:
            shown = ", ".join(f"{name} {float(value):.3f}" for name, value in logs.items())
            print(f"step {step + 1}, {time.perf_counter() - start:.0f} s: {shown}", flush=True)
            model.reset_metrics()
    minutes = (time.perf_counter() - start) / 60
    stored = in_float16(network)
    first = np.cumsum([0, *ones])
    run = classifiers.forward(keras.Model(model.input, logits))

    def accuracy(images, labels, kind):
        found = run(classifiers.for_general_network(images))[:, first[kind] : first[kind + 1]]
        return np.mean(found.argmax(axis=1) == labels)

    unseen = emoji.held_out
    accuracies = {
        "CIFAR-10 (JPEG copy)": accuracy(cifar10.test.images, cifar10.test.labels, 0),
        "MNIST": accuracy(mnist.test.images, mnist.test.labels, 1),
        f"{len(emoji.classes)} kinds of emoji": accuracy(
            emoji.images[unseen], emoji.labels[unseen], 2
        ),
    }
    sha256 = write(stored, out / "general_cnn.npz")
    print(
        f"general_cnn: {steps} steps in {minutes:.1f} min on {keras.backend.backend()}, test "
        f"accuracy {', '.join(f'{value:.4f} on {name}' for name, value in accuracies.items())}, "
        f"{network.count_params()} parameters, sha256 {sha256}"
    )


if __name__ == "__main__":
    main()
