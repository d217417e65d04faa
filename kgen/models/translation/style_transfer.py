"""The content of one picture in the style of another, by one network for all styles.

Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization"
(ICCV 2017; arXiv 1703.06868): a frozen encoder's map of the content is given the mean and the
deviation that each of its features has in the style (equation 8), and a decoder, which is trained,
makes a picture of it (section 5, equations 11 to 13). `optimise` is the reference, which improves
one picture step by step: Gatys, Ecker and Bethge, "Image style transfer using convolutional neural
networks" (CVPR 2016).
"""

import keras
import numpy as np
from keras import layers, ops

from kgen.checks import Number, check_int, check_numbers
from kgen.configurable import restored
from kgen.layers.convolutional import residual_block
from kgen.layers.perceptual import PerceptualFeatures
from kgen.layers.resampling import NearestUpsampling, padded_to
from kgen.layers.scaling import scale_images, unscale_images
from kgen.models.translation.base import Translator
from kgen.training.step import compile_function, input_gradient


@keras.saving.register_keras_serializable(package="kgen")
class StyleTransfer(Translator):
    """Pictures in the style of other pictures.

    It learns from two heaps of images, contents and styles, that are no partners:
    `fit(contents, styles)`, or what `kgen.data.load_pairs(contents, styles, paired=False)` gives.

    Args:
        image_shape: Tuple `(H, W, C)` of the images that it learns from; it takes others of any
            height and width.
        encoder: What the frozen features are of: `"vgg19:PATH"`, a Keras model or others, see
            `kgen.layers.perceptual.PerceptualFeatures`, which is saved with the model; `None` for
            `"general_cnn"`.
        feature_layers: Tuple of names of its layers, the finest first; styles are compared by all,
            content by the last. `None` for its own.
        style_weight: Float, of the style's loss beside the content's.
        filters: Int, of the decoder at the image's size; they double with each smaller map.
        blocks: Int, residual blocks of the decoder at every map.
        seed: Int, 0 to 2**31 - 1, see `ImageGenerator`.

    Logs `loss`, `content_loss` and `style_loss`, see `losses`.

    Example:

    >>> model = kgen.models.StyleTransfer((64, 64, 3))
    >>> model.compile()
    >>> model.fit(photos, paintings, epochs=20)
    >>> model.stylize(photos[:8], paintings[:8], strength=0.7).shape
    (8, 64, 64, 3)
    """

    tiny_preset = "style_transfer_tiny"
    presets = {
        "style_transfer_tiny": {
            "image_shape": (8, 8, 1),
            "feature_layers": ("relu_1", "relu_2"),
            "filters": 8,
        },
        "style_transfer_32x32": {"image_shape": (32, 32, 3)},
        "style_transfer_64x64": {"image_shape": (64, 64, 3)},
    }

    left_out_arguments = ("num_classes", "input_shape", "degradation")
    metric_names = ("loss", "content_loss", "style_loss")
    frozen_networks = ("encoder",)
    convolutional = True
    paired = False
    degradation = None
    sampling_numbers = {"strength": Number(least=0, most=1)}

    def __init__(
        self,
        image_shape,
        encoder=None,
        feature_layers=None,
        style_weight=1.0,
        filters=32,
        blocks=1,
        **kwargs,
    ):
        super().__init__(image_shape, **kwargs)
        check_numbers(Number(least=0), style_weight=style_weight)
        check_int(0, blocks=blocks)
        check_int(1, filters=filters)
        channels = self.image_shape[-1]
        if isinstance(encoder, dict):  # as a file has it
            self.encoder = restored(encoder)
        else:
            features = PerceptualFeatures(encoder or "general_cnn", feature_layers)
            with keras.name_scope("encoder"):
                pixels = keras.Input((None, None, channels), name="pixels")
                self.encoder = keras.Model(pixels, features(pixels), name="encoder")
            self.feature_layers = features.layers
        maps = self.encoder(np.zeros((1, 64, 64, channels), "float32"))
        self.stride = 64 // maps[-1].shape[1]
        with self.dtype_policy_scope():
            self.decoder = build_decoder(
                maps[-1].shape[-1], channels, filters, blocks, self.stride.bit_length() - 1
            )
        self._freeze_networks()
        self.built = True

    @property
    def default_batch_size(self):
        return 16

    def default_optimizer(self, learning_rate=None):
        """Adam with gradients of bounded length."""
        rate = 1e-3 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0)

    # Losses ---------------------------------------------------------------------------

    def objective(self, batch, training):
        contents, styles = scale_images(batch.inputs), scale_images(batch.images)
        target = self._target(contents, styles)
        made = self.decoder(target, training=training)
        content, style = self.losses(made, contents, styles, target)
        content, style = ops.mean(content), ops.mean(style)
        loss = content + self.style_weight * style
        return loss, {"loss": loss, "content_loss": content, "style_loss": style}

    def losses(self, made, contents, styles, target=None):
        """How far pictures are from the content and from the style: two float32 `[B]`.

        Of pixels in -1 to 1, by the encoder's maps. The content's is the mean squared difference of
        the last map from `target`, by default the content's own with the style's statistics
        (equation 12); the style's that of the means and deviations of all maps (equation 13).
        """
        if target is None:
            target = self._target(contents, styles)
        maps, wanted = self.encoder(made), self.encoder(styles)
        content = ops.mean(ops.square(maps[-1] - target), axis=(1, 2, 3))
        style = 0.0
        for one, other in zip(maps, wanted, strict=True):
            for ours, theirs in zip(statistics(one), statistics(other), strict=True):
                style = style + ops.mean(ops.square(ours - theirs), axis=(1, 2, 3))
        return content, style

    def _target(self, contents, styles):
        return adaptive_instance_norm(self.encoder(contents)[-1], self.encoder(styles)[-1])

    # Pictures -------------------------------------------------------------------------

    def sample(self, seeds, images, styles, strength=1.0):
        """Gives images `[B, H, W, C]` the style of others `[B, h, w, C]`; seeds decide nothing.

        Args:
            strength: Float, 0 to 1: how much of the style. 0 gives the content as the decoder has
                it (section 7.3, equation 14).
        """
        height, width = ops.shape(images)[1:3]
        contents, styles = (scale_images(padded_to(x, self.stride)) for x in (images, styles))
        plain = self.encoder(contents)[-1]
        styled = adaptive_instance_norm(plain, self.encoder(styles)[-1])
        share = ops.reshape(ops.cast(strength, "float32"), (-1, 1, 1, 1))
        pixels = self.decoder(plain + share * (styled - plain), training=False)
        return unscale_images(pixels[:, :height, :width])

    def call(self, images, styles):
        """Gives images the style of others: uint8 in and out."""
        return self.sample(None, images, styles)

    def translate(self, *args, **kwargs):
        """Refuses: there must be a style."""
        raise ValueError(
            "StyleTransfer takes a style beside the image: call stylize(images, styles). (kgen "
            "translate RUN FOLDER --style PICTURE at the command line.)"
        )

    def beside(self, split, n, seed=0):
        """Of the first `n` rows of a split: contents, styles, and the ones in the style of the
        others.
        """
        split = self.check_split(split)
        contents, styles = (np.asarray(x[:n]) for x in (split.inputs, split.images))
        n = min(len(contents), len(styles))
        made = self.stylize(contents[:n], styles[:n], progress=False)
        return contents[:n], styles[:n], made

    def stylize(self, images, styles, strength=1.0, *, batch_size=16, progress="auto"):
        """Gives images the style of others, compiled and in batches.

        Args:
            images: uint8 array `[N, H, W, C]`, of any height and width.
            styles: uint8 array `[N, h, w, C]`, of any height and width, one for each image; or one
                `[h, w, C]` for all.
            strength: Float, or one for each image, 0 to 1: how much of the style.
            batch_size: Int, images per call of the compiled model.
            progress: Bool, or `"auto"`, see `generate`.

        Returns:
            uint8 array `[N, H, W, C]`.

        Raises:
            ValueError: Images or styles are not what the model takes, or a strength is none.
        """
        images, styles = np.asarray(images), np.asarray(styles)
        self._check_inputs(images)
        if styles.ndim == 3:
            styles = np.broadcast_to(styles, (len(images), *styles.shape))
        self._check_inputs(styles)
        if len(styles) != len(images):
            raise ValueError(
                f"There must be one style for each of {len(images)} images, or one for all. "
                f"Received: {len(styles)}"
            )
        inputs = {"image": images, "style": styles}
        run = {"batch_size": batch_size, "progress": progress}
        return self.run_endpoint("stylize", inputs, strength=strength, **run)

    def endpoints(self):
        return {
            "stylize": self.endpoint(
                lambda image, style, strength=1.0: self.sample(None, image, style, strength),
                "gives an image the style of another",
                {"image": self.input_spec_of(self.image_shape)},
                seeded=False,
                image=self.input_spec_of(self.image_shape),
                style=self.input_spec_of(self.image_shape, "pixels of the style, channels last"),
                **self.option_specs(),
            )
        }


