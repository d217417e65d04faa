"""What a run says before its first step: the data, the model, what it was chosen by, the work."""

import math
import os
import pathlib

import keras

from kgen.training.schedules import plain_optimizer, rate_of, schedule_of


def header(model, data, config, chosen, steps_per_epoch, total, way):
    """Lines for the user, as pairs of a name and what it is.

    `chosen` is what `kgen.training.choice.Choice.lines` says of the model, `config` the
    `RunConfig`, `total` the steps of the whole run or `None`, `way` what `run.json` says of its
    pace.
    """
    parts = [f"{len(data.train):,} to train on"]
    for name in ("validation", "test"):
        split = getattr(data, name)
        parts.append(f"no {name}" if split is None else f"{len(split):,} for {name}")
    if data.skipped:
        parts.append(f"{len(data.skipped):,} files skipped")
    return [
        ("Data", f"{data.name}: {', '.join(parts)}"),
        ("Images", _images(data, config)),
        *_inputs(model, data),
        ("Classes", _classes(model, data)),
        *chosen,
        ("Parameters", f"{_count(model.trainable_weights):,} that train{_frozen(model)}"),
        (
            "Steps",
            f"{steps_per_epoch:,} an epoch of {config.batch_size} images, "
            f"{_length(config, steps_per_epoch, total)}",
        ),
        ("Rate", describe_rate(model, way)),
        ("Device", _device(config)),
    ]


def _length(config, steps_per_epoch, total):
    """How many steps a run takes, in words."""
    kind, value = config.length
    if kind == "epochs":
        return f"{total:,} in {value} epochs"
    if kind == "minutes":
        return f"as many as {value:g} minutes allow, with validation, samples and checkpoints"
    done = f"{total:,} in {total / steps_per_epoch:.3g} epochs"
    return f"{done}, as {value} took" if kind == "pace" else done


def describe_rate(model, way):
    """The optimizer and its learning rate in words; `way` is what moves it in a run of minutes."""
    texts = []
    for number, optimizer in enumerate(model._optimizers()):
        schedule, name = schedule_of(optimizer), type(plain_optimizer(optimizer)).__name__
        if way.get("rates"):
            text = f"{name}, at most {way['rates'][number]:.4g}"
            if way["schedule"] == "pace":
                text += ", at that run's pace"
            else:
                text += f", {way['schedule']} by the time that is used"
            texts.append(text)
            continue
        if schedule is None:
            texts.append(f"{name}, {rate_of(optimizer):.4g}")
            continue
        text = f"{name}, {schedule.schedule}, at most {schedule.learning_rate:.4g}"
        if schedule.warmup_steps:
            text += f" after {schedule.warmup_steps} steps of warm-up"
        if schedule.schedule != "constant":
            text += f", 1 % of it after {schedule.total_steps:,}"
        texts.append(text)
    return "; ".join(dict.fromkeys(texts))


def _images(data, config):
    text = "x".join(map(str, data.image_shape))
    source = data.source
    folder = isinstance(source, (str, pathlib.Path)) and pathlib.Path(source).is_dir()
    if not folder:
        return text
    arguments = config.data_arguments
    how = {
        "crop": "cropped to the ratio of the sides and resized",
        "pad": "resized and padded",
        "stretch": "stretched",
    }[arguments.get("resize", "crop")]
    text += f"; pictures of another shape are {how} ({arguments.get('interpolation', 'lanczos')})"
    if data.image_shape[-1] != 4:
        text += f", what is transparent lies on {arguments.get('background', 'white')}"
    if data.horizontal_flip:
        text += ", half of them mirrored"
    return text


def _inputs(model, data):
    """What a translator makes its images of, where it is one."""
    if not hasattr(model, "translate"):
        return []
    shape = "x".join(map(str, model.input_shape))
    if model.degradation is not None:
        return [("Inputs", f"{shape}; made of the images by {model.degradation}")]
    paired = data.train is None or data.train.paired
    return [("Inputs", f"{shape}; {'partners of the images' if paired else 'no partners'}")]


def _classes(model, data):
    if data.num_classes is None:
        return "none"
    names = ", ".join(map(str, (data.class_names or [])[:5]))
    more = ", ..." if len(data.class_names or []) > 5 else ""
    known = f"{data.num_classes}" + (f" ({names}{more})" if names else "")
    return known if model.num_classes is not None else f"{known}, not used: see --conditional"


def _frozen(model):
    frozen = [getattr(model, name, None) for name in ("tokenizer", "autoencoder")]
    count = sum(_count(stage.weights) for stage in frozen if stage is not None)
    return f", {count:,} frozen" if count else ""


def _count(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def _device(config):
    devices = keras.distribution.list_devices()
    text = f"{devices[0]} of {len(devices)}" if len(devices) > 1 else devices[0]
    if config.devices is not None:
        text = f"{config.devices} of {', '.join(devices)}"
    if str(devices[0]).lower().startswith("cpu"):
        text += f", {os.cpu_count()} cores"
    policy = config.mixed_precision or "float32"
    return f"{text}; {policy}, {keras.backend.backend()}"
