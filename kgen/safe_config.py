"""Models from configurations of strangers, which build what is known and run no code of theirs.

Keras's safe mode refuses code inside of a file. It still builds whatever class of Keras's a file
names, with whatever arguments: layers that read files or load graphs, functions, callbacks. What is
built here is looked up first, and has to be a model of kgen, a layer of kgen's or Keras's, or one
that this process has registered itself.
"""

import re
import sys

import keras

from kgen import registration

#: What may be built: nothing that is called, reads or writes when it is made.
_ALLOWED = (
    keras.Layer,
    keras.Operation,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.dtype_policies.DTypePolicy,
)

#: Layers that bring code or graphs, or read the files that their arguments name.
_REFUSED = (
    keras.layers.Lambda,
    keras.layers.TFSMLayer,
    keras.layers.TorchModuleWrapper,
    keras.layers.JaxLayer,
    keras.layers.FlaxLayer,
    keras.layers.StringLookup.__base__,  # and IntegerLookup's
    keras.layers.TextVectorization,
    keras.utils.FeatureSpace,
)

#: What Keras writes in the place of a class, and what of it builds plain values.
_VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__", "__bytes__"}

#: Modules whose functions only compute, as an activation does.
_FUNCTIONS = ("builtins", "keras.activations", "keras.ops")

#: Arguments that are models: a file has their configuration, and never the path of another file.
_MODELS = ("autoencoder", "encoder", "tokenizer")


def build(config, kind):
    """The model of a configuration, with fresh weights, not compiled.

    Args:
        config: Dict, as `keras.saving.serialize_keras_object` gives of a model.
        kind: Class that the model must be of.

    Raises:
        ValueError: It is none, it has another class in it than those that may be built, or its
            arguments do not fit its class.
    """
    try:
        config = check(config)
        model_class = _class(config) if isinstance(config, dict) else None
    except RecursionError as error:
        raise ValueError("The configuration is nested too deeply for a model.") from error
    if not (isinstance(model_class, type) and issubclass(model_class, kind)):
        name = config.get("class_name") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"The configuration is none of an image generator, but of {name!r}.")
    try:
        return keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:  # of arguments that are nonsense, whatever they lead to
        said = str(error).rpartition("Exception encountered: ")[2].strip()  # behind Keras's own
        reason = (said or type(error).__name__).splitlines()[0][:400]
        raise ValueError(
            f"The configuration does not build a {model_class.__name__}: {reason}"
        ) from error


def check(value):
    """A configuration without what belongs to training; `ValueError` unless it may be built."""
    if isinstance(value, list):
        return [check(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "class_name" in value:
        value = {key: part for key, part in value.items() if key != "compile_config"}
        _check_class(value)
    return {key: check(part) for key, part in value.items()}


def _check_class(entry):
    """Raises `ValueError` unless what `entry` names may be built."""
    name, config = entry["class_name"], entry.get("config")
    if not isinstance(name, str):
        raise ValueError(f"class_name must be a string. Received: {str(name)[:100]}")
    if name in _VALUES:
        return
    if name == "function":
        plain = isinstance(config, str) and re.fullmatch(r"(?!get$|.*serialize$)\w+", config)
        if (entry.get("module") in _FUNCTIONS and plain) or _registered(config) is not None:
            return
        name = config
    else:
        found = _class(entry)
        # One that is found by its registered name has its own name too, and a module: what has none
        # Keras takes for an older file's, and goes by the name alone.
        if _is_allowed(found) and found.__name__ == name and "module" in entry:
            for argument in _MODELS if isinstance(config, dict) else ():
                if isinstance(config.get(argument), str):
                    raise ValueError(
                        f"The configuration names another file or preset, by {argument}="
                        f"{config[argument]!r}: of a stranger that is not followed."
                    )
            return
    raise ValueError(
        f"The configuration holds {str(name)[:100]!r} of {str(entry.get('module'))[:100]!r}, which "
        "is not built from a file: it is no layer of kgen's or Keras's that only computes, and "
        "none that keras.saving.register_keras_serializable has made known here."
    )


def _class(entry):
    """The class that Keras would build, `None` where it is none of those that are known."""
    name = entry.get("class_name")
    found = _registered(entry.get("registered_name", name))
    if found is not None:
        return found
    module = entry.get("module")
    if not (isinstance(module, str) and re.match(r"keras(\.|$)", module)):
        return None
    # Nothing is imported that a file names, and no name is followed into another module.
    return vars(sys.modules.get(module, object)).get(name)


def _is_allowed(found):
    is_class = isinstance(found, type) and issubclass(found, _ALLOWED)
    return is_class and not issubclass(found, _REFUSED)


def _registered(name):
    if not isinstance(name, str):
        return None
    found = keras.saving.get_registered_object(name)
    return found.load() if isinstance(found, registration.Deferred) else found
