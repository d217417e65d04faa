"""How good a model is: losses, reconstruction error, speed."""

from kgen.evaluation.interpolation import interpolate
from kgen.evaluation.report import evaluate

__all__ = ["evaluate", "interpolate"]
