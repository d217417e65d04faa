"""VQ-VAE with a transformer prior: a causal transformer over the codes of images.

Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis" (CVPR
2021; arXiv 2012.09841), section 3.2: the codes in raster order, each from those before it
(equation 9), and the class before them all (equation 10). The tokenizer is the zoo's VQ-VAE,
by code book or FSQ, and the transformer that of `kgen.models.autoregressive.image_gpt`.
"""

import keras
from keras import ops

from kgen.checks import check_shares
from kgen.layers.conditioning import check_guidance, hide_labels
from kgen.layers.transformer import TransformerSpec, transformer_optimizer
from kgen.models.autoregressive.distributions import Categorical, scale
from kgen.models.autoregressive.image_gpt import CausalTransformer
from kgen.models.autoregressive.sampling import GUIDED_CHOICE, draw_tokens
from kgen.models.tokens.base import AutoregressivePrior


@keras.saving.register_keras_serializable(package="kgen")
class VQTransformer(AutoregressivePrior):
    """A trained VQ-VAE and a causal transformer over its codes, as one generator.

    Args:
        dim: Int, see `TransformerSpec`, as are `num_layers`, `num_heads`, `rotary`, `mlp`, `norm`,
            `qk_norm` and `dropout`.
        label_dropout: Float, see `ImageGPT`.

    Further arguments, among them the `tokenizer`, and what is logged: as for
    `AutoregressivePrior`.

    Example, with a `tokenizer` trained as for `VQPixelCNN`:

    >>> model = kgen.models.VQTransformer((28, 28, 1), num_classes=10, tokenizer=tokenizer)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, guidance_scale=2.0)
    """

    sampling_numbers = GUIDED_CHOICE
    tiny_preset = "vq_transformer_tiny"
    presets = {
        "vq_transformer_tiny": {
            "image_shape": (8, 8, 1),
            "tokenizer": "vqvae_tiny",
            "dim": 16,
            "num_layers": 1,
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

    def log_prob_of_codes(self, codes, labels=None, training=False, seeds=None):
        if training:
            labels = hide_labels(labels, seeds, self.label_dropout, self.num_classes)
        tokens = ops.reshape(codes, (-1, self.network.length))
        logits = self.network(tokens, labels, seeds if training else None)
        logits = ops.reshape(logits, (-1, *self.tokenizer.code_shape, self.tokenizer.num_codes))
        return self.distribution.log_prob(scale(codes[..., None], self.tokenizer.num_codes), logits)

    def sample(
        self, seeds, labels=None, temperature=1.0, top_k=None, top_p=None, guidance_scale=1.0
    ):
        """Draws codes in raster order and decodes them; options are as for `ImageGPT.sample`."""
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        codes = self.draw_codes(seeds, labels, guidance_scale=guidance_scale, **options)
        return self.decode(codes, labels)

    def draw_codes(self, seeds, labels=None, **options):
        check_guidance(self, options.get("guidance_scale", 1))
        codes = draw_tokens(self.network, seeds, labels, **options)
        return ops.reshape(codes, (-1, *self.tokenizer.code_shape))

    # Network --------------------------------------------------------------------------

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
        dropout=0.0,
        label_dropout=0.1,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, tokenizer, **kwargs)
        spec = TransformerSpec.of(self)
        check_shares(label_dropout=label_dropout)
        num_codes = self.tokenizer.num_codes
        self.distribution = Categorical(num_codes, 1)
        with self.dtype_policy_scope():
            self.network = CausalTransformer(
                (*self.tokenizer.code_shape, 1), num_codes, num_classes, spec, name="network"
            )
        self.built = True

    def default_optimizer(self, learning_rate=None):
        return transformer_optimizer(learning_rate, beta_2=0.95)
