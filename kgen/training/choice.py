"""Which model trains on what images: from a name, by the shape of the images and what they show."""

import dataclasses
import inspect
import pathlib

import numpy as np

from kgen import models
from kgen.checks import unknown_name
from kgen.layers.augmentation import POLICIES

#: A data set is black and white where at most this share of its values lies between a quarter and
#: three quarters of the range. Measured: MNIST 0.05, digits 0.23, evenly spread values 0.5.
GREY_SHARE = 0.1

#: Of so many images or fewer a discriminator learns by heart which they are. Measured with 500,
#: 1,000 and 45,000: benchmarks/RESULTS.md, "GANs".
FEW_IMAGES = 50_000


@dataclasses.dataclass(frozen=True)
class Choice:
    """A model's class, and the arguments to build it with.

    Args:
        name: String, the model's name.
        model_class: Class.
        preset: Name of the preset or of the trained model whose arguments these are, or `None` for
            the class's defaults.
        arguments: Dict, the preset's arguments and what the images ask for instead.
        why: String, why this preset and these arguments.
    """

    name: str
    model_class: type
    preset: str | None
    arguments: dict
    why: str

    def lines(self, given):
        """For the user: pairs of a name and what it is; `given` are arguments of the user."""
        wanted = {**self.arguments, **given}
        hidden = ("image_shape", "seed", "dtype", "num_classes")
        hidden += tuple(k for k, v in wanted.items() if isinstance(v, dict))  # networks
        said = ", ".join(f"{k}={v}" for k, v in wanted.items() if k not in hidden)
        preset = self.preset or "defaults of the class"
        return [
            ("Model", f"{self.name} ({preset}): {said or 'its defaults'}"),
            *([("Chosen", self.why)] if self.why else []),
        ]


def choose(name, image_shape, given, images=None):
    """The `Choice` for a model's or preset's name; a `ValueError` where there is none.

    A preset's name gives that preset. A model's name gives its preset of exactly the images'
    shape; else the one of their height and width, colour with alpha for colour without and the
    other way round; else the class's defaults. Then, where `images` (uint8 `[N, H, W, C]`) are
    shown, and not all black and white, nothing that would make them so stays, unless it is
    `given`, the user's arguments: a Bernoulli likelihood, two levels. Where they are few, what a
    discriminator sees of them is augmented.
    """
    classes = models.registered()
    for known, model_class in classes.items():
        if name in model_class.presets:
            return Choice(known, model_class, name, dict(model_class.presets[name]), "")
    if name not in classes:
        presets = [preset for c in classes.values() for preset in c.presets]
        known = [*classes, *presets, *models.trained()]
        raise ValueError(unknown_name("model or preset", name, known))
    model_class = classes[name]
    preset, why = _preset_for(model_class, tuple(image_shape))
    arguments = dict(model_class.presets.get(preset, {}))
    return _for_images(
        Choice(name, model_class, preset, arguments, why), image_shape, given, images
    )


def go_on(source, place, image_shape, given, images=None):
    """The `Choice` for what goes on from a trained model, `source`, which is at a `place`.

    Its arguments are those of the trained one, but for what follows from the images' own shape, and
    for what `images` ask for, as in `choose`. A `ValueError` where its first stage takes another
    shape, and none is `given`.
    """
    model_class, image_shape = type(source), tuple(image_shape)
    config, defaults = source.get_config(), inspect.signature(model_class).parameters
    arguments = {
        name: tuple(config[name]) if isinstance(config[name], list) else config[name]
        for name in defaults.keys() & config.keys() - {"image_shape", "seed", "num_classes"}
    }
    arguments = {
        name: value for name, value in arguments.items() if value != defaults[name].default
    }
    if source.image_shape != image_shape or "degradation" in given:
        arguments.pop("input_shape", None)
        if source.image_shape[2] != image_shape[2]:
            arguments.pop("likelihood", None)
    for name in ("tokenizer", "autoencoder"):
        stage = arguments.get(name)
        if name not in given and stage is not None:
            _check_first_stage(name, tuple(stage["config"]["image_shape"]), place, image_shape)
    names = {known: name for name, known in models.registered().items()}
    choice = Choice(
        names.get(model_class, model_class.__name__),
        model_class,
        pathlib.PurePath(place).name,
        dict(sorted(arguments.items())),
        f"built as {place} is",
    )
    return _for_images(choice, image_shape, given, images)


