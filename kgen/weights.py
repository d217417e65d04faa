"""The weights of a preset's folder: `model.weights.h5` as Keras has it, or `model.safetensors`; and
those that one model takes from another.
"""

import dataclasses
import pathlib
import re

import h5py
import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kgen.checks import unknown_name

#: The files by their formats, in the order in which they are looked for.
FILES = {"safetensors": "model.safetensors", "h5": "model.weights.h5"}

_LISTED = 5


def named(model):
    """All weights of a model, a dict of name to Keras variable, each once.

    A name is the way to the variable, such as `ema_generator.conv2d_transpose_1.kernel`: of
    attributes, of the place in a list or dict, and where there is neither, of classes, numbered
    among those of one layer. So it is the same in every process, on every backend and with every
    Keras, which the names that Keras makes up are not.
    """
    found, seen = {}, set()

    def visit(layer, way):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        inner = _inner(layer)
        known = {id(variable) for _, part in inner for variable in part.weights}
        own = [variable for variable in layer.weights if id(variable) not in known | seen]
        seen.update(map(id, own))
        # One without a name of its own is called `variable_7`, by how many there were before.
        names = (re.sub(r"^variable_\d+$", "variable", variable.name) for variable in own)
        for name, variable in _numbered(zip(names, own, strict=True)):
            found[".".join((*way, name))] = variable
        for name, part in inner:
            visit(part, (*way, name))

    visit(model, ())
    return found


def check(formats, dtype=None):
    """Raises `ValueError` unless `write` takes these."""
    if dtype not in (None, "float32", "float16"):
        raise ValueError(unknown_name("dtype of weights", str(dtype), ("float32", "float16")))
    if isinstance(formats, str) or not formats:
        raise ValueError(
            f"weights must be a sequence of {' and '.join(FILES)}. Received: weights={formats!r}"
        )
    for name in formats:
        if name not in FILES:
            raise ValueError(unknown_name("format of weights", str(name), FILES))


def round_to(model, dtype):
    """Rounds a model's weights to those that `write` keeps, with its errors."""
    check(tuple(FILES), dtype)
    for name, variable in named(model).items() if dtype else ():
        variable.assign(_cast(name, keras.ops.convert_to_numpy(variable), dtype))


def write(model, folder, formats, dtype=None):
    """Writes a file of weights for each of `formats`, without the state of optimizers.

    `dtype` is what floats are kept in, `"float32"` or `"float16"`, `None` for their own. A
    `ValueError` where one of these is another, or a number is too large for it.
    """
    check(formats, dtype)
    arrays = {
        name: _cast(name, keras.ops.convert_to_numpy(variable), dtype)
        for name, variable in named(model).items()
    }
    if "safetensors" in formats:
        contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
        save_file(contiguous, pathlib.Path(folder, FILES["safetensors"]), {"format": "keras"})
    if "h5" in formats:
        path = pathlib.Path(folder, FILES["h5"])
        keras.saving.save_weights(model, path, objects_to_skip=_optimizers(model))
        if dtype is not None:
            _rewrite(path, dtype)


