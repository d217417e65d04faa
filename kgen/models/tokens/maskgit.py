"""MaskGIT: codes of images drawn many at a time, in any order, by a masked transformer.

Chang, Zhang, Jiang, Liu and Freeman, "MaskGIT: masked generative image transformer" (CVPR
2022; arXiv 2202.04200): a transformer that sees in both directions learns to fill in codes that
are hidden from it (section 3.1); to draw, all are hidden, and in each of a few steps the surest
of those drawn are kept (section 3.2), as many as the cosine of section 3.3 says. Label
smoothing is that of Szegedy et al., "Rethinking the Inception architecture" (CVPR 2016; arXiv
1512.00567), section 7, and guidance that of
`kgen.layers.conditioning`. The tokenizer is the zoo's VQ-VAE, by code book or FSQ.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import Number, check_ints, check_mask, check_shares
from kgen.endpoint import image_spec, mask_spec
from kgen.layers.conditioning import check_guidance, guided, hide_labels, per_row
from kgen.layers.network import Network
from kgen.layers.scaling import choose_pixels
from kgen.layers.transformer import (
    TransformerSpec,
    grid_positions,
    normalization,
    run_blocks,
    transformer_optimizer,
)
from kgen.models.autoregressive.sampling import (
    GUIDED_CHOICE,
    check_choice,
    keep_likeliest,
)
from kgen.models.first_stage import known_cells
from kgen.models.tokens.base import TwoStageGenerator
from kgen.training.step import Batch, whole_batch

#: The confidence in codes that are known, above that in any drawn one.
CERTAIN = 1e30

#: Streams of the noise of training, after those of binarisation and of `hide_labels`, and the
#: first of sampling, which has two for every step.
SHARE_STREAM, HIDING_STREAM, SAMPLING_STREAM = 3, 4, 2


@keras.saving.register_keras_serializable(package="kgen")
class MaskGIT(TwoStageGenerator):
    """A trained VQ-VAE and a masked transformer over its codes, as one generator.

    Args:
        dim: Int, see `TransformerSpec`, as are `num_layers`, `num_heads`, `rotary`, `mlp`, `norm`,
            `qk_norm` and `dropout`.
        label_smoothing: Float, the share of probability that training has the prior spread
            over all codes; 0.1 in the paper. Stray codes are then drawn, the more of them
            the smaller the code book.
        label_dropout: Float, see `ImageGPT`.

    Further arguments, among them the `tokenizer`: as for `TwoStageGenerator`.

    Logs `loss`, the cross-entropy in nats per hidden code (smoothed in training, not in
    evaluation), and `masked_accuracy`, the share of hidden codes that the prior finds likeliest.
    There is no likelihood.

    Example, with a `tokenizer` trained as for `VQPixelCNN`:

    >>> model = kgen.models.MaskGIT((28, 28, 1), num_classes=10, tokenizer=tokenizer)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, num_steps=12, guidance_scale=2.0)
    """

    metric_names = ("loss", "masked_accuracy")
    sampling_numbers = {
        **GUIDED_CHOICE,
        "num_steps": Number(least=1, whole=True),
        "choice_temperature": Number(least=0),
    }
    tiny_preset = "maskgit_tiny"
    presets = {
        "maskgit_tiny": {
            "image_shape": (8, 8, 1),
            "tokenizer": "vqvae_tiny",
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        },
        "maskgit_8x8": {"image_shape": (8, 8, 1), "tokenizer": "vqvae_8x8", "num_layers": 3},
        "maskgit_28x28": {"image_shape": (28, 28, 1), "tokenizer": "vqvae_28x28"},
        "maskgit_32x32": {
            "image_shape": (32, 32, 3),
            "tokenizer": "vqvae_32x32",
            "dim": 256,
            "num_layers": 8,
            "num_heads": 8,
        },
    }

    def objective(self, batch, training):
        codes = self.encode(self.tokenizer.binarize(batch))
        codes = ops.reshape(codes, (-1, self.network.length))
        hidden = self.hide(batch.seeds)
        labels = batch.labels
        if training:
            labels = hide_labels(labels, batch.seeds, self.label_dropout, self.num_classes)
        seen = ops.where(hidden, np.int32(self.num_codes), codes)
        logits = self.network(seen, labels, batch.seeds if training else None)
        log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        losses = -ops.take_along_axis(log_probs, codes[..., None], axis=-1)[..., 0]
        if training and self.label_smoothing:
            spread = -ops.mean(log_probs, axis=-1)
            losses = losses + self.label_smoothing * (spread - losses)
        weights = ops.cast(hidden, "float32")
        # Hidden codes per image, of the whole batch: each of them counts the same.
        count = ops.mean(whole_batch(ops.sum(weights, axis=1)))
        loss = ops.mean(ops.sum(weights * losses, axis=1)) / count
        right = ops.cast(ops.equal(random.argmax(log_probs), codes), "float32")
        accuracy = ops.mean(ops.sum(weights * right, axis=1)) / count
        return loss, {"loss": loss, "masked_accuracy": accuracy}

    def hide(self, seeds):
        """Which codes training hides: bool `[B, N]`, at least one of each row."""
        length = self.network.length
        share = ops.cos(random.uniform(seeds, (), stream=SHARE_STREAM) * (math.pi / 2))
        count = ops.maximum(ops.cast(ops.ceil(share * length), "int32"), 1)
        return ranks(random.uniform(seeds, (length,), stream=HIDING_STREAM)) < count[:, None]

    def sample(
        self,
        seeds,
        labels=None,
        num_steps=8,
        temperature=1.0,
        choice_temperature=4.5,
        top_k=None,
        top_p=None,
        guidance_scale=1.0,
    ):
        """Draws codes, many in each of a few steps, and decodes them.

        Args:
            num_steps: Int, how often the network looks at the codes drawn so far; 1 draws each
                by itself.
            temperature: Float above 0, see `ImageGPT.sample`, as are the last three.
            choice_temperature: Float of 0 or more, how much noise, falling to none in the last
                step, is added to the log-probabilities by which a step chooses what to keep: 0
                keeps what is surest, which makes images alike.
        """
        options = (num_steps, temperature, choice_temperature, top_k, top_p, guidance_scale)
        return self.decode(self.draw_codes(seeds, labels, None, None, *options), labels)

    def draw_codes(
        self,
        seeds,
        labels=None,
        known=None,
        mask=None,
        num_steps=8,
        temperature=1.0,
        choice_temperature=4.5,
        top_k=None,
        top_p=None,
        guidance_scale=1.0,
    ):
        """As for `AutoregressivePrior`; codes in the `mask` `[B, h, w]` are kept as in `known`."""
        check_ints(1, num_steps=num_steps)
        check_choice(temperature=temperature, top_k=top_k, top_p=top_p)
        check_guidance(self, guidance_scale)
        if not ops.is_tensor(choice_temperature):
            self.sampling_numbers["choice_temperature"].check(
                "choice_temperature", choice_temperature
            )
            choice_temperature = np.float32(choice_temperature)
        length, hidden = self.network.length, np.int32(self.num_codes)
        size = random.categorical_size(self.num_codes)
        # How many codes are still hidden after each step, as a share of those to draw, and at
        # least: some until the last step, which fixes all.
        done = np.arange(1, num_steps + 1) / num_steps
        shares = np.cos(done[:-1] * (np.pi / 2)).astype("float32")
        shares, least = np.append(shares, np.float32(0)), (done < 1).astype("int32")
        fading = (1 - done).astype("float32")

        def noise_of(step):
            stream = 2 * step + SAMPLING_STREAM
            choices = random.gumbel(seeds, (length, size), stream)
            return choices, random.gumbel(seeds, (length,), stream + 1)

        def draw_step(step, carry):
            codes, (of_codes, of_choice) = carry
            unknown = ops.equal(codes, hidden)
            logits = guided(self.network, (codes,), labels, self.num_classes, guidance_scale)
            likely = keep_likeliest(logits / per_row(temperature, logits), top_k, top_p)
            drawn = random.categorical(likely, of_codes)
            # How sure the model itself is: with top_k=1 all that is drawn would be certain.
            log_probs = ops.log_softmax(logits, axis=-1)
            confidence = ops.take_along_axis(log_probs, drawn[..., None], axis=-1)[..., 0]
            noise = ops.take(fading, step) * per_row(choice_temperature, of_choice)
            confidence = confidence + noise * of_choice
            confidence = ops.where(unknown, confidence, CERTAIN)
            left = ops.cast(ops.floor(ops.take(shares, step) * to_draw), "int32")
            left = ops.maximum(left, ops.take(least, step))
            # Each step fixes one at least, and none is left where all are known.
            left = ops.minimum(left, ops.sum(ops.cast(unknown, "int32"), axis=1) - 1)
            codes = ops.where(unknown, drawn, codes)
            codes = ops.where(ranks(confidence) < left[:, None], hidden, codes)
            # A step's noise comes from the step before. XLA would fuse it with the maximum that
            # is taken over it, and LLVM hang on that (llvm/llvm-project#211711).
            return codes, noise_of(step + 1)

        codes = ops.full((ops.shape(seeds)[0], length), hidden, "int32")
        if known is not None:
            keep = ops.cast(ops.reshape(mask, (-1, length)), "bool")
            codes = ops.where(keep, ops.reshape(known, (-1, length)), codes)
        to_draw = ops.sum(ops.cast(ops.equal(codes, hidden), "float32"), axis=1)
        codes, _ = ops.fori_loop(0, num_steps, draw_step, (codes, noise_of(0)))
        return ops.reshape(codes, (-1, *self.tokenizer.code_shape))

    def complete(self, images, mask, labels=None, seed=0, **options):
        """Keeps the known pixels of images and draws the others.

        Arguments are as for `AutoregressiveGenerator.complete`; any mask and any pixels will do.

        There is no order: what is drawn bears on all that is known, above, below and around it.
        A code is known where all of its pixels are; the others are drawn, and decoded together
        with those that are known. For unknown pixels the encoder sees the mean of the known ones.

        With another label than the image's own it is class-conditional editing (section 4.3 of
        the paper): the unknown part is drawn anew as that class.

        Example:

        >>> mask = np.ones((28, 28), "bool")
        >>> mask[8:20, 8:20] = False
        >>> model.complete(images, mask, labels=7)  # what is in the middle, as if of a 7
        """
        images = self.check_split(images, self._check_labels(labels, len(images))).images
        inputs = {"image": images, "mask": check_mask(mask, images)}
        return self.run_endpoint("complete", inputs, labels, seed, **options)

    def _complete(self, image, mask, seed, label=None, **options):
        known = known_cells(mask, *self.tokenizer.code_shape)
        seen = ops.cast(mask[..., None], "bool")
        encoded = self.encode(self._blank(Batch(image, label, seed), seen))
        drawn = self.decode(self.draw_codes(seed, label, encoded, known, **options), label)
        return choose_pixels(mask, image, drawn)

    def _blank(self, batch, mask):
        """The images as the tokenizer is to see them, the mean of each in its unknown pixels."""
        images = ops.cast(self.tokenizer.binarize(batch), "int32")
        total = ops.sum(ops.where(mask, images, 0), axis=(1, 2), keepdims=True)
        count = ops.sum(ops.cast(mask, "int32"), axis=(1, 2), keepdims=True)
        mean = total // ops.maximum(count, 1)  # in integers: alike on every runtime
        return ops.cast(ops.where(mask, images, mean), "uint8")

    def endpoints(self):
        return {
            **super().endpoints(),
            "complete": self.endpoint(
                self._complete,
                "keeps the known pixels and draws the others, given all known ones, in any order",
                image=image_spec(self.image_shape),
                mask=mask_spec(self.image_shape),
            ),
        }

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
        label_smoothing=0.0,
        label_dropout=0.1,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, tokenizer, **kwargs)
        spec = TransformerSpec.of(self)
        check_shares(label_smoothing=label_smoothing, label_dropout=label_dropout)
        self.num_codes = self.tokenizer.num_codes  # and the code that stands for a hidden one
        with self.dtype_policy_scope():
            self.network = MaskedTransformer(
                self.tokenizer.code_shape, self.num_codes, num_classes, spec, name="network"
            )
        self.built = True

    def default_optimizer(self, learning_rate=None):
        return transformer_optimizer(learning_rate, beta_2=0.95)


@keras.saving.register_keras_serializable(package="kgen")
class MaskedTransformer(Network):
    """A transformer over a grid of codes, some of them hidden: each given all that are seen.

    Logits `[B, N, Q]` of int32 codes `[B, N]`, where the code Q, `num_codes`, stands for a hidden
    one and the label `num_classes` for no class.
    """

    def __init__(self, grid, num_codes, num_classes, spec, **kwargs):
        super().__init__(**kwargs)
        self.spec = spec = TransformerSpec.get(spec)
        self.length = math.prod(grid)
        positions = grid_positions(*grid)
        self.places = positions.T.astype("int32")
        self.codes = layers.Embedding(num_codes + 1, spec.dim, name="codes")
        self.positions = [
            layers.Embedding(size, spec.dim, name=name)
            for size, name in zip(grid, ("rows", "columns"), strict=True)
        ]
        self.classes = None
        if num_classes is not None:
            self.classes = layers.Embedding(num_classes + 1, spec.dim, name="classes")
        self.blocks = spec.blocks(positions)
        self.norm = normalization(spec.norm, name="norm")
        self.logits = layers.Dense(
            num_codes, kernel_initializer="zeros", dtype="float32", name="logits"
        )
        labels = None if num_classes is None else np.zeros(1, "int32")
        self(np.zeros((1, self.length), "int32"), labels)  # so that it has its weights

    def call(self, codes, labels=None, seeds=None):
        tables = zip(self.positions, self.places, strict=True)
        x = self.codes(codes) + sum(table(place) for table, place in tables)
        if self.classes is not None:
            x = x + self.classes(labels)[:, None]
        return self.logits(self.norm(run_blocks(self.blocks, x, seeds=seeds)))


def ranks(x):
    """The place of each of a row's numbers `[B, N]` in their order, from the smallest; int32.

    By comparing each with each, which is less than the attention does: equal numbers stand in
    the order of their indices on every runtime, so that exactly *k* have a rank below *k*.
    """
    this, other = x[:, :, None], x[:, None, :]
    earlier = np.tri(x.shape[1], k=-1, dtype="bool")
    before = ops.logical_or(other < this, ops.logical_and(ops.equal(other, this), earlier))
    return ops.sum(ops.cast(before, "int32"), axis=-1)
