"""Image-to-image translation with a conditional adversarial network, from pairs.

Isola, Zhu, Zhou and Efros, "Image-to-image translation with conditional adversarial networks" (CVPR
2017; arXiv 1611.07004): a U-Net that is near the truth by L1 (section 3.1, equation 4), and that a
discriminator of patches, which sees the input too, cannot tell from real images (section 3.2.2).
Their lambda is 100; here it is 10, beside a distance by perceptual features. Theirs is told a noise
by dropout, which it hardly heeds (section 3.1); this one gives one answer.

What the two networks do with each other is in `kgen.models.translation.adversarial`.
"""

import keras

from kgen.models.translation.adversarial import AdversarialTranslator


@keras.saving.register_keras_serializable(package="kgen")
class Pix2Pix(AdversarialTranslator):
    """Translation learnt from pairs: near the truth, and sharp where that leaves a choice.

    Arguments and what is logged: as for `AdversarialTranslator`, `ConvolutionalTranslator` and
    `Translator`.

    Example:

    >>> data = kgen.data.load_pairs("drawings", "photos", image_shape=(64, 64, 3))
    >>> model = kgen.models.Pix2Pix((64, 64, 3))
    >>> model.compile()
    >>> model.fit(data.train, epochs=50)
    >>> model.translate(data.test.inputs)
    """

    tiny_preset = "pix2pix_tiny"
    presets = {
        "pix2pix_tiny": {
            "image_shape": (8, 8, 3),
            "degradation": "grey",
            "filters": 8,
            "num_downsamplings": 1,
            "middle_blocks": 1,
            "discriminator_filters": 8,
            "discriminator_layers": 1,
        },
        "pix2pix_28x28": {"image_shape": (28, 28, 1)},
        "pix2pix_32x32": {"image_shape": (32, 32, 3)},
        "pix2pix_64x64": {"image_shape": (64, 64, 3), "discriminator_layers": 3},
    }
