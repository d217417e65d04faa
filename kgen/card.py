"""What is said of a preset: `metadata.json`, as KerasHub has it, and the model card, `README.md`.

The card begins with what the Hugging Face hub reads. It says what is known, and that nothing is
known where that is so.
"""

import datetime
import functools
import json
import math
import pathlib

import keras

import kgen
from kgen import models

#: The hub's names of data sets, by the sources of `kgen.data` that are these without a doubt.
_DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}

#: The hub's names of what a model does: that draws, and that makes images of images.
PIPELINES = ("unconditional-image-generation", "image-to-image")

#: What a score rests on, without which it is not shown.
_CONTEXT = ("data", "samples", "reference", "features")

#: What `about` may hold, see `ImageGenerator.save_to_preset`.
ABOUT = ("name", "license", "datasets", "data", "training", "scores")


def metadata(model, about, dtype=None):
    """What `metadata.json` says of a model: a dict for JSON.

    `keras_version`, `kgen_version`, `parameter_count` and `date_saved` are KerasHub's fields;
    `model`, `family`, `pipeline_tag`, the method to `call`, the shapes and `dtype`, in which the
    weights are kept, tell what the model is, and the rest is what `about` holds, `None` where it
    holds nothing.
    """
    for key in about:
        if key not in ABOUT:
            raise ValueError(f"about may have {', '.join(ABOUT)}. Received: {key!r}")
    name, family = _of_the_zoo(type(model))
    call = next(method for method in ("stylize", "translate", "generate") if hasattr(model, method))
    told = {key: about.get(key) for key in ABOUT}
    source = (told["data"] or {}).get("source") or ""
    kind, _, known = source.partition(":")
    if told["datasets"] is None and kind in ("keras", "tfds") and known in _DATASETS:
        told["datasets"] = [_DATASETS[known]]
    return {
        "keras_version": keras.version(),
        "kgen_version": kgen.__version__,
        "parameter_count": model.count_params(),
        "date_saved": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d@%H:%M:%S"),
        "model": name,
        "class": type(model).__name__,
        "family": family,
        "pipeline_tag": PIPELINES[call != "generate"],
        "call": call,
        "image_shape": list(model.image_shape),
        "input_shape": None if call == "generate" else list(model.input_shape),
        "num_classes": model.num_classes,
        "dtype": dtype or model.variable_dtype,
        **told,
    }


def text(known, place, samples=False):
    """The model card, from what `metadata` says.

    `place` is what the model is loaded by, such as `hf://me/dcgan`; `samples` whether there is
    `samples.png` beside.
    """
    scores = known["scores"] or {}
    metrics = scores.get("metrics", {}) if scores.keys() >= set(_CONTEXT) else {}
    measured = {name: entry for name, entry in metrics.items() if _is_number(entry["value"])}
    names = known["num_classes"] and known["data"] and known["data"].get("class_names")
    tags = ["kgen", "keras", known["model"], known["family"]]
    tags += ["class-conditional"] if known["num_classes"] else []
    return _template("model_card.md").render(
        **{**known, "name": known["name"] or known["model"] or known["class"]},
        place=place,
        samples=samples,
        tags=list(dict.fromkeys(filter(None, tags))),
        measured=measured,
        class_names=names if names and len(names) <= 100 else None,
        steps=list(_rows(known["training"] or {})),
    )


def front_matter(**fields):
    """YAML between two lines of dashes, of strings and lists of strings, for the hub to read."""
    return _template("front_matter.md").render(fields=fields)


def _of_the_zoo(model_class):
    """Name and family of a class, or of the nearest base that the zoo has; twice `None` else."""
    families = models.families()
    names = [name for family in families.values() for name in family.models]
    known = dict(zip(models.classes(), names, strict=True))
    bases = [(base.__module__, base.__name__) for base in model_class.__mro__]
    name = next((known[base] for base in bases if base in known), None)
    return name, next((key for key, family in families.items() if name in family.models), None)


def _rows(training):
    """What a training was, pairs of a name and what it is."""
    for key, value in training.items():
        if isinstance(value, dict):
            parts = (_number(v) if isinstance(v, float) else v for v in value.values())
            value = ", ".join(f"{name}={part}" for name, part in zip(value, parts, strict=True))
        if value not in (None, "", False, []):
            yield key.replace("_", " "), value


def _is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def _yaml(value):
    """A string, number or list of these, as YAML has it, which is JSON but for exponents."""
    if isinstance(value, float):
        written = f"{value:.6g}"
        return written if "." in written else written.replace("e", ".0e")
    return json.dumps(value, ensure_ascii=False)


def _cell(value):
    """What stands in a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _number(value, sd=None):
    if value is None:
        return ""
    return f"{value:.4g}" + ("" if sd is None else f" ± {sd:.2g}")


@functools.cache
def _template(name):
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).with_name("templates")),
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"yaml": _yaml, "cell": _cell, "number": _number}
    return environment.get_template(name)
