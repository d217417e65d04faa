"""What a decoder's outputs mean: the distribution of the pixels, by its name.

A decoder gives one number per pixel and channel: a logit (`"bernoulli"`,
`"continuous_bernoulli"`), a mean on the scale 0 to 1 (`"gaussian"`) or on the scale -1 to 1
(`"discretized_logistic"`). The last two have a spread besides.

`likelihood` is one of `LIKELIHOODS`, `binarization` one of `BINARIZATIONS`; images are uint8
`[B, H, W, C]`, and outputs have the same shape.
"""

from keras import ops

from kgen import random
from kgen.losses import likelihood as likelihoods

LIKELIHOODS = ("bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic")
BINARIZATIONS = ("dynamic", "threshold", "none")

_DRAWN = 3  # the stream of noise that draws pixels; 0 to 2 are the models'


def log_likelihood(likelihood, images, outputs, log_scale=None):
    """float32 `[B]`, nats, of uint8 images, given a decoder's outputs `[B, H, W, C]`.

    `log_scale`, which broadcasts against the outputs, is the log of the normal's standard deviation
    or of the logistic's scale.
    """
    x = ops.cast(images, "float32") / 255
    if likelihood == "bernoulli":
        return likelihoods.bernoulli(x, outputs)
    if likelihood == "continuous_bernoulli":
        return likelihoods.continuous_bernoulli(x, outputs)
    if likelihood == "gaussian":
        return likelihoods.gaussian(x, outputs, 2 * log_scale)
    return likelihoods.discretized_logistic(2 * x - 1, outputs, log_scale)


def to_images(likelihood, outputs):
    """The mean of every pixel, as uint8, from a decoder's outputs `[B, H, W, C]`."""
    outputs = ops.cast(outputs, "float32")
    if likelihood == "bernoulli":
        levels = ops.sigmoid(outputs)
    elif likelihood == "continuous_bernoulli":
        levels = likelihoods.continuous_bernoulli_mean(outputs)
    elif likelihood == "gaussian":
        levels = outputs
    else:
        levels = (outputs + 1) / 2
    # Adding a half and cutting off rounds alike on every runtime.
    return ops.cast(ops.clip(levels * 255 + 0.5, 0, 255), "uint8")


def draw_images(likelihood, outputs, seeds, log_scale=None):
    """Every pixel drawn from its distribution, as uint8, by the noise of `seeds`, int32 `[B]`."""
    outputs = ops.cast(outputs, "float32")
    shape = outputs.shape[1:]
    if likelihood == "gaussian":
        levels = outputs + ops.exp(log_scale) * random.normal(seeds, shape, _DRAWN)
    else:
        # A quantile of the distribution; not 0 or 1, where that of a logistic is infinite.
        share = ops.clip(random.uniform(seeds, shape, _DRAWN), 1e-6, 1 - 1e-6)
        if likelihood == "bernoulli":
            levels = ops.cast(share < ops.sigmoid(outputs), "float32")
        elif likelihood == "continuous_bernoulli":
            levels = likelihoods.continuous_bernoulli_quantile(share, outputs)
        else:
            noise = ops.log(share) - ops.log(1 - share)
            levels = (outputs + ops.exp(log_scale) * noise + 1) / 2
    return ops.cast(ops.clip(levels * 255 + 0.5, 0, 255), "uint8")


def binarize(likelihood, binarization, batch, image_shape):
    """The uint8 images of a `Batch`, black and white where the likelihood is to see them so."""
    if likelihood != "bernoulli" or binarization == "none":
        return batch.images
    levels = ops.cast(batch.images, "float32") / 255
    threshold = 0.5
    if binarization == "dynamic":
        threshold = random.uniform(batch.seeds, image_shape, stream=1)
    return 255 * ops.cast(levels > threshold, "uint8")


def protocol(likelihood, binarization, seed):
    """What is measured, in words, and whether it is a probability, which has bits."""
    pixels = {
        "dynamic": f"pixels drawn once as 0 or 1, the grey level as probability, seed {seed}",
        "threshold": "pixels cut at one half to 0 or 1",
        "none": "grey levels taken as probabilities of 0 or 1, which is no likelihood",
    }
    protocols = {
        "bernoulli": pixels[binarization],
        "continuous_bernoulli": "density of grey levels on 0 to 1, not dequantised",
        "gaussian": "density of grey levels on 0 to 1, not dequantised",
        "discretized_logistic": "probability of the 256 grey levels, not dequantised",
    }
    discrete = likelihood == "discretized_logistic" or (
        likelihood == "bernoulli" and binarization != "none"
    )
    return protocols[likelihood], discrete
