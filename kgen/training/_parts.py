"""What both backends share: a device's part of a batch, and the count of devices."""

from typing import Any, NamedTuple


class Part(NamedTuple):
    """The part of a batch that one replica computes; on a single device, the whole batch.

    Args:
        images: uint8 tensor `[B, H, W, C]`.
        labels: Integer tensor `[B]`, or `None`.
        rows: int32 tensor `[B]`, the index of every row in the whole batch.
        weight: Scalar, how many rows of the whole batch the part stands for.
        share: float32 scalar, `weight` over the rows of the whole batch; `None` when the
            part is the whole batch.
    """

    images: Any
    labels: Any
    rows: Any
    weight: Any
    share: Any = None


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
