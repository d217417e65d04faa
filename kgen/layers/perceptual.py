"""Perceptual features: maps of a trained network's layers, by which images are compared.

Johnson, Alahi and Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution"
(ECCV 2016; arXiv 1603.08155). They are taken from a small network that comes with kgen, from any
Keras model in a file, or from VGG by the path of its weights.
"""

import pathlib

import keras
from keras import ops

from kgen.checks import unknown_name
from kgen.layers import pretrained

#: Layers that are taken where nobody names others, by network.
LAYERS = {
    "general_cnn": ("relu_1", "relu_3", "relu_5"),
    "vgg16": ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1"),
    "vgg19": ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1"),
}


class PerceptualFeatures:
    """A function from pixels to the maps of some layers, which training does not move.

    No Keras layer, so that no model which compares by it keeps a copy: `network` is the Keras model
    from what `prepared` makes of pixels to a list of maps.

    Args:
        features: `"general_cnn"`, a small network that was trained to tell the classes of CIFAR-10,
            MNIST and emoji, and how images were spoiled, of which the layers are `relu_1` to
            `relu_6`; `"vgg16:PATH"` or `"vgg19:PATH"` with the path of weights as
            `keras.applications` has them, without the top; the path of a `.keras` file; or a Keras
            model. The last two are given grey levels of 0 to 255, float32, with as many channels as
            the images.
        layers: Sequence of names of layers; `None` for those of `LAYERS`.

    Raises:
        ValueError: There is no such network or no such layer.
        FileNotFoundError: There is no such file.
    """

    def __init__(self, features="general_cnn", layers=None):
        name, _, path = features.partition(":") if isinstance(features, str) else ("", "", "")
        self.kind = name if name in LAYERS else "keras"
        with pretrained.computing_in_float32():
            if isinstance(features, keras.Model):
                network = features
            elif name == "general_cnn":
                network = pretrained.general_network()
                pretrained.load_weights(network, name)
            elif name in LAYERS:
                network = _vgg(name, path)
            elif str(features).endswith(".keras"):
                _check_there(features)
                network = keras.saving.load_model(features, compile=False)
            else:
                known = ("general_cnn", "vgg16:PATH", "vgg19:PATH", "a .keras file")
                raise ValueError(unknown_name("network of features", str(features), known))
            layers = LAYERS.get(name) if layers is None else tuple(layers)
            self.network = self._of_layers(network, layers)
        self.network.trainable = False
        self.layers = layers

    @staticmethod
    def _of_layers(network, layers):
        there = [layer.name for layer in network.layers]
        if not layers:
            raise ValueError(
                f"Name the layers of {network.name} by which images are compared, of: "
                f"{', '.join(there)}"
            )
        for layer in layers:
            if layer not in there:
                raise ValueError(unknown_name(f"layer of {network.name}", str(layer), there))
        return keras.Model(network.inputs, [network.get_layer(name).output for name in layers])

    def prepared(self, pixels):
        """Pixels `[B, H, W, C]` in -1 to 1 as the network takes them."""
        channels = pixels.shape[-1]
        if self.kind == "keras":
            return (pixels + 1) * 127.5
        colours, alpha = pixels[..., :3], ops.ones_like(pixels[..., :1])
        if channels == 1:
            colours = ops.concatenate([pixels] * 3, axis=-1)
        elif channels == 4:
            alpha = pixels[..., 3:]
        opaque = (alpha + 1) * 0.5
        if self.kind == "general_cnn":  # it has seen colours multiplied by their alpha
            return ops.concatenate([(colours + 1) * opaque - 1, alpha], axis=-1)
        white = (colours - 1) * opaque + 1
        blue_first = ops.flip((white + 1) * 127.5, axis=-1)
        return blue_first - ops.convert_to_tensor([103.939, 116.779, 123.68])

    def __call__(self, pixels):
        """The layers' maps, float32 `[B, h, w, c]`, of pixels `[B, H, W, C]` in -1 to 1: a list."""
        found = self.network(self.prepared(ops.cast(pixels, "float32")), training=False)
        return found if isinstance(found, list) else [found]


def distance(features, pixels, others):
    """How far pixels are from others by their perceptual features: float32 `[B]`, 0 for equal.

    The squared difference of the features' directions, at every place of unit length, summed over
    the features, the mean over places, summed over the layers: Zhang et al., "The unreasonable
    effectiveness of deep features as a perceptual metric" (CVPR 2018; arXiv 1801.03924), equation
    1, with all weights 1. It is not their LPIPS, whose weights were learnt.
    """
    total = 0.0
    for one, other in zip(features(pixels), features(others), strict=True):
        squares = ops.square(_unit(one) - _unit(other))
        total = total + ops.mean(ops.sum(squares, axis=-1), axis=(1, 2))
    return total


def _unit(maps):
    return maps * ops.rsqrt(ops.sum(ops.square(maps), axis=-1, keepdims=True) + 1e-8)


def _vgg(name, path):
    _check_there(path, f"{name} needs the path of its weights, {name}:PATH")
    build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[name]
    try:
        return build(include_top=False, weights=path)
    except Exception as error:  # of h5py, or of shapes that do not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} holds no weights of {name} without its top: {reason}") from error


def _check_there(path, hint="There is no such file"):
    if not path or not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{hint}. Received: {path!r}")
