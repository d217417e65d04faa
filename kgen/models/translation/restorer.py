"""Regression from images to images: the honest baseline.

A network is trained to be near the truth, pixel by pixel, and so says the mean, or the median, of
all that the truth may be: the best figures by pixels, and soft where the answer is open. Zhao et
al., "Loss functions for image restoration with neural networks" (IEEE Transactions on Computational
Imaging 2017; arXiv 1511.08861), compare the losses; Charbonnier's is that of Lai et al., "Deep
Laplacian pyramid networks for fast and accurate super-resolution" (CVPR 2017; arXiv 1704.03915),
equation 1.

The network is in `kgen.models.translation.networks`.
"""

import keras
from keras import ops

from kgen.checks import check_names
from kgen.layers.scaling import scale_images
from kgen.models.translation import distances
from kgen.models.translation.convolutional import ConvolutionalTranslator


@keras.saving.register_keras_serializable(package="kgen")
class Restorer(ConvolutionalTranslator):
    """Regression from images to images: denoising, deblurring, inpainting, colour, enlargement.

    Args:
        pixel_loss: `"l1"`, `"charbonnier"` or `"l2"`, see `kgen.models.translation.distances`.

    Further arguments: as for `ConvolutionalTranslator` and `Translator`.

    Logs `loss`; `psnr`, in dB; and `gain`, by how many dB it is above that of the first guess, the
    input as it is.

    Example:

    >>> model = kgen.models.Restorer((32, 32, 3), degradation="noise:25")
    >>> model.compile()
    >>> model.fit(images, epochs=10)                      # clean ones, uint8 [N, 32, 32, 3]
    >>> model.translate(noisy).shape                      # of any size
    (8, 480, 640, 3)
    """

    tiny_preset = "restorer_tiny"
    presets = {
        "restorer_tiny": {
            "image_shape": (8, 8, 1),
            "degradation": "noise:25",
            "filters": 8,
            "num_downsamplings": 1,
            "middle_blocks": 1,
        },
        "restorer_28x28": {"image_shape": (28, 28, 1)},
        "restorer_32x32": {"image_shape": (32, 32, 3)},
        "restorer_64x64": {"image_shape": (64, 64, 3)},
    }

    metric_names = ("loss", "psnr", "gain")

    def __init__(self, image_shape, input_shape=None, degradation=None, pixel_loss="l1", **kwargs):
        super().__init__(image_shape, input_shape, degradation, **kwargs)
        check_names(pixel_loss=(pixel_loss, distances.DISTANCES))

    def objective(self, batch, training):
        network = self.network if training else self.ema_network
        truth = scale_images(batch.images)
        said = self.pixels(network, batch.inputs, training)
        loss = distances.DISTANCES[self.pixel_loss](said, truth)
        psnr = distances.psnr(said, truth)
        gain = psnr - distances.psnr(self.first_guess(batch.inputs), truth)
        return loss, {"loss": loss, "psnr": ops.mean(psnr), "gain": ops.mean(gain)}

    def default_optimizer(self, learning_rate=None):
        """Adam with gradients of bounded length."""
        rate = 2e-3 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0)

    def diagnose(self, logs):
        return distances.no_gain(self, logs)
