"""Classes that training hides, and the guidance that hidden classes make possible."""

import numpy as np
import pytest
from keras import ops

from kgen.layers.conditioning import guided, hide_labels

SEEDS = np.arange(20_000, dtype="int32")


def numpy(x):
    return ops.convert_to_numpy(x)


def test_hidden_labels():
    labels = np.full(20_000, 1, "int32")
    hidden = numpy(hide_labels(labels, SEEDS, 0.1, 3))
    assert set(hidden) == {1, 3}
    assert abs((hidden == 3).mean() - 0.1) < 4 * np.sqrt(0.09 / 20_000)
    assert hide_labels(None, SEEDS, 0.1, 3) is None
    assert hide_labels(labels, SEEDS, 0.0, 3) is labels


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_is_the_extrapolation_of_two_passes(scale):
    rng = np.random.default_rng(0)
    tables, x, y = rng.normal(size=(4, 5)).astype("float32"), *rng.normal(size=(2, 6, 5))
    labels, calls = np.array([0, 1, 2, 0, 1, 2], "int32"), []

    def network(x, y, labels):
        calls.append(len(labels))
        return ops.take(tables, labels, axis=0) * x + y

    result = numpy(guided(network, (x.astype("float32"), y.astype("float32")), labels, 3, scale))
    told, free = tables[labels] * x + y, tables[3] * x + y
    np.testing.assert_allclose(result, free + scale * (told - free), atol=1e-5)
    assert calls == [6 if scale == 1 else 12]


def test_what_has_no_classes_cannot_be_guided():
    assert guided(lambda x, labels: x, (np.ones(2, "float32"),), None, None, 1).shape == (2,)
    with pytest.raises(
        ValueError, match=r"build the model with num_classes\. Received: guidance_scale=2.0"
    ):
        guided(lambda x, labels: x, (np.ones(2, "float32"),), None, None, 2.0)
