"""Exponential moving averages of weights."""

from keras import ops


def update_average(average, network, decay, training_steps):
    """Moves averaged weights, and statistics of batch normalisation, towards the trained ones.

    Args:
        average: Layer, the averaged twin of `network`.
        network: Layer.
        decay: Float, 0 to 1.
        training_steps: int32 scalar, steps taken, from 1. The decay starts low, so that the
            initial weights are soon forgotten.
    """
    step = ops.cast(training_steps, "float32")
    decay = ops.minimum(decay, (1 + step) / (10 + step))
    for ours, theirs in zip(average.variables, network.variables, strict=True):
        ours.assign(theirs + decay * (ours - theirs))