def build_decoder(taken, channels, filters, blocks, num_upsamplings):
    """A Keras model from an encoder's map `[B, h, w, taken]` to pixels, as many times as large."""
    widths = [filters * 2**level for level in reversed(range(num_upsamplings + 1))]
    x = maps = keras.Input((None, None, taken), name="maps")
    for level, width in enumerate(widths):
        x = layers.Conv2D(width, 3, padding="same")(x)
        for _ in range(blocks):
            x = residual_block(x, width)
        if level < num_upsamplings:
            x = NearestUpsampling()(x)
    x = layers.Activation("silu")(x)
    x = layers.Conv2D(channels, 3, padding="same", dtype="float32")(x)
    return keras.Model(maps, x, name="decoder")


def statistics(maps):
    """Mean and deviation of every feature over its map: two tensors `[B, 1, 1, C]`."""
    mean = ops.mean(maps, axis=(1, 2), keepdims=True)
    variance = ops.mean(ops.square(maps - mean), axis=(1, 2), keepdims=True)
    return mean, ops.sqrt(variance + 1e-5)


def adaptive_instance_norm(contents, styles):
    """Maps with the mean and the deviation that each feature has in others: equation 8."""
    mean, deviation = statistics(contents)
    new_mean, new_deviation = statistics(styles)
    return new_deviation * (contents - mean) / deviation + new_mean


