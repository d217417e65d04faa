"""TensorFlow Serving's gRPC messages, and arrays in them."""

import math

import numpy as np

try:
    import grpc
    import tensorflow as tf
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ModuleNotFoundError as error:
    raise ImportError(f"gRPC needs {error.name}: pip install 'kgen[grpc]'") from error

__all__ = [
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "grpc",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
]

#: NumPy's names of dtypes by TensorFlow's numbers; strings are "object".
DTYPES = {
    types_pb2.DT_UINT8: "uint8",
    types_pb2.DT_INT32: "int32",
    types_pb2.DT_INT64: "int64",
    types_pb2.DT_UINT32: "uint32",
    types_pb2.DT_FLOAT: "float32",
    types_pb2.DT_STRING: "object",
}
NUMBERS = {name: number for number, name in DTYPES.items()}


def to_proto(values):
    """A `TensorProto` of an array, or of a list of bytes."""
    if isinstance(values, list):
        return tf.make_tensor_proto(values, tf.string, [len(values)])
    return tf.make_tensor_proto(values)


def from_proto(tensor, largest):
    """The array in a `TensorProto`, or its list of bytes; `ValueError` where there is none.

    A tensor of one value may claim any shape, so it is held to `largest` bytes before it is made.
    """
    if tensor.dtype not in DTYPES:
        known = ", ".join(types_pb2.DataType.Name(number) for number in DTYPES)
        raise ValueError(f"should have a dtype of {known}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError("should have a shape that is known")
    count = math.prod(shape)
    if tensor.dtype == types_pb2.DT_STRING:
        if len(shape) != 1 or len(tensor.string_val) != count:
            raise ValueError("should have the shape [rows], and a string for each row")
        return list(tensor.string_val)
    if count * np.dtype(DTYPES[tensor.dtype]).itemsize > largest:
        raise ValueError(f"should have at most {largest} bytes")
    try:
        return tf.make_ndarray(tensor)
    except (ValueError, TypeError):
        raise ValueError(f"has not the values of the shape {shape}") from None
