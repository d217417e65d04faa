"""Variational autoencoder of vision transformers.

The VAE of Kingma and Welling (ICLR 2014; see `kgen.models.vae.latent_map`) with the encoder and
decoder of Yu et al., "Vector-quantized image modeling with improved VQGAN" (ICLR 2022; arXiv
2110.04627), section 3.1, which leave out convolutions, and with normal latent variables in place
of codes. The latent map is a space for another generator, as in Rombach et al., "High-resolution
image synthesis with latent diffusion models" (CVPR 2022; arXiv 2112.10752), section 3.1.
"""

import keras
from keras import layers

from kgen.checks import check_ints
from kgen.layers.conditioning import joined
from kgen.layers.transformer import TransformerSpec, transformer_optimizer
from kgen.layers.vit import build_vit_decoder, build_vit_encoder, check_patches
from kgen.models.vae.latent_map import LatentMapVAE, flatten_statistics


@keras.saving.register_keras_serializable(package="kgen")
class ViTVAE(LatentMapVAE):
    """Variational autoencoder whose encoder and decoder are vision transformers.

    The latent variables are a small map, a few numbers for every patch of the image. It does
    all that `VAE` does, with a standard normal prior, and its map is meant for a second
    generator, such as `DiT`.

    Args:
        patch_size: Int, side of a patch in pixels; it divides the sides.
        latent_channels: Int, latent variables for every patch.
        dim: Int, see `TransformerSpec`, as are `num_layers`, of the encoder and of the decoder,
            `num_heads`, `mlp` and `norm`; `dim / num_heads` divides by 4.

    Further arguments: as for `VariationalGenerator`. What is logged: as for `LatentMapVAE`.

    Example:

    >>> model = kgen.models.ViTVAE((28, 28, 1), patch_size=4, latent_channels=4)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> mean, log_variance = model.encode(data.test.images[:8])  # float32 [8, 7 * 7 * 4] each
    """

    tiny_preset = "vit_vae_tiny"
    presets = {
        "vit_vae_tiny": {
            "image_shape": (8, 8, 1),
            "latent_channels": 2,
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        },
        "vit_vae_8x8": {
            "image_shape": (8, 8, 1),
            "patch_size": 2,
            "latent_channels": 2,
            "dim": 64,
            "num_layers": 3,
        },
        "vit_vae_28x28": {"image_shape": (28, 28, 1)},
        "vit_vae_32x32": {
            "image_shape": (32, 32, 3),
            "dim": 192,
            "num_layers": 6,
            "num_heads": 6,
            "likelihood": "discretized_logistic",
        },
        "vit_vae_64x64": {
            "image_shape": (64, 64, 3),
            "dim": 256,
            "num_layers": 6,
            "num_heads": 8,
            "likelihood": "discretized_logistic",
        },
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        patch_size=4,
        latent_channels=4,
        dim=128,
        num_layers=4,
        num_heads=4,
        mlp="gelu",
        norm="layer",
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        check_patches(self.image_shape, patch_size)
        check_ints(1, latent_channels=latent_channels)
        grid = (side // patch_size for side in self.image_shape[:2])
        self._set_latent_shape((*grid, latent_channels))
        sizes = (patch_size, TransformerSpec.of(self))
        with self.dtype_policy_scope():
            # Between the latent vector of the border and the map that the networks know.
            network = build_vit_encoder(self.image_shape, num_classes, 2 * latent_channels, *sizes)
            statistics = flatten_statistics(network.output)
            self.encoder = keras.Model(network.input, statistics, name="encoder")
            network = build_vit_decoder(self.image_shape, num_classes, latent_channels, *sizes)
            latent, one_hot = keras.Input((self.latent_dim,), name="latent"), network.inputs[1:]
            outputs = network(joined(layers.Reshape(self.latent_shape)(latent), one_hot))
            self.decoder = keras.Model(joined(latent, one_hot), outputs, name="decoder")
        self._build_log_scale()

    def default_optimizer(self, learning_rate=None):
        return transformer_optimizer(learning_rate, self.dim)
