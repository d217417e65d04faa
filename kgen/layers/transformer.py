"""Transformer blocks: attention, its cache, positions, and conditioning.

Vaswani et al., "Attention is all you need" (NIPS 2017; arXiv 1706.03762), with the
normalisation before each sublayer; rotary positions of Su et al., "RoFormer" (2021; arXiv
2104.09864), section 3.2, here in two dimensions; query-key normalisation as in Dehghani et
al., "Scaling vision transformers to 22 billion parameters" (ICML 2023; arXiv 2302.05442),
section 2; SwiGLU of Shazeer, "GLU variants improve transformer" (2020; arXiv 2002.05202),
equation 6; conditioning by adaLN-Zero of Peebles and Xie, "Scalable diffusion models with
transformers" (ICCV 2023; arXiv 2212.09748), section 3.2.

Tensors are (B, T, D): batch, tokens, features; N heads have H = D / N features each.
"""

import dataclasses
import functools
import itertools
import warnings

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import Number, check_ints, check_names, check_numbers, check_shares
from kgen.configurable import Configurable
from kgen.layers.network import recomputed
from kgen.layers.spectral import SpectralDense
from kgen.memory import check_network

NORMALIZATIONS = ("layer", "rms")
MLPS = ("gelu", "swiglu")

#: What is added to the scores of tokens that must not be seen; finite, so that nothing is NaN.
HIDDEN = -1e30


