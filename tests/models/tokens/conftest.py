"""First stages for the tests of priors, without the time that their training takes."""

import functools

import keras
import numpy as np
import pytest

from kgen import random
from kgen.models import VQVAE


@pytest.fixture(scope="session")
def first_stage():
    """A tiny VQ-VAE of 4x4 codes, made once for its arguments: a prior takes a copy.

    The one step of its code book that is taken sets all codes to outputs of its encoder, so
    that images have many of them.
    """

    @functools.cache
    def make(**overrides):
        keras.utils.set_random_seed(0)
        model = VQVAE.from_preset("vqvae_tiny", **overrides)
        images = np.random.default_rng(0).integers(0, 256, (48, *model.image_shape), "uint8")
        if model.quantizer_name == "fsq":  # whose grid is fixed: further apart
            kernel = [w for w in model.encoder.weights if w.path.endswith("kernel")][-1]
            kernel.assign(8 * kernel)
        features = model.encoder(images.astype("float32") / 127.5 - 1)
        codes = model.quantizer(features)[1]
        model.quantizer.update(features, codes, random.row_seeds(0, 48))
        model.training_steps.assign(1)
        return model

    return make
