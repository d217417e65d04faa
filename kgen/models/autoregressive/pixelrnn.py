"""PixelRNN: Row LSTM and Diagonal BiLSTM.

van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks" (ICML 2016;
arXiv 1601.06759): Row LSTM (section 3.1, equation 3), Diagonal BiLSTM (section 3.2, figure 3),
residual connections (section 3.3, figure 5 right), masks (section 3.4), sizes (table 1).
Classes are those of Gated PixelCNN (arXiv 1606.05328, section 2.3, equation 4).

State-to-state weights have no mask (table 1): the states they read are those of earlier
pixels, all of whose colour channels are known.
"""

import keras
from keras import layers, ops

from kgen.checks import unknown_name
from kgen.configurable import Configurable
from kgen.layers.causal_conv import CausalConv2D, channel_groups
from kgen.models.autoregressive.base import AutoregressiveGenerator
from kgen.models.autoregressive.distributions import Categorical
from kgen.models.autoregressive.pixel_network import (
    Block,
    PixelNetwork,
    add_bias,
    check_shape,
    label_bias,
)

#: Gates outside of the image. Sigmoids of it are 0, so that the state there is 0.
CLOSED = -1e4

RECURRENCES = ("row_lstm", "diagonal_bilstm")


@keras.saving.register_keras_serializable(package="kgen")
class PixelRNN(AutoregressiveGenerator):
    """PixelRNN: an exact likelihood by recurrence over rows or diagonals.

    Args:
        recurrence: `"row_lstm"` sees a triangle above a pixel; `"diagonal_bilstm"` sees all
            pixels before it, and is slower.
        filters: Int, 2h in the paper: filters between layers; divides by `2 C`.
        num_layers: Int, LSTM layers.
        kernel_size: Int, odd, of the Row LSTM's input-to-state convolution.
        first_kernel_size: Int, odd, of the first convolution.

    Further arguments, `objective`, `sample` and what is logged: as for `AutoregressiveGenerator`.

    Example:

    >>> model = kgen.models.PixelRNN((28, 28, 1), recurrence="row_lstm", num_levels=2)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.negative_log_likelihood(data.test).mean()
    """

    tiny_preset = "pixelrnn_tiny"
    presets = {
        "pixelrnn_tiny": {"image_shape": (8, 8, 1), "filters": 8, "num_layers": 1, "num_levels": 4},
        "pixelrnn_8x8": {"image_shape": (8, 8, 1), "num_layers": 3, "num_levels": 17},
        "pixelrnn_28x28": {"image_shape": (28, 28, 1), "filters": 32, "num_levels": 2},
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        recurrence="diagonal_bilstm",
        filters=64,
        num_layers=7,
        kernel_size=3,
        first_kernel_size=7,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        if recurrence not in RECURRENCES:
            raise ValueError(unknown_name("recurrence", recurrence, RECURRENCES))
        kernels = {"kernel_size": kernel_size, "first_kernel_size": first_kernel_size}
        check_shape("PixelRNN", self.image_shape, filters, num_layers, **kernels)
        self.distribution = Categorical(self.num_levels, self.image_shape[-1])

        def block(name):
            shape = self.image_shape, num_classes, filters
            if recurrence == "row_lstm":
                return RowLSTM(*shape, kernel_size, name=name)
            return DiagonalBiLSTM(*shape, name=name)

        with self.dtype_policy_scope():
            self.network = PixelNetwork(
                self.image_shape,
                num_classes,
                [block(f"layer_{i}") for i in range(num_layers)],
                filters,
                first_kernel_size,
                self.distribution.num_parameters,
                name="network",
            )
        self.built = True


@keras.saving.register_keras_serializable(package="kgen")
class RowLSTM(Block):
    """A Row LSTM with a residual connection: state goes from row to row (section 3.1).

    A pixel sees a triangle above it. The states have half of the filters. See `PixelNetwork`.
    """

    def __init__(self, image_shape, num_classes, filters, kernel_size, **kwargs):
        super().__init__(**kwargs)
        _, self.columns, channels = image_shape
        self.half, self.left = filters // 2, kernel_size // 2
        self.output_size = filters  # hidden and cell state
        groups = channel_groups(filters, channels)
        states = channel_groups(self.half, channels)
        self.input_to_state = CausalConv2D(
            2 * filters,
            (1, kernel_size),
            "pixel",
            groups,
            channel_groups(self.half, channels, 4),
            name="input_to_state",
        )
        self.state_to_state = CausalConv2D(
            2 * filters, (1, 3), "all", use_bias=False, name="state_to_state"
        )
        self.out = CausalConv2D(filters, 1, "pixel", states, groups, name="out")
        self.label = label_bias(2 * filters, num_classes)

    def build(self, shape):
        self.state_to_state.build((None, 1, self.columns, self.half))

    def call(self, x, one_hot=None, training=False):
        gates = self.input_to_state(x)
        if self.label is not None:
            gates = add_bias(gates, self.label(one_hot))
        gates = ops.transpose(gates, (1, 0, 2, 3))
        start = ops.zeros_like(gates[0, :, :, : self.half])
        h = recur(lambda h: self.state_to_state.rows(h[:, None]), gates, start, training)
        return x + self.out(ops.transpose(h, (1, 0, 2, 3)))

    def start(self, batch_size):
        return (ops.zeros((self.columns, batch_size, self.half), self.compute_dtype),) * 2

    def begin_row(self, rows, one_hot):
        h, c = rows
        above = self.state_to_state.rows(ops.transpose(h, (1, 0, 2))[:, None])
        above = ops.transpose(above, (1, 0, 2))
        if self.label is not None:
            above = above + self.label(one_hot)
        return (above, c), rows

    def start_columns(self, batch_size):
        return (ops.zeros((batch_size, self.filters), self.compute_dtype),) * self.left

    def pixel(self, context, columns, x):
        above, c = context
        taps = (*columns, x)
        h, c = lstm(self.input_to_state.pixel(taps) + above, c)
        return x + self.out.pixel([h]), taps[1:], ops.concatenate([h, c], axis=1)

    def end_row(self, rows, outputs):
        return tuple(ops.split(outputs, 2, axis=-1))


@keras.saving.register_keras_serializable(package="kgen")
class DiagonalBiLSTM(Block):
    """A Diagonal BiLSTM with a residual connection (section 3.2): a pixel sees those before it.

    The direction from right to left is that from left to right on the flipped map, and one row
    further down, so that it brings nothing of the own row. See `PixelNetwork` for the methods.

    One pixel is an exception: the last of the row above. Mask A hides its last channel from its
    own features, and there are none to its right, so that only the first convolution brings it,
    to the pixels in its reach and those after them.
    """

    def __init__(self, image_shape, num_classes, filters, **kwargs):
        super().__init__(**kwargs)
        _, self.columns, channels = image_shape
        self.half = filters // 2
        self.output_size = filters + self.half  # the features, and the state from the left
        self.rightwards = DiagonalLSTM(channels, num_classes, filters, name="rightwards")
        self.leftwards = DiagonalLSTM(channels, num_classes, filters, name="leftwards")
        self.out = CausalConv2D(
            filters,
            1,
            "pixel",
            channel_groups(self.half, channels),
            channel_groups(filters, channels),
            name="out",
        )

    def call(self, x, one_hot=None, training=False):
        right = self.rightwards(x, one_hot, training=training)
        left = self.leftwards(ops.flip(x, axis=2), one_hot, training=training)
        return x + self.out(right + shift_down(ops.flip(left, axis=2), axis=1))

    def start(self, batch_size):
        states = ops.zeros((self.columns, batch_size, self.half), self.compute_dtype)
        return states, states, ops.zeros((batch_size, 2 * self.filters), self.compute_dtype)

    def begin_row(self, rows, one_hot):
        right, left, bias = rows
        gates = self.rightwards.above(right)
        if self.rightwards.label is not None:
            gates = gates + self.rightwards.label(one_hot)
            bias = bias * 0 + self.leftwards.label(one_hot)  # `end_row` has no labels
        return (gates, left), (right, left, bias)

    def start_columns(self, batch_size):
        return (ops.zeros((batch_size, self.half), self.compute_dtype),) * 2

    def pixel(self, context, columns, x):
        (gates, left), (h, c) = context, columns
        gates = gates + self.rightwards.input_to_state.pixel([x]) + self.rightwards.left(h)
        h, c = lstm(gates, c)
        return x + self.out.pixel([h + left]), (h, c), ops.concatenate([x, h], axis=1)

    def end_row(self, rows, outputs):
        """Runs the row that is now known from right to left, for the row below it."""
        _, above, bias = rows
        x, right = outputs[..., : self.filters], outputs[..., self.filters :]
        network = self.leftwards
        gates = network.input_to_state.pixel([x]) + network.above(above) + bias
        start = ops.zeros_like(right[0])
        left = recur(network.left, ops.flip(gates, axis=0), start, training=False)
        return right, ops.flip(left, axis=0), bias


@keras.saving.register_keras_serializable(package="kgen")
class DiagonalLSTM(Configurable, layers.Layer):
    """One direction of a Diagonal BiLSTM, from left to right: state goes along diagonals.

    The state of a pixel, `[B, H, W, filters / 2]`, follows from the hidden states of the pixel to
    its left and of the one above it (a column-wise convolution of two rows on the skewed map) and
    from the cell state of the pixel to its left.
    """

    def __init__(self, channels, num_classes, filters, **kwargs):
        super().__init__(**kwargs)
        self.half = filters // 2
        self.input_to_state = CausalConv2D(
            2 * filters,
            1,
            "pixel",
            channel_groups(filters, channels),
            channel_groups(self.half, channels, 4),
            name="input_to_state",
        )
        self.left = layers.Dense(2 * filters, use_bias=False, name="left")
        self.above = layers.Dense(2 * filters, use_bias=False, name="above")
        self.label = label_bias(2 * filters, num_classes)

    def build(self, shape):
        for layer in (self.left, self.above):
            layer.build((None, self.half))

    def call(self, x, one_hot=None, training=False):
        gates = self.input_to_state(x)
        if self.label is not None:
            gates = add_bias(gates, self.label(one_hot))
        gates = ops.transpose(skew(gates, CLOSED), (2, 0, 1, 3))  # columns, images, rows

        def state_to_state(h):
            return self.left(h) + self.above(shift_down(h, axis=1))

        h = recur(state_to_state, gates, ops.zeros_like(gates[0, :, :, : self.half]), training)
        return unskew(ops.transpose(h, (1, 2, 0, 3)))


def lstm(gates, c):
    """A step of an LSTM (equation 3): the hidden and the cell state, `[..., F]` each, of the cell
    state before and the gates `[..., 4 F]` (output, forget, input, content).
    """
    output, forget, into, content = ops.split(gates, 4, axis=-1)
    c = ops.sigmoid(forget) * c + ops.sigmoid(into) * ops.tanh(content)
    return ops.sigmoid(output) * ops.tanh(c), c


def recur(state_to_state, gates, h, training):
    """The hidden states of an LSTM along the leading axis, `[T, ..., F]`, from a cell state of 0.

    The gates are sums of `gates` `[T, ..., 4 F]` and `state_to_state` of the last step's hidden
    states, at first `h`. In training a scan has cheap gradients, but does not convert to ONNX; a
    loop that fills a tensor does, but carries all of it backwards in every step.
    """
    start = h, ops.zeros_like(h)
    if training:

        def step(state, gates):
            state = lstm(gates + state_to_state(state[0]), state[1])
            return state, state  # Keras on TensorFlow takes outputs shaped as the state alone

        return ops.scan(step, start, gates)[1][0]

    def fill(t, carry):
        h, c, filled = carry
        h, c = lstm(ops.take(gates, t, axis=0) + state_to_state(h), c)
        return h, c, ops.scatter_update(filled, ops.reshape(t, (1, 1)), h[None])

    filled = ops.zeros_like(gates[..., : h.shape[-1]])
    return ops.fori_loop(0, gates.shape[0], fill, (*start, filled))[2]


def skew(x, value=0.0):
    """Moves row i of a map i columns to the right, so that diagonals are columns (figure 3).

    `[B, H, W, F]` to `[B, H, W + H - 1, F]`, with `value` outside of the map.
    """
    _, height, width, features = x.shape
    x = ops.pad(x, ((0, 0), (0, 0), (0, height), (0, 0)), constant_values=value)
    # Rows of one column less: each begins one place later than the row before.
    x = ops.reshape(x, (-1, height * (width + height), features))[:, :-height]
    return ops.reshape(x, (-1, height, width + height - 1, features))


def unskew(x):
    """The inverse of `skew`: `[B, H, W + H - 1, F]` to `[B, H, W, F]`."""
    _, height, width, features = x.shape
    x = ops.reshape(x, (-1, height * width, features))
    x = ops.pad(x, ((0, 0), (0, height), (0, 0)))
    return ops.reshape(x, (-1, height, width + 1, features))[:, :, : width + 1 - height]


def shift_down(x, axis):
    """Every row one further down, 0 above: what stands in a row is known in the next."""
    size = x.shape[axis]
    before = [(0, 0)] * len(x.shape)
    before[axis] = (1, 0)
    return ops.pad(ops.take(x, range(size - 1), axis=axis), before)
