"""VQ-VAE with a transformer prior: a causal transformer over the codes of images.

Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis" (CVPR
2021; arXiv 2012.09841), section 3.2: the codes in raster order, each from those before it
(equation 9), and the class before them all (equation 10). The tokenizer is the zoo's VQ-VAE,
by code book or FSQ, and the transformer that of `kgen.models.autoregressive.image_gpt`.
"""

import keras
import numpy as np
from keras import ops

from kgen.layers.conditioning import hide_labels
from kgen.models.autoregressive.distributions import Categorical, scale
from kgen.models.autoregressive.image_gpt import CausalTransformer, check_transformer, gpt_optimizer
from kgen.models.autoregressive.sampling import draw_tokens
from kgen.models.tokens.base import AutoregressivePrior


@keras.saving.register_keras_serializable(package="kgen")
class VQTransformer(AutoregressivePrior):
    """A trained VQ-VAE and a causal transformer over its codes, as one generator.

    The VQ-VAE, here the tokenizer, is frozen and computes in float32: training moves the prior
    alone, and `dtype` is the prior's. It is saved and exported with it.

    Args:
        image_shape: Tuple `(H, W, C)`, the tokenizer's.
        num_classes: Int for a prior that is told the class, else `None`. A class-conditional
            tokenizer needs the same.
        tokenizer: A trained `VQVAE`, or what names one, see `TwoStageGenerator`.
        dim: Int, features of a code; `num_heads` divides it.
        num_layers: Int, transformer blocks.
        num_heads: Int; with `rotary`, `dim / num_heads` divides by 4.
        rotary: Bool, rotary positions beside the learned ones.
        mlp: `"gelu"` or `"swiglu"`.
        norm: `"layer"` or `"rms"`.
        qk_norm: Bool, normalise queries and keys: for training that diverges.
        label_dropout: Float, share of the images whose class is hidden in training, so that
            `guidance_scale` has an unconditional model to compare with.
        seed: Int, see `ImageGenerator`.

    Logs, in nats per image: `loss`, the exact negative log-likelihood of the codes, and
    `decoder_loss`, that of the image given its codes; and where the decoder gives
    probabilities, `bits_per_dimension` of their sum.

    Example:

    >>> tokenizer = kgen.models.VQVAE.from_preset("vqvae_28x28")
    >>> tokenizer.compile()
    >>> tokenizer.fit(data.train, epochs=20)
    >>> model = kgen.models.VQTransformer((28, 28, 1), num_classes=10, tokenizer=tokenizer)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, guidance_scale=2.0)
    """

    tiny_preset = "vq_transformer_tiny"
    presets = {
        "vq_transformer_tiny": {
            "image_shape": (8, 8, 1),
            "tokenizer": "vqvae_tiny",
            "dim": 16,
            "num_layers": 2,
            "num_heads": 2,
        },
        "vq_transformer_8x8": {
            "image_shape": (8, 8, 1),
            "tokenizer": "vqvae_8x8",
            "num_layers": 3,
        },
        "vq_transformer_28x28": {"image_shape": (28, 28, 1), "tokenizer": "vqvae_28x28"},
        "vq_transformer_32x32": {
            "image_shape": (32, 32, 3),
            "tokenizer": "vqvae_32x32",
            "dim": 256,
            "num_layers": 8,
            "num_heads": 8,
        },
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        tokenizer=None,
        dim=128,
        num_layers=6,
        num_heads=4,
        rotary=True,
        mlp="gelu",
        norm="layer",
        qk_norm=False,
        label_dropout=0.1,
        seed=0,
        **kwargs,
    ):
        check_transformer(dim, num_layers, num_heads, rotary, mlp, norm, label_dropout)
        super().__init__(image_shape, num_classes, tokenizer, seed, **kwargs)
        self.distribution = Categorical(self.tokenizer.num_codes, 1)
        with self.dtype_policy_scope():
            self.network = CausalTransformer(
                (*self.tokenizer.code_shape, 1),
                self.tokenizer.num_codes,
                num_classes,
                dim,
                num_layers,
                num_heads,
                rotary,
                mlp,
                norm,
                qk_norm,
                name="network",
            )
        labels = None if num_classes is None else np.zeros(1, "int32")
        self.network(np.zeros((1, self.network.length), "int32"), labels)
        self._log_bits()
        self.built = True

    def default_optimizer(self, learning_rate=None):
        return gpt_optimizer(learning_rate)

    def log_prob_of_codes(self, codes, labels=None, training=False, seeds=None):
        if training:
            labels = hide_labels(labels, seeds, self.label_dropout, self.num_classes)
        logits = self.network(ops.reshape(codes, (-1, self.network.length)), labels)
        logits = ops.reshape(logits, (-1, *self.tokenizer.code_shape, self.tokenizer.num_codes))
        return self.distribution.log_prob(scale(codes[..., None], self.tokenizer.num_codes), logits)

    def sample(
        self, seeds, labels=None, temperature=1.0, top_k=None, top_p=None, guidance_scale=1.0
    ):
        """Draws codes one after the other, in raster order, and decodes them.

        Args:
            seeds: int32 tensor `[B]`.
            labels: int32 tensor `[B]` for a class-conditional model.
            temperature: Float above 0, see `ImageGPT.sample`, as are the next three.
            top_k: Int or `None`.
            top_p: Float or `None`.
            guidance_scale: Float.

        Returns:
            uint8 tensor `[B, H, W, C]`.

        Raises:
            ValueError: An option is out of range, or guides a model without classes.
        """
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        codes = self.draw_codes(seeds, labels, guidance_scale=guidance_scale, **options)
        return self.decode(codes, labels)

    def draw_codes(self, seeds, labels=None, **options):
        codes = draw_tokens(self.network, seeds, labels, **options)
        return ops.reshape(codes, (-1, *self.tokenizer.code_shape))
