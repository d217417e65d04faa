"""`CausalConv2D`: one convolution, over a whole image or pixel by pixel."""

import math

import keras
import numpy as np
from keras import layers, ops

#: What a convolution sees of its own row: nothing (only rows above), what lies left of the
#: pixel (mask A), the pixel too (mask B), or the whole row (vertical stacks).
OWN_ROW = ("nothing", "left", "pixel", "all")


def channel_groups(filters, channels, repeats=1):
    """The colour channel that each of some filters belongs to: equal shares, in order.

    Args:
        filters: Int, filters of one repeat; divides by `channels`.
        channels: Int, colour channels.
        repeats: Int; a gated layer has its filters twice.

    Returns:
        int array `[repeats * filters]`.
    """
    return np.tile(np.repeat(np.arange(channels), filters // channels), repeats)


class CausalConv2D(layers.Layer):
    """Convolution over the rows above a pixel and a part of its own row.

    The masks are those of van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent
    neural networks" (ICML 2016), section 3.4. Weights that a mask would hide right of the
    pixel or below it do not exist.

    It runs in two ways with equal results. `call` takes whole images. In a sampler
    `rows` takes the rows that one row of outputs needs and computes what can be known
    before the row has pixels, and `pixel` adds what lies left.

    Args:
        filters: Int.
        kernel_size: Tuple `(rows above, columns)`; columns are odd.
        own_row: One of `OWN_ROW`.
        in_groups: Int array `[input channels]`, and
        out_groups: int array `[filters]`: colour channels that they belong to. At the pixel
            itself filters of a channel see inputs of earlier channels and, for `"pixel"`, of
            their own. `None` for one channel.
        use_bias: Bool.
        kernel_initializer: `None` for Glorot's uniform one, or a Keras initializer.

    Call arguments:
        x: Float tensor `[B, H, W, in]`.

    Returns:
        Float tensor `[B, H, W, filters]`.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        own_row="pixel",
        in_groups=None,
        out_groups=None,
        use_bias=True,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.above, self.width = kernel_size
        self.own_row = own_row
        self.in_groups = np.zeros(1, int) if in_groups is None else np.asarray(in_groups)
        self.out_groups = np.zeros(filters, int) if out_groups is None else np.asarray(out_groups)
        self.use_bias = use_bias
        self.kernel_initializer = kernel_initializer
        #: How many columns of its own row it sees.
        self.taps = {
            "nothing": 0,
            "left": self.width // 2 + 1,
            "pixel": self.width // 2 + 1,
            "all": self.width,
        }[own_row]

    def build(self, shape):
        channels = shape[-1]
        # Glorot's bounds for the taps that there are, above and beside the pixel together.
        taps = self.above * self.width + self.taps
        limit = math.sqrt(6 / (taps * (channels + self.filters)))

        def initializer():  # a new one for each weight, or both would begin alike
            return self.kernel_initializer or keras.initializers.RandomUniform(-limit, limit)

        # Two weights, in the shapes that a sampler multiplies by, pixel by pixel.
        if self.above:
            self.above_kernel = self.add_weight(
                (self.above, self.width, channels, self.filters), initializer(), name="above_kernel"
            )
        if self.taps:
            self.own_kernel = self.add_weight(
                (self.taps * channels, self.filters), initializer(), name="own_kernel"
            )
        if self.use_bias:
            self.bias = self.add_weight((self.filters,), "zeros", name="bias")
        self.mask = None
        if self.own_row in ("left", "pixel"):
            mask = np.ones((self.taps, channels, self.filters), "float32")
            earlier = np.less if self.own_row == "left" else np.less_equal
            groups = np.broadcast_to(self.in_groups, (channels,))
            mask[-1] = earlier(groups[:, None], self.out_groups)
            if not mask.all():
                self.mask = mask.reshape(-1, self.filters)

    def _own(self):
        """The weights of the own row, `[columns * in, filters]`, masked."""
        kernel = ops.cast(self.own_kernel, self.compute_dtype)
        return kernel if self.mask is None else kernel * ops.cast(self.mask, kernel.dtype)

    def _kernel(self, channels):
        """The weights of whole rows, `[rows, columns, in, filters]`."""
        rows = []
        if self.above:
            rows.append(ops.cast(self.above_kernel, self.compute_dtype))
        if self.taps:
            own = ops.reshape(self._own(), (1, self.taps, channels, self.filters))
            if self.above:  # of the width of the others: nothing to the right
                own = ops.pad(own, ((0, 0), (0, self.width - self.taps), (0, 0), (0, 0)))
            rows.append(own)
        return ops.concatenate(rows, axis=0) if len(rows) > 1 else rows[0]

    def call(self, x):
        side = self.width // 2
        right = side if self.above or self.own_row == "all" else 0
        if self.own_row == "nothing":
            x = x[:, : x.shape[1] - 1]
        x = ops.pad(x, ((0, 0), (self.above, 0), (side, right), (0, 0)))
        return self._biased(ops.conv(x, self._kernel(x.shape[-1])))

    def rows(self, x):
        """One row of outputs, as far as whole rows say.

        Args:
            x: Float tensor `[B, rows, W, in]`: the rows above (`kernel_size[0]` of them) and,
                for `"all"`, the own row.

        Returns:
            Float tensor `[B, W, filters]`, with the bias; without the taps of `"left"` or
            `"pixel"`.
        """
        whole = self.own_row == "all"
        kernel = self._kernel(x.shape[-1]) if whole else self.above_kernel
        side = self.width // 2
        x = ops.pad(ops.cast(x, self.compute_dtype), ((0, 0), (0, 0), (side, side), (0, 0)))
        return self._biased(ops.conv(x, ops.cast(kernel, self.compute_dtype))[:, 0])

    def pixel(self, taps, biased=True):
        """The part of one pixel's output that comes from its own row.

        Args:
            taps: List of float tensors `[B, in]`, from left to right, the pixel last.
            biased: Bool, add the bias; `False` where `rows` has.

        Returns:
            Float tensor `[B, filters]`.
        """
        taps = [ops.cast(tap, self.compute_dtype) for tap in taps]
        outputs = ops.matmul(ops.concatenate(taps, axis=-1), self._own())
        return self._biased(outputs) if biased else outputs

    def _biased(self, x):
        return x + ops.cast(self.bias, x.dtype) if self.use_bias else x
