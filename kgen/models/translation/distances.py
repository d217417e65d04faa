"""How far pixels are from others, as losses and for the log: float32 `[B, H, W, C]` in -1 to 1."""

from keras import ops

#: Of so few steps nothing is said of what was gained.
FIRST_STEP = 500


def l1(said, truth):
    """The mean absolute error, a scalar: it leads to the median of what may be."""
    return ops.mean(ops.abs(said - truth))


def l2(said, truth):
    """The mean squared error, a scalar: it leads to the mean of what may be."""
    return ops.mean(ops.square(said - truth))


def charbonnier(said, truth):
    """L1, smooth at 0: Lai et al. (2017), equation 1, with their 1e-3."""
    return ops.mean(ops.sqrt(ops.square(said - truth) + 1e-6))


DISTANCES = {"l1": l1, "charbonnier": charbonnier, "l2": l2}


def psnr(said, truth):
    """Peak signal-to-noise ratio of each row as an image would have it, float32 `[B]` in dB; at
    most 60, which is for equal ones.
    """
    error = ops.mean(ops.square(ops.clip(said, -1.0, 1.0) - truth), axis=(1, 2, 3))
    return -10 * ops.log(ops.maximum(error / 4, 1e-6)) * (1 / 2.302585093)


def no_gain(model, logs):
    """A warning, in a list, where a model that has trained for a while is no better than its input.

    By `gain` in the logs, or, of held-out images, `val_gain`.
    """
    gain = logs.get("val_gain", logs.get("gain", 1.0))
    if gain > 0 or model.steps_trained < FIRST_STEP:
        return []
    return [
        f"nothing gained: {type(model).__name__} is {-gain:.2g} dB further from the truth than the "
        "input itself. Are inputs and images partners, cut alike? Look at the run's samples, and "
        "try a smaller learning_rate."
    ]
