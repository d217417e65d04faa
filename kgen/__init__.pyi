from kgen import (
    data as data,
    evaluation as evaluation,
    images as images,
    layers as layers,
    losses as losses,
    models as models,
    random as random,
    training as training,
)
from kgen.endpoint import Endpoint as Endpoint, TensorSpec as TensorSpec
from kgen.image_generator import ImageGenerator as ImageGenerator
from kgen.training.run_folder import load as load

__version__: str
