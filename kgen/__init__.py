"""kgen: image generators for Keras 3 that train with `fit` and ship with one call.

The names below are loaded when first used, so that `import kgen` and `kgen --help` do
not wait for TensorFlow or JAX.
"""

import importlib

__version__ = "0.1.0"

_MODULES = ("data", "evaluation", "images", "layers", "losses", "models", "random", "training")
_NAMES = {
    "Endpoint": "kgen.endpoint",
    "ImageGenerator": "kgen.image_generator",
    "TensorSpec": "kgen.endpoint",
}

__all__ = [*_MODULES, *_NAMES, "__version__"]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"kgen.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'kgen' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
