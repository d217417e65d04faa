"""How good a model is: metrics with their floors, likelihoods, and pages to look at."""

from kgen import lazy
from kgen.evaluation.callbacks import EvaluateSamples
from kgen.evaluation.interpolation import interpolate
from kgen.evaluation.reference import METRICS, Reference, measure
from kgen.evaluation.report import compare, evaluate

__all__ = [
    "METRICS",
    "EvaluateSamples",
    "Reference",
    "compare",
    "evaluate",
    "interpolate",
    "measure",
]

__getattr__, __dir__ = lazy.attach(__name__)
