"""Small classifiers: what the bundled feature extractors are made of, and what the
classification accuracy score trains."""

import math

import keras
import numpy as np
from keras import ops

from kgen.data.splits import Split, check_images, check_labels
from kgen.layers.pretrained import cifar_network, lenet
from kgen.training.step import compile_function

BATCH_SIZE = 128


def for_general_network(images):
    """uint8 images `[N, H, W, 1, 3 or 4]` as `general_network` takes them, float32.

    Colours are multiplied by their alpha: under full transparency they are nobody's to see. Sides
    are brought to between 24 and 96 by whole factors, by repetition and by averages, so that no
    filter of interpolation is part of a score.
    """
    side = max(images.shape[1:3])
    grow, shrink = -(-24 // side), -(-side // 96)
    images = images.repeat(grow, axis=1).repeat(grow, axis=2)
    if shrink > 1:
        ends = [(0, -images.shape[axis] % shrink) for axis in (1, 2)]
        images = np.pad(images, ((0, 0), *ends, (0, 0)), mode="edge")
        count, height, width, channels = images.shape
        images = images.reshape(count, height // shrink, shrink, width // shrink, shrink, channels)
        images = images.mean(axis=(2, 4), dtype="float32")
    found = np.empty((*images.shape[:3], 4), "float32")
    found[..., :3] = images[..., :3]  # grey is repeated
    found[..., 3] = images[..., 3] if images.shape[-1] == 4 else 255
    found *= 1 / 255
    found[..., :3] *= found[..., 3:]
    return found * 2 - 1


def fitting(image_shape):
    """The network of this module for a shape: `lenet` for small grey images."""
    height, width, channels = image_shape
    return lenet if channels == 1 and max(height, width) <= 32 else cifar_network


def train(network, split, epochs, batch_size=BATCH_SIZE, learning_rate=2e-3, seed=0, verbose=0):
    """Trains a classifier on a split; the learning rate falls to 0 along a cosine."""
    batches = split.batches(batch_size, shuffle=True, seed=seed)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(batches))
    network.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=keras.backend.backend() == "jax",  # slower on TensorFlow's CPU
    )
    network.fit(batches, epochs=epochs, shuffle=False, verbose=verbose)


def classify(network, images, batch_size=512):
    """int64 `[N]`, the class that a network gives to each of the uint8 images `[N, H, W, C]`."""
    return np.argmax(forward(network, batch_size)(images), axis=-1)


def forward(model, batch_size=256):
    """A compiled function from an array `[N, ...]` to what the model makes of it, NumPy.

    `keras.Model.predict` does not do: for arrays it needs TensorFlow, on JAX too.
    """
    compiled = compile_function(
        model, lambda x: model(x, training=False), jit_compile=keras.backend.backend() == "jax"
    )

    def run(inputs):
        starts = range(0, len(inputs), batch_size)
        parts = [compiled(ops.convert_to_tensor(inputs[i : i + batch_size])) for i in starts]
        return np.concatenate([ops.convert_to_numpy(part) for part in parts])

    return run


def classification_accuracy_score(
    images, labels, test_images, test_labels, *, num_classes=None, epochs=None, seed=0
):
    """Accuracy on real images, 0 to 1, of a classifier that saw generated ones alone.

    Ravuri and Vinyals, "Classification accuracy score for conditional generative models"
    (NeurIPS 2019), section 3, with the small classifiers of this module.

    Both sets are uint8 images `[N, H, W, C]` and int labels `[N]`; a `ValueError` where these are
    missing or do not fit. `num_classes` is by default one more than the largest label of both,
    `epochs` 5, or as many as make 200 steps: with few images the score would else tell how short
    the training was.
    """
    if labels is None or test_labels is None:
        raise ValueError(
            "The classification accuracy score needs labels of the generated and of the real "
            f"images. Received: labels={_said(labels)}, test_labels={_said(test_labels)}"
        )
    images, test_images = np.asarray(images), np.asarray(test_images)
    check_images(images, "images")
    check_images(test_images, "test_images")
    if images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"Generated and real images must have one shape. Received: {images.shape[1:]} and "
            f"{test_images.shape[1:]}"
        )
    labels = check_labels(labels, len(images), "labels")
    test_labels = check_labels(test_labels, len(test_images), "test_labels")
    largest = int(max(labels.max(), test_labels.max()))
    if num_classes is None:
        num_classes = largest + 1
    elif largest >= num_classes:
        raise ValueError(f"Labels must be 0 to {num_classes - 1}, the classes. Received: {largest}")
    if epochs is None:
        epochs = max(5, math.ceil(200 / max(1, len(images) // BATCH_SIZE)))
    image_shape = images.shape[1:]
    network = fitting(image_shape)(image_shape, num_classes, seed)
    train(network, Split(images, labels), epochs, seed=seed)
    return float(np.mean(classify(network, test_images) == test_labels))


def _said(labels):
    return None if labels is None else f"{len(labels)} labels"
