"""VQ-VAE: an autoencoder whose latent variables are codes.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning" (NIPS 2017;
arXiv 1711.00937): strided convolutions and residual blocks (section 4.1), a code book learnt
by gradient (equation 3) or by moving averages (appendix A.1). In place of the code book there
may be the fixed grid of Mentzer et al., "Finite scalar quantization" (ICLR 2024; arXiv
2309.15505), and in place of convolutions the vision transformers of Yu et al.,
"Vector-quantized image modeling with improved VQGAN" (ICLR 2022; arXiv 2110.04627), section
3.1. It compresses; to draw images it takes a prior over its codes: see
`kgen.models.tokens.vq_pixelcnn`.
"""

import keras
from keras import layers, ops

from kgen import random
from kgen.checks import Number, check_ints, check_names, check_numbers, check_shares
from kgen.endpoint import TensorSpec, image_spec
from kgen.image_generator import ImageGenerator
from kgen.layers.conditioning import add_class, class_input
from kgen.layers.convolutional import residual_block
from kgen.layers.quantizers import FSQ, VectorQuantizer
from kgen.layers.transformer import TransformerSpec, transformer_optimizer
from kgen.layers.vit import build_vit_decoder, build_vit_encoder
from kgen.losses import pixels

QUANTIZERS = ("ema", "gradient", "fsq")
NETWORKS = ("convolutional", "vit")


