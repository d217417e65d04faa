"""Super-resolution with an adversarial network.

Ledig et al., "Photo-realistic single image super-resolution using a generative adversarial network"
(CVPR 2017; arXiv 1609.04802): residual blocks at the small size and sub-pixel convolutions at the
end (section 2.1.1), trained by pixels first (section 3.2), then to be near the truth by perceptual
features (section 2.2.1) and to pass for a real image with a discriminator that does not see the
input (section 2.2.2). Its features are of VGG; here they are of what is at hand, by directions, and
a part of the distance by pixels stays, as in Wang et al., "ESRGAN" (ECCV workshops 2018; arXiv
1809.00219), equation 3.

What the two networks do with each other is in `kgen.models.translation.adversarial`.
"""

import keras

from kgen.models.translation.adversarial import AdversarialTranslator


@keras.saving.register_keras_serializable(package="kgen")
class SRGAN(AdversarialTranslator):
    """Super-resolution, and other restoration, that is sharp: some decibels for the looks.

    The first `pixel_steps` are regression. A trained `Restorer` to `begin_with`, with
    `pixel_steps=0`, takes their place.

    Args:
        degradation: As for `Translator`; `"bicubic:2"` enlarges twice, `"bicubic:4"` four times.

    Further arguments and what is logged: as for `AdversarialTranslator`, `ConvolutionalTranslator`
    and `Translator`.

    Example:

    >>> model = kgen.models.SRGAN((32, 32, 3), degradation="bicubic:2")
    >>> model.compile()
    >>> model.fit(images, epochs=20)                      # large ones, uint8 [N, 32, 32, 3]
    >>> model.translate(small).shape                      # of uint8 [8, 100, 60, 3]
    (8, 200, 120, 3)
    """

    tiny_preset = "srgan_tiny"
    presets = {
        "srgan_tiny": {
            "image_shape": (8, 8, 1),
            "filters": 8,
            "middle_blocks": 1,
            "pixel_steps": 2,
            "discriminator_filters": 8,
            "discriminator_layers": 1,
        },
        "srgan_28x28": {"image_shape": (28, 28, 1)},
        "srgan_32x32": {"image_shape": (32, 32, 3)},
        "srgan_64x64": {"image_shape": (64, 64, 3), "degradation": "bicubic:4"},
    }

    def __init__(
        self,
        image_shape,
        input_shape=None,
        degradation="bicubic:2",
        filters=64,
        num_downsamplings=0,
        middle_blocks=4,
        adversarial_weight=0.01,
        pixel_weight=1.0,
        perceptual_weight=1.0,
        conditional=False,
        pixel_steps=1000,
        slope_weight=1.0,
        **kwargs,
    ):
        super().__init__(
            image_shape,
            input_shape,
            degradation,
            filters=filters,
            num_downsamplings=num_downsamplings,
            middle_blocks=middle_blocks,
            adversarial_weight=adversarial_weight,
            pixel_weight=pixel_weight,
            perceptual_weight=perceptual_weight,
            conditional=conditional,
            pixel_steps=pixel_steps,
            slope_weight=slope_weight,
            **kwargs,
        )
