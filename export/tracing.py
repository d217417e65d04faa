"""From an endpoint, a Python function, to a TensorFlow graph."""

import tensorflow as tf

from export.errors import ExportError


def function(endpoint):
    """The endpoint as a function of positional tensors, in the order of `endpoint.inputs`.

    Its outputs are checked against `endpoint.outputs` while it is traced.
    """
    names = tuple(endpoint.inputs)

    def call(*tensors):
        outputs = endpoint.function(**dict(zip(names, tensors, strict=True)))
        if not isinstance(outputs, dict) or set(outputs) != set(endpoint.outputs):
            received = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ExportError(
                f"The endpoint's function must return a dict with the keys "
                f"{sorted(endpoint.outputs)}. Received: {received}"
            )
        return {
            name: _checked(name, outputs[name], spec) for name, spec in endpoint.outputs.items()
        }

    return call


def trace(call, endpoint, **options):
    """Traces `call` with a free batch axis; returns a concrete function.

    Args:
        call: Function of positional tensors.
        endpoint: `kgen.Endpoint` whose inputs `call` takes.
        **options: For `tf.function`.
    """
    signature = [
        tf.TensorSpec((None, *spec.shape), spec.dtype, name=name)
        for name, spec in endpoint.inputs.items()
    ]
    # Autograph would rewrite Python that is already written for graphs.
    traced = tf.function(call, autograph=False, **options)
    concrete = traced.get_concrete_function(*signature)
    for captured in concrete.captured_inputs:
        if captured.dtype != tf.resource:
            raise ExportError(
                f"The endpoint's function uses an eager tensor of shape {tuple(captured.shape)} "
                f"and dtype {captured.dtype.name}, which ONNX would ask its caller for. "
                f"Keep constant tables as NumPy arrays or as weights."
            )
    return concrete


def _checked(name, tensor, spec):
    tensor = tf.convert_to_tensor(tensor)
    shape = tf.TensorShape((None, *spec.shape))
    if tensor.dtype.name != spec.dtype or not tensor.shape.is_compatible_with(shape):
        raise ExportError(
            f"Output '{name}' must be {spec.dtype} {shape}. "
            f"Received: {tensor.dtype.name} {tensor.shape}"
        )
    # A copy of its own for every output: one tensor under two names would lose one of them.
    tensor = tf.identity(tensor)
    tensor.set_shape(shape)
    return tensor
