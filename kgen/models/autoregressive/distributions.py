"""What an autoregressive network's outputs mean: the distribution of a pixel.

Pixels are *levels* scaled to -1 to 1: level *k* of Q is `2 k / (Q - 1) - 1`. A distribution
states `num_parameters` (what the network gives per pixel), `noise_shape` (what one draw of a
pixel takes, in standard Gumbel noise), `passes` (how many channels are drawn one after the
other, each after a pass of the network that sees the ones before), and the methods of
`Categorical`.
"""

from keras import ops

from kgen import random
from kgen.layers.conditioning import per_row
from kgen.losses.likelihood import logistic_bin


def scale(levels, num_levels):
    """Int levels 0 to Q - 1 to float32 in -1 to 1."""
    return ops.cast(levels, "float32") * (2 / (num_levels - 1)) - 1


def unscale(x, num_levels):
    """The inverse of `scale`; int32. Floats in between give the nearest level."""
    return ops.cast((x + 1) * ((num_levels - 1) / 2) + 0.5, "int32")


class Categorical:
    """A probability for every one of Q, `num_levels`, levels; with two, a Bernoulli. Section 3.1 of
    van den Oord, Kalchbrenner and Kavukcuoglu (ICML 2016).
    """

    def __init__(self, num_levels, channels):
        self.num_levels = num_levels
        self.channels = self.passes = channels
        self.num_parameters = channels * num_levels
        self.noise_shape = (channels, random.categorical_size(num_levels))

    def log_prob(self, x, parameters):
        """float32 `[B]`, nats, of scaled images `[B, H, W, C]` under logits `[B, H, W, C * Q]`."""
        logits = ops.reshape(ops.cast(parameters, "float32"), (-1, *x.shape[1:], self.num_levels))
        levels = ops.expand_dims(unscale(x, self.num_levels), -1)
        chosen = ops.take_along_axis(logits, levels, axis=-1)[..., 0]
        return ops.sum(chosen - ops.logsumexp(logits, axis=-1), axis=(1, 2, 3))

    def draw(self, parameters, noise, x, step, temperature=1.0):
        """Draws channel `step` of a pixel and sets it in `x`, the scaled channels `[B, C]`.

        From logits, those of all channels `[B, C * Q]` or of this one alone `[B, Q]`, divided by
        the temperature, a number or one for each row, and Gumbel noise `[B, *noise_shape]`.
        """
        if parameters.shape[-1] == self.num_parameters:
            start = step * self.num_levels
            parameters = parameters[:, start : start + self.num_levels]
        logits = ops.cast(parameters, "float32")
        logits = logits / per_row(temperature, logits)
        drawn = random.categorical(logits, ops.take(noise, step, axis=1))
        drawn = scale(drawn, self.num_levels)
        if self.channels == 1:
            return ops.expand_dims(drawn, -1)
        parts = [x[:, :step], ops.expand_dims(drawn, -1), x[:, step + 1 :]]
        return ops.concatenate(parts, axis=-1)


class LogisticMixture:
    """A mixture of M, `num_mixtures`, logistics, cut into bins; a component draws all channels.

    Salimans, Karpathy, Chen and Kingma, "PixelCNN++" (ICLR 2017), sections 2.1 and 2.2: the
    outer bins reach to infinity (equation 2), and the mean of a channel depends linearly on
    the channels before it, red, green, blue and alpha, so that the network need not.
    """

    passes = 1

    def __init__(self, num_mixtures, channels, num_levels=256):
        self.num_mixtures = num_mixtures
        self.channels = channels
        self.num_levels = num_levels
        self.num_coefficients = channels * (channels - 1) // 2
        self.num_parameters = num_mixtures * (1 + 2 * channels + self.num_coefficients)
        #: One number per mixture component, and two per channel: the difference of two
        #: standard Gumbel variables is a standard logistic one.
        self.num_choice_numbers = random.categorical_size(num_mixtures)
        self.noise_shape = (self.num_choice_numbers + 2 * channels,)

    def log_prob(self, x, parameters):
        """As for `Categorical`, of parameters `[B, H, W, P]`: mixture logits, then for each channel
        means, for each channel log-scales, and for each pair of channels coefficients, M each."""
        logits, means, log_scales, coefficients = self._parts(parameters)
        values = [x[..., c : c + 1] for c in range(self.channels)]
        total = ops.log_softmax(logits, axis=-1)
        for c, value in enumerate(values):
            mean = self._mean(c, means[c], coefficients, values)
            total = total + logistic_bin(value, mean, log_scales[c], self.num_levels)
        return ops.sum(ops.logsumexp(total, axis=-1), axis=(1, 2))

    def draw(self, parameters, noise, x, step, temperature=1.0):
        """As for `Categorical`, but all channels in one step, so that `x` is not looked at; the
        temperature divides mixture logits and multiplies scales."""
        logits, means, log_scales, coefficients = self._parts(parameters)
        temperature = per_row(temperature, logits)
        chosen = random.categorical(logits / temperature, noise[:, : self.num_choice_numbers])
        chosen = ops.one_hot(chosen, self.num_mixtures, dtype="float32")

        def choose(part):
            return ops.sum(part * chosen, axis=-1, keepdims=True)

        coefficients = [choose(part) for part in coefficients]
        values = []
        for c in range(self.channels):
            place = self.num_choice_numbers + 2 * c
            logistic = noise[:, place : place + 1] - noise[:, place + 1 : place + 2]
            value = self._mean(c, choose(means[c]), coefficients, values)
            value = value + ops.exp(choose(log_scales[c])) * (logistic * temperature)
            # The nearest level: what lies beyond the outer ones belongs to them.
            level = unscale(ops.clip(value, -1.0, 1.0), self.num_levels)
            values.append(scale(level, self.num_levels))
        return ops.concatenate(values, axis=-1)

    def _parts(self, parameters):
        """Logits `[..., M]` and lists of such: means, log-scales, coefficients."""
        parameters = ops.cast(parameters, "float32")
        size, count = self.num_mixtures, self.channels
        parts = [
            parameters[..., i * size : (i + 1) * size] for i in range(self.num_parameters // size)
        ]
        return (
            parts[0],
            parts[1 : 1 + count],
            [ops.maximum(part, -7.0) for part in parts[1 + count : 1 + 2 * count]],
            [ops.tanh(part) for part in parts[1 + 2 * count :]],
        )

    def _mean(self, channel, mean, coefficients, values):
        """The mean of a channel, given the values of those before it."""
        first = channel * (channel - 1) // 2
        for i in range(channel):
            mean = mean + coefficients[first + i] * values[i]
        return mean
