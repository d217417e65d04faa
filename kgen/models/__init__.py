"""The zoo. A model is one file in its family's folder and one line in `_FAMILIES`."""

import ast
import dataclasses
import importlib
import json
import pathlib
from typing import Any

from kgen import lazy


@dataclasses.dataclass(frozen=True)
class Family:
    """What a family of models shares, and its members.

    Args:
        what: String, half a line.
        models: Dict of a model's name to half a line: what it is for and what it costs.
    """

    what: str
    models: dict


# Class, and what it is for and what it costs. The CPU minutes are those that its example takes
# to train on MNIST; see benchmarks/RESULTS.md for what they buy.
_FAMILIES = {
    "gan": (
        "two networks play against each other: sharp images in one pass, no likelihood",
        {
            "dcgan": ("DCGAN", "best told classes; CIFAR-10 images in one pass; 25 minutes"),
            "resnet_gan": ("ResNetGAN", "SNGAN: the best GAN of digits here; 10 minutes"),
            "r3gan": ("R3GAN", "no tricks; converges, and takes its time; 15 minutes"),
            "vit_gan": ("ViTGAN", "two vision transformers; few images per class here; 10 minutes"),
        },
    ),
    "vae": (
        "an encoder and a decoder: latents, reconstructions and a bound on the likelihood",
        {
            "vae": ("VAE", "to begin with; a latent vector; soft images; 20 minutes"),
            "ladder_vae": ("LadderVAE", "several layers of latents: a better bound; 25 minutes"),
            "vit_vae": ("ViTVAE", "small maps of latents, for dit to draw; 7 minutes"),
        },
    ),
    "autoregressive": (
        "pixel after pixel: exact likelihood, completions; drawing takes a step per pixel",
        {
            "pixelcnn": ("PixelCNN", "the plain form, to compare with; 5 minutes"),
            "gated_pixelcnn": ("GatedPixelCNN", "the best exact likelihood here; 55 minutes"),
            "pixelcnn_pp": ("PixelCNNpp", "mixtures of logistics suit colour; 3 minutes"),
            "pixelrnn": ("PixelRNN", "sees all earlier pixels by recurrence; 3 minutes"),
            "image_gpt": ("ImageGPT", "a transformer, with top_k and top_p; 33 minutes"),
        },
    ),
    "tokens": (
        "an image becomes a small picture of codes, which a second model draws",
        {
            "vqvae": ("VQVAE", "makes the codes that the others draw; 9 minutes"),
            "vq_pixelcnn": ("VQPixelCNN", "codes by convolutions; 11 minutes after vqvae"),
            "vq_transformer": ("VQTransformer", "codes one by one; 8 minutes after vqvae"),
            "maskgit": ("MaskGIT", "all codes in 8 passes, completes; 16 minutes after vqvae"),
        },
    ),
    "diffusion": (
        "from noise to an image in as many steps as you choose",
        {
            "dit": ("DiT", "a transformer, on pixels or latents; inpaints, varies; 26 minutes"),
            "flow_matching": (
                "FlowMatching",
                "a U-Net; best digits without classes, best on CIFAR-10; 27 minutes",
            ),
            "ddpm": ("DDPM", "the classic: noise predicted, DDIM with eta; 25 minutes"),
            "edm": ("EDM", "preconditioned for all noise levels; 25 minutes"),
            "soflow": ("SoFlow", "one pass, distilled from flow_matching: soft; 17 minutes"),
            "soflow_dit": ("SoFlowDiT", "for dit distilled; from scratch not good after 9 minutes"),
        },
    ),
    "translation": (
        "image in, image out: restoration, super-resolution, colour, translation, style",
        {
            "restorer": (
                "Restorer",
                "regression: nearest by pixels, soft where it is open; 7 minutes on noise",
            ),
            "pix2pix": (
                "Pix2Pix",
                "from pairs, judged by a discriminator: sharp; 17 minutes on emoji",
            ),
            "cycle_gan": (
                "CycleGAN",
                "from two heaps of images without pairs; not good after 10 minutes",
            ),
            "srgan": ("SRGAN", "super-resolution that is sharp; 6 minutes with its restorer"),
            "palette": (
                "Palette",
                "several answers to one input, by diffusion; 4 minutes on digits",
            ),
            "style_transfer": (
                "StyleTransfer",
                "any picture in the style of any other; 9 minutes on emoji",
            ),
        },
    ),
}

# Name of each model to its module and its class.
_MODELS = {
    name: (f"kgen.models.{family}.{name}", class_name)
    for family, (_, members) in _FAMILIES.items()
    for name, (class_name, _) in members.items()
}

#: Trained models that come with the package: a preset's folder for each, by its name.
TRAINED = pathlib.Path(__file__).with_name("trained")

__all__ = [
    "DCGAN",
    "DDPM",
    "EDM",
    "R3GAN",
    "SRGAN",
    "VAE",
    "VQVAE",
    "CycleGAN",
    "DiT",
    "Family",
    "FlowMatching",
    "GatedPixelCNN",
    "ImageGPT",
    "LadderVAE",
    "MaskGIT",
    "Palette",
    "Pix2Pix",
    "PixelCNN",
    "PixelCNNpp",
    "PixelRNN",
    "ResNetGAN",
    "Restorer",
    "SoFlow",
    "SoFlowDiT",
    "StyleTransfer",
    "VQPixelCNN",
    "VQTransformer",
    "ViTGAN",
    "ViTVAE",
    "families",
    "get",
    "presets",
    "registered",
    "trained",
]


def families() -> dict[str, Family]:
    """The zoo by family: a dict of name to `Family`, without importing a model.

    Example:

    >>> list(kgen.models.families()["vae"].models)
    ['vae', 'ladder_vae', 'vit_vae']
    """
    return {
        family: Family(what, {name: said for name, (_, said) in members.items()})
        for family, (what, members) in _FAMILIES.items()
    }


def registered() -> dict[str, Any]:
    """All models of the zoo: a dict of name to class."""
    return {name: get(name) for name in _MODELS}


def classes() -> list[tuple[str, str]]:
    """Module and name of every model's class, without importing it."""
    return list(_MODELS.values())


def get(name: str) -> Any:
    """The class of a model by its name, such as `"vae"`; a `ValueError` where there is none."""
    if name not in _MODELS:
        from kgen.checks import unknown_name  # NumPy, which `kgen --help` does without

        raise ValueError(unknown_name("model", name, _MODELS))
    module, class_name = _MODELS[name]
    return getattr(importlib.import_module(module), class_name)


def presets() -> dict[str, dict[str, Any]]:
    """All presets: a dict of name to `{"model": its name, **arguments}`.

    They are read from the models' files, where they are literals, so that who only lists
    them does not wait for Keras and its backend.
    """
    return {
        preset: {"model": name, **arguments}
        for name, (module, class_name) in _MODELS.items()
        for preset, arguments in _literal_presets(module, class_name).items()
    }


def trained() -> dict[str, dict[str, Any]]:
    """The trained models that come with kgen: a dict of name to what its `metadata.json` says.

    `kgen.load` and every command take them by their names. What is said is the model, its data,
    training, scores and license, see `ImageGenerator.save_to_preset`.
    """
    found = sorted(TRAINED.glob("*/metadata.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}


def _literal_presets(module, class_name):
    path = pathlib.Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in classes[class_name].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "presets":
            return ast.literal_eval(node.value)
    return {}


__getattr__, __dir__ = lazy.attach(__name__, {name: module for module, name in _MODELS.values()})
