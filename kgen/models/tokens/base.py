"""Generators in two stages: a frozen tokenizer, and a prior over its codes.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning" (NIPS 2017;
arXiv 1711.00937), section 3.3: "After training, we fit an autoregressive distribution over z,
so that we can generate x via ancestral sampling".
"""

import math

import keras
from keras import ops

from kgen.image_generator import ImageGenerator
from kgen.losses import pixels
from kgen.models.first_stage import load_first_stage, untrained
from kgen.models.tokens.vqvae import VQVAE


class TwoStageGenerator(ImageGenerator):
    """Base class of generators that draw codes and have a trained VQ-VAE decode them.

    The VQ-VAE, here the tokenizer, is frozen: training moves the prior alone. It is saved and
    exported with it, and computes in float32: `dtype` is the prior's. A subclass states
    `objective`, `sample` and `draw_codes`.

    Args:
        image_shape: Tuple `(H, W, C)`, the tokenizer's.
        num_classes: Int for a prior that is told the class, else `None`. A class-conditional
            tokenizer needs the same.
        tokenizer: A trained `VQVAE`, of which a copy is kept; or the path of one: its
            `.keras` file, its run's or its preset's folder; or the name of one of its presets,
            for a fresh one, which is good for trials alone.

    Further arguments: as for `ImageGenerator`.
    """

    frozen_networks = ("tokenizer",)

    def __init__(self, image_shape, num_classes=None, tokenizer=None, **kwargs):
        super().__init__(image_shape, num_classes, **kwargs)
        self.tokenizer = load_first_stage(
            tokenizer, VQVAE, "tokenizer", self.image_shape, num_classes
        )

    def encode(self, images, labels=None):
        """The codes of images, see `VQVAE.encode`."""
        return self.tokenizer.encode(images, labels)

    def decode(self, codes, labels=None):
        """The images that codes stand for, see `VQVAE.decode`."""
        return self.tokenizer.decode(codes, labels)

    def call(self, images, labels=None):
        """Reconstructs images through their codes, uint8 in and out."""
        return self.tokenizer(images, labels)

    def diagnose_before(self):
        return untrained(self.tokenizer, "tokenizer")

    def diagnose(self, logs):
        return self.diagnose_before()

    def endpoints(self):
        others = self.tokenizer.endpoints()
        del others["generate"]
        return {**super().endpoints(), **others}


class AutoregressivePrior(TwoStageGenerator):
    """Base class of two-stage generators whose prior has an exact likelihood.

    A subclass states `log_prob_of_codes` and `draw_codes`.

    Logs, in nats per image: `loss`, the exact negative log-likelihood of the codes, and
    `decoder_loss`, that of the image given its codes, in training of one image in eight; and where
    the decoder gives probabilities, `bits_per_dimension` of their sum.
    """

    metric_names = ("loss", "decoder_loss")
    place_by_place = True

    def __init__(self, image_shape, num_classes=None, tokenizer=None, **kwargs):
        super().__init__(image_shape, num_classes, tokenizer, **kwargs)
        if self._pixels_measured(self.seed)[1]:
            self.metric_names = (*self.metric_names, "bits_per_dimension")
            self.trackers.append(keras.metrics.Mean(name="bits_per_dimension"))

    def _pixels_measured(self, seed):
        return pixels.protocol(self.tokenizer.likelihood, self.tokenizer.binarization, seed)

    def log_prob_of_codes(self, codes, labels=None, training=False, seeds=None):
        """Exact log-probability of int32 codes `[B, h, w]` under the prior: float32 `[B]`, nats."""
        raise NotImplementedError(f"{type(self).__name__} must implement log_prob_of_codes")

    def draw_codes(self, seeds, labels=None, **options):
        """Draws codes from the prior, int32 `[B, h, w]`; arguments as for `sample`."""
        raise NotImplementedError(f"{type(self).__name__} must implement draw_codes")

    def objective(self, batch, training):
        # In training an eighth of the images tells enough of a decoder that does not change.
        prior, decoder = self._log_probs(batch, training, 8 if training else 1)
        prior, decoder = -ops.mean(prior), -ops.mean(decoder)
        logs = {"loss": prior, "decoder_loss": decoder}
        if "bits_per_dimension" in self.metric_names:
            dimensions = math.log(2) * math.prod(self.image_shape)
            logs["bits_per_dimension"] = (prior + decoder) / dimensions
        return prior, logs

    def _log_probs(self, batch, training=False, one_in=1):
        """log p(codes), `[B]`, and log p(image | codes) of one image in so many, of the encoder's
        codes.
        """
        images = self.tokenizer.binarize(batch)
        codes = self.tokenizer.encode(images)
        prior = self.log_prob_of_codes(codes, batch.labels, training, batch.seeds)
        decoded = (images, codes, batch.labels)
        if one_in > 1:
            decoded = [None if rows is None else rows[::one_in] for rows in decoded]
        return prior, self.tokenizer.log_likelihood(*decoded)

    def negative_log_likelihood(self, x, y=None, seed=0, batch_size=64, progress="auto"):
        """An upper bound on -log p(x): -log p(codes) - log p(x | codes), of the encoder's codes.

        p(x) is the sum over all codes; the encoder picks one term of it. A float32 NumPy array
        `[N]`, nats per image; arguments are as for `run_over`. Where the tokenizer binarises, it
        does so once, from `seed`.
        """

        def measure(batch):
            prior, decoder = self._log_probs(batch)
            return -prior - decoder

        run = {"batch_size": batch_size, "progress": progress, "description": "Likelihood"}
        return self.run_over("negative_log_likelihood", measure, x, y, seed, **run)

    def likelihood_protocol(self, importance_samples=None, seed=0):
        """As for `VariationalGenerator`; `importance_samples` do not count: there is one code."""
        measured, discrete = self._pixels_measured(seed)
        return {
            "kind": "bound",
            "protocol": f"{measured}; negative log-probability of the encoder's codes and of the "
            "image given them, all other codes left out; an upper bound",
            "discrete": discrete,
        }
