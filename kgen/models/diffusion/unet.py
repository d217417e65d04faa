"""The U-Net of denoising models: residual blocks at several sizes of feature maps, and back.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (NeurIPS 2020; arXiv 2006.11239),
appendix B, and Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis" (NeurIPS 2021;
arXiv 2105.05233), section 3: group normalisation, whose scale and shift are the time's and the
class's, attention at the smaller maps, every block's outcome joined to its mirror image's input.
Pixels come in squares of `patch_size`, as to a transformer: Hoogeboom, Heek and Salimans, "Simple
diffusion" (ICML 2023; arXiv 2301.11093), section 3.3.
"""

import functools
import itertools
import math

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import check_ints, check_shares
from kgen.configurable import Configurable
from kgen.layers.convolutional import GroupNorm
from kgen.layers.network import Network, recomputed
from kgen.layers.transformer import Attention
from kgen.layers.vit import patchify, unpatchify
from kgen.memory import check_network
from kgen.models.diffusion.base import DenoisingGenerator
from kgen.models.diffusion.conditioning import Conditioned

#: Groups of features that are normalised together; fewer where there are fewer features.
GROUPS = 8


class UNetGenerator(DenoisingGenerator):
    """Base class of denoising models whose network is a U-Net.

    Args:
        filters: Int, a multiple of 8, at the largest feature map.
        multipliers: Tuple of ints, for every feature map how many times as many filters; each map
            has half the sides of the one before.
        blocks: Int, residual blocks at every feature map, on the way down and on the way up.
        attention: Tuple of ints, the feature maps, 0 the largest, where places attend to each
            other too.
        num_heads: Int, of that attention; it divides the filters there.
        patch_size: Int, side of the squares of pixels that are one place of the largest map: 2
            takes a quarter of the time.
        dropout: Float, the share that training drops inside a block.
        all_joined: Bool, whether what enters a map is joined too, which takes one more block there
            on the way up, and the middle is two blocks, with attention between them where there is
            any: the network of Ho et al. (2020), at half as much work again.
        gradient_checkpointing: Bool, whether training computes what is inside a block anew for the
            gradient in place of keeping it: less memory, a third more time.

    Further arguments and what is logged: as for `DenoisingGenerator`.
    """

    def __init__(
        self,
        image_shape,
        num_classes=None,
        autoencoder=None,
        filters=40,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        num_heads=4,
        patch_size=2,
        dropout=0.0,
        all_joined=False,
        gradient_checkpointing=False,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, autoencoder=autoencoder, **kwargs)
        self.multipliers, self.attention = tuple(multipliers), tuple(attention)
        what = "image" if self.autoencoder is None else "latent map"
        check_unet(
            *(self.latent_shape, what, filters, self.multipliers, blocks, self.attention),
            *(num_heads, patch_size, dropout),
        )
        shape, classes = self.latent_shape, self.num_classes
        sizes = (filters, self.multipliers, blocks, self.attention, num_heads, patch_size)
        rest = (dropout, all_joined, self.told_ends, gradient_checkpointing)
        self._build_networks(lambda name: UNet(shape, classes, *sizes, *rest, name=name))

    student: str | None = "soflow"

    @property
    def default_batch_size(self):
        return 32

    def default_optimizer(self, learning_rate=None):
        """Adam with gradients of bounded length."""
        rate = 2e-3 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0)


