"""PixelCNN.

van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks" (ICML 2016;
arXiv 1601.06759): masked convolutions (section 3.4) in residual blocks (section 3.3, figure 5
left), PixelCNN (section 3.5) and its sizes (table 1). Classes are those of Gated PixelCNN
(arXiv 1606.05328, section 2.3, equation 4).

It has the paper's *blind spot*: a stack of masked k x k convolutions never sees a cone of
pixels above and to the right, however deep it is, as every row upwards lets it see only
k // 2 columns further right (arXiv 1606.05328, section 2.2, figure 1). Its probabilities are
exact all the same. `GatedPixelCNN` and `PixelRNN` (Diagonal BiLSTM) have none.
"""

import keras
from keras import ops

from kgen.layers.causal_conv import CausalConv2D, channel_groups
from kgen.models.autoregressive.base import AutoregressiveGenerator
from kgen.models.autoregressive.distributions import Categorical
from kgen.models.autoregressive.pixel_network import (
    Block,
    PixelNetwork,
    add_bias,
    check_shape,
    label_bias,
    next_window,
)


@keras.saving.register_keras_serializable(package="kgen")
class PixelCNN(AutoregressiveGenerator):
    """PixelCNN: an exact likelihood by masked convolutions, with the paper's blind spot.

    Args:
        filters: Int, 2h in the paper: filters between blocks; divides by `2 C`.
        num_layers: Int, residual blocks.
        kernel_size: Int, odd, of the middle convolution of a block.
        first_kernel_size: Int, odd, of the first convolution.

    Further arguments, `objective`, `sample` and what is logged: as for `AutoregressiveGenerator`.

    Example:

    >>> model = kgen.models.PixelCNN((28, 28, 1), num_levels=2)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.negative_log_likelihood(data.test).mean()
    """

    tiny_preset = "pixelcnn_tiny"
    presets = {
        "pixelcnn_tiny": {"image_shape": (8, 8, 1), "filters": 8, "num_layers": 1, "num_levels": 4},
        "pixelcnn_8x8": {
            "image_shape": (8, 8, 1),
            "filters": 64,
            "num_layers": 5,
            "num_levels": 17,
        },
        "pixelcnn_28x28": {"image_shape": (28, 28, 1), "filters": 64, "num_levels": 2},
        "pixelcnn_32x32": {"image_shape": (32, 32, 3), "filters": 192},
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        filters=96,
        num_layers=15,
        kernel_size=3,
        first_kernel_size=7,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        kernels = {"kernel_size": kernel_size, "first_kernel_size": first_kernel_size}
        check_shape("PixelCNN", self.image_shape, filters, num_layers, **kernels)
        self.distribution = Categorical(self.num_levels, self.image_shape[-1])
        with self.dtype_policy_scope():
            self.network = PixelNetwork(
                self.image_shape,
                num_classes,
                [
                    ResidualBlock(
                        self.image_shape, num_classes, filters, kernel_size, name=f"block_{i}"
                    )
                    for i in range(num_layers)
                ],
                filters,
                first_kernel_size,
                self.distribution.num_parameters,
                name="network",
            )
        self.built = True


@keras.saving.register_keras_serializable(package="kgen")
class ResidualBlock(Block):
    """1x1, k x k and 1x1 masked convolutions after a ReLU each, added to the input (figure 5); the
    inner ones have half of the filters. See `PixelNetwork` for its methods.
    """

    def __init__(self, image_shape, num_classes, filters, kernel_size, **kwargs):
        super().__init__(**kwargs)
        _, self.columns, channels = image_shape
        self.above = self.left = kernel_size // 2
        self.output_size = half = filters // 2
        outer, inner = channel_groups(filters, channels), channel_groups(half, channels)
        self.narrow = CausalConv2D(half, 1, "pixel", outer, inner, name="narrow")
        self.middle = CausalConv2D(half, kernel_size, "pixel", inner, inner, name="middle")
        self.widen = CausalConv2D(filters, 1, "pixel", inner, outer, name="widen")
        self.label = label_bias(half, num_classes)

    def call(self, x, one_hot=None, training=False):
        y = self.middle(ops.relu(self.narrow(ops.relu(x))))
        if self.label is not None:
            y = add_bias(y, self.label(one_hot))
        return x + self.widen(ops.relu(y))

    def start(self, batch_size):
        shape = (batch_size, self.above, self.columns, self.output_size)
        return ops.zeros(shape, self.compute_dtype)

    def begin_row(self, rows, one_hot):
        context = ops.transpose(self.middle.rows(rows), (1, 0, 2))
        if self.label is not None:
            context = context + self.label(one_hot)
        return context, rows

    def start_columns(self, batch_size):
        return (ops.zeros((batch_size, self.output_size), self.compute_dtype),) * self.left

    def pixel(self, context, columns, x):
        taps = (*columns, ops.relu(self.narrow.pixel([ops.relu(x)])))
        y = self.middle.pixel(taps, biased=False) + context
        return x + self.widen.pixel([ops.relu(y)]), taps[1:], taps[-1]

    def end_row(self, rows, outputs):
        return next_window(rows, outputs)
