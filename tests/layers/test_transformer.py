"""Attention, its cache and rotary positions, against NumPy."""

import types

import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.layers.transformer import (
    Attention,
    FeedForward,
    LayerNorm,
    RMSNorm,
    TransformerBlock,
    TransformerSpec,
    grid_positions,
    rotary_angles,
    run_blocks,
    transformer_optimizer,
)
from kgen.training.step import input_gradient

ANGLES = rotary_angles(grid_positions(3, 4), 8)


def numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def randomise(layer, seed=0):
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def reference(layer, x, causal, angles):
    """Equation 1 of "Attention is all you need", head by head; RoFormer's equation 34."""
    qkv = x @ numpy(layer.qkv.kernel) + numpy(layer.qkv.bias)
    query, key, value = np.split(qkv.astype("float64"), 3, axis=-1)
    outputs = []
    for head in range(layer.num_heads):
        part = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        q, k, v = query[..., part], key[..., part], value[..., part]
        if layer.norms:
            q, k = (
                a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-6) * numpy(norm.factors)
                for a, norm in zip((q, k), layer.norms, strict=True)
            )
        if angles is not None:  # pairs of features as complex numbers, turned
            half = layer.head_dim // 2
            turn = np.exp(1j * angles.astype("float64"))
            q, k = ((a[..., :half] + 1j * a[..., half:]) * turn for a in (q, k))
            q, k = (np.concatenate([a.real, a.imag], axis=-1) for a in (q, k))
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(layer.head_dim)
        if causal:
            scores = np.where(np.tri(x.shape[1]) > 0, scores, -np.inf)
        outputs.append(softmax(scores) @ v)
    return np.concatenate(outputs, axis=-1) @ numpy(layer.out.kernel) + numpy(layer.out.bias)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("angles", [None, ANGLES], ids=["plain", "rotary"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention(causal, angles, qk_norm):
    layer = Attention(16, 2, angles, causal, qk_norm)
    x = np.random.default_rng(1).normal(size=(3, 12, 16)).astype("float32")
    layer(x)
    randomise(layer)
    expected = reference(layer, x.astype("float64"), causal, angles)
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=2e-5)


@pytest.mark.parametrize("length", [127, 128, 200, 784])
def test_causal_attention_to_many_tokens(length):
    """In one block and in several, of unequal lengths too; the gradient as well."""
    layer = Attention(8, 2, causal=True)
    x = np.random.default_rng(1).normal(size=(2, length, 8)).astype("float32")
    layer(x)
    randomise(layer)
    expected = reference(layer, x.astype("float64"), True, None)
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=2e-5)
    middle = length // 2

    def total(x):
        return ops.sum(layer(x)[:, middle])

    gradient = ops.convert_to_numpy(input_gradient(total, ops.convert_to_tensor(x)))
    seen = (gradient[0] != 0).any(axis=-1)
    np.testing.assert_array_equal(seen, np.arange(length) <= middle)


@pytest.mark.parametrize(
    "options", [{}, {"angles": ANGLES, "qk_norm": True, "mlp": "swiglu", "norm": "rms"}]
)
def test_the_cache_gives_what_all_tokens_at_once_give(options):
    block = TransformerBlock(16, 2, causal=True, **options)
    x = np.random.default_rng(1).normal(size=(3, 12, 16)).astype("float32")
    block(x)
    randomise(block)
    cache, steps = block.start(3, 12), []
    for position in range(12):
        y, cache = block.step(x[:, position], cache, np.int32(position), 12)
        steps.append(numpy(y))
    np.testing.assert_allclose(np.stack(steps, axis=1), numpy(block(x)), atol=1e-5)


def test_causality():
    block = TransformerBlock(16, 2, ANGLES, causal=True)
    x = np.random.default_rng(1).normal(size=(1, 12, 16)).astype("float32")
    block(x)
    randomise(block)
    for position in range(12):

        def total(x, position=position):
            return ops.sum(ops.square(block(x)[:, position]))

        gradient = ops.convert_to_numpy(input_gradient(total, ops.convert_to_tensor(x)))
        seen = (gradient[0] != 0).any(axis=-1)
        np.testing.assert_array_equal(seen, np.arange(12) <= position)


