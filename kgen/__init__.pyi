from kgen import (
    data as data,
    evaluation as evaluation,
    hub as hub,
    images as images,
    layers as layers,
    losses as losses,
    models as models,
    origin as origin,
    random as random,
    training as training,
)
from kgen.endpoint import Endpoint as Endpoint, TensorSpec as TensorSpec
from kgen.image_generator import ImageGenerator as ImageGenerator
from kgen.training.run_folder import load as load

__version__: str
