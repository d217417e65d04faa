"""One convention for constructors: every argument is kept under its own name."""

import contextlib
import copy
import dataclasses
import inspect
import json
import types

import keras
import numpy as np


class Configurable:
    """Keeps a constructor's arguments as attributes, and writes `get_config` from these.

    Mixed in before a Keras class, as scikit-learn's `BaseEstimator` before an estimator. An
    argument stands in one signature: a subclass hands on, as `**kwargs`, what it has only from
    its base, and its own signature (`inspect.signature`, `help`) shows both. `__init__` begins
    with `super().__init__(...)`, which sets all of it; what an argument becomes in the end (a
    checked tuple, a number in place of `None`) is assigned to the same name afterwards, and is
    what the configuration holds.

    An argument that is a model or a layer is not kept: the subclass assigns to its name the one
    that it uses, which the configuration holds with its own; where the argument was `None`, it
    follows from the others, and is left out. When loading, the argument is that configuration.

    >>> class Scale(Configurable, keras.layers.Layer):
    ...     def __init__(self, factor=2.0, **kwargs):
    ...         super().__init__(**kwargs)
    >>> Scale(3.0).get_config()["factor"]
    3.0
    """

    #: Names of arguments of a base that a class does not take.
    left_out_arguments: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _, *own = inspect.signature(cls.__init__).parameters.values()
        if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
            *own, rest = own
            names = {parameter.name for parameter in own} | set(cls.left_out_arguments)
            base = getattr(super(cls, cls), "__signature__", None)
            inherited = [] if base is None else list(base.parameters.values())[:-1]
            own += [
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for parameter in inherited
                if parameter.name not in names
            ]
            own.append(rest)
        cls.__signature__ = _OfTheClass(inspect.Signature(own))

    def __new__(cls, *args, **kwargs):
        for name in cls.left_out_arguments:
            if name in kwargs:
                raise TypeError(f"{cls.__name__} got an unexpected keyword argument '{name}'")
        instance = super().__new__(cls, *args, **kwargs)
        bound = cls.__signature__.bind(*args, **kwargs)
        bound.apply_defaults()
        bound.arguments.pop("kwargs", None)
        # No part of what is saved: Keras would look into an attribute, and into a dict.
        arguments = types.MappingProxyType(bound.arguments)
        object.__setattr__(instance, "_arguments", arguments)
        return instance

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name, value in self._arguments.items():
            if not isinstance(value, keras.layers.Layer):
                setattr(self, name, tuple(value) if isinstance(value, list) else value)

    def get_config(self):
        kept = {}
        for name, argument in self._arguments.items():
            value = getattr(self, name, None)
            own = argument is None and isinstance(value, keras.layers.Layer)
            kept[name] = None if own else _plain(value)
        return {**super().get_config(), **kept}


class _OfTheClass:
    """A class's signature, which its instances do not have: other arguments call them."""

    def __init__(self, signature):
        self.signature = signature

    def __get__(self, instance, owner):
        if instance is not None:
            raise AttributeError("__signature__")
        return self.signature


def _plain(value):
    """A value as JSON has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, keras.layers.Layer):
        return json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return value


def restored(value):
    """A layer from its configuration, as `get_config` has it; what is a layer already, itself."""
    if isinstance(value, dict):  # a copy, which Keras empties
        return keras.saving.deserialize_keras_object(copy.deepcopy(value))
    return value


@contextlib.contextmanager
def dtype_policy_scope(policy):
    """Layers built inside take a dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
