"""Networks that a user gives to a model: they train, and are saved and loaded with it."""

import keras
import numpy as np
import pytest
from keras import layers

import kgen
from kgen.models import DCGAN, VAE, VQVAE

SHAPE, CLASSES = (8, 8, 1), 3
IMAGES = np.random.default_rng(0).integers(0, 256, (16, *SHAPE), "uint8")
LABELS = np.arange(16) % CLASSES


def network(shape, output, classes=None):
    """A dense network, of another kind than any in the zoo; by `classes`, with one-hot labels."""
    x = inputs = keras.Input(shape)
    x = layers.Flatten()(x)
    if classes is not None:
        label = keras.Input((classes,))
        inputs, x = [inputs, label], layers.Concatenate()([x, label])
    x = layers.BatchNormalization()(layers.Dense(12, "relu")(x))
    x = layers.Reshape(output)(layers.Dense(int(np.prod(output)))(x))
    return keras.Model(inputs, x)


# The model, its arguments, and what its networks take and give: the label where they are told it.
CASES = {
    "vae": (
        VAE,
        {"latent_dim": 4},
        {"encoder": (SHAPE, (8,), CLASSES), "decoder": ((4,), SHAPE, CLASSES)},
    ),
    "vqvae": (
        VQVAE,
        {"num_codes": 8, "embedding_dim": 5, "num_downsamplings": 1},
        {"encoder": (SHAPE, (4, 4, 5)), "decoder": ((4, 4, 5), SHAPE, CLASSES)},
    ),
    "dcgan": (
        DCGAN,
        {"latent_dim": 6},
        {"generator": ((6,), SHAPE, CLASSES), "discriminator": (SHAPE, (1,), CLASSES)},
    ),
}


@pytest.mark.parametrize(
    "name", ["vae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vqvae", "dcgan"))]
)
def test_they_are_trained_saved_and_loaded(name, tmp_path):
    kind, arguments, shapes = CASES[name]
    given = {argument: network(*shape) for argument, shape in shapes.items()}
    model = kind(SHAPE, CLASSES, **arguments, **given)
    assert all(getattr(model, argument) is value for argument, value in given.items())
    before = [value.get_weights() for value in given.values()]
    model.compile()
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "epoch.keras"
    )  # has no loss to wait for
    model.fit(IMAGES, LABELS, batch_size=8, verbose=0, callbacks=[checkpoint])
    for value, weights in zip(given.values(), before, strict=True):
        assert any((a != b).any() for a, b in zip(value.get_weights(), weights, strict=True))
    loaded = keras.saving.load_model(tmp_path / "epoch.keras")
    assert loaded.get_config() == model.get_config()
    images = [x.generate(seeds=[1, 2, 3], labels=[0, 1, 2]) for x in (model, loaded)]
    np.testing.assert_array_equal(*images)
    model.save_to_preset(tmp_path / "preset")
    again = kgen.load(tmp_path / "preset")
    assert len(again.weights) == len(model.weights)


def test_they_are_optional_one_by_one():
    decoder = network((4,), SHAPE)
    model = VAE(SHAPE, latent_dim=4, filters=4, num_blocks=0, units=8, decoder=decoder)
    config = model.get_config()
    assert config["encoder"] is None and config["decoder"]["class_name"] == "Functional"
    again = VAE.from_config(config)
    shapes = [[tuple(w.shape) for w in x.trainable_variables] for x in (model, again)]
    assert shapes[0] == shapes[1] and again.get_config() == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder": "deep"}, r"decoder must be a Keras model from \(4,\) to .*Received: str"),
        ({"decoder": network((4,), (8, 8, 3))}, r"Received: one that gives \(8, 8, 3\)"),
        ({"encoder": network((4, 4, 1), (8,))}, "encoder must be .*one that fails on such inputs"),
        ({"encoder": network(SHAPE, (4,))}, r"to \(8,\), without the batch.*gives \(4,\)"),
        ({"encoder": network(SHAPE, (8,)), "num_classes": 3}, r"from \[\(8, 8, 1\), \(3,\)\]"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(SHAPE, latent_dim=4, **arguments)


@keras.saving.register_keras_serializable(package="test_given_networks")
class Dense(VAE):
    """A subclass whose constructor builds another network, which loading does again."""

    def __init__(self, image_shape, **kwargs):
        super().__init__(image_shape, **kwargs)
        self.decoder = network((self.latent_dim,), self.image_shape)


def test_a_subclass_builds_its_own_in_its_constructor(tmp_path):
    model = Dense(SHAPE, latent_dim=4, filters=4, num_blocks=0, units=8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.generate(seeds=[1]), model.generate(seeds=[1]))
    with pytest.raises(ValueError, match="decoder cannot be replaced"):
        model.decoder = network((4,), SHAPE)
