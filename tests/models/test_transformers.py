"""What the four models that are transformers share: dropout."""

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.training.step import Batch

SEEDS = np.arange(8, dtype="int32")


@pytest.mark.parametrize("name", ["dit", "image_gpt", "vq_transformer", "maskgit"])
def test_dropout_is_for_training_alone(name):
    model_class = kgen.models.get(name)
    models = []
    for dropout in (0.0, 0.5):
        keras.utils.set_random_seed(0)
        model = model_class.from_preset(model_class.tiny_preset, dropout=dropout)
        rng = np.random.default_rng(0)
        for weight in model.network.weights:
            weight.assign(rng.normal(size=weight.shape) * 0.3)
        models.append(model)
    shape = models[0].image_shape
    images = np.random.default_rng(0).integers(0, 256, (8, *shape), "uint8")

    def loss(model, training, rows=slice(None)):
        tensors = (ops.convert_to_tensor(x[rows]) for x in (images, SEEDS))
        image, seeds = tensors
        return float(model.objective(Batch(image, None, seeds), training)[0])

    without, dropped = models
    assert loss(dropped, False) == loss(without, False)
    assert loss(dropped, True) != pytest.approx(loss(without, True), rel=1e-4)
    if name != "maskgit":  # whose mean is over hidden codes
        halves = [loss(dropped, True, rows) for rows in (slice(4), slice(4, 8))]
        assert np.mean(halves) == pytest.approx(loss(dropped, True), rel=1e-4)