#: From here on attention is too much for most machines; 64x64 pixels are as many.
MANY_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class TransformerSpec:
    """What a transformer is built of: stated once, checked once, and handed on whole.

    A model has these as arguments of its own, of the same names.

    Args:
        dim: Int, D, features of a token; `num_heads` divides it.
        num_layers: Int, blocks.
        num_heads: Int; with `rotary`, `dim / num_heads` divides by 4.
        rotary: Bool, rotary positions in two dimensions, beside any that are learned.
        mlp: String, `"gelu"` or `"swiglu"`, see `FeedForward`.
        norm: String, `"layer"` or `"rms"`.
        qk_norm: Bool, normalise queries and keys: for training that diverges.
        dropout: Float, the share that training drops of what attention and feed-forward network
            add (Vaswani et al., section 5.4).

    Raises:
        ValueError: No transformer can be built so; the message names the argument.
    """

    dim: int
    num_layers: int
    num_heads: int
    rotary: bool = True
    mlp: str = "gelu"
    norm: str = "layer"
    qk_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        check_names(mlp=(self.mlp, MLPS), norm=(self.norm, NORMALIZATIONS))
        check_ints(1, dim=self.dim, num_layers=self.num_layers, num_heads=self.num_heads)
        check_shares(dropout=self.dropout)
        if self.dim % self.num_heads or (self.rotary and self.dim // self.num_heads % 4):
            raise ValueError(
                "num_heads must divide dim, and with rotary positions a head must have a multiple "
                f"of 4 features. Received: dim={self.dim}, num_heads={self.num_heads}, "
                f"rotary={self.rotary}"
            )

    @classmethod
    def get(cls, spec):
        """A `TransformerSpec` from one, or from the dict that a configuration has in its place."""
        return cls(**spec) if isinstance(spec, dict) else spec

    @classmethod
    def of(cls, model):
        """That of a model, from its attributes; what it does not have is left at the default."""
        names = [field.name for field in dataclasses.fields(cls) if hasattr(model, field.name)]
        return cls(**{name: getattr(model, name) for name in names})

    def blocks(self, positions, causal=False, conditional=False, lipschitz=False, before=0):
        """The blocks, a list of `TransformerBlock`, of tokens at some positions `[T, 2]`.

        In the second half of them, so many tokens without a place come `before` these.
        """
        tokens = len(positions)
        # Attention's four matrices, the eight of the feed-forward network, six for the condition.
        parameters = self.num_layers * self.dim**2 * (18 if conditional else 12)
        check_network(parameters, tokens + before, self.num_heads)
        if tokens > MANY_TOKENS:
            warnings.warn(
                f"{tokens:,} tokens attend to each other, which takes "
                f"{4 * self.num_heads * tokens**2 / 1e9:.1f} GB for each image in each of the "
                f"{self.num_layers} layers. Take smaller images, a larger patch_size, or a model "
                "that draws codes or latents (vq_transformer, maskgit, dit with an autoencoder).",
                stacklevel=3,
            )
        rotary = self.rotary and not lipschitz  # turned, a query would be no key
        angles = rotary_angles(positions, self.dim // self.num_heads) if rotary else None
        later = angles if angles is None else np.pad(angles, ((before, 0), (0, 0)))
        half = self.num_layers // 2
        blocks = [
            TransformerBlock(
                *(self.dim, self.num_heads, angles if i < half else later, causal, self.qk_norm),
                mlp=self.mlp,
                norm=self.norm,
                conditional=conditional,
                dropout=self.dropout,
                lipschitz=lipschitz,
                name=f"block_{i}",
            )
            for i in range(self.num_layers)
        ]
        for i, block in enumerate(blocks):
            block.num_tokens = tokens + before * (i >= half)
        return blocks


def run_blocks(blocks, x, condition=None, seeds=None, first=0, recompute=False):
    """Blocks one after the other, of which the first is number `first`; each drops by seeds of its
    own, see `TransformerBlock`. With `recompute`, see `recomputed`.
    """
    for i, block in enumerate(blocks, start=first):
        own = None if seeds is None else random.fold_in(seeds, i)
        run = functools.partial(block, seeds=own)
        x = recomputed(run, recompute and seeds is not None)(x, condition)
    return x


def transformer_optimizer(learning_rate=None, dim=128, beta_2=0.99):
    """Adam with gradients of bounded length, and shorter steps for wide networks.

    With unbounded ones the training loss after 200 steps on MNIST is higher by 8 nats for a
    VAE, by 200 for a VQ-VAE.
    """
    # 1e-3 to 128 features, 1.1e-4 for the 1152 of DiT-XL.
    rate = min(1e-3, 0.128 / dim) if learning_rate is None else learning_rate
    return keras.optimizers.Adam(rate, beta_2=beta_2, global_clipnorm=1.0)


def grid_positions(height, width):
    """Row and column of every token of a grid, in raster order: float32 `[height * width, 2]`."""
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.stack([rows, columns], axis=-1).astype("float32")


def rotary_angles(positions, head_dim, base=100.0):
    """Angles by which a head's pairs of features are turned, shared out among the axes.

    float32 `[T, H / 2]`, of positions `[T, axes]`; H divides by `2 * axes`. The slowest pair turns
    by one radian in about `base` places.
    """
    positions = np.asarray(positions, "float64")
    axes = positions.shape[1]
    if head_dim % (2 * axes):
        raise ValueError(
            f"Rotary positions on {axes} axes turn pairs of features: a head's size must divide by "
            f"{2 * axes}. Received: {head_dim}"
        )
    pairs = head_dim // (2 * axes)
    frequencies = base ** -(np.arange(pairs) / pairs)
    angles = positions[:, :, None] * frequencies  # (T, axes, pairs)
    return angles.reshape(len(positions), -1).astype("float32")


def rotate(x, cosine, sine):
    """Turns each pair of features (i, i + H / 2) by its angle; RoFormer, equation 34."""
    cosine, sine = ops.cast(cosine, x.dtype), ops.cast(sine, x.dtype)
    first, second = ops.split(x, 2, axis=-1)
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    return ops.concatenate(turned, axis=-1)


def normalization(kind, scale=True, lipschitz=False, **kwargs):
    """The layer that normalises a token's features: `"layer"` or `"rms"`."""
    if kind == "rms":
        # Without a scale of its own, where a condition gives it.
        return RMSNorm(scale, **kwargs)
    layer = LayerNorm if lipschitz else layers.LayerNormalization
    return layer(epsilon=1e-6, scale=scale, center=scale, **kwargs)


@keras.saving.register_keras_serializable(package="kgen")
class LayerNorm(layers.LayerNormalization):
    """Layer normalisation whose second derivatives are right on TensorFlow too.

    There `keras.ops.moments`, and so Keras's own layers of normalisation, stop the gradient at the
    mean. For a first derivative that is no matter; the gradient of a gradient penalty is some tenth
    off. A little slower than Keras's.
    """

    def call(self, x):
        wide = ops.cast(x, "float32")
        wide = wide - ops.mean(wide, axis=-1, keepdims=True)
        wide = wide * ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + self.epsilon)
        x = ops.cast(wide, self.compute_dtype)
        x = x * ops.cast(self.gamma, x.dtype) if self.scale else x
        return x + ops.cast(self.beta, x.dtype) if self.center else x


@keras.saving.register_keras_serializable(package="kgen")
class RMSNorm(Configurable, layers.Layer):
    """Root mean square normalisation over the last axis.

    Zhang and Sennrich (NeurIPS 2019; arXiv 1910.07467), equation 4. It differs from
    `keras.layers.RMSNormalization` in that the `scale`, a factor for each feature, can be left out.
    """

    def __init__(self, scale=True, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        check_numbers(Number(above=0), epsilon=epsilon)

    def build(self, shape):
        self.factors = self.add_weight((shape[-1],), "ones", name="scale") if self.scale else None

    def call(self, x):
        wide = ops.cast(x, "float32")
        mean = ops.mean(ops.square(wide), axis=-1, keepdims=True)
        x = ops.cast(wide * ops.rsqrt(mean + self.epsilon), self.compute_dtype)
        return x * ops.cast(self.factors, x.dtype) if self.scale else x

    def compute_output_shape(self, shape):
        return shape


def attend(query, key, value, causal):
    """Scaled dot-product attention, `[B, T, N, H]` each; Vaswani et al., equation 1."""
    if keras.backend.backend() != "tensorflow" and query.shape[-1] == value.shape[-1]:
        return ops.dot_product_attention(query, key, value, is_causal=causal)
    # No fused kernel is lost here: Keras's is two einsums, which take half as long again.
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    query = query * query.shape[-1] ** -0.5
    if not causal:
        return ops.transpose(_weigh(query, key, value), (0, 2, 1, 3))
    # Block by block, each with the keys that it may see: little over half of the arithmetic.
    length = query.shape[2]
    blocks = max(1, min(length // 64, 8))
    ends = [length * (i + 1) // blocks for i in range(blocks)]
    parts = []
    for start, end in itertools.pairwise([0, *ends]):
        part, keys, values = (_rows(query, start, end), _rows(key, 0, end), _rows(value, 0, end))
        seen = np.tri(end - start, end, start, dtype="bool")
        parts.append(_weigh(part, keys, values, np.where(seen, 0, HIDDEN).astype("float32")))
    return ops.transpose(ops.concatenate(parts, axis=2), (0, 2, 1, 3))


def _weigh(query, key, value, bias=0.0):
    """The values, weighed by how their keys answer the scaled queries; `[B, N, T, H]` each."""
    scores = ops.cast(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))), "float32") + bias
    return ops.matmul(ops.cast(ops.softmax(scores, axis=-1), value.dtype), value)


def _rows(x, start, end):
    """`x[:, :, start:end]`, by `split`, whose gradient on TensorFlow is fast."""
    inner = [place for place in (start, end) if 0 < place < x.shape[2]]
    return ops.split(x, inner, axis=2)[int(start > 0)] if inner else x


@keras.saving.register_keras_serializable(package="kgen")
class Attention(Configurable, layers.Layer):
    """Multi-head self-attention over `[B, T, D]`, all tokens at once or one by one with a cache.

    Args:
        dim: Int, D.
        num_heads: Int, N, which divides D.
        angles: float32 array `[T, H / 2]` of `rotary_angles`, or `None`.
        causal: Bool, a token sees itself and those before it.
        qk_norm: Bool, normalise queries and keys, so that scores stay bounded.
        lipschitz: Bool, bounds how far outputs are from each other relative to inputs: tokens
            attend to those that are near, for a token's query is its key (Kim, Papamakarios and
            Mnih, ICML 2021; arXiv 2006.04710, equation 11), and the spectral norms of the weights
            stay about what they begin with. It goes without rotary positions and `qk_norm`.
    """

    def __init__(
        self,
        dim,
        num_heads,
        angles=None,
        causal=False,
        qk_norm=False,
        lipschitz=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_ints(1, dim=dim, num_heads=num_heads)
        if dim % num_heads:
            raise ValueError(
                f"num_heads must divide the model's dimension {dim}. Received: {num_heads}"
            )
        self.head_dim = dim // num_heads
        self.rotation = None
        if angles is not None:
            self.angles = np.asarray(angles, "float32")
            self.rotation = np.cos(self.angles), np.sin(self.angles)  # constants of any graph
        dtype = self.dtype_policy
        dense = _dense_layer(lipschitz)
        # Distances know no bias of keys, and that of values is one of the output.
        parts = 2 if lipschitz else 3
        self.qkv = dense(parts * dim, use_bias=not lipschitz, name="qkv", dtype=dtype)
        self.out = dense(dim, name="out", dtype=dtype)
        self.norms = None
        if qk_norm:
            self.norms = [RMSNorm(name=f"{part}_norm", dtype=dtype) for part in ("query", "key")]

    def build(self, shape):
        self.qkv.build(shape)
        self.out.build(shape)
        for norm in self.norms or ():
            norm.build((*shape[:-1], self.head_dim))

    def compute_output_shape(self, shape):
        return shape

    def _heads(self, x):
        """Queries, keys and values `[..., N, H]` of `[..., D]`."""
        shape = (-1, *x.shape[1:-1], self.num_heads, self.head_dim)
        # Split and not sliced: TensorFlow's gradient of a slice fills the whole tensor with zeros.
        parts = ops.split(_dense(self.qkv, x), 3, axis=-1)
        query, key, value = (ops.reshape(part, shape) for part in parts)
        if self.norms:
            query, key = self.norms[0](query), self.norms[1](key)
        return query, key, value

    def _distances(self, x):
        """As `_heads`, of which the product of query and key is minus their squared distance, but
        for what is the same for all keys and so nothing to a softmax.
        """
        shape = (-1, *x.shape[1:-1], self.num_heads, self.head_dim)
        key, value = (
            ops.reshape(part, shape) for part in ops.split(_dense(self.qkv, x), 2, axis=-1)
        )
        squared = ops.sum(ops.square(key), axis=-1, keepdims=True)
        # `attend` divides by the root of its own size.
        root = ((self.head_dim + 1) / self.head_dim) ** 0.5
        query = ops.concatenate([2 * root * key, -root * ops.ones_like(squared)], axis=-1)
        return query, ops.concatenate([key, squared], axis=-1), value

    def call(self, x):
        if self.lipschitz:
            x = attend(*self._distances(x), self.causal)
            return _dense(self.out, ops.reshape(x, (-1, *x.shape[1:-2], self.dim)))
        query, key, value = self._heads(x)
        if self.rotation:
            angles = [part[:, None] for part in self.rotation]  # (T, 1, H / 2)
            query, key = rotate(query, *angles), rotate(key, *angles)
        x = attend(query, key, value, self.causal)
        return _dense(self.out, ops.reshape(x, (-1, *x.shape[1:-2], self.dim)))

    # Token by token: keys and values are kept as rows of one matrix, head after head and in
    # it token after token. A token's rows are scattered along its leading axis, which converts
    # to ONNX, and a head's part is a matrix without being moved.

    def start(self, batch_size, length):
        """An empty cache for `length` tokens: two tensors `[B * N * length, H]`."""
        rows = ops.zeros((batch_size * self.num_heads * length, self.head_dim), self.compute_dtype)
        return rows, rows

    def step(self, x, cache, position, length):
        """Attention of one token `[B, D]`, at an int32 `position`, to itself and those before it.

        Returns `[B, D]` and the new cache, from what `start` or the last `step` gave.
        """
        query, key, value = self._heads(x)
        if self.rotation:
            angles = [ops.take(part, position, axis=0) for part in self.rotation]
            # Both in one: of one token, operations take longer than what they compute.
            both = rotate(ops.concatenate([query, key], axis=1), *angles)
            query, key = ops.split(both, 2, axis=1)
        flat = (-1, self.head_dim)
        places = ops.arange(ops.shape(x)[0] * self.num_heads, dtype="int32") * length + position
        keys, values = (
            ops.scatter_update(rows, places[:, None], ops.reshape(new, flat))
            for rows, new in zip(cache, (key, value), strict=True)
        )
        matrix = (-1, length, self.head_dim)
        query = ops.reshape(query * self.head_dim**-0.5, (-1, 1, self.head_dim))
        scores = ops.matmul(query, ops.transpose(ops.reshape(keys, matrix), (0, 2, 1)))
        scores = ops.cast(scores, "float32")
        seen = np.arange(length, dtype="int32") <= position
        weights = ops.softmax(ops.where(seen, scores, HIDDEN), axis=-1)
        x = ops.matmul(ops.cast(weights, self.compute_dtype), ops.reshape(values, matrix))
        return self.out(ops.reshape(x, (-1, self.dim))), (keys, values)


@keras.saving.register_keras_serializable(package="kgen")
class FeedForward(Configurable, layers.Layer):
    """Two dense layers around a GELU, or a SwiGLU of about the same number of weights.

    Args:
        dim: Int, D.
        ratio: Float, width of the hidden layer in multiples of D.
        kind: `"gelu"` (by tanh, which converts to ONNX) or `"swiglu"`.
        lipschitz: Bool, see `Attention`.
    """

    def __init__(self, dim, ratio=4.0, kind="gelu", lipschitz=False, **kwargs):
        super().__init__(**kwargs)
        check_ints(1, dim=dim)
        check_numbers(Number(above=0), ratio=ratio)
        # SwiGLU has three matrices in place of two: section 2 of its paper takes 2/3 of the width.
        self.hidden = int(dim * ratio) if kind == "gelu" else int(dim * ratio * 2 / 3 + 7) // 8 * 8
        wide = self.hidden if kind == "gelu" else 2 * self.hidden
        dense = _dense_layer(lipschitz)
        self.first = dense(wide, name="first", dtype=self.dtype_policy)
        self.second = dense(dim, name="second", dtype=self.dtype_policy)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.hidden))

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        x = _dense(self.first, x)
        if self.kind == "gelu":
            return _dense(self.second, ops.gelu(x, approximate=True))
        x, gate = ops.split(x, 2, axis=-1)
        return _dense(self.second, x * ops.silu(gate))


def _dense_layer(lipschitz):
    return functools.partial(SpectralDense, keep_norm=True) if lipschitz else layers.Dense


def _dense(layer, x):
    """A dense layer over `[..., D]` as one matrix: TensorFlow then adds the bias on the way."""
    flat = layer(ops.reshape(x, (-1, x.shape[-1])))
    return ops.reshape(flat, (-1, *x.shape[1:-1], flat.shape[-1]))


@keras.saving.register_keras_serializable(package="kgen")
class TransformerBlock(Configurable, layers.Layer):
    """Attention and a feed-forward network, each normalised before and added to its input.

    With a condition it is a DiT block: shifts, scales and gates come from the condition and
    begin at zero, so that the block begins as the identity.

    Args:
        dim: Int, D; see `TransformerSpec`, as are `num_heads`, `mlp`, `norm`, `qk_norm` and
            `dropout`.
        angles: See `Attention`, as is `causal`.
        mlp_ratio: Float, see `FeedForward`.
        conditional: Bool, whether `call` takes a condition `[B, D]`.
        lipschitz: Bool, see `Attention`.

    By `seeds` `[B]` training draws what each row of `[B, T, D]` drops; without, none drops
    anything.
    """

    def __init__(
        self,
        dim,
        num_heads,
        angles=None,
        causal=False,
        qk_norm=False,
        mlp_ratio=4.0,
        mlp="gelu",
        norm="layer",
        conditional=False,
        dropout=0.0,
        lipschitz=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_shares(dropout=dropout)
        dtype = self.dtype_policy
        self.attention_norm = normalization(
            norm, not conditional, lipschitz, name="attention_norm", dtype=dtype
        )
        self.attention = Attention(
            *(dim, num_heads, angles, causal, qk_norm, lipschitz), name="attention", dtype=dtype
        )
        self.mlp_norm = normalization(
            norm, not conditional, lipschitz, name="mlp_norm", dtype=dtype
        )
        self.mlp = FeedForward(dim, mlp_ratio, mlp, lipschitz, name="mlp", dtype=dtype)
        self.modulation = None
        if conditional:
            self.modulation = layers.Dense(
                6 * dim, kernel_initializer="zeros", name="modulation", dtype=dtype
            )

    def get_config(self):
        return {**super().get_config(), "mlp": self.mlp.kind}

    def build(self, shape):
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(shape)
        if self.modulation:
            self.modulation.build((None, self.dim))

    def compute_output_shape(self, shape):
        return shape

    def _modulations(self, condition):
        """Shift, scale and gate of both sublayers, `[B, 1, D]` each."""
        parts = self.modulation(ops.silu(condition))[:, None]
        return ops.split(parts, 6, axis=-1)

    def _dropped(self, x, seeds, stream):
        """(B, T, D) without a share of its numbers, which the others make up for."""
        if seeds is None or not self.dropout:
            return x
        keep = random.uniform(seeds, x.shape[1:], stream) > self.dropout
        return x * ops.cast(keep, x.dtype) / (1 - self.dropout)

    def call(self, x, condition=None, seeds=None):
        if self.modulation is None:
            x = x + self._dropped(self.attention(self.attention_norm(x)), seeds, 0)
            return x + self._dropped(self.mlp(self.mlp_norm(x)), seeds, 1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self._modulations(condition)
        y = self.attention(modulate(self.attention_norm(x), shift, scale))
        x = x + gate * self._dropped(y, seeds, 0)
        y = self.mlp(modulate(self.mlp_norm(x), mlp_shift, mlp_scale))
        return x + mlp_gate * self._dropped(y, seeds, 1)

    def start(self, batch_size, length):
        """See `Attention.start`."""
        return self.attention.start(batch_size, length)

    def step(self, x, cache, position, length):
        """The block at one token, `[B, D]`; unconditional. See `Attention.step`."""
        y, cache = self.attention.step(self.attention_norm(x), cache, position, length)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), cache


def modulate(x, shift, scale):
    """What a condition does to normalised features."""
    return x * (1 + scale) + shift
