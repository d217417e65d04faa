"""VQ-VAE with a PixelCNN prior: the second stage that makes a VQ-VAE a generator.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning" (NIPS 2017;
arXiv 1711.00937), section 3.3: "After training, we fit an autoregressive distribution over z,
so that we can generate x via ancestral sampling", by a PixelCNN over the codes of images
(section 4.2). The prior is the network of `kgen.models.gated_pixelcnn`, whose first layer
sees a learned vector for each code.
"""

import math
import pathlib

import keras
import numpy as np
from keras import ops

from kgen import random
from kgen.autoregressive import draw
from kgen.distributions import Categorical, scale, unscale
from kgen.image_generator import ImageGenerator, check_ints
from kgen.layers.pixel_network import check_kernel_sizes
from kgen.losses import pixels
from kgen.models.gated_pixelcnn import GatedNetwork
from kgen.models.vqvae import VQVAE
from kgen.training.step import Batch


def load_tokenizer(tokenizer, image_shape, num_classes):
    """A copy of a tokenizer, whatever names it.

    Args:
        tokenizer: See `VQPixelCNN`.
        image_shape: Tuple `(H, W, C)`, and
        num_classes: Int or `None`, for a preset's name.

    Returns:
        `VQVAE` of its own, in float32: training the one that was given does not change it.
    """
    if isinstance(tokenizer, str) and tokenizer in VQVAE.presets:
        return VQVAE.from_preset(
            tokenizer, image_shape=image_shape, num_classes=num_classes, dtype="float32"
        )
    if isinstance(tokenizer, (str, pathlib.Path)):
        from kgen.training.run import load_model

        if not pathlib.Path(tokenizer).exists():
            raise ValueError(
                "tokenizer must be a VQVAE, the path of a trained one (a .keras file, a run's or "
                f"a preset's folder), or one of {', '.join(VQVAE.presets)}. There is no "
                f"{str(tokenizer)!r}."
            )
        tokenizer = load_model(tokenizer)[0]
    weights = None
    if isinstance(tokenizer, VQVAE):
        weights = tokenizer.get_weights()
        tokenizer = keras.saving.serialize_keras_object(tokenizer)
    if not isinstance(tokenizer, dict):
        raise ValueError(
            "tokenizer must be a VQVAE, the path of a trained one or a preset's name. Received: "
            f"{type(tokenizer).__name__}"
        )
    # Built as if it were to be trained: Keras would not freeze the layers of a frozen model.
    # In float32, whatever it was trained in: the prior learns the codes that are exported.
    arguments = {**tokenizer["config"], "trainable": True, "dtype": "float32"}
    config = {**tokenizer, "config": arguments}
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    if weights is not None:
        copy.set_weights(weights)
    return copy