def test_rotary_scores_depend_on_distances_alone():
    angles = rotary_angles(grid_positions(4, 5), 8).astype("float64")
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=4) + 1j * rng.normal(size=4) for _ in range(2))
    scores = ((q * np.exp(1j * angles))[:, None] * (k * np.exp(1j * angles)).conj()).sum(-1).real
    scores = scores.reshape(4, 5, 4, 5)
    # One row down and one column to the right, wherever from.
    same = [scores[i + 1, j + 1, i, j] for i in range(3) for j in range(4)]
    np.testing.assert_allclose(same, same[0], rtol=1e-5)
    assert abs(scores[1, 0, 0, 0] - scores[0, 1, 0, 0]) > 1e-3
    with pytest.raises(ValueError, match=r"must divide by 4\. Received: 6"):
        rotary_angles(grid_positions(4, 5), 6)


def test_a_conditional_block_begins_as_the_identity_and_follows_its_condition():
    block = TransformerBlock(16, 2, conditional=True)
    x, other = np.random.default_rng(1).normal(size=(2, 3, 12, 16)).astype("float32")
    np.testing.assert_array_equal(numpy(block(x, other[:, 0])), x)
    randomise(block)
    first, second = block(x, other[:, 0]), block(x, other[:, 1])
    assert np.abs(numpy(first) - numpy(second)).max() > 0.1


