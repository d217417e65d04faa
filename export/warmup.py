"""Warmup requests for TF Serving, which replays them before it lets the first client in.

The file is a TFRecord of `tensorflow.serving.PredictionLog` messages. Of the dozens of fields
that tensorflow-serving-api brings along for these, five messages with seven fields are needed.
They are declared here under a package name of their own, so that they never collide with the
real ones; on the wire a message has no name, only field numbers.
"""

import itertools
import pathlib

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

#: TF Serving refuses a model with more.
MOST = 1000
PATH = "assets.extra/tf_serving_warmup_requests"

_PACKAGE = "kgen.warmup"
_TENSOR = ".tensorflow.TensorProto"
_OPTIONAL, _REPEATED = 1, 3

# message -> field -> (number in TF Serving's own .proto files, type, label)
_MESSAGES = {
    "ModelSpec": {"name": (1, str, _OPTIONAL), "signature_name": (3, str, _OPTIONAL)},
    "Input": {"key": (1, str, _OPTIONAL), "value": (2, _TENSOR, _OPTIONAL)},
    "PredictRequest": {
        "model_spec": (1, f".{_PACKAGE}.ModelSpec", _OPTIONAL),
        # A protobuf map is on the wire a repeated message of `key` and `value`.
        "inputs": (2, f".{_PACKAGE}.Input", _REPEATED),
    },
    "PredictLog": {"request": (1, f".{_PACKAGE}.PredictRequest", _OPTIONAL)},
    "PredictionLog": {"predict_log": (6, f".{_PACKAGE}.PredictLog", _OPTIONAL)},
}


def _declare():
    file = descriptor_pb2.FileDescriptorProto(
        name="kgen/warmup.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["tensorflow/core/framework/tensor.proto"],
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind, label) in fields.items():
            field = message.field.add(name=field_name, number=number, label=label)
            if kind is str:
                field.type = field.TYPE_STRING
            else:
                field.type, field.type_name = field.TYPE_MESSAGE, kind
    pool = descriptor_pool.Default()
    pool.Add(file)
    name = f"{_PACKAGE}.PredictionLog"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


PredictionLog = _declare()


def write(folder, model_name, requests):
    """Writes warmup requests into the version folder of a SavedModel, such as `saved_model/1`.

    `model_name` is the name under which TF Serving will serve the model, `requests` are tuples
    `(signature name, dict of input name to array)`, of which the first `MOST` are written.
    """
    path = pathlib.Path(folder) / PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in itertools.islice(requests, MOST):
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            for name, array in inputs.items():
                entry = request.inputs.add(key=name)
                entry.value.CopyFrom(tf.make_tensor_proto(array))
            writer.write(log.SerializeToString())