def check_unet(
    shape, what, filters, multipliers, blocks, attention, num_heads, patch_size, dropout
):
    """Raises a ValueError where a `UNet` for `what` of a shape cannot be built, or does not fit the
    machine.
    """
    check_ints(1, filters=filters, blocks=blocks, num_heads=num_heads, patch_size=patch_size)
    check_ints(1, **{f"multipliers[{i}]": each for i, each in enumerate(multipliers)})
    check_shares(dropout=dropout)
    levels = len(multipliers)
    divisor = patch_size * 2 ** (levels - 1)
    if not levels or any(side % divisor for side in shape[:2]):
        raise ValueError(
            "patch_size, and a factor of 2 for each of the multipliers but the first, must "
            f"divide the sides of the {what}, {shape[0]}x{shape[1]}. "
            f"Received: patch_size={patch_size}, multipliers={multipliers}"
        )
    if filters % GROUPS:
        raise ValueError(f"filters must be a multiple of {GROUPS}. Received: filters={filters}")
    for level in attention:
        if not 0 <= level < levels or filters * multipliers[level] % num_heads:
            raise ValueError(
                f"attention names feature maps 0 to {levels - 1} whose filters num_heads "
                f"divides. Received: attention={attention}, num_heads={num_heads}"
            )
    widths = [filters * multiplier for multiplier in multipliers]
    # Two convolutions of nine places in each block, down and, of twice the input, up.
    parameters = sum(9 * 5 * blocks * width**2 for width in widths)
    places = math.prod(side // patch_size for side in shape[:2])
    tokens = max((places // 4**level for level in attention), default=0)
    check_network(parameters, tokens, num_heads)


@keras.saving.register_keras_serializable(package="kgen")
class UNet(Conditioned, Network):
    """What is said of every place of a noisy image `[B, H, W, C]`, given the time and the class.

    Times `[B]` are 0 to 1; the label `num_classes` stands for no class. With `ends` it is told the
    times `[B]` to go to, too. `given_channels` more come with the image, of which nothing is said.
    See `UNetGenerator`.
    """

    def __init__(
        self,
        shape,
        num_classes,
        filters,
        multipliers,
        blocks,
        attention,
        num_heads,
        patch_size,
        dropout,
        all_joined,
        ends=False,
        gradient_checkpointing=False,
        given_channels=0,
        **kwargs,
    ):
        # In half precision many times would be one: the layers inside cast what they are given.
        super().__init__(autocast=False, **kwargs)
        self._build_condition(4 * filters, num_classes, ends)
        self.first = layers.Conv2D(filters, 3, padding="same", name="first")

        def unit(name, level, attends=None):
            attends = level in attention if attends is None else attends
            heads = num_heads if attends else None
            return UNetBlock(widths[level], heads, dropout, name=f"{name}_{level}")

        widths = [filters * multiplier for multiplier in multipliers]
        levels = range(len(widths))
        self.down = [[unit(f"down_{i}", level) for i in range(blocks)] for level in levels]
        self.smaller = [
            layers.Conv2D(widths[level], 3, 2, "same", name=f"smaller_{level}")
            for level in levels[:-1]
        ]
        self.middle = [unit("middle_0", levels[-1], bool(attention) if all_joined else None)]
        if all_joined:
            self.middle.append(unit("middle_1", levels[-1], False))
        more = blocks + int(all_joined)
        self.up = [[unit(f"up_{i}", level) for i in range(more)] for level in levels]
        self.larger = [
            layers.Conv2D(widths[level], 3, padding="same", name=f"larger_{level}")
            for level in levels[:-1]
        ]
        self.norm = GroupNorm(GROUPS, epsilon=1e-5, name="norm")
        self.last = layers.Conv2D(
            patch_size**2 * shape[-1],
            3,
            padding="same",
            kernel_initializer="zeros",
            dtype="float32",
            name="last",
        )
        labels = None if num_classes is None else np.zeros(1, "int32")
        time = np.zeros(1, "float32")
        taken = (1, *shape[:2], shape[-1] + given_channels)
        self(np.zeros(taken, "float32"), time, labels, ends=time)  # builds its weights

    def call(self, x, times, labels=None, seeds=None, ends=None):
        condition = ops.silu(self.condition(times, labels, ends))
        height, width, channels = (*self.shape[:2], x.shape[-1])
        grid = (height // self.patch_size, width // self.patch_size)
        x = ops.reshape(patchify(x, self.patch_size), (-1, *grid, self.patch_size**2 * channels))
        x = self.first(x)
        places = itertools.count()  # each block drops by seeds of its own

        def run(unit, x):
            own = None if seeds is None else random.fold_in(seeds, next(places))
            recompute = self.gradient_checkpointing and seeds is not None
            return recomputed(functools.partial(unit, seeds=own), recompute)(x, condition)

        joined = []
        for level, units in enumerate(self.down):
            joined += [x] if self.all_joined else []
            for unit in units:
                x = run(unit, x)
                joined.append(x)
            if level < len(self.smaller):
                x = self.smaller[level](x)
        for unit in self.middle:
            x = run(unit, x)
        for level in reversed(range(len(self.up))):
            if level < len(self.larger):
                x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
                x = self.larger[level](x)
            for unit in self.up[level]:
                x = run(unit, ops.concatenate([x, joined.pop()], axis=-1))
        x = self.last(ops.silu(self.norm(x)))
        return unpatchify(
            ops.reshape(x, (-1, grid[0] * grid[1], x.shape[-1])), self.patch_size, height, width
        )


@keras.saving.register_keras_serializable(package="kgen")
class UNetBlock(Configurable, layers.Layer):
    """A residual block, `[B, H, W, ...]` and `[B, D]` to `[B, H, W, filters]`.

    Args:
        filters: Int.
        num_heads: Int, of attention after the convolutions; `None` for none.
        dropout: Float, the share that training drops between the convolutions.
    """

    def __init__(self, filters, num_heads=None, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.first_norm = GroupNorm(GROUPS, epsilon=1e-5, name="first_norm", dtype=dtype)
        # What is normalised next, and then shifted by the condition, needs no bias.
        self.first = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name="first", dtype=dtype
        )
        self.modulation = layers.Dense(2 * filters, name="modulation", dtype=dtype)
        self.second_norm = GroupNorm(
            GROUPS, epsilon=1e-5, center=False, scale=False, name="second_norm", dtype=dtype
        )
        self.second = layers.Conv2D(
            filters, 3, padding="same", kernel_initializer="zeros", name="second", dtype=dtype
        )
        self.shortcut = layers.Dense(filters, use_bias=False, name="shortcut", dtype=dtype)
        self.attention = None
        if num_heads is not None:
            self.attention_norm = GroupNorm(
                GROUPS, epsilon=1e-5, name="attention_norm", dtype=dtype
            )
            self.attention = Attention(filters, num_heads, name="attention", dtype=dtype)

    def build(self, x_shape, condition_shape):
        self.first_norm.build(x_shape)
        self.first.build(x_shape)
        self.modulation.build(condition_shape)
        wide = (*x_shape[:-1], self.filters)
        self.second_norm.build(wide)
        self.second.build(wide)
        self.shortened = x_shape[-1] != self.filters
        self.num_places = math.prod(x_shape[1:3])
        if self.shortened:
            self.shortcut.build(x_shape)
        if self.attention is not None:
            self.attention_norm.build(wide)
            self.attention.build((x_shape[0], x_shape[1] * x_shape[2], self.filters))

    def compute_output_shape(self, x_shape, condition_shape=None):
        return (*x_shape[:-1], self.filters)

    def call(self, x, condition, seeds=None):
        y = self.first(ops.silu(self.first_norm(x)))
        shift, scale = ops.split(self.modulation(condition), 2, axis=-1)
        y = ops.silu(self.second_norm(y, shift, scale))
        if seeds is not None and self.dropout:
            keep = random.uniform(seeds, y.shape[1:]) > self.dropout
            y = y * ops.cast(keep, y.dtype) / (1 - self.dropout)
        x = self.second(y) + (self.shortcut(x) if self.shortened else ops.cast(x, y.dtype))
        if self.attention is None:
            return x
        tokens = ops.reshape(self.attention_norm(x), (-1, x.shape[1] * x.shape[2], self.filters))
        return x + ops.reshape(self.attention(tokens), (-1, *x.shape[1:]))
