"""The small networks that were trained for kgen, and their weights: images are compared by them."""

import contextlib
import hashlib
import io
import pathlib

import keras
import numpy as np
from keras import layers, ops

WEIGHTS = pathlib.Path(__file__).parent / "weights"

#: sha256 of the files that `benchmarks/train_extractors.py` wrote.
SHA256 = {
    "lenet128": "9e49eab33866c0f23c3b767f4ac928513bc39d7744995c27626c02527aff240b",
    "cifar_cnn": "0dc9c049f52306831f9d465b5f2a997ead6de21ef27c143cc3577e04d556e5e9",
    "general_cnn": "93d45090901c2bce43f6b4905e31afea616dfceb4bb778f653985ff8d8f184f0",
}


def load_weights(network, name):
    """Gives a network the weights of one of `SHA256`."""
    content = read_checked(WEIGHTS / f"{name}.npz", SHA256[name])
    with np.load(io.BytesIO(content)) as stored:
        network.set_weights([stored[f"weight_{i}"] for i in range(len(network.weights))])


def read_checked(path, expected):
    """The bytes of a file; `ValueError` unless they have the expected sha256."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is not the weights file it should be: its sha256 is {found}, not {expected}."
        )
    return content


def lenet(image_shape, num_classes, seed=0):
    """A LeNet for small grey images (after LeCun et al., Proc. IEEE 1998, section II.B).

    Rectifiers and maximum pooling stand in for the original's; the last hidden layer,
    `features`, has 128 units. A Keras model from uint8 `[B, H, W, C]` to float32 logits.
    """
    with computing_in_float32():
        image = keras.Input(image_shape, dtype="uint8", name="image")
        x = ops.cast(image, "float32") * (1 / 255)
        for i, filters in enumerate((16, 32)):
            x = layers.Conv2D(
                filters, 5, padding="same", activation="relu", kernel_initializer=_he(seed, i)
            )(x)
            x = layers.MaxPooling2D(2, padding="same")(x)
        x = layers.Flatten()(x)
        x = layers.Dense(128, activation="relu", kernel_initializer=_he(seed, 2), name="features")(
            x
        )
        x = layers.Dense(num_classes, kernel_initializer=_he(seed, 3), name="logits")(x)
        return keras.Model(image, x, name="lenet")


def cifar_network(image_shape, num_classes, seed=0):
    """A convolutional network for small colour images, with batch normalisation, as `lenet`.

    Its last hidden layer, `features`, is the mean over the positions of 128 filters.
    """
    with computing_in_float32():
        image = keras.Input(image_shape, dtype="uint8", name="image")
        x = ops.cast(image, "float32") * (1 / 127.5) - 1
        for i, filters in enumerate((32, 64, 64, 128, 128)):
            x = layers.Conv2D(
                filters, 3, padding="same", use_bias=False, kernel_initializer=_he(seed, i)
            )(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.Activation("relu")(x)
            if i in (0, 2):
                x = layers.MaxPooling2D(2, padding="same")(x)
        x = layers.GlobalAveragePooling2D(name="features")(x)
        x = layers.Dense(num_classes, kernel_initializer=_he(seed, 5), name="logits")(x)
        return keras.Model(image, x, name="cifar_network")


def general_network(seed=0):
    """A convolutional network from images of any size with alpha to `features`.

    From float32 `[B, H, W, 4]`, -1 to 1, colours multiplied by their alpha, to `[B, 128]`, the
    means over the positions of 128 filters. Its maps are the layers `relu_1` to `relu_6`, of 1,
    1/2, 1/2, 1/4, 1/4 and 1/8 of the sides.
    """
    with computing_in_float32():
        x = image = keras.Input((None, None, 4), name="image")
        for i, (filters, strides) in enumerate(
            ((32, 1), (48, 2), (64, 1), (96, 2), (128, 1), (128, 2))
        ):
            x = layers.Conv2D(
                filters, 3, strides, "same", use_bias=False, kernel_initializer=_he(seed, i)
            )(x)
            x = layers.BatchNormalization(momentum=0.98)(x)
            x = layers.Activation("relu", name=f"relu_{i + 1}")(x)
        x = layers.GlobalAveragePooling2D(name="features")(x)
        return keras.Model(image, x, name="general_network")


def _he(seed, layer):
    # Seeded one by one, so that nothing depends on Keras's global state or changes it.
    return keras.initializers.HeNormal(seed=1000 * seed + layer)


@contextlib.contextmanager
def computing_in_float32():
    """Layers built inside compute in float32, whatever the global policy: scores must not
    depend on how the model was trained."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