@keras.saving.register_keras_serializable(package="kgen")
class VQPixelCNN(ImageGenerator):
    """A trained VQ-VAE and a PixelCNN over its codes, as one generator.

    The VQ-VAE, here the tokenizer, is frozen and computes in float32: training moves the prior
    alone, and `dtype` is the prior's. It is saved and exported with it.

    Args:
        image_shape: Tuple `(H, W, C)`, the tokenizer's.
        num_classes: Int for a prior that is told the class, else `None`. A class-conditional
            tokenizer needs the same.
        tokenizer: A trained `VQVAE`, of which a copy is kept; or the path of one: its
            `.keras` file, its run's or its preset's folder; or the name of one of its presets,
            for a fresh one, which is good for trials alone.
        filters: Int, filters of each layer of the prior and length of the codes' vectors.
        num_layers: Int, layers after the first.
        kernel_size: Int, odd.
        first_kernel_size: Int, odd, of the first layer.
        seed: Int, see `ImageGenerator`.

    Logs, in nats per image: `loss`, the exact negative log-likelihood of the codes, and
    `decoder_loss`, that of the image given its codes; and where the decoder gives
    probabilities, `bits_per_dimension` of their sum.

    Example:

    >>> tokenizer = kgen.models.VQVAE.from_preset("vqvae_28x28")
    >>> tokenizer.compile()
    >>> tokenizer.fit(data.train, epochs=20)
    >>> model = kgen.models.VQPixelCNN((28, 28, 1), tokenizer=tokenizer)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, seed=0)
    """

    metric_names = ("loss", "decoder_loss")
    tiny_preset = "vq_pixelcnn_tiny"
    presets = {
        "vq_pixelcnn_tiny": {
            "image_shape": (8, 8, 1),
            "tokenizer": "vqvae_tiny",
            "filters": 8,
            "num_layers": 2,
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

    def __init__(
        self,
        image_shape,
        num_classes=None,
        tokenizer=None,
        filters=64,
        num_layers=8,
        kernel_size=3,
        first_kernel_size=5,
        seed=0,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        check_ints(1, filters=filters)
        check_ints(0, num_layers=num_layers)
        check_kernel_sizes(kernel_size=kernel_size, first_kernel_size=first_kernel_size)
        self.tokenizer = load_tokenizer(tokenizer, self.image_shape, num_classes)
        self.tokenizer.trainable = False
        if self.tokenizer.image_shape != self.image_shape:
            raise ValueError(
                "image_shape must be the tokenizer's. Received: image_shape="
                f"{self.image_shape}, and a tokenizer of {self.tokenizer.image_shape}"
            )
        if self.tokenizer.num_classes not in (None, num_classes):
            raise ValueError(
                "A class-conditional tokenizer needs a prior of as many classes. Received: "
                f"num_classes={num_classes}, and a tokenizer of {self.tokenizer.num_classes}"
            )
        self.filters = filters
        self.num_layers = num_layers
        self.kernel_size = kernel_size
        self.first_kernel_size = first_kernel_size
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
        if self._pixels_measured(seed)[1]:
            self.metric_names = (*self.metric_names, "bits_per_dimension")
            self.trackers.append(keras.metrics.Mean(name="bits_per_dimension"))
        self.built = True

    def get_config(self):
        return {
            **super().get_config(),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "filters": self.filters,
            "num_layers": self.num_layers,
            "kernel_size": self.kernel_size,
            "first_kernel_size": self.first_kernel_size,
        }

    # Codes ----------------------------------------------------------------------------

    def encode(self, images, labels=None):
        """The codes of images, see `VQVAE.encode`."""
        return self.tokenizer.encode(images, labels)

    def decode(self, codes, labels=None):
        """The images that codes stand for, see `VQVAE.decode`."""
        return self.tokenizer.decode(codes, labels)

    def call(self, images, labels=None):
        """Reconstructs images through their codes, uint8 in and out."""
        return self.tokenizer(images, labels)

    # Likelihood -----------------------------------------------------------------------

    def objective(self, batch, training):
        prior, decoder = self._log_probs(batch, training)
        prior, decoder = -ops.mean(prior), -ops.mean(decoder)
        logs = {"loss": prior, "decoder_loss": decoder}
        if "bits_per_dimension" in self.metric_names:
            dimensions = math.log(2) * math.prod(self.image_shape)
            logs["bits_per_dimension"] = (prior + decoder) / dimensions
        return prior, logs

    def _log_probs(self, batch, training=False):
        """log p(codes) and log p(image | codes), `[B]` each, of the encoder's codes."""
        images = self.tokenizer.binarize(batch)
        codes = self.tokenizer.encode(images)
        prior = self.log_prob_of_codes(codes, batch.labels, training)
        return prior, self.tokenizer.log_likelihood(images, codes, batch.labels)

    def log_prob_of_codes(self, codes, labels=None, training=False):
        """Exact log-probability of codes under the prior.

        Args:
            codes: int32 tensor `[B, h, w]`.
            labels: int32 tensor `[B]` for a class-conditional model.
            training: Bool.

        Returns:
            float32 tensor `[B]`, nats.
        """
        x = scale(codes[..., None], self.tokenizer.num_codes)
        return self.distribution.log_prob(x, self.network(x, labels, training=training))

    def negative_log_likelihood(self, x, y=None, seed=0, batch_size=64, progress="auto"):
        """An upper bound on -log p(x): -log p(codes) - log p(x | codes), of the encoder's codes.

        p(x) is the sum over all codes; the encoder picks one term of it.

        Args:
            x: uint8 images `[N, H, W, C]` or a `kgen.data.Split`. Where the tokenizer
                binarises, it does so once, from `seed`.
            y: Integer labels `[N]` for a class-conditional model, when `x` is an array.
            seed: Int.
            batch_size: Int.
            progress: Bool or `"auto"`.

        Returns:
            float32 NumPy array `[N]`, nats per image.
        """
        split = self.check_split(x, y)
        inputs = {
            "images": split.images,
            "seeds": ops.convert_to_numpy(random.row_seeds(seed, len(split))),
        }
        if self.num_classes is not None:
            inputs["labels"] = split.labels

        def measure(images, seeds, labels=None):
            prior, decoder = self._log_probs(Batch(images, labels, seeds))
            return -prior - decoder

        return self.run_batched(
            "negative_log_likelihood",
            measure,
            inputs,
            batch_size=batch_size,
            progress=progress,
            description="Likelihood",
        )

    def likelihood_protocol(self, importance_samples=None, seed=0):
        """What `negative_log_likelihood` measures, in words that stand beside the number.

        Args:
            importance_samples: Ignored: the encoder gives one code, not samples.
            seed: Int.

        Returns:
            Dict: `"kind"`, `"protocol"` and `"discrete"`.
        """
        measured, discrete = self._pixels_measured(seed)
        return {
            "kind": "bound",
            "protocol": f"{measured}; negative log-probability of the encoder's codes and of the "
            "image given them, all other codes left out; an upper bound",
            "discrete": discrete,
        }

    def _pixels_measured(self, seed):
        return pixels.protocol(self.tokenizer.likelihood, self.tokenizer.binarization, seed)

    def diagnose(self, logs):
        if ops.convert_to_numpy(self.tokenizer.training_steps) > 0:
            return []
        return [
            "untrained tokenizer: the VQ-VAE whose codes are learnt has fresh weights, so that the "
            "images will mean nothing. Train a VQVAE first, and give it, or its run's folder, as "
            "tokenizer."
        ]

    # Sampling and shipping ------------------------------------------------------------

    def sample(self, seeds, labels=None, temperature=1.0):
        """Draws codes one after the other, in raster order, and decodes them.

        Args:
            seeds: int32 tensor `[B]`.
            labels: int32 tensor `[B]` for a class-conditional model.
            temperature: Float above 0, what the codes' logits are divided by; below 1,
                likelier images.

        Returns:
            uint8 tensor `[B, H, W, C]`.

        Raises:
            ValueError: `temperature` is 0 or below.
        """
        return self.decode(self.draw_codes(seeds, labels, temperature), labels)

    def draw_codes(self, seeds, labels=None, temperature=1.0):
        """Draws codes from the prior, int32 `[B, h, w]`; arguments as for `sample`."""
        shape = self.network.image_shape
        x = draw(self.network, self.distribution, shape, seeds, labels, temperature)
        return unscale(x[..., 0], self.tokenizer.num_codes)

    def endpoints(self):
        others = self.tokenizer.endpoints()
        del others["generate"]
        return {**super().endpoints(), **others}
