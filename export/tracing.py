"""From an endpoint, a Python function, to a TensorFlow graph."""

import tensorflow as tf

from export.errors import ExportError


def function(name, endpoint):
    """`endpoint` as a function of positional tensors, in the order of its inputs, whose outputs are
    checked against `endpoint.outputs` while it is traced.
    """

    def call(*tensors):
        outputs = endpoint.function(**dict(zip(endpoint.inputs, tensors, strict=True)))
        if not isinstance(outputs, dict) or set(outputs) != set(endpoint.outputs):
            received = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ExportError(
                f"Endpoint '{name}' must return a dict with the keys {sorted(endpoint.outputs)}. "
                f"Received: {received}"
            )
        return {
            key: _checked(f"Endpoint '{name}', output '{key}'", outputs[key], spec)
            for key, spec in endpoint.outputs.items()
        }

    return call


def input_names(endpoint):
    """Names of an endpoint's inputs in a graph, where no output can have the name of an input."""
    return {key: f"input_{key}" if key in endpoint.outputs else key for key in endpoint.inputs}


def trace_endpoint(name, endpoint):
    """Traces an endpoint with a free batch axis; returns a concrete function."""
    return trace(function(name, endpoint), name, endpoint, input_names(endpoint))


def trace(call, name, endpoint, names=None, **options):
    """Traces `call`, a function of the endpoint's inputs in order, with a free batch axis.

    `names` are those of the inputs in the graph, their own by default; `options` are those of
    `tf.function`. Returns a concrete function.
    """
    signature = [
        tf.TensorSpec((None, *spec.shape), spec.dtype, name=names[key] if names else key)
        for key, spec in endpoint.inputs.items()
    ]
    # Autograph would rewrite Python that is already written for graphs.
    traced = tf.function(call, autograph=False, **options)
    concrete = traced.get_concrete_function(*signature)
    for captured in concrete.captured_inputs:
        if captured.dtype != tf.resource:
            raise ExportError(
                f"Endpoint '{name}' uses an eager tensor of shape {tuple(captured.shape)} and "
                f"dtype {captured.dtype.name}, which ONNX would ask its caller for. Keep "
                f"constant tables as NumPy arrays or as weights."
            )
    return concrete


def _checked(place, tensor, spec):
    tensor = tf.convert_to_tensor(tensor)
    shape = tf.TensorShape((None, *spec.shape))
    if tensor.dtype.name != spec.dtype or not tensor.shape.is_compatible_with(shape):
        raise ExportError(
            f"{place} must be {spec.dtype} {shape}. Received: {tensor.dtype.name} {tensor.shape}"
        )
    # A copy of its own for every output: one tensor under two names would lose one of them.
    tensor = tf.identity(tensor)
    tensor.set_shape(shape)
    return tensor
