"""What both backends share: a device's part of a batch, weight decay by regularizers, devices."""

from typing import Any, NamedTuple

from keras import ops


class Part(NamedTuple):
    """The part of a batch that one replica computes; on a single device, the whole batch.

    Beside images (uint8 `[B, H, W, C]`) and labels (integers `[B]`, or `None`) it has `rows`,
    int32 `[B]`, the index of each in the whole batch; `weight`, how many rows of the whole batch
    it stands for; and `share`, their float32 share of it, `None` when the part is the whole.
    """

    images: Any
    labels: Any
    rows: Any
    weight: Any
    share: Any = None


def penalty(variables):
    """What the regularizers of weights add to a loss: a scalar; 0 where there are none."""
    regularized = [v for v in variables if getattr(v, "regularizer", None) is not None]
    return sum((variable.regularizer(variable) for variable in regularized), 0.0)


def gradient_norm(gradients):
    """Length of all gradients together, a float32 scalar; those that are `None` have none."""
    squares = [
        ops.sum(ops.square(ops.cast(gradient, "float32")))
        for gradient in gradients
        if gradient is not None
    ]
    return ops.sqrt(sum(squares, ops.zeros((), "float32")))


def check_devices(devices, available, kind):
    """How many of the `available` devices `devices` means; `ValueError` where they are fewer."""
    if devices == "all":
        return available
    if isinstance(devices, str) or int(devices) != devices or not 1 <= devices <= available:
        raise ValueError(
            f"devices must be 'all' or an int from 1 to {available}, the number of {kind}s that "
            f"{'is' if available == 1 else 'are'} here. Received: devices={devices!r}"
        )
    return int(devices)
