"""The zoo. A model is one file here and one line in `_FILES`."""

import importlib

from kgen.checks import unknown_name

_FILES = {
    "vae": ("kgen.models.vae.vae", "VAE"),
    "dcgan": ("kgen.models.gan.dcgan", "DCGAN"),
    "dit": ("kgen.models.diffusion.dit", "DiT"),
    "gated_pixelcnn": ("kgen.models.autoregressive.gated_pixelcnn", "GatedPixelCNN"),
    "pixelcnn": ("kgen.models.autoregressive.pixelcnn", "PixelCNN"),
    "pixelcnn_pp": ("kgen.models.autoregressive.pixelcnn_pp", "PixelCNNpp"),
    "pixelrnn": ("kgen.models.autoregressive.pixelrnn", "PixelRNN"),
    "vqvae": ("kgen.models.tokens.vqvae", "VQVAE"),
    "vq_pixelcnn": ("kgen.models.tokens.vq_pixelcnn", "VQPixelCNN"),
    "ladder_vae": ("kgen.models.vae.ladder_vae", "LadderVAE"),
    "vit_vae": ("kgen.models.vae.vit_vae", "ViTVAE"),
    "image_gpt": ("kgen.models.autoregressive.image_gpt", "ImageGPT"),
    "vq_transformer": ("kgen.models.tokens.vq_transformer", "VQTransformer"),
    "maskgit": ("kgen.models.tokens.maskgit", "MaskGIT"),
}

__all__ = [
    "DCGAN",
    "VAE",
    "VQVAE",
    "DiT",
    "GatedPixelCNN",
    "ImageGPT",
    "LadderVAE",
    "MaskGIT",
    "PixelCNN",
    "PixelCNNpp",
    "PixelRNN",
    "VQPixelCNN",
    "VQTransformer",
    "ViTVAE",
    "get",
    "registered",
]


def registered():
    """All models of the zoo: a dict of name to class."""
    return {
        name: getattr(importlib.import_module(module), attribute)
        for name, (module, attribute) in _FILES.items()
    }


def get(name):
    """The class of a model by its name, such as `"vae"`.

    Raises:
        ValueError: There is no such model; the message names the nearest one.
    """
    if name not in _FILES:
        raise ValueError(unknown_name("model", name, _FILES))
    module, attribute = _FILES[name]
    return getattr(importlib.import_module(module), attribute)


def __getattr__(name):
    for module, attribute in _FILES.values():
        if name == attribute:
            return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'kgen.models' has no attribute '{name}'")
