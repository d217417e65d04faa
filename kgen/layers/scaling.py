"""Between images of uint8 and the numbers that networks see, and back."""

import keras
from keras import layers, ops

from kgen.checks import check_ints, check_names
from kgen.configurable import Configurable
from kgen.losses import pixels


def scale_images(images, num_levels=256):
    """uint8 images to float32 in -1 to 1, each pixel to the nearest of so many levels."""
    if num_levels == 256:
        return ops.cast(images, "float32") * (2 / 255) - 1
    levels = ops.cast(images, "float32") * ((num_levels - 1) / 255) + 0.5
    return ops.floor(levels) * (2 / (num_levels - 1)) - 1


def unscale_images(x):
    """The inverse of `scale_images`, to uint8; what is outside of -1 to 1 is clipped."""
    # Adding a half and cutting off rounds alike on every runtime.
    return ops.cast(ops.clip((x + 1) * 127.5 + 0.5, 0, 255), "uint8")


def choose_pixels(mask, images, others):
    """uint8 images where a mask `[B, H, W]` is not 0, and others where it is."""
    images, others = (ops.cast(x, "int32") for x in (images, others))  # LiteRT chooses no uint8
    return ops.cast(ops.where(ops.cast(mask[..., None], "bool"), images, others), "uint8")


@keras.saving.register_keras_serializable(package="kgen")
class ScaleImages(Configurable, layers.Layer):
    """From uint8 images to what the networks of kgen take: float32 in -1 to 1.

    Any dtype and shape of numbers 0 to 255 will do.

    Args:
        num_levels: Int, 2 to 256; below 256 each pixel becomes the nearest of so many levels,
            as an autoregressive model has them.

    >>> statistics = model.encoder(kgen.layers.ScaleImages()(images))
    """

    def __init__(self, num_levels=256, **kwargs):
        super().__init__(**{"autocast": False, "dtype": "float32", **kwargs})
        check_ints(2, num_levels=num_levels)
        if num_levels > 256:
            raise ValueError(f"num_levels must be 2 to 256. Received: num_levels={num_levels}")

    def compute_output_spec(self, images):
        return keras.KerasTensor(images.shape, "float32")

    def call(self, images):
        return scale_images(images, self.num_levels)


@keras.saving.register_keras_serializable(package="kgen")
class UnscaleImages(Configurable, layers.Layer):
    """From what a network of kgen gives to uint8 images.

    Args:
        likelihood: `None` for pixels in -1 to 1, such as a generator's of a GAN, which are
            clipped and rounded; or the decoder's `likelihood`, as in `kgen.models.VAE`, of whose
            parameters the mean of every pixel is taken.

    >>> images = kgen.layers.UnscaleImages("bernoulli")(model.decoder(latents))
    """

    def __init__(self, likelihood=None, **kwargs):
        super().__init__(**{"autocast": False, "dtype": "float32", **kwargs})
        if likelihood is not None:
            check_names(likelihood=(likelihood, pixels.LIKELIHOODS))

    def compute_output_spec(self, outputs):
        return keras.KerasTensor(outputs.shape, "uint8")

    def call(self, outputs):
        if self.likelihood is None:
            return unscale_images(outputs)
        return pixels.to_images(self.likelihood, outputs)
