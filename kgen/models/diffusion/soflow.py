"""SoFlow on a U-Net: images in one pass of a network, or a few, trained from scratch.

Luo, Yuan and Liu, "SoFlow: Solution flow models for one-step generative modeling" (2025; arXiv
2512.15657).

What it learns and how it is sampled is in `kgen.models.diffusion.solution`, the network in
`kgen.models.diffusion.unet`.
"""

import keras

from kgen.models.diffusion.solution import SolutionFlow
from kgen.models.diffusion.unet import UNetGenerator


@keras.saving.register_keras_serializable(package="kgen")
class SoFlow(SolutionFlow, UNetGenerator):
    """A flow's solution on a U-Net, on pixels or on a VAE's latent map.

    Arguments and what is logged: as for `SolutionFlow`, `UNetGenerator` and `DenoisingGenerator`.

    Example:

    >>> model = kgen.models.SoFlow((28, 28, 1), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.generate(16, labels=3)  # one pass
    >>> model.generate(16, labels=3, num_steps=2)
    """

    student = None
    tiny_preset = "soflow_tiny"
    presets = {
        "soflow_tiny": {"image_shape": (8, 8, 1), "filters": 16, "multipliers": (1,)},
        "soflow_28x28": {"image_shape": (28, 28, 1)},
        "soflow_32x32": {"image_shape": (32, 32, 3), "filters": 64},
    }
