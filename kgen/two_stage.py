"""Generators in two stages: a frozen tokenizer, and a prior over its codes.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning" (NIPS 2017;
arXiv 1711.00937), section 3.3: "After training, we fit an autoregressive distribution over z,
so that we can generate x via ancestral sampling".
"""

import math
import pathlib

import keras
from keras import ops

from kgen import random
from kgen.image_generator import ImageGenerator
from kgen.losses import pixels
from kgen.models.vqvae import VQVAE
from kgen.training.step import Batch


def load_first_stage(stage, kind, argument, image_shape, num_classes):
    """A frozen copy of an autoencoder, whatever names it.

    Args:
        stage: A trained `kind`; the path of one: its `.keras` file, its run's or its preset's
            folder; or the name of a preset, for a fresh one.
        kind: Class, `VQVAE` or `VAE`.
        argument: String, the name of the argument that is given as `stage`.
        image_shape: Tuple `(H, W, C)`, which must be the autoencoder's, and
        num_classes: Int or `None`, which must be the autoencoder's where that has classes.

    Returns:
        `kind` of its own, in float32: training the one that was given does not change it.

    Raises:
        ValueError: There is no such autoencoder, or it is for other images.
    """
    copy = _copy(stage, kind, argument, image_shape, num_classes)
    copy.trainable = False
    if copy.image_shape != image_shape:
        raise ValueError(
            f"image_shape must be the {argument}'s. Received: image_shape={image_shape}, and a "
            f"{argument} of {copy.image_shape}"
        )
    if copy.num_classes not in (None, num_classes):
        raise ValueError(
            f"A class-conditional {argument} needs a generator of as many classes. Received: "
            f"num_classes={num_classes}, and a {argument} of {copy.num_classes}"
        )
    return copy


def _copy(stage, kind, argument, image_shape, num_classes):
    from kgen import models

    presets = [
        preset
        for model_class in models.registered().values()
        if issubclass(model_class, kind)
        for preset in model_class.presets
    ]
    if isinstance(stage, str) and stage in presets:
        return kind.from_preset(
            stage, image_shape=image_shape, num_classes=num_classes, dtype="float32"
        )
    if isinstance(stage, (str, pathlib.Path)):
        from kgen.training.run import load_model

        if not pathlib.Path(stage).exists():
            raise ValueError(
                f"{argument} must be a {kind.__name__}, the path of a trained one (a .keras file, "
                f"a run's or a preset's folder), or one of {', '.join(presets)}. There is no "
                f"{str(stage)!r}."
            )
        stage = load_model(stage)[0]
    weights = None
    if isinstance(stage, kind):
        weights = stage.get_weights()
        stage = keras.saving.serialize_keras_object(stage)
    if not isinstance(stage, dict):
        raise ValueError(
            f"{argument} must be a {kind.__name__}, the path of a trained one or a preset's name. "
            f"Received: {type(stage).__name__}"
        )
    # Built as if it were to be trained: Keras would not freeze the layers of a frozen model.
    # In float32, whatever it was trained in: the generator learns what is exported.
    arguments = {**stage["config"], "trainable": True, "dtype": "float32"}
    config = {**stage, "config": arguments}
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    if weights is not None:
        copy.set_weights(weights)
    return copy


def untrained(stage, argument):
    """What `diagnose` says of an autoencoder that was never trained: a list of strings."""
    if ops.convert_to_numpy(stage.training_steps) > 0:
        return []
    return [
        f"untrained {argument}: the {type(stage).__name__} has fresh weights, so that the images "
        f"will mean nothing. Train one first, and give it, or its run's folder, as {argument}."
    ]


def known_cells(mask, height, width):
    """Which cells of a coarse grid are known: those whose pixels all are.

    Args:
        mask: Tensor `[B, H, W]`, 1 where a pixel is known.
        height: Int, rows of the grid, which divides H.
        width: Int, its columns.

    Returns:
        Bool tensor `[B, height, width]`.
    """
    down, across = mask.shape[1] // height, mask.shape[2] // width
    parts = ops.reshape(ops.cast(mask, "int32"), (-1, height, down, width, across))
    return ops.cast(ops.min(parts, axis=(2, 4)), "bool")


class TwoStageGenerator(ImageGenerator):
    """Base class of generators that draw codes and have a trained VQ-VAE decode them.

    The VQ-VAE, here the tokenizer, is frozen: training moves the prior alone. It is saved and
    exported with it. A subclass states `objective`, `sample` and `draw_codes`.

    Args:
        image_shape: Tuple `(H, W, C)`, the tokenizer's.
        num_classes: Int for a prior that is told the class, else `None`. A class-conditional
            tokenizer needs the same.
        tokenizer: A trained `VQVAE`, of which a copy is kept; or the path of one: its
            `.keras` file, its run's or its preset's folder; or the name of one of its presets,
            for a fresh one, which is good for trials alone.
        seed: Int, see `ImageGenerator`.
    """

    def __init__(self, image_shape, num_classes=None, tokenizer=None, seed=0, **kwargs):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        self.tokenizer = load_first_stage(
            tokenizer, VQVAE, "tokenizer", self.image_shape, num_classes
        )

    def get_config(self):
        return {
            **super().get_config(),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
        }

    def encode(self, images, labels=None):
        """The codes of images, see `VQVAE.encode`."""
        return self.tokenizer.encode(images, labels)

    def decode(self, codes, labels=None):
        """The images that codes stand for, see `VQVAE.decode`."""
        return self.tokenizer.decode(codes, labels)

    def call(self, images, labels=None):
        """Reconstructs images through their codes, uint8 in and out."""
        return self.tokenizer(images, labels)

    def diagnose(self, logs):
        return untrained(self.tokenizer, "tokenizer")

    def endpoints(self):
        others = self.tokenizer.endpoints()
        del others["generate"]
        return {**super().endpoints(), **others}


class AutoregressivePrior(TwoStageGenerator):
    """Base class of two-stage generators whose prior has an exact likelihood.

    A subclass states `log_prob_of_codes` and `draw_codes`, and ends its `__init__` with
    `_log_bits`.

    Logs, in nats per image: `loss`, the exact negative log-likelihood of the codes, and
    `decoder_loss`, that of the image given its codes; and where the decoder gives
    probabilities, `bits_per_dimension` of their sum.
    """

    metric_names = ("loss", "decoder_loss")

    def _log_bits(self):
        if self._pixels_measured(self.seed)[1]:
            self.metric_names = (*self.metric_names, "bits_per_dimension")
            self.trackers.append(keras.metrics.Mean(name="bits_per_dimension"))

    def _pixels_measured(self, seed):
        return pixels.protocol(self.tokenizer.likelihood, self.tokenizer.binarization, seed)

    def log_prob_of_codes(self, codes, labels=None, training=False, seeds=None):
        """Exact log-probability of codes under the prior.

        Args:
            codes: int32 tensor `[B, h, w]`.
            labels: int32 tensor `[B]` for a class-conditional model.
            training: Bool.
            seeds: int32 tensor `[B]` for the noise of training.

        Returns:
            float32 tensor `[B]`, nats.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement log_prob_of_codes")

    def draw_codes(self, seeds, labels=None, **options):
        """Draws codes from the prior, int32 `[B, h, w]`; arguments as for `sample`."""
        raise NotImplementedError(f"{type(self).__name__} must implement draw_codes")

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
        prior = self.log_prob_of_codes(codes, batch.labels, training, batch.seeds)
        return prior, self.tokenizer.log_likelihood(images, codes, batch.labels)

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
