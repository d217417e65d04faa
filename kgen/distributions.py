"""What an autoregressive network's outputs mean: the distribution of a pixel.

Pixels are *levels* scaled to -1 to 1: level *k* of Q is `2 k / (Q - 1) - 1`. A distribution
states `num_parameters` (what the network gives per pixel), `noise_shape` (what one draw of a
pixel takes, in standard Gumbel noise), `passes` (how many channels are drawn one after the
other, each after a pass of the network that sees the ones before), and the methods of
`Categorical`.
"""

from keras import ops

from kgen import random


def scale(levels, num_levels):
    """Int levels 0 to Q - 1 to float32 in -1 to 1."""
    return ops.cast(levels, "float32") * (2 / (num_levels - 1)) - 1


def unscale(x, num_levels):
    """The inverse of `scale`; int32. Floats in between give the nearest level."""
    return ops.cast((x + 1) * ((num_levels - 1) / 2) + 0.5, "int32")


class Categorical:
    """A probability for every level; with two levels, a Bernoulli.

    van den Oord, Kalchbrenner and Kavukcuoglu (ICML 2016), section 3.1.

    Args:
        num_levels: Int, Q.
        channels: Int, C.
    """

    def __init__(self, num_levels, channels):
        self.num_levels = num_levels
        self.channels = self.passes = channels
        self.num_parameters = channels * num_levels
        self.noise_shape = (channels, num_levels)

    def log_prob(self, x, parameters):
        """Log-probability of images.

        Args:
            x: float32 tensor `[B, H, W, C]`, scaled levels.
            parameters: Tensor `[B, H, W, C * Q]`, logits.

        Returns:
            float32 tensor `[B]`, nats.
        """
        logits = ops.reshape(ops.cast(parameters, "float32"), (-1, *x.shape[1:], self.num_levels))
        levels = ops.expand_dims(unscale(x, self.num_levels), -1)
        chosen = ops.take_along_axis(logits, levels, axis=-1)[..., 0]
        return ops.sum(chosen - ops.logsumexp(logits, axis=-1), axis=(1, 2, 3))

    def draw(self, parameters, noise, x, step, temperature=1.0):
        """Draws one channel of a pixel.

        Args:
            parameters: Tensor `[B, C * Q]`, logits.
            noise: float32 tensor `[B, C, Q]`, standard Gumbel.
            x: float32 tensor `[B, C]`, the channels drawn before, scaled.
            step: Int, the channel.
            temperature: Float, what logits are divided by.

        Returns:
            float32 tensor `[B, C]`, `x` with the channel set.
        """
        start = step * self.num_levels
        logits = ops.cast(parameters[:, start : start + self.num_levels], "float32")
        drawn = random.categorical(logits / temperature, noise[:, step])
        drawn = scale(drawn, self.num_levels)
        if self.channels == 1:
            return ops.expand_dims(drawn, -1)
        parts = [x[:, :step], ops.expand_dims(drawn, -1), x[:, step + 1 :]]
        return ops.concatenate(parts, axis=-1)
