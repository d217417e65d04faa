"""Public layers are Keras layers: Keras's own test of a layer passes on each."""

import numpy as np
import pytest
from keras.src.testing import TestCase

from kgen import layers
from kgen.layers.transformer import grid_positions, rotary_angles

ANGLES = rotary_angles(grid_positions(2, 3), 4)
PLAIN = {"dim": 8, "num_heads": 2}
ALL = {"angles": ANGLES, "causal": True, "qk_norm": True}

CASES = {
    "Attention": (layers.Attention, PLAIN, 4),
    "Attention, all arguments": (layers.Attention, {**PLAIN, **ALL}, 6),
    "FeedForward": (layers.FeedForward, {"dim": 8}, 4),
    "FeedForward, swiglu": (layers.FeedForward, {"dim": 8, "ratio": 2, "kind": "swiglu"}, 4),
    "RMSNorm": (layers.RMSNorm, {}, 1),
    "RMSNorm, no scale": (layers.RMSNorm, {"scale": False, "epsilon": 1e-3}, 0),
    "TransformerBlock": (layers.TransformerBlock, PLAIN, 12),
    "TransformerBlock, all arguments": (
        layers.TransformerBlock,
        {**PLAIN, **ALL, "mlp_ratio": 2, "mlp": "swiglu", "norm": "rms", "dropout": 0.5},
        12,
    ),
    "GridPositions": (layers.GridPositions, {"height": 2, "width": 3}, 2),
}


# Keras's test fits a generator, and layers without weights.
@pytest.mark.filterwarnings(
    "ignore:`shuffle=True` was passed", "ignore:The model does not have any"
)
@pytest.mark.parametrize(("layer", "arguments", "weights"), CASES.values(), ids=CASES)
def test_of_keras(layer, arguments, weights):
    TestCase().run_layer_test(
        layer,
        arguments,
        input_shape=(2, 6, 8),
        expected_output_shape=(2, 6, 8),
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
    )


@pytest.mark.parametrize(
    ("layer", "arguments", "trainable", "fixed", "losses"),
    [
        (layers.VectorQuantizer, {"num_codes": 5, "dim": 3}, 0, 4, ["commitment_loss"]),
        (
            layers.VectorQuantizer,
            {"num_codes": 5, "dim": 3, "commitment": 0.1, "ema_decay": None},
            *(1, 2, ["codebook_loss", "commitment_loss"]),
        ),
        (layers.FSQ, {"levels": [3, 4, 5]}, 0, 1, []),
    ],
)
def test_of_keras_on_quantizers(layer, arguments, trainable, fixed, losses):
    """In float32 alone, as they compute; their training is `update`, see `test_quantizers.py`."""
    TestCase().run_layer_test(
        layer,
        arguments,
        input_shape=(2, 6, 3),
        expected_output_shape=((2, 6, 3), (2, 6), dict.fromkeys(losses, ())),
        expected_output_dtype=("float32", "int32", dict.fromkeys(losses, "float32")),
        expected_num_trainable_weights=trainable,
        expected_num_non_trainable_weights=fixed,
        run_training_check=False,
        run_mixed_precision_check=False,
    )


def test_a_conditional_block_is_built_by_its_first_input():
    block = layers.TransformerBlock(8, 2, conditional=True)
    block.build((None, 6, 8))
    assert block.compute_output_shape((None, 6, 8)) == (None, 6, 8)
    again = layers.TransformerBlock.from_config(block.get_config())
    x, condition = np.ones((2, 6, 8), "float32"), np.ones((2, 8), "float32")
    assert again(x, condition).shape == (2, 6, 8)
    assert len(again.weights) == len(block.weights) == 10
