"""SoFlow on a diffusion transformer: images in one pass of a network, or a few.

Luo, Yuan and Liu, "SoFlow: Solution flow models for one-step generative modeling" (2025; arXiv
2512.15657), on the network of Peebles and Xie (2023), see `kgen.models.diffusion.dit`.

What it learns and how it is sampled is in `kgen.models.diffusion.solution`.
"""

import keras

from kgen.models.diffusion.dit import DiT
from kgen.models.diffusion.solution import SolutionFlow


@keras.saving.register_keras_serializable(package="kgen")
class SoFlowDiT(SolutionFlow, DiT):
    """A flow's solution on a diffusion transformer, on pixels or on a VAE's latent map.

    Arguments and what is logged: as for `SolutionFlow`, `DiT` and `DenoisingGenerator`.

    Example:

    >>> model = kgen.models.SoFlowDiT((28, 28, 1), num_classes=10, patch_size=4)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.generate(16, labels=3)  # one pass
    """

    student = None
    tiny_preset = "soflow_dit_tiny"
    presets = {
        "soflow_dit_tiny": {
            "image_shape": (8, 8, 1),
            "patch_size": 4,
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        },
        "soflow_dit_28x28": {"image_shape": (28, 28, 1), "patch_size": 4},
        "soflow_dit_32x32": {
            "image_shape": (32, 32, 3),
            "patch_size": 4,
            "dim": 256,
            "num_layers": 8,
            "num_heads": 8,
        },
    }
