"""From an endpoint, a Python function, to a TensorFlow graph."""

import contextlib
import dataclasses
import math

import numpy as np
import tensorflow as tf

from export.errors import ExportError
from export.manifest import WITH_OPTIONS, whole
from kgen.layers.conditioning import sizes_by_values


def publish(endpoints):
    """The endpoints as an artifact has them, by name.

    One whose inputs have defaults is there twice: by its own name without them, as runtimes ask
    for all inputs of a signature, and as `NAME_with_options` with all.
    """
    published = {}
    for name, endpoint in endpoints.items():
        required = {key: spec for key, spec in endpoint.inputs.items() if spec.default is None}
        published[name] = dataclasses.replace(endpoint, inputs=required)
        if len(required) < len(endpoint.inputs):
            inputs = required | endpoint.inputs  # the options stand last
            published[name + WITH_OPTIONS] = dataclasses.replace(endpoint, inputs=inputs)
    return published


def trace_all(published):
    """Functions of positional tensors by name, each graph traced once."""
    calls = {name: trace_endpoint(name, endpoint) for name, endpoint in whole(published).items()}
    for name in published.keys() - calls.keys():
        calls[name] = _by_default(calls[name + WITH_OPTIONS], published[name + WITH_OPTIONS])
    return calls


def _by_default(call, endpoint):
    """`call` without the options, which stand behind all other inputs."""
    defaults = [[s.default] for s in endpoint.inputs.values() if s.default is not None]
    return lambda *tensors: call(*tensors, *(tf.constant(d, "float32") for d in defaults))


def function(name, endpoint):
    """`endpoint` as a function of positional tensors, in the order of its inputs.

    What models leave open is settled here, alike in every format: a value outside of its input's
    range is taken as the nearest inside; one value of an option stands for all rows; inputs of
    unequal batch sizes are an error of the runtime; and a batch of none gives none. The outputs are
    checked against `endpoint.outputs` while the function is traced.
    """

    def call(*tensors):
        size = tf.shape(tensors[0])[0]
        tensors = [
            tensor if spec.default is None else for_all(tensor, size)
            for tensor, spec in zip(tensors, endpoint.inputs.values(), strict=True)
        ]
        # A row more, of zeros: of none, not every operator makes none.
        tensors = [_padded(tensor) for tensor in tensors]
        tensors = _of_one_batch(tensors, [name not in endpoint.unused for name in endpoint.inputs])
        tensors = [
            clipped(tensor[: tf.maximum(size, 1)], spec)
            for tensor, spec in zip(tensors, endpoint.inputs.values(), strict=True)
        ]
        outputs = endpoint.function(**dict(zip(endpoint.inputs, tensors, strict=True)))
        if not isinstance(outputs, dict) or set(outputs) != set(endpoint.outputs):
            received = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ExportError(
                f"Endpoint '{name}' must return a dict with the keys {sorted(endpoint.outputs)}. "
                f"Received: {received}"
            )
        return {
            key: _checked(f"Endpoint '{name}', output '{key}'", outputs[key], spec)[:size]
            for key, spec in endpoint.outputs.items()
        }

    return call


def _padded(tensor):
    # In int32, for LiteRT pads no uint8.
    wide = tf.cast(tensor, "int32") if tensor.dtype == tf.uint8 else tensor
    padded = tf.pad(wide, [[0, 1], *[[0, 0]] * (len(tensor.shape) - 1)])
    return tf.cast(padded, tensor.dtype)


def for_all(values, size):
    """The values of an option, of which one stands for all rows."""
    return tf.broadcast_to(values, [tf.where(tf.equal(tf.size(values), 1), size, tf.size(values))])


def _of_one_batch(tensors, used):
    """The tensors, one of which, that is `used`, now comes from a concatenation that refuses
    unequal batches.
    """
    if len(tensors) == 1:
        return tensors
    sizes = [math.inf if None in t.shape[1:] else math.prod(t.shape[1:]) for t in tensors]
    smallest = min((size, number) for number, size in enumerate(sizes) if used[number])[1]
    size = tensors[smallest].shape
    first = _column(tensors[smallest], sizes[smallest])
    columns = [first]
    columns += [
        tf.cast(_column(tensor, 1), first.dtype)
        for number, tensor in enumerate(tensors)
        if number != smallest
    ]
    if sizes[smallest] == math.inf:  # there is none but pictures of any size
        free = tf.shape(tensors[smallest])
        size = [-1, free[1], free[2], size[3]]
        width = tf.shape(first)[1]
    else:
        size, width = (-1, *size[1:]), sizes[smallest]
    tensors[smallest] = tf.reshape(tf.concat(columns, axis=1)[:, :width], size)
    return tensors


def _column(tensor, width):
    """Rows as vectors `[B, width]`: their first number where one is wanted, else all of them."""
    if width == 1:
        return tensor[(slice(None), *[0] * (len(tensor.shape) - 1))][:, None]
    return tf.reshape(tensor, (tf.shape(tensor)[0], -1 if width == math.inf else width))


def clipped(tensor, spec):
    """A tensor with every value inside of its range."""
    dtype = tensor.dtype
    limits = np.iinfo(dtype.as_numpy_dtype) if dtype.is_integer else np.finfo(dtype.as_numpy_dtype)
    low = limits.min if spec.minimum is None else spec.minimum
    high = limits.max if spec.maximum is None else spec.maximum
    if (low, high) == (limits.min, limits.max):
        return tensor
    # In int32, for not every runtime compares uint8.
    clipped = tf.cast(tensor, "int32") if dtype.is_integer and dtype.size < 4 else tensor
    if low > limits.min:
        clipped = tf.maximum(clipped, low)
    if high < limits.max:
        clipped = tf.minimum(clipped, high)
    return tf.cast(clipped, dtype)


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
    # Autograph would rewrite Python that is already written for graphs.
    traced = tf.function(call, autograph=False, **options)
    with contextlib.nullcontext() if options.get("jit_compile") else sizes_by_values():
        concrete = traced.get_concrete_function(*specs(endpoint, names))
    for captured in concrete.captured_inputs:
        if captured.dtype != tf.resource:
            raise ExportError(
                f"Endpoint '{name}' uses an eager tensor of shape {tuple(captured.shape)} and "
                f"dtype {captured.dtype.name}, which ONNX would ask its caller for. Keep "
                f"constant tables as NumPy arrays or as weights."
            )
    return concrete


def specs(endpoint, names=None):
    """A `tf.TensorSpec` for each input, in order, under its own name or its one of `names`."""
    return [
        tf.TensorSpec((None, *spec.shape), spec.dtype, name=names[key] if names else key)
        for key, spec in endpoint.inputs.items()
    ]


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
