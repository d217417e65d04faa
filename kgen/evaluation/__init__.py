"""How good a model is: metrics with their floors, likelihoods, and pages to look at.

The names below, and the modules, are loaded when first used: a comparison needs no framework.
"""

from kgen import lazy

_NAMES = {
    "METRICS": "kgen.evaluation.reference",
    "EvaluateSamples": "kgen.evaluation.callbacks",
    "Reference": "kgen.evaluation.reference",
    "compare": "kgen.evaluation.page",
    "cost_curve": "kgen.evaluation.cost",
    "evaluate": "kgen.evaluation.report",
    "interpolate": "kgen.evaluation.interpolation",
    "measure": "kgen.evaluation.reference",
}

__all__ = list(_NAMES)

__getattr__, __dir__ = lazy.attach(__name__, _NAMES)
