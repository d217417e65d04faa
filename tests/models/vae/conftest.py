"""What any variational autoencoder is held against, for arguments that the zoo's tests leave."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.training.step import Batch


@pytest.fixture
def check_training():
    """A step on a batch lowers its loss, by the same noise before and after.

    It runs eagerly on TensorFlow, where tracing a step takes as long as ten.
    """

    def check(model, images, labels=None):
        tensors = [None if x is None else ops.convert_to_tensor(x) for x in (images, labels)]
        rows = Batch(*tensors, kgen.random.row_seeds(5, len(images)))

        def loss():
            return float(ops.convert_to_numpy(model.objective(rows, training=False)[0]))

        before = loss()
        eager = keras.backend.backend() == "tensorflow"
        model.compile(learning_rate=1e-2, run_eagerly=eager)
        model.fit(images, labels, batch_size=len(images), verbose=0)
        assert loss() < before

    return check


@pytest.fixture
def check_saving(tmp_path):
    """Every argument is in the configuration of a model that was saved, which draws the same."""

    def check(model_class, arguments):
        assert set(arguments) == set(inspect.signature(model_class).parameters) - {"kwargs"}
        model = model_class(**arguments)
        rng = np.random.default_rng(0)
        for weight in model.trainable_variables:
            weight.assign(rng.normal(0, 0.3, weight.shape))
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        config = json.loads(json.dumps(again.get_config()))
        assert {name: config[name] for name in arguments} == json.loads(json.dumps(arguments))
        seeds, labels = np.arange(4, dtype="int32"), np.arange(4, dtype="int32")
        images = ops.convert_to_numpy(model.sample(seeds, labels))
        np.testing.assert_array_equal(ops.convert_to_numpy(again.sample(seeds, labels)), images)
        for ours, theirs in zip(
            model.encode(images, labels), again.encode(images, labels), strict=True
        ):
            np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))

    return check