def _check_first_stage(name, shape, place, image_shape):
    if shape != image_shape:
        shapes = ["x".join(map(str, each)) for each in (shape, image_shape)]
        raise ValueError(
            f"{place} draws what its {name} makes of images of {shapes[0]}, which takes no others. "
            f"Received: images of {shapes[1]}. Give --image-shape {shapes[0]}; or train "
            f"the {name} on them first, and give its run: --set {name}=RUN."
        )


def _for_images(choice, image_shape, given, images):
    """A `Choice` with what `images`, unless they are `None`, ask for instead."""
    name, model_class, preset = choice.name, choice.model_class, choice.preset
    arguments, why = dict(choice.arguments), choice.why
    if images is not None:
        share = grey_share(images)
        instead = _for_grey_levels(model_class, arguments, image_shape)
        instead = {name: value for name, value in instead.items() if name not in given}
        if instead and share > GREY_SHARE and "binarization" not in given:
            arguments |= instead
            said = ", ".join(f"{k}={v}" for k, v in instead.items())
            why += f"; {said}, for the images have grey levels or colours: {100 * share:.0f} % of "
            why += "their values are neither dark nor bright"
        augmented = _for_few_images(model_class, given, images)
        if augmented:
            arguments = {**augmented, **arguments}
            why += "; augmented as much as the discriminator overfits, for there are no more than "
            why += f"{len(images):,} images"
    return Choice(name, model_class, preset, arguments, why)


def grey_share(images):
    """The share of values of uint8 images, of 2,000 at most, from a quarter to three quarters."""
    values = np.asarray(images[:: max(1, len(images) // 2000)][:2000])
    return float(((values >= 64) & (values < 192)).mean())


def _preset_for(model_class, image_shape):
    """The name of the preset for a shape, or `None`, and why."""
    shapes = {
        preset: tuple(arguments["image_shape"])
        for preset, arguments in model_class.presets.items()
        if preset != model_class.tiny_preset
    }
    text = "x".join(map(str, image_shape))
    for preset, shape in shapes.items():
        if shape == image_shape:
            return preset, f"the preset of {text}"
    for preset, shape in shapes.items():
        if shape[:2] == image_shape[:2] and min(shape[2], image_shape[2]) >= 3:
            return (
                preset,
                f"there is no preset of {text}, so the one of {'x'.join(map(str, shape))}",
            )
    return None, f"there is no preset of {text}, so the defaults of the class"


def _for_grey_levels(model_class, arguments, image_shape):
    """What arguments to take in place of those that would make images black and white."""
    defaults = inspect.signature(model_class).parameters
    instead = {}
    if "likelihood" in defaults:
        value = arguments.get("likelihood", defaults["likelihood"].default)
        if value == "bernoulli" or (value is None and image_shape[2] == 1):
            instead["likelihood"] = "discretized_logistic"
    if "num_levels" in defaults and arguments.get("num_levels") == 2:
        instead["num_levels"] = defaults["num_levels"].default
    return instead


def _for_few_images(model_class, given, images):
    """Arguments by which a discriminator does not learn few images by heart; none where the user
    has said how to augment.
    """
    names = {"augmentation", "augmentation_probability"}
    takes = names <= inspect.signature(model_class).parameters.keys()
    if len(images) > FEW_IMAGES or not takes or names & given.keys():
        return {}
    return {"augmentation": tuple(POLICIES), "augmentation_probability": "adaptive"}