def optimise(images, styles, losses, network, steps=300, learning_rate=0.02, style_weight=1.0):
    """Pictures that are improved step by step: the reference, slow, of Gatys et al. (2016).

    Section 2.3, from the content on, by Adam in place of L-BFGS.

    Args:
        images, styles: uint8 arrays `[N, H, W, C]` and `[N, h, w, C]`.
        losses: Callable of the pixels in -1 to 1 of the pictures, the contents and the styles, to
            the losses of content and of style, `[N]` each: a `StyleTransfer`'s `losses`, or
            `gram_losses` of features.
        network: The Keras model by which `losses` looks: a `StyleTransfer`'s `encoder`, or the
            `network` of features.
        steps: Int.
        learning_rate: Float, of pixels in -1 to 1.
        style_weight: Float, of the style's loss.

    Returns:
        Tuple of the pictures, uint8 `[N, H, W, C]`, and of both losses, float32 arrays `[N]`.
    """
    contents, wanted = (
        scale_images(ops.convert_to_tensor(np.asarray(x))) for x in (images, styles)
    )

    def total(x):
        content, style = losses(x, contents, wanted)
        return content + style_weight * style

    def step(x, momentum, square, number):
        gradient = input_gradient(total, x)
        momentum = 0.9 * momentum + 0.1 * gradient
        square = 0.99 * square + 0.01 * ops.square(gradient)
        corrected = (1 - 0.9**number, 1 - 0.99**number)
        change = momentum / corrected[0] / (ops.sqrt(square / corrected[1]) + 1e-8)
        return ops.clip(x - learning_rate * change, -1.0, 1.0), momentum, square

    improve = compile_function(network, step, keras.backend.backend() == "jax")
    x, momentum, square = contents, ops.zeros_like(contents), ops.zeros_like(contents)
    for number in range(1, check_int(1, steps=steps) + 1):
        number = ops.convert_to_tensor(float(number), "float32")
        x, momentum, square = improve(x, momentum, square, number)
    made = unscale_images(x)
    found = losses(scale_images(made), contents, wanted)
    return ops.convert_to_numpy(made), *(ops.convert_to_numpy(each) for each in found)


def gram_losses(features):
    """The losses of Gatys et al. (2016), equations 1 and 5, for `optimise`, by
    `kgen.layers.perceptual.PerceptualFeatures`: content by the last layer's map, style by the
    products of features, averaged over the map, in all layers.
    """

    def losses(made, contents, styles):
        maps = features(made)
        content = ops.mean(ops.square(maps[-1] - features(contents)[-1]), axis=(1, 2, 3))
        style = 0.0
        for one, other in zip(maps, features(styles), strict=True):
            style = style + ops.mean(ops.square(_gram(one) - _gram(other)), axis=(1, 2))
        return content, style

    return losses


def _gram(maps):
    """(B, C, C), the mean product of two features over the map."""
    rows = ops.reshape(maps, (ops.shape(maps)[0], -1, maps.shape[-1]))
    count = ops.cast(ops.shape(rows)[1], "float32")
    return ops.matmul(ops.transpose(rows, (0, 2, 1)), rows) / count
