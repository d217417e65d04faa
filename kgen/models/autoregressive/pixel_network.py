"""What the networks over pixels share, and `PixelNetwork`, which is PixelCNN and PixelRNN but for
their blocks."""

from keras import layers, ops

from kgen.checks import check_ints
from kgen.layers.causal_conv import CausalConv2D, channel_groups


class RasterNetwork(layers.Layer):
    """Base class of networks that keep the protocol of `AutoregressiveGenerator`."""

    def __init__(self, image_shape, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = image_shape
        self.num_classes = num_classes

    def one_hot(self, labels):
        """Labels `[B]` as `[B, N]`; `None` without classes."""
        if self.num_classes is None:
            return None
        return ops.one_hot(labels, self.num_classes, dtype=self.compute_dtype)

    def add_readout(self, filters, num_parameters):
        """The last two layers: masked 1x1 convolutions after a ReLU each (table 1)."""
        channels = self.image_shape[-1]
        groups = channel_groups(filters, channels)
        self.hidden = CausalConv2D(filters, 1, "pixel", groups, groups, name="hidden")
        self.logits = CausalConv2D(
            num_parameters,
            1,
            "pixel",
            groups,
            channel_groups(num_parameters, channels),
            kernel_initializer="zeros",
            dtype="float32",  # halves would blur what is likely
            name="logits",
        )
        self.logits.shares = channels  # a sampler draws one channel after the other

    def readout(self, x):
        """Parameters `[B, H, W, P]` from features of whole images."""
        return self.logits(ops.relu(self.hidden(ops.relu(x))))

    def readout_pixel(self, x, step):
        """Parameters `[B, P / C]` of a channel, `step`, from features of a pixel."""
        share = step if self.logits.shares > 1 else None
        return self.logits.pixel([ops.relu(self.hidden.pixel([ops.relu(x)]))], share=share)


class PixelNetwork(RasterNetwork):
    """A masked convolution, blocks with residual connections, and two 1x1 convolutions.

    van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks" (ICML 2016;
    arXiv 1601.06759), table 1. Of the protocol of `AutoregressiveGenerator` it hands each block
    its part. A block is a layer from `[B, H, W, filters]` to the same, with

    - `block(x, one_hot, training)`: whole images, with `one_hot` labels `[B, N]` or `None`;
    - `output_size`: how many numbers of a pixel it must know in the next row;
    - `start(batch_size)`, `begin_row(rows, one_hot)`, `start_columns(batch_size)` and
      `pixel(context, columns, x)`: as in the protocol, where `x` and the parameters are
      features `[B, filters]` and the outputs are one tensor `[B, output_size]`;
    - `end_row(rows, outputs)`: `rows` for the next row, from the outputs `[W, B, output_size]`.

    `filters` are those between blocks, which divide by `C`.
    """

    def __init__(
        self, image_shape, num_classes, blocks, filters, first_kernel_size, num_parameters, **kwargs
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        self.blocks = blocks
        self.left = first_kernel_size // 2
        channels = image_shape[-1]
        self.first = CausalConv2D(
            filters,
            first_kernel_size,
            "left",
            channel_groups(channels, channels),
            channel_groups(filters, channels),
            name="first",
        )
        self.add_readout(filters, num_parameters)
        #: One tensor for all blocks: a loop stores one faster than many.
        self.output_sizes = (sum(block.output_size for block in blocks),)

    def call(self, x, labels=None, training=False, seeds=None):
        one_hot = self.one_hot(labels)
        x = self.first(x)
        for block in self.blocks:
            x = block(x, one_hot, training=training)
        return self.readout(x)

    # Row by row and pixel by pixel: see `AutoregressiveGenerator`.

    def start(self, batch_size):
        _, width, channels = self.image_shape
        above = ops.zeros((batch_size, self.left, width, channels), self.compute_dtype)
        return above, *(block.start(batch_size) for block in self.blocks)

    def begin_row(self, rows, row, labels):
        one_hot = self.one_hot(labels)
        contexts, kept = [ops.transpose(self.first.rows(rows[0]), (1, 0, 2))], [rows[0]]
        for block, own in zip(self.blocks, rows[1:], strict=True):
            context, own = block.begin_row(own, one_hot)
            contexts.append(context)
            kept.append(own)
        return tuple(contexts), tuple(kept)

    def start_columns(self, batch_size):
        zeros = ops.zeros((batch_size, self.image_shape[-1]), self.compute_dtype)
        return (zeros,) * self.left, *(block.start_columns(batch_size) for block in self.blocks)

    def pixel(self, context, columns, column, last, x, step):
        left = (*columns[0][1:], ops.cast(last, self.compute_dtype))
        kept, outputs = [left], []
        x = self.first.pixel([*left, x], biased=False) + context[0]
        for block, here, own in zip(self.blocks, context[1:], columns[1:], strict=True):
            x, own, output = block.pixel(here, own, x)
            kept.append(own)
            outputs.append(output)
        return self.readout_pixel(x, step), tuple(kept), (ops.concatenate(outputs, axis=1),)

    def end_row(self, rows, context, x, outputs):
        kept = [next_window(rows[0], x)]
        outputs, place = ops.cast(outputs[0], self.compute_dtype), 0
        for block, own in zip(self.blocks, rows[1:], strict=True):
            part = outputs[..., place : place + block.output_size]
            kept.append(block.end_row(own, part))
            place += block.output_size
        return tuple(kept)


def next_window(window, row):
    """The rows above the next row: `[B, rows, W, F]` with `[W, B, F]` at its end."""
    row = ops.cast(ops.transpose(row, (1, 0, 2))[:, None], window.dtype)
    return ops.concatenate([window, row], axis=1)[:, 1:]


def label_bias(filters, num_classes):
    """A bias for each class (Gated PixelCNN, equation 4), `None` without classes."""
    if num_classes is None:
        return None
    return layers.Dense(filters, use_bias=False, kernel_initializer="zeros", name="label")


def add_bias(x, bias):
    """Adds to `[B, ..., F]` what holds for all places of an image, `[B, F]`."""
    return x + ops.reshape(bias, (-1, *(1,) * (len(x.shape) - 2), x.shape[-1]))


def check_shape(name, image_shape, filters, num_layers, **kernel_sizes):
    """Raises a ValueError where a `PixelNetwork` of these sizes, of the model `name`, cannot be."""
    channels = image_shape[-1]
    check_ints(1, filters=filters, num_layers=num_layers)
    if filters % (2 * channels):
        raise ValueError(
            f"{name} halves its filters in a block and shares them among {channels} colour "
            f"channel(s): filters must divide by {2 * channels}. Received: filters={filters}"
        )
    check_kernel_sizes(**kernel_sizes)


def check_kernel_sizes(**kernel_sizes):
    """Raises a ValueError that names the first of some kernel sizes which is even or too small."""
    for argument, size in kernel_sizes.items():
        check_ints(1, **{argument: size})
        if size < 3 or size % 2 == 0:
            raise ValueError(
                f"{argument} must be odd and 3 or more, so that a kernel has a middle and rows "
                f"above it. Received: {argument}={size}"
            )
