"""VQ-VAE with a PixelCNN prior: the second stage that makes a VQ-VAE a generator.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning" (NIPS 2017;
arXiv 1711.00937), section 4.2: a PixelCNN over the codes of images. The prior is the network of
`gated_pixelcnn.py`, whose first layer sees a learned vector for each code.
"""

import keras
import numpy as np

from kgen.checks import check_ints
from kgen.models.autoregressive.distributions import Categorical, scale, unscale
from kgen.models.autoregressive.gated_pixelcnn import GatedNetwork
from kgen.models.autoregressive.pixel_network import check_kernel_sizes
from kgen.models.autoregressive.sampling import CHOICE, draw
from kgen.models.tokens.base import AutoregressivePrior


@keras.saving.register_keras_serializable(package="kgen")
class VQPixelCNN(AutoregressivePrior):
    """A trained VQ-VAE and a PixelCNN over its codes, as one generator.

    Args:
        filters: Int, filters of each layer of the prior and length of the codes' vectors; see
            `GatedPixelCNN`, as are `num_layers`, `kernel_size` and `first_kernel_size`.

    Further arguments, among them the `tokenizer`, `objective` and what is logged: as for
    `AutoregressivePrior`.

    Example:

    >>> tokenizer = kgen.models.VQVAE.from_preset("vqvae_28x28")
    >>> tokenizer.compile()
    >>> tokenizer.fit(data.train, epochs=20)
    >>> model = kgen.models.VQPixelCNN((28, 28, 1), tokenizer=tokenizer)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, seed=0)
    """

    sampling_numbers = {"temperature": CHOICE["temperature"]}
    tiny_preset = "vq_pixelcnn_tiny"
    presets = {
        "vq_pixelcnn_tiny": {
            "image_shape": (8, 8, 1),
            "tokenizer": "vqvae_tiny",
            "filters": 8,
            "num_layers": 1,
            "first_kernel_size": 3,
        },
        "vq_pixelcnn_8x8": {
            "image_shape": (8, 8, 1),
            "tokenizer": "vqvae_8x8",
            "num_layers": 4,
            "first_kernel_size": 5,
        },
        "vq_pixelcnn_28x28": {"image_shape": (28, 28, 1), "tokenizer": "vqvae_28x28"},
        "vq_pixelcnn_32x32": {
            "image_shape": (32, 32, 3),
            "tokenizer": "vqvae_32x32",
            "filters": 128,
            "num_layers": 12,
        },
    }

    def log_prob_of_codes(self, codes, labels=None, training=False, seeds=None):
        x = scale(codes[..., None], self.tokenizer.num_codes)
        return self.distribution.log_prob(x, self.network(x, labels, training=training))

    def sample(self, seeds, labels=None, temperature=1.0):
        """Draws codes in raster order and decodes them; options are as for `PixelCNN.sample`."""
        return self.decode(self.draw_codes(seeds, labels, temperature), labels)

    def draw_codes(self, seeds, labels=None, temperature=1.0):
        shape = self.network.image_shape
        x = draw(self.network, self.distribution, shape, seeds, labels, temperature)
        return unscale(x[..., 0], self.tokenizer.num_codes)

    def __init__(
        self,
        image_shape,
        num_classes=None,
        tokenizer=None,
        filters=64,
        num_layers=8,
        kernel_size=3,
        first_kernel_size=5,
        **kwargs,
    ):
        check_ints(1, filters=filters)
        check_ints(0, num_layers=num_layers)
        check_kernel_sizes(kernel_size=kernel_size, first_kernel_size=first_kernel_size)
        super().__init__(image_shape, num_classes, tokenizer, **kwargs)
        self.distribution = Categorical(self.tokenizer.num_codes, 1)
        with self.dtype_policy_scope():
            self.network = GatedNetwork(
                (*self.tokenizer.code_shape, 1),
                num_classes,
                filters,
                num_layers,
                kernel_size,
                first_kernel_size,
                self.distribution.num_parameters,
                self.tokenizer.num_codes,
                name="network",
            )
        labels = None if num_classes is None else np.zeros(1, "int32")
        self.network(np.zeros((1, *self.network.image_shape), "float32"), labels)
        self.built = True
