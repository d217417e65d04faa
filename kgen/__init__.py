"""kgen: image generators for Keras 3 that train with `fit` and ship with one call.

The names below are loaded when first used, so that `import kgen` and `kgen --help` do
not wait for TensorFlow or JAX.
"""

from kgen import lazy

__version__ = "1.0.0rc1"

_MODULES = (
    *("data", "evaluation", "hub", "images", "layers", "losses", "models", "origin", "random"),
    "training",
)
_NAMES = {
    "Endpoint": "kgen.endpoint",
    "ImageGenerator": "kgen.image_generator",
    "TensorSpec": "kgen.endpoint",
    "load": "kgen.training.run_folder",
}

__all__ = [*_MODULES, *_NAMES, "__version__"]

__getattr__, __dir__ = lazy.attach(__name__, _NAMES)

lazy.when_imported("keras", "kgen.registration")  # so that Keras loads what kgen has saved
