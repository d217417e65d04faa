"""Group normalisation is that of Keras, and the condition's shift and scale what they say."""

import keras
import numpy as np
import pytest
from keras import ops

from kgen.layers.convolutional import GroupNorm


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_is_that_of_keras(affine):
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.normal(size=(4, 6, 5, 24))).astype("float32")
    options = {"groups": 8, "epsilon": 1e-5, "center": affine, "scale": affine}
    ours, theirs = GroupNorm(**options), keras.layers.GroupNormalization(**options)
    for layer in (ours, theirs):
        layer.build(x.shape)
    if affine:
        values = [rng.normal(size=24), rng.normal(size=24)]
        ours.set_weights(values)
        theirs.set_weights(values)
    expected = ops.convert_to_numpy(theirs(x))
    assert ops.convert_to_numpy(ours(x)) == pytest.approx(expected, abs=2e-5)
    shift, scale = rng.normal(size=(2, 4, 24)).astype("float32")
    given = ops.convert_to_numpy(ours(x, shift, scale))
    said = expected * (1 + scale[:, None, None]) + shift[:, None, None]
    assert given == pytest.approx(said, abs=1e-4)


def test_group_norm_of_what_is_flat_or_large():
    layer = GroupNorm(4, epsilon=1e-5, dtype="mixed_float16")
    flat = np.full((2, 3, 3, 8), 300, "float16")  # whose square is beyond float16
    assert ops.convert_to_numpy(layer(flat)) == pytest.approx(0, abs=0.2)