@keras.saving.register_keras_serializable(package="kgen")
class VQVAE(ImageGenerator):
    """Vector-quantized autoencoder: an image becomes a small picture of codes.

    Args:
        image_shape: Tuple `(H, W, C)`; the sides divide by `2**num_downsamplings`.
        num_classes: Int for a model whose decoder is told the class, else `None`.
        quantizer: `"ema"`, a code book learnt by moving averages, `"gradient"`, one learnt by
            gradient, or `"fsq"`, the fixed grid of finite scalar quantization.
        num_codes: Int, codes of a code book.
        fsq_levels: Sequence of ints, for `"fsq"`: how many values each dimension takes; they
            multiply to the number of codes.
        embedding_dim: Int, length of a code book's vectors.
        filters: Int, filters after the first halving; they double up to four times.
        num_downsamplings: Int, how often the sides are halved.
        num_blocks: Int, residual blocks of the encoder and of the decoder.
        network: `"convolutional"`, or `"vit"`: encoder and decoder are vision transformers over
            patches of `2**num_downsamplings` pixels a side. `filters` and `num_blocks` are for
            the first, `dim`, `num_layers` and `num_heads` for the second.
        dim: Int, features of a patch; see `TransformerSpec`, as are `num_layers`, of the encoder
            and of the decoder, and `num_heads`.
        commitment: Float, beta of equation 3, for a code book.
        ema_decay: Float, for `"ema"`, below 1.
        restart_threshold: Float: a code of a code book that is chosen less often than so many
            times the average is set to a random encoder output; 0 restarts none.
        likelihood: The decoder's distribution of a pixel, as in `VAE`; the last two with a
            learned spread per channel.
        binarization: For `"bernoulli"`, as in `VAE`.

    Further arguments: as for `ImageGenerator`.

    Logs, in nats per image: `loss`, `reconstruction_loss` (the decoder's negative
    log-likelihood) and `commitment_loss` (with its weight; 0 for FSQ), to which a codebook that
    learns by gradient adds a loss of its own; and of the codes:
    `perplexity`, the exponential of the entropy of the codes of a batch, and `codes_used`, the
    share of all codes that training, over about its last 100 steps, chose at least a hundredth
    as often as the average code. It is a figure of training, in evaluation too.

    Example:

    >>> model = kgen.models.VQVAE((28, 28, 1), num_codes=128)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> codes = model.encode(data.test.images[:8])  # int32 [8, 7, 7]
    """

    metric_names = ("loss", "reconstruction_loss", "commitment_loss", "perplexity", "codes_used")
    tiny_preset = "vqvae_tiny"
    presets = {
        "vqvae_tiny": {
            "image_shape": (8, 8, 1),
            "num_codes": 16,
            "embedding_dim": 4,
            "filters": 8,
            "num_downsamplings": 1,
            "num_blocks": 0,
        },
        "vqvae_8x8": {
            "image_shape": (8, 8, 1),
            "num_codes": 64,
            "embedding_dim": 16,
            "num_downsamplings": 1,
        },
        "vqvae_28x28": {"image_shape": (28, 28, 1), "num_codes": 128, "embedding_dim": 32},
        "vqvae_vit_28x28": {
            "image_shape": (28, 28, 1),
            "num_codes": 128,
            "embedding_dim": 32,
            "network": "vit",
        },
        "vqvae_32x32": {"image_shape": (32, 32, 3), "filters": 64},
    }

    def objective(self, batch, training):
        loss, logs, _, _ = self._compute(batch)
        return loss, {**logs, "codes_used": self.quantizer.codes_used()}

    def _compute(self, batch):
        images = self.binarize(batch)
        features = self._features(images)
        quantized, codes, losses = self.quantizer(features)
        outputs = self._parameters(quantized, batch.labels)
        reconstruction = -ops.mean(self._log_likelihood(images, outputs))
        loss = reconstruction + sum(losses.values())
        shares = self.quantizer.shares(codes)
        entropy = -ops.sum(shares * ops.log(ops.maximum(shares, 1e-12)))
        logs = {
            "loss": loss,
            "reconstruction_loss": reconstruction,
            "commitment_loss": losses.get("commitment_loss", ops.zeros(())),
            "perplexity": ops.exp(entropy),
        }
        return loss, logs, ops.stop_gradient(features), codes

    def update(self, batch, minimize):
        def objective():
            loss, logs, features, codes = self._compute(batch)
            return loss, {**logs, "features": features, "codes": codes}

        logs = minimize(objective, self.optimizer, self.trainable_variables)
        # After the gradient step, which would move a code book from where it was before.
        self.quantizer.update(logs.pop("features"), logs.pop("codes"), batch.seeds)
        return {**logs, "codes_used": self.quantizer.codes_used()}

    def sample(self, seeds, labels=None):
        """Draws each code by itself, as often as training chose it lately, and decodes them.

        Codes that know nothing of each other make no picture: this is what a VQ-VAE can do
        without a prior, and no good generator. For one, train `VQPixelCNN` on its codes.
        """
        return self.decode(self.quantizer.draw(random.uniform(seeds, self.code_shape)), labels)

    def encode(self, images, labels=None):
        """The codes of images `[B, H, W, C]`, int32 `[B, h, w]`; the encoder ignores the class."""
        return self.quantizer(self._features(images))[1]

    def decode(self, codes, labels=None):
        """The images that codes `[B, h, w]` stand for, uint8: the mean of every pixel."""
        outputs = self._parameters(self.quantizer.lookup(codes), labels)
        return pixels.to_images(self.likelihood, outputs)

    def call(self, images, labels=None):
        """Reconstructs images through their codes, uint8 in and out."""
        return self.decode(self.encode(images), labels)

    @property
    def code_shape(self):
        """Tuple `(h, w)` of an image's codes."""
        return tuple(side // 2**self.num_downsamplings for side in self.image_shape[:2])

    def _features(self, images):
        x = ops.cast(images, "float32") * (2 / 255) - 1
        return ops.cast(self.encoder([x]), "float32")

    def _parameters(self, quantized, labels):
        inputs = [quantized]
        if self.num_classes is not None:
            inputs.append(ops.one_hot(labels, self.num_classes, dtype="float32"))
        return self.decoder(inputs)

    def binarize(self, batch):
        """The images of a batch as the likelihood sees them, uint8 `[B, H, W, C]`."""
        return pixels.binarize(self.likelihood, self.binarization, batch, self.image_shape)

    def _log_likelihood(self, images, outputs):
        return pixels.log_likelihood(self.likelihood, images, outputs, self.log_scale)

    def log_likelihood(self, images, codes, labels=None):
        """Log-likelihood of uint8 images given codes `[B, h, w]`: float32 `[B]`, nats."""
        outputs = self._parameters(self.quantizer.lookup(codes), labels)
        return self._log_likelihood(images, outputs)

    def diagnose(self, logs):
        used = logs["codes_used"]
        # The use of the codes settles over some 100 steps.
        if used >= 0.25 or ops.convert_to_numpy(self.training_steps) < 200:
            return []
        remedy = (
            "Try smaller fsq_levels or fewer of them."
            if self.quantizer_name == "fsq"
            else "Try a smaller num_codes or embedding_dim, a larger restart_threshold, or "
            "quantizer='fsq'."
        )
        return [
            f"codebook collapse: {100 * used:.3g} % of the {self.num_codes} codes are in use, "
            f"under 25 %: images are told in fewer words than there are. {remedy}"
        ]

    def endpoints(self):
        image = image_spec(self.image_shape)
        codes = TensorSpec(self.code_shape, "int32", 0, self.num_codes - 1, "indices of codes")
        return {
            **super().endpoints(),
            "encode": self.endpoint(
                lambda image: self.encode(image),
                "gives the codes of an image",
                {"codes": codes},
                seeded=False,
                labelled=False,
                image=image,
            ),
            "decode": self.endpoint(
                lambda codes, label=None: self.decode(codes, label),
                "draws the image of codes",
                seeded=False,
                codes=codes,
            ),
            "reconstruct": self.endpoint(
                lambda image, label=None: self.call(image, label),
                "encodes an image and decodes its codes",
                seeded=False,
                image=image,
            ),
        }

    # Networks -------------------------------------------------------------------------

    def __init__(
        self,
        image_shape,
        num_classes=None,
        quantizer="ema",
        num_codes=512,
        fsq_levels=(8, 5, 5, 5),
        embedding_dim=64,
        filters=32,
        num_downsamplings=2,
        num_blocks=2,
        network="convolutional",
        dim=128,
        num_layers=4,
        num_heads=4,
        commitment=0.25,
        ema_decay=0.99,
        restart_threshold=0.1,
        likelihood="discretized_logistic",
        binarization="dynamic",
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, **kwargs)
        check_ints(0, num_downsamplings=num_downsamplings, num_blocks=num_blocks)
        check_ints(1, embedding_dim=embedding_dim, filters=filters)
        check_ints(2, num_codes=num_codes)
        patch_size = 2**num_downsamplings
        if any(side % patch_size for side in self.image_shape[:2]):
            raise ValueError(
                f"With num_downsamplings={num_downsamplings} VQVAE takes images whose sides divide "
                f"by {patch_size}. Received: image_shape={self.image_shape}"
            )
        check_names(
            quantizer=(quantizer, QUANTIZERS),
            network=(network, NETWORKS),
            likelihood=(likelihood, pixels.LIKELIHOODS),
            binarization=(binarization, pixels.BINARIZATIONS),
        )
        check_shares(ema_decay=ema_decay, restart_threshold=restart_threshold)
        check_numbers(Number(least=0), commitment=commitment)
        spec = TransformerSpec.of(self)
        self.quantizer_name = quantizer
        if quantizer == "fsq":
            self.quantizer = FSQ(self.fsq_levels, dtype="float32", name="quantizer")
        else:
            self.quantizer = VectorQuantizer(
                num_codes,
                embedding_dim,
                commitment,
                ema_decay if quantizer == "ema" else None,
                restart_threshold,
                dtype="float32",
                name="quantizer",
            )
        self.num_codes = self.quantizer.num_codes  # with FSQ the product of its levels
        channels = self.quantizer.dim
        with self.dtype_policy_scope():
            if network == "vit":
                sizes = (channels, patch_size, spec)
                self.encoder = build_vit_encoder(self.image_shape, None, *sizes)
                self.decoder = build_vit_decoder(self.image_shape, num_classes, *sizes)
            else:
                sizes = (channels, filters, num_downsamplings, num_blocks)
                self.encoder = build_encoder(self.image_shape, *sizes)
                self.decoder = build_decoder(self.image_shape, num_classes, *sizes)
        self.log_scale = None
        if likelihood in ("gaussian", "discretized_logistic"):
            self.log_scale = self.add_weight(
                (self.image_shape[-1],), keras.initializers.Constant(-2.0), name="log_scale"
            )
        self.built = True

    def get_config(self):
        return {**super().get_config(), "quantizer": self.quantizer_name}

    def default_optimizer(self, learning_rate=None):
        if self.network == "vit":
            return transformer_optimizer(learning_rate, self.dim)
        return super().default_optimizer(learning_rate)


def widths(filters, num_downsamplings):
    """Filters after each halving: doubled, up to four times."""
    return [min(filters * 2**level, 4 * filters) for level in range(max(num_downsamplings, 1))]


def build_encoder(image_shape, dim, filters, num_downsamplings, num_blocks):
    """(B, H, W, C) scaled pixels to (B, h, w, dim)."""
    image = x = keras.Input(image_shape, name="pixels")
    for level, width in enumerate(widths(filters, num_downsamplings)):
        if level > 0:
            x = layers.Activation("silu")(x)
        if num_downsamplings:
            x = layers.Conv2D(width, 4, strides=2, padding="same")(x)
        else:
            x = layers.Conv2D(width, 3, padding="same")(x)
    for _ in range(num_blocks):
        x = residual_block(x, width)
    x = layers.Activation("silu")(x)
    x = layers.Conv2D(dim, 1)(x)
    return keras.Model([image], x, name="encoder")


def build_decoder(image_shape, num_classes, dim, filters, num_downsamplings, num_blocks):
    """(B, h, w, dim), and (B, num_classes), to (B, H, W, C) likelihood parameters."""
    height, width = (side // 2**num_downsamplings for side in image_shape[:2])
    *narrower, widest = widths(filters, num_downsamplings)
    quantized = keras.Input((height, width, dim), name="quantized")
    one_hot = class_input(num_classes)
    x = add_class(layers.Conv2D(widest, 3, padding="same")(quantized), *one_hot)
    for _ in range(num_blocks):
        x = residual_block(x, widest)
    for channels in reversed([filters, *narrower] if num_downsamplings else []):
        x = layers.Activation("silu")(x)
        x = layers.Conv2DTranspose(channels, 4, strides=2, padding="same")(x)
    x = layers.Activation("silu")(x)
    x = layers.Conv2D(image_shape[-1], 3, padding="same")(x)
    return keras.Model([quantized, *one_hot], x, name="decoder")
