from kgen.evaluation.callbacks import EvaluateSamples as EvaluateSamples
from kgen.evaluation.cost import cost_curve as cost_curve
from kgen.evaluation.interpolation import interpolate as interpolate
from kgen.evaluation.page import compare as compare
from kgen.evaluation.reference import METRICS as METRICS, Reference as Reference, measure as measure
from kgen.evaluation.report import evaluate as evaluate