def read(model, folder):
    """Gives a model the weights in a folder, in the model's own dtypes.

    `ValueError` where there are none, or they do not fit: it names what is missing, what belongs to
    none of the model's weights and what has another shape. The model's weights are then what they
    were, but for those of an HDF5 file that does not fit.
    """
    paths = [pathlib.Path(folder, name) for name in FILES.values()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no weights: neither {' nor '.join(FILES.values())}.")
    if path.name == FILES["safetensors"]:
        _read_safetensors(model, path)
        return
    try:
        model.load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        said = " ".join(lines[:2])[:400] or type(error).__name__
        raise ValueError(f"{path} does not fit the model of its config.json: {said}") from error


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What a model has taken from another, see `ImageGenerator.begin_with`.

    Args:
        taken: Tuple of strings, the layers that have the other's weights, such as
            `"generator.dense"`; a weight of the model's own is a layer by itself.
        fresh: Tuple of strings, those that begin fresh: of another shape, or not in the other.
    """

    taken: tuple
    fresh: tuple

    def __str__(self):
        if not self.fresh:
            return "no layer"
        listed, total = _listed(self.fresh), len(self.taken) + len(self.fresh)
        return f"{listed} ({len(self.fresh)} of {total} layers: another shape, or not there)"


def transfer(model, source):
    """Gives a model the weights of another's layers, where both have them and all shapes are equal.

    Layers are told by their ways, see `named`. Both of a network and its average (`network` and
    `ema_network`) begin with the other's average, also where the network has fresh layers. What a
    training keeps beside weights, the count of its steps for one, begins anew. A network that
    never trains, of a generator in two stages, stays what it is where it is trained already.

    Returns:
        `Transfer`.

    Raises:
        ValueError: No layer fits, or not all of such a network that was never trained.
    """
    averages = [name for name in model.frozen_networks if name.startswith("ema_")]
    stages = {name: getattr(model, name, None) for name in model.frozen_networks}
    stages = {name: stage for name, stage in stages.items() if hasattr(stage, "training_steps")}
    ready = [name for name, stage in stages.items() if stage.steps_trained]
    given, layers = named(source), {}
    for name, variable in named(model).items():
        layer, _, _ = name.rpartition(".")
        network = layer.partition(".")[0]
        if network in (*averages, *ready) or not (layer or variable.trainable):
            continue
        found = given.get(f"ema_{name}", given.get(name))
        layers.setdefault(layer or name, []).append((variable, found))
    fits = {
        layer: all(
            other is not None and tuple(other.shape) == tuple(variable.shape)
            for variable, other in pairs
        )
        for layer, pairs in layers.items()
    }
    if not any(fits.values()):
        kinds = type(model).__name__, type(source).__name__
        raise ValueError(
            f"A {kinds[0]} cannot begin with this {kinds[1]}: none of its {len(layers)} layers is "
            "there with the same shape. Build it with the arguments of the other, or begin with "
            "a model of its kind."
        )
    for layer in layers:
        network = layer.partition(".")[0]
        if network in stages and not fits[layer]:
            raise ValueError(
                f"This {type(model).__name__} has a {network} that was never trained, and the "
                f"other's has another shape: {layer}. Train one on such images first, and build "
                f"the model with it: {network}=RUN (--set {network}=RUN)."
            )
    for layer, pairs in layers.items():
        for variable, other in pairs if fits[layer] else ():
            variable.assign(keras.ops.convert_to_numpy(other))
    for name in averages:
        network = getattr(model, name.removeprefix("ema_"))
        getattr(model, name).set_weights(network.get_weights())
    return Transfer(
        tuple(layer for layer in layers if fits[layer]),
        tuple(layer for layer in layers if not fits[layer]),
    )


def _read_safetensors(model, path):
    expected = named(model)
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            other = [
                f"{name} is {shapes[name]} and not {tuple(variable.shape)}"
                for name, variable in expected.items()
                if name in shapes and shapes[name] != tuple(variable.shape)
            ]
            wrong = {
                "missing": [name for name in expected if name not in shapes],
                "superfluous": [name for name in shapes if name not in expected],
                "of another shape": other,
            }
            if any(wrong.values()):
                said = "; ".join(
                    f"{what}: {_listed(which)}" for what, which in wrong.items() if which
                )
                raise ValueError(f"{path} does not fit the model of its config.json. {said}")
            for name, variable in expected.items():
                variable.assign(file.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error


def _listed(names):
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


# Names ----------------------------------------------------------------------------------------


def _inner(layer):
    """The layers in a layer, pairs of name and layer: attributes first, by their names."""
    attributes = sorted(name for name in vars(layer) if not name.startswith("_"))
    inner = [pair for name in attributes for pair in _layers(name, vars(layer)[name])]
    there = {id(part) for _, part in inner}
    for part in layer._flatten_layers(recursive=False, include_self=False):
        if id(part) not in there:
            inner.append((_snake(type(part).__name__), part))
    return list(_numbered(inner))


def _layers(name, value):
    if isinstance(value, keras.Layer):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from _layers(f"{name}.{key}", part)


def _numbered(pairs):
    """Names that are there already get `_1`, `_2` and on."""
    counts = {}
    for name, value in pairs:
        counts[name] = counts.get(name, -1) + 1
        yield name if counts[name] == 0 else f"{name}_{counts[name]}", value


def _snake(name):
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


# Files ----------------------------------------------------------------------------------------


def _optimizers(model):
    if not model.compiled:
        return []
    optimizers = [model.optimizer, *model._optimizers()]
    return [*optimizers, *(getattr(part, "inner_optimizer", part) for part in optimizers)]


def _cast(name, array, dtype):
    if dtype is None or not np.issubdtype(array.dtype, np.floating):
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.isfinite(cast[np.isfinite(array)]).all():
        raise ValueError(
            f"{name} does not fit into {dtype}, whose largest number is {np.finfo(dtype).max:g}. "
            f"Received: {np.abs(array).max():g}"
        )
    return cast


def _rewrite(path, dtype):
    """Writes an HDF5 file anew, with its floats in another dtype."""
    whole = path.rename(path.with_name(f"whole.{path.name}"))
    with h5py.File(whole) as source, h5py.File(path, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                target.require_group(name).attrs.update(item.attrs)
            else:
                target[name] = _cast(name, item[()], dtype)

        source.visititems(copy)
    whole.unlink()