def test_feed_forward_and_norms():
    x = np.random.default_rng(1).normal(size=(2, 5, 24)).astype("float32")
    for kind, hidden in (("gelu", 96), ("swiglu", 64)):
        layer = FeedForward(24, 4.0, kind)
        layer(x)
        assert layer.hidden == hidden
        randomise(layer)
        y = x.astype("float64") @ numpy(layer.first.kernel) + numpy(layer.first.bias)
        if kind == "gelu":
            y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        else:
            y, gate = np.split(y, 2, axis=-1)
            y = y * gate / (1 + np.exp(-gate))
        expected = y @ numpy(layer.second.kernel) + numpy(layer.second.bias)
        np.testing.assert_allclose(numpy(layer(x)), expected, atol=1e-4)
    expected = x / np.sqrt((x.astype("float64") ** 2).mean(axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(numpy(RMSNorm(scale=False)(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("conditional", [False, True])
def test_dropout_against_its_formula(conditional):
    """Of what each sublayer adds, by the row's seed; the others make up for it."""
    block = TransformerBlock(8, 2, conditional=conditional, dropout=0.25)
    x, other = np.random.default_rng(1).normal(size=(2, 3, 6, 8)).astype("float32")
    condition = (other[:, 0],) if conditional else (None,)
    block(x, *condition)
    randomise(block)
    seeds = np.array([3, 4, 5], "int32")
    dropped = numpy(block(x, *condition, seeds))
    assert (dropped != numpy(block(x, *condition))).all()
    keep = [numpy(random.uniform(seeds, (6, 8), stream)) > 0.25 for stream in (0, 1)]
    assert keep[0].mean() == pytest.approx(0.75, abs=0.15)
    modulations = [numpy(part) for part in block._modulations(other[:, 0])] if conditional else None
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulations or (0, 0, 1, 0, 0, 1)
    y = block.attention(numpy(block.attention_norm(x)) * (1 + scale) + shift)
    h = x + gate * numpy(y) * keep[0] / 0.75
    y = block.mlp(numpy(block.mlp_norm(h)) * (1 + mlp_scale) + mlp_shift)
    expected = h + mlp_gate * numpy(y) * keep[1] / 0.75
    np.testing.assert_allclose(dropped, expected, atol=1e-5)
    # A row's own, whatever stands beside it.
    alone = block(x[1:2], *(c if c is None else c[1:2] for c in condition), seeds[1:2])
    np.testing.assert_allclose(numpy(alone)[0], dropped[1], atol=1e-5)


def test_each_block_drops_for_itself():
    spec = TransformerSpec(8, 2, 2, rotary=False, dropout=0.5)
    blocks = spec.blocks(grid_positions(2, 3))
    assert [block.name for block in blocks] == ["block_0", "block_1"]
    x = np.random.default_rng(1).normal(size=(4, 6, 8)).astype("float32")
    seeds = np.arange(4, dtype="int32")
    for block in blocks:
        block(x)
    blocks[1].set_weights(blocks[0].get_weights())
    expected = x
    for i, block in enumerate(blocks):
        expected = block(expected, seeds=random.fold_in(seeds, i))
    np.testing.assert_array_equal(numpy(run_blocks(blocks, x, seeds=seeds)), numpy(expected))
    first, second = (block(x, seeds=random.fold_in(seeds, i)) for i, block in enumerate(blocks))
    assert (numpy(first) != numpy(second)).any()


def test_a_specification_is_that_of_a_models_attributes():
    model = types.SimpleNamespace(dim=8, num_layers=3, num_heads=2, norm="rms", filters=5)
    assert TransformerSpec.of(model) == TransformerSpec(8, 3, 2, norm="rms")
    everything = TransformerSpec(24, 1, 3, False, "swiglu", "rms", True, 0.1)
    assert TransformerSpec.of(everything) == everything
    (block,) = everything.blocks(grid_positions(2, 3), causal=True)
    config = block.get_config()
    expected = {
        "dim": 24,
        "num_heads": 3,
        "angles": None,
        "causal": True,
        "qk_norm": True,
        "mlp": "swiglu",
        "norm": "rms",
        "conditional": False,
        "dropout": 0.1,
    }
    assert {name: config[name] for name in expected} == expected
    (block,) = TransformerSpec(8, 1, 2).blocks(grid_positions(2, 3))
    np.testing.assert_array_equal(block.angles, rotary_angles(grid_positions(2, 3), 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide dim.*Received: dim=16, num_heads=3, rotary=True"),
        ({"num_heads": 8}, "a multiple of 4 features. Received: dim=16, num_heads=8"),
        ({"num_heads": 3, "rotary": False}, "num_heads must divide dim"),
        ({"dim": 0}, "dim must be a positive int. Received: dim=0"),
        ({"num_layers": 0}, "positive int. Received: num_layers=0"),
        ({"mlp": "gelo"}, "Did you mean 'gelu'"),
        ({"norm": "layr"}, "Did you mean 'layer'"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1. Received: dropout=1.0"),
    ],
)
def test_specifications_of_what_cannot_be_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerSpec(**{"dim": 16, "num_layers": 2, "num_heads": 2, **arguments})


def test_the_optimizer_takes_shorter_steps_for_wide_networks():
    rates = [transformer_optimizer(dim=dim).learning_rate for dim in (64, 128, 256)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4], rtol=1e-5)
    given = transformer_optimizer(0.5, dim=256, beta_2=0.95)
    assert (float(given.learning_rate), given.beta_2, given.global_clipnorm) == (0.5, 0.95, 1.0)


def test_wrong_number_of_heads():
    with pytest.raises(ValueError, match=r"must divide the model's dimension 16\. Received: 3"):
        Attention(16, 3)


@pytest.mark.parametrize("causal", [False, True])
def test_lipschitz_attention_is_by_distance(causal):
    """Softmax of minus the squared distances of keys: Kim, Papamakarios and Mnih, equation 11."""
    layer = Attention(16, 2, causal=causal, lipschitz=True)
    x = np.random.default_rng(0).normal(size=(2, 12, 16)).astype("float32")
    layer(x)
    randomise(layer)

    def dense(part, x):
        return x @ numpy(part.normalized_kernel()) + (0 if part.bias is None else numpy(part.bias))

    keys, values = np.split(dense(layer.qkv, x), 2, axis=-1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        key, value = keys[..., part], values[..., part]
        scores = -((key[:, :, None] - key[:, None]) ** 2).sum(-1) / np.sqrt(8)
        if causal:
            scores = np.where(np.tri(12, dtype="bool"), scores, -np.inf)
        heads.append(softmax(scores) @ value)
    expected = dense(layer.out, np.concatenate(heads, axis=-1))
    np.testing.assert_allclose(numpy(layer(x)), expected, rtol=1e-4, atol=1e-4)


def test_second_derivatives_of_layer_normalisation():
    """The gradient of a squared gradient, against differences; the layer itself against Keras's."""
    rng = np.random.default_rng(0)
    x, weight, way = (rng.normal(size=(3, 8)).astype("float32") for _ in range(3))
    layer, theirs = LayerNorm(epsilon=1e-6), keras.layers.LayerNormalization(epsilon=1e-6)
    for each in (layer, theirs):
        each.build(x.shape)
        for variable, value in zip(each.weights, (x[0], x[1]), strict=True):
            variable.assign(value)
    np.testing.assert_allclose(numpy(layer(x)), numpy(theirs(x)), rtol=1e-4, atol=1e-5)

    def slopes(x):
        return input_gradient(lambda x: ops.sum(weight * layer(x) ** 2, axis=-1), x)

    def squared(x):
        return ops.sum(ops.square(slopes(x)), axis=-1)

    found = numpy(input_gradient(squared, ops.convert_to_tensor(x)))
    step = 1e-2 * way
    further, nearer = (numpy(squared(ops.convert_to_tensor(x + s))) for s in (step, -step))
    np.testing.assert_allclose((found * way).sum(-1), (further - nearer) / 2e-2, rtol=2e-2)
