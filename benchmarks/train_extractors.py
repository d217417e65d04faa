"""Trains the classifiers behind the bundled feature extractors and writes their weights.

    python benchmarks/train_extractors.py --mnist mnist.npz --cifar10 cifar10/ --out weights/

Measured on a machine with 4 cores (AMD EPYC), TensorFlow, seed 0: lenet128, 12 epochs in
0.8 minutes, test accuracy 0.9930 on MNIST; cifar_cnn, 16 epochs in 7.8 minutes on a busy
machine, test accuracy 0.8200 on CIFAR-10 (JPEG copy).

Weights are stored, and measured, in float16. What is shipped lies in
`kgen/evaluation/weights`, and its sha256 in `kgen/evaluation/features.py`: a new training
gives new features, whose scores do not compare with the old ones.
"""

import argparse
import hashlib
import pathlib
import time

import keras
import numpy as np

import kgen
from kgen.evaluation import classifiers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", help="mnist.npz in the Keras layout")
    parser.add_argument("--cifar10", help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--out", default="weights")
    parser.add_argument("--mnist-epochs", type=int, default=12)
    parser.add_argument("--cifar10-epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.mnist:
        data = kgen.data.load(args.mnist, validation_fraction=0)
        train("lenet128", classifiers.lenet, data, args.mnist_epochs, args.seed, out)
    if args.cifar10:
        data = kgen.data.load(args.cifar10, validation_fraction=0, horizontal_flip=True)
        train("cifar_cnn", classifiers.cifar_network, data, args.cifar10_epochs, args.seed, out)


def train(name, build, data, epochs, seed, out):
    """Trains one network, rounds its weights to float16, measures and writes it."""
    network = build(data.image_shape, data.num_classes, seed)
    start = time.perf_counter()
    classifiers.train(network, data.train, epochs, seed=seed, verbose=2)
    minutes = (time.perf_counter() - start) / 60
    stored = [weight.astype("float16") for weight in network.get_weights()]
    network.set_weights(stored)
    accuracy = np.mean(classifiers.classify(network, data.test.images) == data.test.labels)
    path = out / f"{name}.npz"
    np.savez(path, **{f"weight_{i}": weight for i, weight in enumerate(stored)})
    print(
        f"{name}: {epochs} epochs in {minutes:.1f} min on {keras.backend.backend()}, test accuracy "
        f"{accuracy:.4f}, {network.count_params()} parameters, {path.stat().st_size} bytes, "
        f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    )


if __name__ == "__main__":
    main()
