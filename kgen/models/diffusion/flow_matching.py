"""Flow matching on a U-Net: the velocity of a rectified flow.

Lipman et al., "Flow matching for generative modeling" (ICLR 2023; arXiv 2210.02747), with the
straight path of Liu, Gong and Liu, "Flow straight and fast" (ICLR 2023; arXiv 2209.03003).

The network is in `kgen.models.diffusion.unet`, the path and the loss in
`kgen.models.diffusion.paths`, sampling in `kgen.models.diffusion.base`.
"""

import keras

from kgen.models.diffusion.unet import UNetGenerator


@keras.saving.register_keras_serializable(package="kgen")
class FlowMatching(UNetGenerator):
    """Flow matching on a U-Net, on pixels or on a VAE's latent map.

    The network says the image, of which the velocity follows: Li and He, "Back to basics: let
    denoising generative models denoise" (2025; arXiv 2511.13720), table 1.

    Arguments and what is logged: as for `UNetGenerator` and `DenoisingGenerator`.

    Example:

    >>> model = kgen.models.FlowMatching((28, 28, 1), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.generate(16, labels=3, guidance_scale=2.0, num_steps=16)
    """

    tiny_preset = "flow_matching_tiny"
    presets = {
        "flow_matching_tiny": {"image_shape": (8, 8, 1), "filters": 16, "multipliers": (1,)},
        "flow_matching_28x28": {"image_shape": (28, 28, 1)},
        "flow_matching_32x32": {"image_shape": (32, 32, 3), "filters": 64},
        "flow_matching_64x64": {
            "image_shape": (64, 64, 3),
            "filters": 64,
            "multipliers": (1, 2, 3),
            "attention": (2,),
        },
    }

    # Measured on MNIST at equal time of a CPU: images beat velocities.
    def __init__(self, image_shape, num_classes=None, autoencoder=None, prediction="x", **kwargs):
        super().__init__(image_shape, num_classes, autoencoder, prediction=prediction, **kwargs)
