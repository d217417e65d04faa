"""The network of PixelCNN++, over images and pixel by pixel.

Salimans, Karpathy, Chen and Kingma (ICLR 2017; arXiv 1701.05517): downsampling by strides
(section 2.3), short-cut connections (section 2.4) and dropout (section 2.5). Two streams keep the
order of the pixels without masks: `u` has kernels of 2x3 pixels that see the rows above, `ul`
kernels of 2x2 that also see what lies left. The weights are not normalised as the authors' are:
with the residual branches small at first, training is stable without.
"""

import itertools

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.layers.causal_conv import CausalConv2D
from kgen.models.autoregressive.pixel_network import RasterNetwork, add_bias, label_bias


class PixelCNNppNetwork(RasterNetwork):
    """Both streams at all resolutions, and the `num_parameters` outputs of a pixel."""

    def __init__(
        self,
        image_shape,
        num_classes,
        filters,
        num_blocks,
        num_resolutions,
        dropout,
        num_parameters,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        self.filters = filters
        streams = itertools.count(16)  # apart from the model's own

        def make_block(right, num_others, name):
            return GatedBlock(
                filters, right, num_others, num_classes, dropout, next(streams), name=name
            )

        self.start_u = CausalConv2D(filters, (5, 3), "nothing", name="start_u")
        self.start_above = CausalConv2D(filters, 3, "nothing", name="start_above")
        self.start_left = layers.Dense(filters, use_bias=False, name="start_left")
        self.level = Level(filters, num_blocks, num_resolutions, make_block, name="level")
        # In halves a mean near 1 would be half a grey level off.
        self.parameters = layers.Dense(num_parameters, dtype="float32", name="parameters")

    def build(self, shape):
        pixels, features = (*shape[:-1], shape[-1] + 1), (*shape[:-1], self.filters)
        for layer in (self.start_u, self.start_above, self.start_left):
            layer.build(pixels)
        self.level.build(features)
        self.parameters.build(features)

    def call(self, x, labels=None, training=False, seeds=None):
        # A channel of ones tells black or grey pixels from the padding.
        x = ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)
        left = ops.pad(x[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
        ul = self.start_above(x) + self.start_left(left)
        seeds = seeds if training else None
        _, ul = self.level(self.start_u(x), ul, self.one_hot(labels), seeds)
        return self.parameters(ops.elu(ul))

    # Row by row and pixel by pixel: see `AutoregressiveGenerator`.

    @property
    def output_sizes(self):
        return self.level.output_sizes

    def start(self, batch_size):
        _, width, channels = self.image_shape
        outputs = tuple(
            ops.zeros((width // 2**depth, batch_size, size))
            for depth, size in enumerate(self.output_sizes)
        )
        pixels = ops.zeros((batch_size, 2, width, channels + 1))
        return ops.zeros((), "int32"), pixels, outputs, self.level.start(batch_size, width)

    def begin_row(self, rows, row, labels):
        _, pixels, outputs, state = rows
        above = tuple(ops.transpose(tensor, (1, 0, 2)) for tensor in outputs)
        state = self.level.row(
            state,
            above,
            row,
            self.start_u.rows(pixels),
            self.start_above.rows(pixels[:, 1:]),
            self.one_hot(labels),
        )
        context = self._context(state, outputs, row, 0)
        return context, (row, pixels, outputs, state)

    def _context(self, state, outputs, row, depth):
        """What `Level.pixel` takes, for every pixel of the row, `[W, ...]`."""
        known = self._for_each_pixel(ops.transpose(state[2], (1, 0, 2)), depth)
        if len(state) == 3:
            return (known,)
        width = self.image_shape[1]
        column = np.arange(width, dtype="int32") // 2**depth  # at this level
        begins = np.arange(width) % 2 ** (depth + 1) == 0
        row_begins = ops.equal(row % 2 ** (depth + 1), 0)
        place = row // 2**depth % 2 * 2 + column % 2
        earlier = self._for_each_pixel(outputs[depth + 1][..., -self.filters :], depth + 1)
        coarser = (
            ops.logical_and(row_begins, begins),
            ops.logical_and(row_begins, np.ones(width, "bool")),
            place,
            ops.cast(earlier, self.compute_dtype),
            self._context(state[3], outputs, row, depth + 1),
        )
        return known, coarser

    def _for_each_pixel(self, x, depth):
        """A row of a coarse level, `[w, ...]`, as one of the image's width."""
        if depth == 0:
            return x
        return ops.take(x, np.arange(self.image_shape[1], dtype="int32") // 2**depth, axis=0)

    def start_columns(self, batch_size):
        return tuple(ops.zeros((batch_size, n), self.compute_dtype) for n in self.output_sizes)

    def pixel(self, context, columns, column, last, x, step):
        inside = ops.cast(ops.greater(column, 0), last.dtype) * ops.ones_like(last[:, :1])
        entry = context[0][:, : self.filters]
        entry = entry + self.start_left(ops.concatenate([last, inside], axis=-1))
        ul, kept = self.level.pixel(context, columns, entry)
        outputs = tuple(ops.cast(tensor, "float32") for tensor in kept)
        return self.parameters(ops.elu(ul)), kept, outputs

    def end_row(self, rows, context, x, outputs):
        row, pixels, before, state = rows
        x = ops.transpose(x, (1, 0, 2))
        x = ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)
        pixels = ops.concatenate([pixels[:, 1:], x[:, None]], axis=1)
        outputs = tuple(
            ops.where(ops.equal(row % 2**depth, 0), new[:: 2**depth], old)
            for depth, (new, old) in enumerate(zip(outputs, before, strict=True))
        )
        return row, pixels, outputs, state


class Level(layers.Layer):
    """Both streams at one resolution, and in their midst all coarser ones (figure 2).

    A row of a coarse level belongs to two rows of the finer one, and is computed with the
    upper of them: it depends on rows above both. A coarse pixel is computed with the upper
    left one of its four, and depends on pixels before that one. On the way up there is a block
    more than on the way down, at all levels but the coarsest.
    """

    def __init__(self, filters, num_blocks, num_levels, make_block, finest=True, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.finest = filters, finest

        def blocks(count, right, others, name):
            return [make_block(right, others, f"{name}_{i}") for i in range(count)]

        self.down_u = blocks(num_blocks, 1, 0, "down_u")
        self.down_ul = blocks(num_blocks, 0, 1, "down_ul")
        self.coarser = None
        if num_levels > 1:
            self.shrink_u = ShiftedConv2D(filters, 1, 2, name="shrink_u")
            self.shrink_ul = ShiftedConv2D(filters, 0, 2, name="shrink_ul")
            self.coarser = Level(
                filters, num_blocks, num_levels - 1, make_block, False, name="coarser"
            )
            self.grow_u = RowUpsampling(name="grow_u")
            self.grow_ul = PixelUpsampling(filters, name="grow_ul")
        more = num_blocks + (self.coarser is not None)
        self.up_u = blocks(more, 1, 1, "up_u")
        self.up_ul = blocks(more, 0, 2, "up_ul")
        # What a row of `u`, and a pixel of `ul`, must be known by later: two features of each
        # block, what is shrunk, and what grows.
        shrunk = self.coarser is not None
        self.kept_u = 2 * (num_blocks + more) + shrunk
        self.kept_ul = self.kept_u + (not finest)

    def build(self, shape):
        between = []
        if self.coarser is not None:
            between = [self.shrink_u, self.shrink_ul, self.coarser, self.grow_u, self.grow_ul]
        for layer in (*self.down_u, *self.down_ul, *between, *self.up_u, *self.up_ul):
            layer.build(shape)

    @property
    def output_sizes(self):
        """Features that are kept of a pixel, of this level and of the coarser ones."""
        coarser = () if self.coarser is None else self.coarser.output_sizes
        return (self.kept_ul * self.filters, *coarser)

    def call(self, u, ul, one_hot=None, seeds=None):
        """Whole images: `[B, H, W, F]` of both streams to the same."""
        skips = [(u, ul)]
        for block_u, block_ul in zip(self.down_u, self.down_ul, strict=True):
            u = block_u(u, (), one_hot, seeds)
            ul = block_ul(ul, (u,), one_hot, seeds)
            skips.append((u, ul))
        if self.coarser is None:
            skips.pop()
        else:
            u, ul = self.coarser(self.shrink_u(u), self.shrink_ul(ul), one_hot, seeds)
            u, ul = self.grow_u(u), self.grow_ul(ul)
        for block_u, block_ul in zip(self.up_u, self.up_ul, strict=True):
            skip_u, skip_ul = skips.pop()
            u = block_u(u, (skip_u,), one_hot, seeds)
            ul = block_ul(ul, (u, skip_ul), one_hot, seeds)
        return u, ul

    # Row by row and pixel by pixel ----------------------------------------------------

    def start(self, batch_size, width):
        """The state of rows that are not there: see `row`."""
        sizes = (self.filters, self.kept_u * self.filters, self._context_size())
        state = tuple(ops.zeros((batch_size, width, n), self.compute_dtype) for n in sizes)
        if self.coarser is None:
            return state
        return (*state, self.coarser.start(batch_size, width // 2))

    def _context_size(self):
        return (1 + 3 * (len(self.down_ul) + len(self.up_ul))) * self.filters

    def row(self, state, above, row, u, entry, one_hot):
        """One row of `u`, here and at coarser levels, and what it says of the row of `ul`.

        From the last row's state and, for this level and the coarser ones, the pixels of `ul` in
        the row above, `[B, W, kept_ul * F]`; `u` and `entry`, `[B, W, F]`, are the row as it comes
        in and what is known of `ul`. Returns the new state: `u` as it goes out, what the next row
        must know of it, what is known of `ul`, and the coarser level's state.
        """
        last = iter(split(state[1], self.filters))
        above_ul = iter(split(above[0], self.filters))
        kept, context, skips = [], [entry], [u]

        def pass_blocks(block_u, block_ul, u, others):
            u, new = block_u.row((next(last), next(last)), u, others, one_hot)
            kept.extend(new)
            context.append(block_ul.context((next(above_ul), next(above_ul)), u, one_hot))
            return u

        for blocks in zip(self.down_u, self.down_ul, strict=True):
            u = pass_blocks(*blocks, u, ())
            skips.append(u)
        coarser = ()
        if self.coarser is None:
            skips.pop()
        else:
            kept.append(u)
            last_u, last_ul, now = next(last), next(above_ul), u

            def compute():
                u, entry = self.shrink_u.row(last_u, now), self.shrink_ul.above(last_ul)
                return self.coarser.row(state[3], above[1:], row // 2, u, entry, one_hot)

            coarser = (only_if(ops.equal(row % 2, 0), compute, state[3]),)
            u = self.grow_u.row(coarser[0][0], row % 2)
        for blocks in zip(self.up_u, self.up_ul, strict=True):
            u = pass_blocks(*blocks, u, (skips.pop(),))
        kept, context = ops.concatenate(kept, axis=-1), ops.concatenate(context, axis=-1)
        return (u, kept, context, *coarser)

    def pixel(self, context, left, ul):
        """One pixel of `ul`, here and, where a pixel of theirs begins, at coarser levels.

        `ul` `[B, F]` is the pixel as it comes in, `left`, for each level, what the one to its left
        kept, `[B, kept_ul * F]`. `context` is what is known of this pixel, `[B, ...]`, and for the
        coarser level whether its pixel begins here, whether its row begins here, the pixel's place
        in it (0 to 3), what it gave when its row began, and its own context. Returns the pixel as
        it goes out and what it keeps; coarser levels keep what they have until their next pixel.
        """
        known = iter(split(context[0][:, self.filters :], 3 * self.filters))
        last = iter(split(left[0], self.filters))
        kept, skips = [], [ul]
        for block in self.down_ul:
            ul, new = block.pixel(next(known), (next(last), next(last)), ul)
            kept.extend(new)
            skips.append(ul)
        coarser = ()
        if self.coarser is None:
            skips.pop()
        else:
            kept.append(ul)
            begins, row_begins, place, earlier, within = context[1]
            last_ul, now = next(last), ul

            def compute():
                entry = within[0][:, : self.filters]
                entry = entry + self.shrink_ul.pixel(last_ul, now)
                return self.coarser.pixel(within, left[1:], entry)

            waiting = ops.where(row_begins, left[1][:, -self.filters :], earlier), left[1:]
            ul, coarser = only_if(begins, compute, waiting)
            ul = self.grow_ul.pixel(ul, place)
        for block in self.up_ul:
            ul, new = block.pixel(next(known), (next(last), next(last)), ul, skips.pop())
            kept.extend(new)
        if not self.finest:
            kept.append(ul)
        return ul, (ops.concatenate(kept, axis=-1), *coarser)


class GatedBlock(layers.Layer):
    """A gated residual block that mixes in `num_others` other features; `stream` is its noise's."""

    def __init__(self, filters, right, num_others, num_classes, dropout, stream, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.num_classes = filters, num_classes
        self.dropout, self.stream = dropout, stream
        self.first = ShiftedConv2D(filters, right, name="first")
        # A tenth of the usual size, as in the authors' code: at first all passes the block by.
        small = keras.initializers.VarianceScaling(0.01, "fan_avg", "uniform")
        self.second = ShiftedConv2D(2 * filters, right, kernel_initializer=small, name="second")
        self.mix = [
            layers.Dense(filters, use_bias=False, name=f"mix_{i}") for i in range(num_others)
        ]
        self.label = label_bias(2 * filters, num_classes)

    def build(self, shape):
        # Keras, left to itself, would run every block many times to build it.
        shape = (*shape[:-1], 2 * self.filters)
        for layer in (self.first, self.second, *self.mix):
            layer.build(shape)
        if self.label is not None:
            self.label.build((None, self.num_classes))

    def call(self, x, others=(), one_hot=None, seeds=None):
        """Whole images, `[B, H, W, F]`; with `seeds`, `[B]`, some features are dropped."""
        y = self._mixed(self.first(concat_elu(x)), others)
        y = concat_elu(y)
        if seeds is not None and self.dropout > 0:
            keep = random.uniform(seeds, y.shape[1:], self.stream) > self.dropout
            y = y * ops.cast(keep, y.dtype) / (1 - self.dropout)
        return x + self._gate(self._labelled(self.second(y), one_hot))

    def row(self, above, x, others, one_hot):
        """One row of `u`, `[B, W, F]`, to the same and what it keeps; `above` is what the row above
        has kept, two of `[B, W, F]`."""
        y = self._mixed(self.first.row(concat_elu(above[0]), concat_elu(x)), others)
        z = self._labelled(self.second.row(concat_elu(above[1]), concat_elu(y)), one_hot)
        return x + self._gate(z), (x, y)

    def context(self, above, u, one_hot):
        """What is known of a row of `ul` before it has pixels, `[B, W, 3 F]`."""
        y = self._mixed(self.first.above(concat_elu(above[0])), (u,))
        z = self._labelled(self.second.above(concat_elu(above[1])), one_hot)
        return ops.concatenate([y, z], axis=-1)

    def pixel(self, context, left, x, skip=None):
        """One pixel of `ul`, `[B, F]`, to the same and what it keeps, given its context, what the
        pixel to the `left` has kept, and on the way up a `skip` to mix in.
        """
        y, z = context[:, : self.filters], context[:, self.filters :]
        y = y + self.first.pixel(concat_elu(left[0]), concat_elu(x))
        if skip is not None:
            y = y + self.mix[1](concat_elu(skip))
        z = z + self.second.pixel(concat_elu(left[1]), concat_elu(y))
        return x + self._gate(z), (x, y)

    def _mixed(self, y, others):
        for dense, other in zip(self.mix, others, strict=False):
            y = y + dense(concat_elu(other))
        return y

    def _gate(self, z):
        features, gates = ops.split(z, 2, axis=-1)
        return features * ops.sigmoid(gates)

    def _labelled(self, z, one_hot):
        return z if self.label is None else add_bias(z, self.label(one_hot))


class ShiftedConv2D(layers.Layer):
    """Convolution over a pixel's row and the row above, padded with zeros.

    It sees one column to the left and `right` to the right: 1 for `u`, whose own row is already a
    row of pixels above, 0 for `ul`.
    """

    def __init__(self, filters, right, stride=1, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.right, self.stride = filters, right, stride
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, shape):
        shape = (2, 2 + self.right, shape[-1], self.filters)
        self.kernel = self.add_weight(shape, self.kernel_initializer, name="kernel")
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, x):
        """`[B, H, W, in]` to `[B, H / stride, W / stride, filters]`."""
        return self._convolve(ops.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0))), slice(0, 2))

    def row(self, above, x):
        """One row, `[B, W, in]`, and the one above it, to `[B, W / stride, filters]`."""
        return self._convolve(ops.stack([above, x], axis=1), slice(0, 2))[:, 0]

    def above(self, above):
        """What the row above, `[B, W, in]`, adds to one row; with the bias."""
        return self._convolve(above[:, None], slice(0, 1))[:, 0]

    def pixel(self, left, x):
        """What a pixel and the one to its left, `[B, in]` each, add (`right` is 0)."""
        kernel = ops.cast(self.kernel, self.compute_dtype)[1]
        kernel = ops.reshape(kernel, (-1, self.filters))
        return ops.matmul(ops.concatenate([left, x], axis=-1), kernel)

    def _convolve(self, x, rows):
        dtype = self.compute_dtype
        x = ops.pad(ops.cast(x, dtype), ((0, 0), (0, 0), (1, self.right), (0, 0)))
        kernel = ops.cast(self.kernel, dtype)[rows]
        return ops.conv(x, kernel, strides=self.stride) + ops.cast(self.bias, dtype)


class RowUpsampling(layers.Layer):
    """Transposed convolution of 2x3 pixels by a stride of 2, for `u`."""

    def build(self, shape):
        filters = shape[-1]
        self.kernel = self.add_weight((2, 3, filters, filters), name="kernel")
        self.bias = self.add_weight((filters,), "zeros", name="bias")

    def call(self, x):
        """`[B, H, W, F]` to `[B, 2 H, 2 W, F]`; a row gives the two below its own pixels' top."""
        x = ops.cast(x, self.compute_dtype)
        kernel = ops.cast(self.kernel, self.compute_dtype)
        y = ops.conv_transpose(x, kernel, strides=2, padding="valid")[:, :, 1:]
        return y + ops.cast(self.bias, y.dtype)

    def row(self, x, part):
        """The upper (`part` is 0) or the lower of the two rows from one, `[B, W, F]`."""
        return ops.take(self(x[:, None]), part, axis=1)


class PixelUpsampling(layers.Layer):
    """Transposed convolution of 2x2 pixels by a stride of 2, for `ul`: 4 pixels from one."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.four = layers.Dense(4 * filters, name="four")

    def build(self, shape):
        self.four.build(shape)

    def call(self, x):
        """`[B, H, W, F]` to `[B, 2 H, 2 W, F]`."""
        _, height, width, filters = x.shape
        y = ops.reshape(self.four(x), (-1, height, width, 2, 2, filters))
        y = ops.transpose(y, (0, 1, 3, 2, 4, 5))
        return ops.reshape(y, (-1, 2 * height, 2 * width, filters))

    def pixel(self, x, part):
        """One of the four (0 to 3, in raster order), `[B, F]` from `[B, F]`."""
        return ops.take(ops.reshape(self.four(x), (-1, 4, x.shape[-1])), part, axis=1)


def concat_elu(x):
    """The exponential linear unit of `x` and of `-x`: twice the filters."""
    return ops.elu(ops.concatenate([x, -x], axis=-1))


def split(x, size):
    """A tensor's last axis in parts of one size."""
    return ops.split(x, x.shape[-1] // size, axis=-1)


def only_if(condition, compute, otherwise):
    """`compute()` where the scalar bool `condition` holds, else the tensors `otherwise`: by a loop
    of one step or none, as an `ops.cond` in a graph loses its shapes on the way to ONNX.
    """
    return ops.fori_loop(0, ops.cast(condition, "int32"), lambda _, state: compute(), otherwise)
