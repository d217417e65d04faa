"""Averages of weights, and the models that are drawn from with them."""

import keras
import numpy as np
from keras import ops

from kgen.image_generator import ImageGenerator
from kgen.training.average import AveragedWeights


class Averaged(AveragedWeights, ImageGenerator):
    """As small as a model with an average can be: how bright is an image?"""

    def __init__(self, image_shape, ema_decay=0.4, **kwargs):
        super().__init__(image_shape, **kwargs)

        def make(name):
            layers = (
                keras.Input(self.image_shape),
                keras.layers.Flatten(),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1),
            )
            return keras.Sequential(layers, name=name)

        self._build_networks(make)

    def objective(self, batch, training):
        network = self.network if training else self.final_network
        x = ops.cast(batch.images, "float32") / 255
        loss = ops.mean(ops.square(network(x, training=training) - ops.mean(x)))
        return loss, {"loss": loss}


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 2, 2, 1), "uint8")


def values(network):
    return [ops.convert_to_numpy(variable).copy() for variable in network.variables]


def test_the_average_begins_as_the_weights_and_follows_them():
    """Slowly in the end, fast at first; the statistics of batch normalisation too."""
    model = Averaged((2, 2, 1))
    average = values(model.network)
    for theirs, ours in zip(average, values(model.ema_network), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    model.compile(learning_rate=1e-2)
    for step in range(1, 4):
        model.fit(IMAGES, batch_size=6, epochs=step, initial_epoch=step - 1, verbose=0)
        decay = min(0.4, (1 + step) / (10 + step))
        now = values(model.network)
        average = [n + decay * (a - n) for a, n in zip(average, now, strict=True)]
        for expected, got in zip(average, values(model.ema_network), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    assert any((a != b).any() for a, b in zip(average, now, strict=True))


def test_the_average_is_not_trained_and_is_what_remains():
    model = Averaged((2, 2, 1))
    assert not model.ema_network.trainable_variables
    assert model.final_network is model.ema_network
    assert {id(v) for v in model.ema_network.variables} <= {id(v) for v in model.variables}
