"""The model that a run trains, and the data that it is built for: a model or preset by its name, a
trained model to go on from, or the user's own.
"""

import functools
import inspect
import pathlib
import types
from typing import NamedTuple

import keras

from kgen import hub, models, places
from kgen.checks import unknown_name
from kgen.image_generator import ImageGenerator
from kgen.training.choice import choose, go_on
from kgen.training.run_config import FINE_TUNING_RATE
from kgen.training.run_folder import load_model, load_source


class Trained(NamedTuple):
    """A trained model, and the place where it is, whose weights a run begins with. It is the model
    itself that `goes_on`, or only its weights are taken for another one (`begin_with`).
    """

    place: str
    model: ImageGenerator
    goes_on: bool

    def lines(self, transfer, config):
        """What was taken, for the user: pairs of a name and what it is."""
        total = len(transfer.taken) + len(transfer.fresh)
        said = f"with the weights of {self.place}, {len(transfer.taken)} of {total} layers"
        if self.goes_on and config.learning_rate is None:
            said += f", and {FINE_TUNING_RATE:g} of the model's own rate (--learning-rate)"
        return [("Begins", said), *([("Fresh", str(transfer))] if transfer.fresh else [])]


def full_name(model):
    """The name of a model or preset as it is; the path of a trained model as a whole one."""
    name = str(model)
    if hub.is_place(name) or _is_built(name):
        return name
    path = places.find(name)
    return name if path is None or path.parent == models.TRAINED else str(path.resolve())


def _is_built(name):
    """Whether a model of such a name is built by kgen. (What lies here is `./NAME`, or whole.)"""
    return name in models.registered() or name in models.presets()


def load_trained(model, config, report):
    """The `Trained` model that a run begins with, or `None`."""
    goes_on = isinstance(model, str) and not _is_built(model) and places.find(model) is not None
    if goes_on and config.begin_with is not None:
        raise ValueError(
            f"{model} begins with its own weights. For those of another model build it by its "
            f"name, such as vae. Received: begin_with={config.begin_with!r} (--begin-with)"
        )
    place = model if goes_on else config.begin_with
    return None if place is None else Trained(place, load_model(place, report)[0], goes_on)


def load_data(model, data, config, before, trained, built):
    """The data, in the shape that the run, the user or a preset asks for, or in its own.

    The model of a run that begins is built before images are decoded, so that it refuses a shape
    at once; it is appended to `built`.
    """
    if not isinstance(data, (str, pathlib.Path)):
        return data

    def check(image_shape, num_classes):
        about = types.SimpleNamespace(
            name=data, image_shape=tuple(image_shape), num_classes=num_classes
        )
        built.append(build(model, about, config, trained)[0])
        if built[0].image_shape != about.image_shape:
            raise ValueError(
                f"{type(built[0]).__name__} takes images of shape {built[0].image_shape}. "
                f"Received: {about.image_shape}."
            )

    image_shape = (
        (before and before["data"]["image_shape"])
        or config.data_arguments.get("image_shape")
        or _preset_shape(model, config.model_arguments, trained)
    )
    options = {**config.data_arguments, "check": check if before is None else None}
    return load_source(data, image_shape, options)


def _preset_shape(model, model_arguments, trained):
    if "image_shape" in model_arguments:
        return tuple(model_arguments["image_shape"])
    if isinstance(model, ImageGenerator):
        return model.image_shape
    if trained is not None and trained.goes_on:
        return trained.model.image_shape
    for model_class in models.registered().values():
        if model in model_class.presets:
            return tuple(model_class.presets[model]["image_shape"])
    return None


def build(model, data, config, trained=None, built=None):
    """The model that trains: an object, or built by a name or as the one that goes on.

    And pairs of what was chosen and how, for the user. `built` is what the shape alone gave.
    """
    given = dict(config.model_arguments)
    pairs = getattr(data, "input_shape", None)
    if config.mixed_precision:
        given["dtype"] = config.mixed_precision
    if isinstance(model, ImageGenerator):
        if given:
            raise ValueError(
                f"A model that is built already takes no arguments. Received: {', '.join(given)}"
            )
        return model, [("Model", type(model).__name__)]

    goes_on = trained is not None and trained.goes_on
    told = functools.partial(go_on, trained.model) if goes_on else choose
    split = getattr(data, "train", None)  # not before images are decoded
    choice = told(model, data.image_shape, given, None if split is None else split.images)
    model_class = choice.model_class
    known = inspect.signature(model_class).parameters.keys() - {"kwargs"} | {"dtype", "name"}
    for name in given:
        if name not in known:
            said = unknown_name(f"argument of {model_class.__name__}", name, known)
            raise ValueError(f"{said} What they mean: kgen list {choice.name}")
    if config.conditional:
        if data.num_classes is None:
            raise ValueError(f"A conditional model needs labels, and {data.name} has none.")
        given.setdefault("num_classes", data.num_classes)
    elif goes_on and trained.model.num_classes is not None and data.num_classes is not None:
        given.setdefault("num_classes", data.num_classes)
    defaults = {"image_shape": data.image_shape, "seed": config.seed}
    if pairs is not None and {"input_shape", "degradation"} <= known:
        if given.get("degradation") is not None:
            raise ValueError(
                "With a degradation inputs are made of the images themselves: leave out its "
                "degradation (--degrade), or the inputs of the data (--inputs). Received: "
                f"degradation={given['degradation']!r} and pairs"
            )
        defaults |= {"input_shape": pairs, "degradation": None}
    elif pairs is not None and not hasattr(model_class, "translate"):
        raise ValueError(
            f"{model_class.__name__} makes images of nothing, and takes no inputs (--inputs). "
            "Translators do: restorer, pix2pix, cycle_gan, srgan, palette."
        )
    values = {**choice.arguments, **defaults, **given}
    chosen = choice.lines(given)
    if built is not None and choice.arguments == told(model, data.image_shape, given).arguments:
        return built, chosen
    keras.utils.set_random_seed(config.seed)  # whatever was built before
    try:
        return model_class(**values), chosen
    except (TypeError, ValueError) as error:
        if _raised_in_kgen(error):
            raise
        said = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "its defaults"
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{model_class.__name__} cannot be built with {said}: {reason}") from error


def _raised_in_kgen(error):
    """Whether kgen itself said what is wrong, not Keras somewhere below."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals["__name__"].startswith("kgen.")
