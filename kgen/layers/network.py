"""Networks as parts of a model: that are saved by themselves, and that a user brings."""

import keras
import numpy as np
from keras import ops

from kgen.configurable import Configurable, dtype_policy_scope, restored


class Network(Configurable, keras.Model):
    """Base class of networks that are no graph of layers, for they also run pixel by pixel.

    A subclass builds itself in its constructor. By its configuration it is saved, loaded and
    cloned as any Keras model.
    """

    @classmethod
    def from_config(cls, config, custom_objects=None):
        policy = keras.dtype_policies.get(restored(config.get("dtype")))
        with dtype_policy_scope(policy):  # that of the model in which it was built
            return super().from_config(config, custom_objects)


def recomputed(function, wanted):
    """A function of tensors of which, where it is `wanted`, training keeps what enters it alone,
    and computes the rest anew for the gradient: less memory, a third more time. Chen et al.,
    "Training deep nets with sublinear memory cost" (2016; arXiv 1604.06174), section 4.
    """
    return keras.remat(function) if wanted else function


def given_network(argument, network, build, inputs, output):
    """The network that a constructor's argument gives, or, where it is `None`, that of `build()`.

    Args:
        argument: String, its name, for errors.
        network: A Keras model or layer, its configuration (when loading), or `None`.
        build: Callable that makes the default.
        inputs: Tuple of ints, the shape of a row that it takes; or a list of such tuples.
        output: Tuple of ints, the shape of a row that it gives.

    Raises:
        ValueError: It is no network, takes other inputs, or gives another output.
    """
    if network is None:
        return build()
    network = restored(network)
    several = isinstance(inputs, list)
    expected = (
        f"{argument} must be a Keras model from {inputs} to {output}, without the batch. Received: "
    )
    if not isinstance(network, keras.layers.Layer):
        raise ValueError(f"{expected}{type(network).__name__}")
    rows = [np.zeros((2, *shape), "float32") for shape in (inputs if several else [inputs])]
    rows = [ops.convert_to_tensor(row) for row in rows]
    try:
        given = network(rows if several else rows[0])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{expected}one that fails on such inputs: {reason}") from error
    shape = getattr(given, "shape", None)
    if shape is None or tuple(shape) != (2, *output):
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape[1:]), given)
        raise ValueError(f"{expected}one that gives {shapes}")
    return network


def rows_of(shape, num_classes):
    """The `inputs` of a network that is told the class where there are any."""
    return shape if num_classes is None else [shape, (num_classes,)]
