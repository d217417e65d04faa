"""PixelCNN++.

Salimans, Karpathy, Chen and Kingma, "PixelCNN++: improving the PixelCNN with discretized
logistic mixture likelihood and other modifications" (ICLR 2017; arXiv 1701.05517): the
likelihood of a pixel (sections 2.1 and 2.2, see `LogisticMixture`), averaged weights (section 3),
and a network of two streams at several resolutions (see `pixelcnn_pp_network.py`).
"""

import keras

from kgen.checks import check_ints, check_shares
from kgen.models.autoregressive.base import AutoregressiveGenerator
from kgen.models.autoregressive.distributions import LogisticMixture
from kgen.models.autoregressive.pixelcnn_pp_network import PixelCNNppNetwork
from kgen.training.average import AveragedWeights


@keras.saving.register_keras_serializable(package="kgen")
class PixelCNNpp(AveragedWeights, AutoregressiveGenerator):
    """PixelCNN++: an exact likelihood by mixtures of logistics, at several resolutions.

    Args:
        image_shape: Tuple `(H, W, C)`; the sides divide by `2 ** (num_resolutions - 1)`.
        filters: Int, filters of each stream; 160 in the paper.
        num_blocks: Int, blocks at each resolution; 5 in the paper.
        num_mixtures: Int, logistics in the mixture of a pixel.
        num_resolutions: Int, the image's own and those halved from it.
        dropout: Float, 0 to 1, the share of features dropped in training.
        ema_decay: Float, 0 to 1, of the exponential moving average of the weights, with which
            the model is evaluated, sampled and exported; 0 takes the weights as trained.

    Further arguments, `objective`, `sample` and what is logged: as for `AutoregressiveGenerator`.

    Example:

    >>> model = kgen.models.PixelCNNpp((32, 32, 3), filters=64, num_blocks=2)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.generate(16, seed=0).shape
    (16, 32, 32, 3)
    """

    tiny_preset = "pixelcnn_pp_tiny"
    presets = {
        "pixelcnn_pp_tiny": {
            "image_shape": (8, 8, 1),
            "filters": 6,
            "num_blocks": 1,
            "num_resolutions": 1,
            "num_mixtures": 3,
            "num_levels": 4,
        },
        "pixelcnn_pp_8x8": {
            "image_shape": (8, 8, 1),
            "filters": 32,
            "num_blocks": 1,
            "num_mixtures": 5,
            "num_resolutions": 2,
            "dropout": 0.1,
            "num_levels": 17,
        },
        "pixelcnn_pp_28x28": {"image_shape": (28, 28, 1), "filters": 64, "num_blocks": 2},
        "pixelcnn_pp_32x32": {"image_shape": (32, 32, 3)},
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        filters=160,
        num_blocks=5,
        num_mixtures=10,
        num_resolutions=3,
        dropout=0.5,
        ema_decay=0.9995,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        check_ints(
            1,
            filters=filters,
            num_blocks=num_blocks,
            num_mixtures=num_mixtures,
            num_resolutions=num_resolutions,
        )
        factor = 2 ** (num_resolutions - 1)
        if any(side % factor for side in self.image_shape[:2]):
            raise ValueError(
                f"With num_resolutions={num_resolutions} the sides of an image must divide by "
                f"{factor}. Received: image_shape={self.image_shape}. Give fewer resolutions, or "
                "load the data with other sides."
            )
        check_shares(dropout=dropout, ema_decay=ema_decay)
        self.distribution = LogisticMixture(num_mixtures, self.image_shape[-1], self.num_levels)

        def make(name):
            return PixelCNNppNetwork(
                self.image_shape,
                num_classes,
                filters,
                num_blocks,
                num_resolutions,
                dropout,
                self.distribution.num_parameters,
                name=name,
            )

        self._build_networks(make)
