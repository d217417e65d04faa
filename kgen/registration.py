"""Tells Keras of kgen's classes, so that `import kgen` is enough to load a file that has them."""

import importlib

from kgen import models

#: Registered layers and networks by their module; models are registered under the names of the zoo.
_LAYERS = {
    "kgen.layers.causal_conv": ("CausalConv2D",),
    "kgen.layers.convolutional": ("GroupNorm",),
    "kgen.layers.quantizers": ("FSQ", "VectorQuantizer"),
    "kgen.layers.resampling": ("NearestUpsampling", "PixelShuffle"),
    "kgen.layers.scaling": ("ScaleImages", "UnscaleImages"),
    "kgen.layers.spectral": ("SpectralConv2D", "SpectralDense"),
    "kgen.layers.transformer": (
        "Attention",
        "FeedForward",
        "LayerNorm",
        "RMSNorm",
        "TransformerBlock",
    ),
    "kgen.layers.vit": ("GridPositions",),
    "kgen.models.autoregressive.gated_pixelcnn": ("GatedLayer", "GatedNetwork"),
    "kgen.models.autoregressive.image_gpt": ("CausalTransformer",),
    "kgen.models.autoregressive.pixel_network": ("PixelNetwork",),
    "kgen.models.autoregressive.pixelcnn": ("ResidualBlock",),
    "kgen.models.autoregressive.pixelcnn_pp_network": ("PixelCNNppNetwork",),
    "kgen.models.autoregressive.pixelrnn": ("DiagonalBiLSTM", "DiagonalLSTM", "RowLSTM"),
    "kgen.models.diffusion.dit": ("FlowTransformer",),
    "kgen.models.diffusion.unet": ("UNet", "UNetBlock"),
    "kgen.models.gan.r3gan": ("Basis", "BurnInAdam"),
    "kgen.models.gan.vit_gan": ("GridTokens", "PatchFunction"),
    "kgen.models.tokens.maskgit": ("MaskedTransformer",),
    "kgen.training.schedules": ("RunSchedule",),
}


class Deferred:
    """A class that is imported when something is asked of it, such as its `from_config`."""

    def __init__(self, module, name):
        self._module, self._name = module, name

    def load(self):
        return getattr(importlib.import_module(self._module), self._name)

    def __getattr__(self, attribute):
        return getattr(self.load(), attribute)

    def __call__(self, *args, **kwargs):
        return self.load()(*args, **kwargs)


def classes():
    """All that kgen registers: a dict of registered name to module and class name."""
    found = models.classes()
    found += [(module, name) for module, names in _LAYERS.items() for name in names]
    return {f"kgen>{name}": (module, name) for module, name in found}


def register(keras):
    """Registers all classes before they are imported; called with Keras itself.

    Keras asks of a class that it finds by its registered name for `from_config` alone. Importing
    it registers it once more, then as itself.
    """
    objects = keras.saving.get_custom_objects()
    for registered_name, place in classes().items():
        objects.setdefault(registered_name, Deferred(*place))
