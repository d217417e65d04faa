"""`CausalConv2D`: one convolution, over a whole image or pixel by pixel."""

import contextlib
import math

import keras
import numpy as np
from keras import layers, ops

from kgen.checks import check_ints, unknown_name
from kgen.configurable import Configurable

#: What a convolution sees of its own row: nothing (only rows above), what lies left of the
#: pixel (mask A), the pixel too (mask B), or the whole row (vertical stacks).
OWN_ROW = ("nothing", "left", "pixel", "all")


def channel_groups(filters, channels, repeats=1):
    """The colour channel that each of some filters belongs to: equal shares, in order.

    An int array `[repeats * filters]`; a gated layer repeats its filters.
    """
    return np.tile(np.repeat(np.arange(channels), filters // channels), repeats)


@keras.saving.register_keras_serializable(package="kgen")
class CausalConv2D(Configurable, layers.Layer):
    """Convolution over the rows above a pixel and a part of its own row.

    The masks are those of van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent
    neural networks" (ICML 2016), section 3.4. Weights that a mask would hide, right of the
    pixel or below it, do not exist.

    It runs in two ways with equal results. `call` takes whole images `[B, H, W, in]` to
    `[B, H, W, filters]`. In a sampler `rows` takes the rows that one row of outputs needs and
    computes what can be known before the row has pixels, and `pixel` adds what lies left.

    Args:
        filters: Int.
        kernel_size: Odd int, or tuple of two, `(height, width)`, of the kernel before it is
            masked, in whose middle the pixel is. Of its rows `height // 2` lie above the pixel.
        own_row: `"nothing"`, `"left"`, `"pixel"` or `"all"`, what it sees of the pixel's own
            row: all but the pixel and what lies right of it for `"left"` (mask A), all up to
            the pixel for `"pixel"` (mask B).
        in_groups: Int array `[input channels]`, and
        out_groups: int array `[filters]`: colour channels that they belong to. At the pixel
            itself filters of a channel see inputs of earlier channels and, for `"pixel"`, of
            their own. `None` for one channel.
        use_bias: Bool.
        kernel_initializer: A Keras initializer or its name; `None` for Glorot's uniform one.

    Raises:
        ValueError: A kernel's side is even, `own_row` is unknown, or nothing is seen.

    Example:

    >>> layer = kgen.layers.CausalConv2D(64, 7, own_row="left")
    >>> layer(np.zeros((1, 28, 28, 1), "float32")).shape
    (1, 28, 28, 64)
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
        check_ints(1, filters=filters)
        square = isinstance(kernel_size, int)
        self.kernel_size = (kernel_size,) * 2 if square else tuple(kernel_size)
        if len(self.kernel_size) != 2 or not all(size % 2 for size in self.kernel_size):
            raise ValueError(
                "kernel_size must be an odd int, or two, so that a kernel has a middle. "
                f"Received: kernel_size={kernel_size}"
            )
        if own_row not in OWN_ROW:
            raise ValueError(unknown_name("own_row", own_row, OWN_ROW))
        self.above, self.width = self.kernel_size[0] // 2, self.kernel_size[1]
        #: How many columns of its own row it sees.
        self.taps = {
            "nothing": 0,
            "left": self.width // 2 + 1,
            "pixel": self.width // 2 + 1,
            "all": self.width,
        }[own_row]
        if not self.above + self.taps:
            raise ValueError(
                "A kernel that sees nothing of its own row must have rows above it: a height of 3 "
                f"or more. Received: kernel_size={kernel_size}, own_row={own_row!r}"
            )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "kernel_initializer": initializer}

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.filters)

    def build(self, shape):
        channels = shape[-1]
        # Glorot's bounds for the taps that there are, above and beside the pixel together.
        taps = self.above * self.width + self.taps
        limit = math.sqrt(6 / (taps * (channels + self.filters)))

        def initializer():  # a new one for each weight, or both would begin alike
            if self.kernel_initializer is None:
                return keras.initializers.RandomUniform(-limit, limit)
            return self.kernel_initializer.clone()

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
            inputs, outputs = (
                np.broadcast_to(0 if groups is None else groups, size)
                for groups, size in ((self.in_groups, channels), (self.out_groups, self.filters))
            )
            mask[-1] = earlier(inputs[:, None], outputs)
            if not mask.all():
                self.mask = mask.reshape(-1, self.filters)

    #: Into how many equal shares of its filters `pixel` parts them.
    shares = 1

    def _own(self, share=None):
        """The weights of the own row, masked, `[columns * in, filters]` or a share of them."""
        if "_held" in self.__dict__:
            whole, shares = self._held
            return whole if share is None else shares[share]
        kernel = ops.cast(self.own_kernel, self.compute_dtype)
        if self.mask is not None:
            kernel = kernel * ops.cast(self.mask, kernel.dtype)
        return kernel if share is None else ops.split(kernel, self.shares, axis=1)[share]

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
            x = x[:, :-1]
        x = ops.pad(x, ((0, 0), (self.above, 0), (side, right), (0, 0)))
        return self._biased(ops.conv(x, self._kernel(x.shape[-1])))

    def rows(self, x):
        """What whole rows say of one row of outputs, `[B, W, filters]`, with the bias.

        From `[B, rows, W, in]`: the rows above (`kernel_size[0] // 2` of them) and, for `"all"`,
        the own row.
        """
        whole = self.own_row == "all"
        kernel = self._kernel(x.shape[-1]) if whole else self.above_kernel
        side = self.width // 2
        x = ops.pad(ops.cast(x, self.compute_dtype), ((0, 0), (0, 0), (side, side), (0, 0)))
        return self._biased(ops.conv(x, ops.cast(kernel, self.compute_dtype))[:, 0])

    def pixel(self, taps, biased=True, share=None):
        """The part of one pixel's output that comes from its own row, `[B, filters]`.

        From a list of `[B, in]`, from left to right, the pixel last; `biased` is `False` where
        `rows` has added the bias; with a `share`, an int, it is that one of the `shares` alone.
        """
        taps = [ops.cast(tap, self.compute_dtype) for tap in taps]
        outputs = ops.matmul(ops.concatenate(taps, axis=-1), self._own(share))
        return self._biased(outputs, share) if biased else outputs

    def _biased(self, x, share=None):
        if not self.use_bias:
            return x
        bias = ops.cast(self.bias, x.dtype)
        return x + (bias if share is None else ops.split(bias, self.shares)[share])


@contextlib.contextmanager
def held_kernels(network):
    """Inside, the layers of a network mask and cast the weights of the own row once for all pixels.

    Loops that are traced inside must end there too.
    """
    layers = [layer for layer in network._flatten_layers() if isinstance(layer, CausalConv2D)]
    layers = [layer for layer in layers if layer.taps and layer.built]
    try:
        for layer in layers:
            kernel = layer._own()
            shares = ops.split(kernel, layer.shares, axis=1) if layer.shares > 1 else [kernel]
            object.__setattr__(layer, "_held", (kernel, shares))  # not to be tracked, or saved
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("_held", None)
