"""Gated PixelCNN.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu, "Conditional image
generation with PixelCNN decoders" (NIPS 2016; arXiv 1606.05328): gated convolutions
(section 2.1, equation 2), a vertical stack for the rows above and a horizontal stack for the
own row, without a blind spot (section 2.2, figure 2), and classes (section 2.3, equation 4).
"""

import keras
from keras import layers, ops

from kgen.checks import check_ints
from kgen.layers.causal_conv import CausalConv2D, channel_groups
from kgen.models.autoregressive.base import AutoregressiveGenerator
from kgen.models.autoregressive.distributions import Categorical, unscale
from kgen.models.autoregressive.pixel_network import (
    RasterNetwork,
    add_bias,
    check_kernel_sizes,
    label_bias,
)


@keras.saving.register_keras_serializable(package="kgen")
class GatedPixelCNN(AutoregressiveGenerator):
    """Gated PixelCNN: an exact likelihood, class-conditional, without a blind spot.

    Args:
        filters: Int, filters of each layer; divides by `C`.
        num_layers: Int, layers after the first.
        kernel_size: Int, odd.
        first_kernel_size: Int, odd, of the first layer.

    Further arguments, `objective`, `sample` and what is logged: as for `AutoregressiveGenerator`.

    Example:

    >>> model = kgen.models.GatedPixelCNN((28, 28, 1), num_levels=2)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.negative_log_likelihood(data.test).mean()
    """

    tiny_preset = "gated_pixelcnn_tiny"
    presets = {
        "gated_pixelcnn_tiny": {
            "image_shape": (8, 8, 1),
            "filters": 8,
            "num_layers": 1,
            "num_levels": 4,
        },
        "gated_pixelcnn_8x8": {"image_shape": (8, 8, 1), "num_levels": 17, "num_layers": 5},
        "gated_pixelcnn_28x28": {"image_shape": (28, 28, 1), "num_levels": 2},
        "gated_pixelcnn_32x32": {"image_shape": (32, 32, 3), "filters": 96, "num_layers": 10},
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        filters=64,
        num_layers=8,
        kernel_size=3,
        first_kernel_size=7,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        check_ints(1, filters=filters, num_layers=num_layers)
        check_kernel_sizes(kernel_size=kernel_size, first_kernel_size=first_kernel_size)
        if filters % self.image_shape[-1]:
            raise ValueError(
                f"filters must divide by the {self.image_shape[-1]} channels. Received: {filters}"
            )
        self.distribution = Categorical(self.num_levels, self.image_shape[-1])
        with self.dtype_policy_scope():
            self.network = GatedNetwork(
                self.image_shape,
                num_classes,
                filters,
                num_layers,
                kernel_size,
                first_kernel_size,
                self.distribution.num_parameters,
                name="network",
            )
        self._build_network()


class GatedNetwork(RasterNetwork):
    """All layers, and two more 1x1 convolutions to the `num_parameters` outputs of a pixel.

    With `num_codes` the pixels are not grey levels but so many codes without an order, scaled like
    levels: the network sees a learned vector in place of each.
    """

    def __init__(
        self,
        image_shape,
        num_classes,
        filters,
        num_layers,
        kernel_size,
        first_kernel_size,
        num_parameters,
        num_codes=None,
        **kwargs,
    ):
        # In half precision a code's number would be another code's.
        super().__init__(image_shape, num_classes, autocast=num_codes is None, **kwargs)
        self.filters = filters
        channels = image_shape[-1]
        self.num_codes = num_codes
        self.embedding = None
        self.input_size = channels
        if num_codes is not None:
            self.embedding = layers.Embedding(num_codes, filters, name="embedding")
            self.input_size = filters
        self.stack = [
            GatedLayer(
                filters,
                kernel_size if i else first_kernel_size,
                channels,
                num_classes,
                first=i == 0,
                name=f"layer_{i}",
            )
            for i in range(num_layers + 1)
        ]
        self.add_readout(filters, num_parameters)

    def call(self, x, labels=None, training=False, seeds=None):
        v = h = self._seen(x)
        one_hot = self.one_hot(labels)
        for layer in self.stack:
            v, h = layer(v, h, one_hot)
        return self.readout(h)

    def _seen(self, x):
        """What the first layer sees of pixels `[..., C]`."""
        if self.embedding is None:
            return x
        return self.embedding(unscale(x, self.num_codes)[..., 0])

    # Row by row and pixel by pixel: see `AutoregressiveGenerator`.

    def start(self, batch_size):
        width = self.image_shape[1]
        return tuple(
            ops.zeros((batch_size, layer.vertical.above, width, size), self.compute_dtype)
            for layer, size in zip(self.stack, self._sizes(), strict=True)
        )

    def _sizes(self):
        """The size of each layer's input."""
        return [self.input_size] + [self.filters] * (len(self.stack) - 1)

    def begin_row(self, rows, row, labels):
        one_hot = self.one_hot(labels)
        contexts, kept, v = [], [rows[0]], None
        for layer, above in zip(self.stack, rows, strict=True):
            window = above if v is None else ops.concatenate([above, v[:, None]], axis=1)
            if v is not None:
                kept.append(window[:, 1:])
            v, context = layer.row(window, one_hot)
            contexts.append(context)
        # In one tensor, of which a pixel is taken once and not once for each layer.
        contexts = ops.concatenate(contexts, axis=-1)
        return (ops.transpose(contexts, (1, 0, 2)),), tuple(kept)

    def start_columns(self, batch_size):
        return tuple(
            tuple(ops.zeros((batch_size, size), self.compute_dtype) for _ in range(layer.left))
            for layer, size in zip(self.stack, self._sizes(), strict=True)
        )

    def pixel(self, context, columns, column, last, x, step):
        if self.embedding is not None:
            # Beyond the border there is no code; the code itself is hidden from the layer.
            last = ops.where(column > 0, self._seen(last), 0.0)
            x = ops.zeros_like(last)
        contexts = ops.split(context[0], len(self.stack), axis=-1)
        left = (*columns[0], ops.cast(last, self.compute_dtype))[1:]
        kept, h = [left], self.stack[0].pixel(contexts[0], [*left, x])
        for layer, above, left in zip(self.stack[1:], contexts[1:], columns[1:], strict=True):
            kept.append((*left, h)[1:])
            h = layer.pixel(above, [*left, h])
        return self.readout_pixel(h, step), tuple(kept), ()

    def end_row(self, rows, context, x, outputs):
        x = ops.cast(ops.transpose(self._seen(x), (1, 0, 2)), self.compute_dtype)
        window = ops.concatenate([rows[0], x[:, None]], axis=1)
        return (window[:, 1:], *rows[1:])


class GatedLayer(layers.Layer):
    """One layer of both stacks (figure 2), of which the horizontal one keeps the colours' order.

    The first one sees pixels: it leaves out the own row in the vertical stack, the pixel itself in
    the horizontal one, and has no residual connection.
    """

    def __init__(self, filters, kernel_size, channels, num_classes=None, first=False, **kwargs):
        super().__init__(**kwargs)
        groups = channel_groups(filters, channels)
        gated = channel_groups(filters, channels, 2)
        inputs = channel_groups(channels, channels) if first else groups
        self.first, self.left = first, kernel_size // 2
        self.vertical = CausalConv2D(
            2 * filters, kernel_size, "nothing" if first else "all", name="vertical"
        )
        self.across = layers.Dense(2 * filters, use_bias=False, name="across")
        self.horizontal = CausalConv2D(
            2 * filters,
            (1, kernel_size),
            "left" if first else "pixel",
            inputs,
            gated,
            use_bias=False,
            name="horizontal",
        )
        self.out = CausalConv2D(filters, 1, "pixel", groups, groups, name="out")
        self.label = label_bias(4 * filters, num_classes)

    def call(self, v, h, one_hot=None):
        """Both stacks of whole images, `[B, H, W, F]` each."""
        pre = self._labelled(self.vertical(v), one_hot, 0)
        y = self.horizontal(h) + self._labelled(self.across(pre), one_hot, 1)
        y = self.out(gate(y))
        return gate(pre), y if self.first else h + y

    def row(self, window, one_hot):
        """The vertical stack of one row, `[B, W, F]`, and what it tells the horizontal one,
        `[B, W, 2 F]`, from `[B, rows, W, F]`: the rows above and, after the first layer, this one.
        """
        pre = self._labelled(self.vertical.rows(window), one_hot, 0)
        return gate(pre), self._labelled(self.across(pre), one_hot, 1)

    def pixel(self, context, taps):
        """The horizontal stack at one pixel: from `[B, 2 F]` and a list of `[B, F]` to
        `[B, F]`."""
        y = self.horizontal.pixel(taps) + context
        y = self.out.pixel([gate(y)])
        return y if self.first else taps[-1] + y

    def _labelled(self, x, one_hot, part):
        if self.label is None:
            return x
        return add_bias(x, ops.split(self.label(one_hot), 2, axis=-1)[part])


def gate(x):
    """tanh of one half of the filters times sigmoid of the other (equation 2)."""
    features, gates = ops.split(x, 2, axis=-1)
    return ops.tanh(features) * ops.sigmoid(gates)
