"""Log-likelihoods of images, in nats per image: pure functions, computed in float32.

Of tensors `[B, ...]`, and parameters that broadcast against `x`, they give float32 `[B]`, where
not stated otherwise.
"""

import math

from keras import ops


def bernoulli(x, logits):
    """Log-likelihood of a Bernoulli at every pixel, of `x` in 0 to 1.

    With `x` in {0, 1} it is exact; with grey levels in between it is the negative
    cross-entropy that textbooks use, which is no normalised density.
    """
    x, logits = ops.cast(x, "float32"), ops.cast(logits, "float32")
    return _sum(x * logits - ops.softplus(logits))


def continuous_bernoulli(x, logits):
    """Log-likelihood of the continuous Bernoulli, a normalised density on [0, 1].

    Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders" (NeurIPS 2019), equation 4: the cross-entropy plus
    log(2 atanh(1 - 2p) / (1 - 2p)), here written in the logits l = log(p / (1 - p)), where
    the normaliser is (l / 2) / tanh(l / 2) * 2.
    """
    x, logits = ops.cast(x, "float32"), ops.cast(logits, "float32")
    half = ops.abs(logits) / 2
    near = half < 1e-2  # both quotients go to 0 / 0: Taylor's series, 1 + h**2 / 3
    safe = ops.where(near, 1.0, half)
    normaliser = ops.where(near, half * half / 3, ops.log(safe) - ops.log(ops.tanh(safe)))
    return bernoulli(x, logits) + _sum(normaliser + math.log(2))


def continuous_bernoulli_mean(logits):
    """Mean of the continuous Bernoulli, of the shape of the logits: its equation 8, in 0 to 1.

    With the logits l it is 1 / (1 - exp(-l)) - 1 / l, here one half and Langevin's function
    coth(h) - 1 / h of h = l / 2, halved, so that it is symmetric and nothing overflows. It is
    nearer to one half than the sigmoid, which is the parameter and no mean.
    """
    half = ops.cast(logits, "float32") / 2
    near = ops.abs(half) < 0.25  # both terms go to infinity: Taylor's series, to 2e-8
    safe = ops.where(near, 1.0, half)
    square = half * half
    series = half / 3 * (1 - square / 15 * (1 - square * (2 / 21)))
    return 0.5 + 0.5 * ops.where(near, series, 1 / ops.tanh(safe) - 1 / safe)


def continuous_bernoulli_quantile(share, logits):
    """The level, 0 to 1, that a continuous Bernoulli variable stays under with probability `share`.

    Loaiza-Ganem and Cunningham (NeurIPS 2019), the inverse of the distribution function of
    section 3: log(1 + u (exp(l) - 1)) / l, rewritten so that nothing overflows. Around 0, where
    it is 0 / 0, by its series to the second order, u + l u (1 - u) / 2.
    """
    logits = ops.cast(logits, "float32")
    size = ops.abs(logits)
    # The distribution of -l is the mirror image of that of l.
    mirrored = ops.where(logits < 0, 1 - share, share)
    near = size < 1e-2
    safe = ops.where(near, 1.0, size)
    level = ops.where(
        near,
        mirrored + size * mirrored * (1 - mirrored) / 2,
        1 + ops.log(mirrored + (1 - mirrored) * ops.exp(-safe)) / safe,
    )
    return ops.where(logits < 0, 1 - level, level)


def gaussian(x, mean, log_variance):
    """Log-likelihood of a normal distribution at every pixel."""
    x, mean = ops.cast(x, "float32"), ops.cast(mean, "float32")
    log_variance = ops.cast(log_variance, "float32")
    squared = ops.square(x - mean) * ops.exp(-log_variance)
    return -0.5 * _sum(squared + log_variance + math.log(2 * math.pi))


def discretized_logistic(x, mean, log_scale):
    """Log-probability of 256 grey levels under a logistic distribution cut into bins.

    Kingma et al., "Improved variational inference with inverse autoregressive flow" (NIPS
    2016), appendix C.2, and Salimans et al., "PixelCNN++" (ICLR 2017), equation 2: levels,
    scaled to -1 .. 1 like the mean, are bins of width 2/255, the outer two reach to infinity.
    """
    x, mean = ops.cast(x, "float32"), ops.cast(mean, "float32")
    return _sum(logistic_bin(x, mean, ops.cast(log_scale, "float32"), 256))


def logistic_bin(x, mean, log_scale, num_levels):
    """Log-probability of the bin around each level, scaled to -1 .. 1: PixelCNN++, equation 2."""
    half = 1 / (num_levels - 1)
    inverse = ops.exp(-log_scale)
    upper = (x - mean + half) * inverse
    lower = (x - mean - half) * inverse
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): nothing cancels, in
    # the tails neither. And log(1 - exp(-w)) = log(w) - w / 2 + w**2 / 24 - ... (to 5e-7).
    width = 2 * half * inverse
    narrow = width < 0.2
    safe = ops.where(narrow, 1.0, width)
    log_width = ops.where(
        narrow,
        math.log(2 * half) - log_scale - width / 2 + width * width / 24,
        ops.log(1 - ops.exp(-safe)),
    )
    inside = log_width - ops.softplus(-upper) - ops.softplus(lower)
    outer = ops.where(x < 0, -ops.softplus(-upper), -ops.softplus(lower))
    return ops.where(ops.abs(x) > 0.999, outer, inside)


def normal_kl(mean, log_variance):
    """KL divergence of a diagonal normal from the standard normal, `[B, D]`, nats per dimension.

    Kingma and Welling, "Auto-encoding variational Bayes" (ICLR 2014), appendix B.
    """
    mean, log_variance = ops.cast(mean, "float32"), ops.cast(log_variance, "float32")
    return 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance)


def normal_log_ratio(x, noise, log_variance):
    """log q(x) - log p(x), `[B, D]`, of a diagonal normal q and the standard normal p, at a sample
    of q, its mean plus its deviation times `noise`. Its mean over samples is `normal_kl`.
    """
    x, log_variance = ops.cast(x, "float32"), ops.cast(log_variance, "float32")
    return 0.5 * (ops.square(x) - ops.square(noise) - log_variance)


def normal_log_density(x, mean=0.0, log_variance=0.0):
    """Log-density of a diagonal normal."""
    squared = ops.square(x - mean) * ops.exp(-ops.cast(log_variance, "float32"))
    return -0.5 * ops.sum(squared + log_variance + math.log(2 * math.pi), axis=-1)


def _sum(x):
    return ops.sum(x, axis=(1, 2, 3))
