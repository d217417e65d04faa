"""The frozen autoencoder of a generator that draws what it encodes.

A generator in two stages (van den Oord, Vinyals and Kavukcuoglu 2017, section 3.3; Rombach et al.
2022, section 3) learns the codes or latent maps of an autoencoder that was trained before it.
"""

import pathlib

import keras
from keras import ops

from kgen import models, places
from kgen.training.run_folder import load_model


def load_first_stage(stage, kind, argument, image_shape, num_classes):
    """A frozen float32 copy of an autoencoder: training the one given does not change it.

    `stage` is a trained `kind` (`VQVAE` or `LatentMapVAE`); the path of one: its `.keras` file, its
    run's or its preset's folder; or the name of a preset, for a fresh one. A `ValueError`, which
    names the `argument`, where there is none, or it has another `image_shape` or other classes.
    """
    copy = _copy(stage, kind, argument, image_shape, num_classes)
    copy.trainable = False
    if copy.image_shape != image_shape:
        raise ValueError(
            f"image_shape must be the {argument}'s. Received: image_shape={image_shape}, and a "
            f"{argument} of {copy.image_shape}"
        )
    if copy.num_classes not in (None, num_classes):
        raise ValueError(
            f"A class-conditional {argument} needs a generator of as many classes. Received: "
            f"num_classes={num_classes}, and a {argument} of {copy.num_classes}"
        )
    return copy


def _copy(stage, kind, argument, image_shape, num_classes):
    kinds = [known for known in models.registered().values() if issubclass(known, kind)]
    presets = [preset for known in kinds for preset in known.presets]
    names = " or ".join(known.__name__ for known in kinds)
    if isinstance(stage, str) and stage in presets:
        return kind.from_preset(
            stage, image_shape=image_shape, num_classes=num_classes, dtype="float32"
        )
    if isinstance(stage, (str, pathlib.Path)):
        if places.find(stage) is None:
            raise ValueError(
                f"{argument} must be a {names}, the path of a trained one (a .keras file, "
                f"a run's or a preset's folder), hf://USER/NAME, or one of "
                f"{', '.join(presets)}. There is no {str(stage)!r}."
            )
        stage = load_model(stage)[0]
    weights = None
    if isinstance(stage, kind):
        weights = stage.get_weights()
        stage = keras.saving.serialize_keras_object(stage)
    if not isinstance(stage, dict):
        raise ValueError(
            f"{argument} must be a {names}, the path of a trained one or a preset's name. "
            f"Received: {type(stage).__name__}. Train one first: "
            f"{_commands(kinds[0], argument)}"
        )
    # Built as if it were to be trained: Keras would not freeze the layers of a frozen model.
    # In float32, whatever it was trained in: the generator learns what is exported.
    arguments = {**stage["config"], "trainable": True, "dtype": "float32"}
    config = {**stage, "config": arguments}
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    if weights is not None:
        copy.set_weights(weights)
    return copy


def untrained(stage, argument):
    """What `diagnose` says of an autoencoder that was never trained: a list of strings."""
    if ops.convert_to_numpy(stage.training_steps) > 0:
        return []
    return [
        f"untrained {argument}: the {type(stage).__name__} has fresh weights, so that the images "
        f"will mean nothing. Train one first, and give it, or its run's folder, as {argument}: "
        f"{_commands(type(stage), argument)}"
    ]


def _commands(kind, argument):
    """The two commands of a generator in two stages, of which the first trains a `kind`."""
    names = {model_class: name for name, model_class in models.registered().items()}
    first = names.get(kind, "vqvae" if argument == "tokenizer" else "vit_vae")
    return (
        f"kgen train {first} --data DATA --run runs/{first}, then "
        f"kgen train MODEL --data DATA --set {argument}=runs/{first}"
    )


def known_cells(mask, height, width):
    """Where all pixels of a cell of a coarse grid are known, bool `[B, height, width]`."""
    down, across = mask.shape[1] // height, mask.shape[2] // width
    parts = ops.reshape(ops.cast(mask, "int32"), (-1, height, down, width, across))
    return ops.cast(ops.min(parts, axis=(2, 4)), "bool")
