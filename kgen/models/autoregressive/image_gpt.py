"""ImageGPT.

Chen, Radford, Child, Wu, Jun, Luan and Sutskever, "Generative pretraining from pixels" (ICML
2020): a causal transformer over the pixels of an image in raster order (section 2.2), after
colours have been reduced to a palette of clusters (appendix B), or channel by channel, as in
Parmar et al., "Image transformer" (ICML 2018; arXiv 1802.05751), section 3.1. Positions are
learned, by row, column and channel, and rotary in two dimensions (see `layers.transformer`).
Guidance is that of `layers.conditioning`, on logits.
"""

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import Number, check_numbers, check_shares
from kgen.layers.conditioning import check_guidance, hide_labels
from kgen.layers.transformer import (
    TransformerSpec,
    grid_positions,
    normalization,
    run_blocks,
    transformer_optimizer,
)
from kgen.models.autoregressive.base import AutoregressiveGenerator
from kgen.models.autoregressive.distributions import Categorical, scale, unscale
from kgen.models.autoregressive.sampling import GUIDED_CHOICE, draw_tokens


@keras.saving.register_keras_serializable(package="kgen")
class ImageGPT(AutoregressiveGenerator):
    """A causal transformer over pixels: an exact likelihood, and a sampler with a cache.

    Args:
        dim: Int, see `TransformerSpec`, as are `num_layers`, `num_heads`, `rotary`, `mlp`, `norm`,
            `qk_norm` and `dropout`.
        num_colors: Int, 2 to 4096, to draw the nearest of so many colours, which `fit` learns
            from its images before it begins (see `adapt`), or `None` to draw the levels of one
            channel after the other: C times as many tokens.
        label_dropout: Float, share of the images whose class is hidden in training, so that
            `guidance_scale` has an unconditional model to compare with.

    Further arguments: as for `AutoregressiveGenerator`; `num_levels` without `num_colors`.

    Logs `loss`, nats per image, and `bits_per_dimension`; with `num_colors` both are those of
    the image in the palette's colours, and compare with no other model's.

    Example:

    >>> model = kgen.models.ImageGPT((28, 28, 1), num_levels=2, num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.generate(16, labels=3, guidance_scale=2.0, top_p=0.98)
    """

    sampling_numbers = GUIDED_CHOICE
    tiny_preset = "image_gpt_tiny"
    presets = {
        "image_gpt_tiny": {
            "image_shape": (6, 5, 1),
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
            "num_levels": 4,
            "dropout": 0.1,
        },
        "image_gpt_8x8": {"image_shape": (8, 8, 1), "num_levels": 17, "num_layers": 3},
        "image_gpt_28x28": {"image_shape": (28, 28, 1), "num_levels": 2},
        "image_gpt_32x32": {
            "image_shape": (32, 32, 3),
            "dim": 256,
            "num_layers": 8,
            "num_heads": 8,
            "num_colors": 512,
        },
    }

    def _log_prob(self, x, labels, training=False, seeds=None):
        """The objective is its mean, see `AutoregressiveGenerator.objective`."""
        if training:
            labels = hide_labels(labels, seeds, self.label_dropout, self.num_classes)
        tokens = ops.reshape(unscale(x, self.num_values), (-1, self.network.length))
        logits = self.network(tokens, labels, seeds if training else None)
        return self.distribution.log_prob(
            x, ops.reshape(logits, (-1, *self.grid[:2], self.distribution.num_parameters))
        )

    def sample(
        self, seeds, labels=None, temperature=1.0, top_k=None, top_p=None, guidance_scale=1.0
    ):
        """Draws images token by token, in raster order.

        Args:
            temperature: Float above 0, what logits are divided by.
            top_k: Int, draw from the `top_k` likeliest values alone; 1 is greedy.
            top_p: Float in 0 to 1, draw from the likeliest values that together have this
                probability (Holtzman et al., "The curious case of neural text degeneration",
                ICLR 2020, section 3.1).
            guidance_scale: Float: logits are those without a class plus so many times what the
                class changes. 1 is the model itself, 0 the one without classes. A model
                without classes takes 1 alone.
        """
        return self._draw(
            seeds,
            labels,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
        )

    def _draw_levels(self, seeds, labels, known, mask, **options):
        if known is not None:
            length = self.network.length
            known = ops.reshape(unscale(known, self.num_values), (-1, length))
            mask = ops.repeat(
                ops.reshape(mask, (-1, length // self.grid[-1])), self.grid[-1], axis=1
            )
        check_guidance(self, options.get("guidance_scale", 1))
        tokens = draw_tokens(self.network, seeds, labels, known, mask, **options)
        return scale(ops.reshape(tokens, (-1, *self.grid)), self.num_values)

    def likelihood_protocol(self, importance_samples=None, seed=0):
        protocol = super().likelihood_protocol(importance_samples, seed)
        if self.palette is None:
            return protocol
        text = f"probability of the nearest of {self.num_colors} colours; exact, no bound"
        return {**protocol, "protocol": text, "discrete": False}

    # Colours --------------------------------------------------------------------------

    def needs_adapting(self):
        return self.palette is not None and not ops.convert_to_numpy(self.palette).any()

    def adapt(self, images, labels=None):
        """Learns the palette: k-means over up to 100,000 of the uint8 images' pixels (appendix B).
        A `ValueError` where they have fewer colours than the palette. Labels are not looked at.
        """
        from sklearn.cluster import MiniBatchKMeans

        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.permutation(len(images))[:2000])
        colors = np.asarray(images[chosen]).reshape(-1, self.image_shape[-1])
        colors = rng.permutation(colors)[:100_000]
        found = np.unique(colors, axis=0)
        if len(found) < self.num_colors:
            raise ValueError(
                f"A palette of {self.num_colors} colours cannot be learnt from images that have "
                f"{len(found)}. Set num_colors to at most that."
            )
        if len(found) > self.num_colors:
            means = MiniBatchKMeans(self.num_colors, random_state=self.seed, n_init=1)
            found = np.rint(means.fit(colors.astype("float32")).cluster_centers_)
        self.palette.assign(found)

    def to_levels(self, images):
        if self.palette is None:
            return super().to_levels(images)
        palette = ops.convert_to_tensor(self.palette)
        flat = ops.reshape(ops.cast(images, "float32"), (-1, self.image_shape[-1]))
        # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2); integers below 2**24: exact in float32.
        closeness = ops.matmul(flat, ops.transpose(palette))
        closeness = closeness - 0.5 * ops.sum(ops.square(palette), axis=-1)
        return scale(ops.reshape(random.argmax(closeness), (-1, *self.grid)), self.num_values)

    def to_images(self, x):
        if self.palette is None:
            return super().to_images(x)
        colors = ops.take(self.palette, unscale(x, self.num_values)[..., 0], axis=0)
        return ops.cast(colors, "uint8")

    def _spell_levels(self):
        if self.palette is None:
            return super()._spell_levels()
        return f"{self.num_colors} colours, see its palette"

    # Networks -------------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        dim=128,
        num_layers=6,
        num_heads=4,
        num_colors=None,
        rotary=True,
        mlp="gelu",
        norm="layer",
        qk_norm=False,
        dropout=0.0,
        label_dropout=0.1,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        spec = TransformerSpec.of(self)
        check_shares(label_dropout=label_dropout)
        colors = Number(least=2, most=4096, whole=True, optional=True)
        check_numbers(colors, num_colors=num_colors)
        if num_colors is not None and self.num_levels != 256:
            raise ValueError(
                "num_levels are levels of a channel, and num_colors draws whole colours: give one "
                f"of the two. Received: num_levels={self.num_levels}, num_colors={num_colors}"
            )
        channels = self.image_shape[-1]
        if num_colors is None:
            self.palette = None
        else:  # all black until `adapt`
            self.palette = self.add_weight(
                (num_colors, channels), "zeros", "float32", trainable=False, name="palette"
            )
            channels = 1
        self.num_values = num_colors or self.num_levels
        self.distribution = Categorical(self.num_values, channels)
        self.grid = (*self.image_shape[:2], channels)
        with self.dtype_policy_scope():
            self.network = CausalTransformer(
                self.grid, self.num_values, num_classes, spec, name="network"
            )
        self.built = True

    def default_optimizer(self, learning_rate=None):
        return transformer_optimizer(learning_rate, beta_2=0.95)  # as in section 3.3


class CausalTransformer(layers.Layer):
    """A transformer over a grid of tokens in raster order: each given all before it.

    Logits `[B, T, Q]` of int32 tokens `[B, T]`, Q of `num_tokens`, of the `grid` `(height, width,
    channels)`, the last axis fastest. The label `num_classes` stands for no class.
    """

    def __init__(self, grid, num_tokens, num_classes, spec, **kwargs):
        super().__init__(**kwargs)
        height, width, channels = grid
        self.length = height * width * channels
        self.num_tokens = num_tokens
        self.num_classes = num_classes
        positions = np.repeat(grid_positions(height, width), channels, axis=0)
        of_channels = np.arange(self.length, dtype="int32") % channels
        #: Row, column and channel of the token that comes next: int32 `[T]` each.
        self.places = (*positions.T.astype("int32"), of_channels)
        self.tokens = layers.Embedding(num_tokens, spec.dim, name="tokens")
        self.start_token = layers.Embedding((num_classes or 0) + 1, spec.dim, name="start")
        self.positions = [
            layers.Embedding(size, spec.dim, name=name)
            for size, name in zip(grid, ("rows", "columns", "channels"), strict=True)
        ]
        self.blocks = spec.blocks(positions, causal=True)
        self.norm = normalization(spec.norm, name="norm")
        self.logits = layers.Dense(
            num_tokens, kernel_initializer="zeros", dtype="float32", name="logits"
        )
        labels = None if num_classes is None else np.zeros(1, "int32")
        self(np.zeros((1, self.length), "int32"), labels)  # so that it has its weights

    def call(self, tokens, labels=None, seeds=None):
        start = self._start(tokens[:, 0], labels)[:, None]
        return self.run(ops.concatenate([start, self.tokens(tokens[:, :-1])], axis=1), seeds)

    def run(self, x, seeds=None):
        """Logits `[B, T, Q]` from what stands before each token, `[B, T, D]`."""
        x = run_blocks(self.blocks, x + self._positions(*self.places), seeds=seeds)
        return self.logits(self.norm(x))

    def _start(self, like, labels):
        """What stands before the first token, `[B, D]`: the class, if there are any."""
        return self.start_token(ops.zeros_like(like) if labels is None else labels)

    def _positions(self, *places):
        """Learned positions of rows, columns and channels, `[..., D]`."""
        tables = zip(self.positions, places, strict=True)
        return sum(table(place) for table, place in tables)

    # Token by token: see `draw_tokens`.

    def start(self, batch_size):
        return tuple(block.start(batch_size, self.length) for block in self.blocks)

    def step(self, last, caches, position, labels=None):
        x = ops.where(position > 0, self.tokens(last), self._start(last, labels))
        x = x + self._positions(*(ops.take(places, position) for places in self.places))
        kept = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block.step(x, cache, position, self.length)
            kept.append(cache)
        return self.logits(self.norm(x)), tuple(kept)
