"""How good a model is: metrics with their floors, likelihoods, and pages to look at.

The names below, and the modules, are loaded when first used: a comparison needs no framework.
"""

import importlib
import pkgutil

_NAMES = {
    "METRICS": "reference",
    "EvaluateSamples": "callbacks",
    "Reference": "reference",
    "compare": "page",
    "evaluate": "report",
    "interpolate": "interpolation",
    "measure": "reference",
}

__all__ = list(_NAMES)


def __getattr__(name):
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    if any(module.name == name for module in pkgutil.iter_modules(__path__)):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
