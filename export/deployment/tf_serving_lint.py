"""What TensorFlow Serving would refuse in a folder that it is to mount, found before it does.

The few fields of its messages that are looked at are declared here by their own numbers, so that a
deployment is written and checked where TensorFlow cannot be imported.
"""

import pathlib
import re
import struct

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

#: TF Serving's own limit on the records of a warmup file.
MOST_WARMUP_RECORDS = 1000

_WARMUP = "assets.extra/tf_serving_warmup_requests"
_PREDICT = "tensorflow/serving/predict"

# message -> field -> (number in TensorFlow's and TF Serving's .proto files, type); [] is repeated,
# and a map is repeated messages of `key` and `value`.
_MESSAGES = {
    "Int64Value": {"value": (1, int)},
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "allowed_batch_sizes": (6, [int]),
    },
    "Specific": {"versions": (1, [int])},
    "VersionPolicy": {"specific": (102, "Specific")},
    "Label": {"key": (1, str), "value": (2, int)},
    "ModelConfig": {
        "name": (1, str),
        "base_path": (2, str),
        "model_platform": (4, str),
        "model_version_policy": (7, "VersionPolicy"),
        "version_labels": (8, ["Label"]),
    },
    "ModelConfigList": {"config": (1, ["ModelConfig"])},
    "ModelServerConfig": {"model_config_list": (1, "ModelConfigList")},
    "PrometheusConfig": {"enable": (1, bool), "path": (2, str)},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "Dim": {"size": (1, int)},
    "Shape": {"dim": (2, ["Dim"]), "unknown_rank": (3, bool)},
    "TensorInfo": {"name": (1, str), "dtype": (2, int), "tensor_shape": (3, "Shape")},
    "Tensor": {"key": (1, str), "value": (2, "TensorInfo")},
    "SignatureDef": {
        "inputs": (1, ["Tensor"]),
        "outputs": (2, ["Tensor"]),
        "method_name": (3, str),
    },
    "Signature": {"key": (1, str), "value": (2, "SignatureDef")},
    "Node": {"name": (1, str)},
    "Graph": {"node": (1, ["Node"])},
    "MetaInfo": {"tags": (4, [str])},
    "MetaGraph": {
        "meta_info_def": (1, "MetaInfo"),
        "graph_def": (2, "Graph"),
        "signature_def": (5, ["Signature"]),
    },
    "SavedModel": {"saved_model_schema_version": (1, int), "meta_graphs": (2, ["MetaGraph"])},
    "ModelSpec": {"name": (1, str), "signature_name": (3, str)},
    "TensorProto": {"dtype": (1, int), "tensor_shape": (2, "Shape")},
    "Input": {"key": (1, str), "value": (2, "TensorProto")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, ["Input"])},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def _declare():
    package = "kgen.tf_serving_lint"
    file = descriptor_pb2.FileDescriptorProto(name="lint.proto", package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            field = declared.field.add(name=key, number=number, label=1)
            if isinstance(kind, list):
                field.label, [kind] = 3, kind
            if isinstance(kind, str):
                field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                types = {int: field.TYPE_INT64, bool: field.TYPE_BOOL, str: field.TYPE_STRING}
                field.type = types[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _declare()


def check(folder):
    """Raises a `ValueError` that says what TF Serving would refuse in a deployment, all of it."""
    if found := [each.replace(f"{folder}/", "") for each in complaints(folder)]:
        raise ValueError("TF Serving would refuse this:\n" + "\n".join(found))


def complaints(folder):
    """One line for each thing that TF Serving would refuse in the folder of a deployment."""
    folder = pathlib.Path(folder)
    largest = yield from _batching(folder / "config/batching.config")
    yield from _monitoring(folder / "config/monitoring.config")
    file = folder / "config/models.config"
    config = yield from _text(file, "ModelServerConfig")
    if config is None:
        return
    models = config.model_config_list.config
    if not models:
        yield f"{file}: model_config_list holds no model"
    names = [model.name for model in models]
    for model in models:
        place = f"{file}: model '{model.name}'"
        if not re.fullmatch(r"[^/\s]+", model.name):
            yield f"{place}: its name does not stand in a URL"
        if names.count(model.name) > 1:
            yield f"{place} is there {names.count(model.name)} times"
        if model.model_platform != "tensorflow":
            yield f"{place}: model_platform should be tensorflow. Received: {model.model_platform}"
        if not model.base_path.startswith("/"):
            yield f"{place}: base_path should be absolute. Received: {model.base_path}"
        versions = list(model.model_version_policy.specific.versions)
        labels = [label.key for label in model.version_labels]
        for label in model.version_labels:
            if label.value not in versions:
                yield f"{place}: the label '{label.key}' is of version {label.value}, not served"
            if not label.key or labels.count(label.key) > 1:
                yield f"{place}: the label '{label.key}' is there {labels.count(label.key)} times"
        if not versions:
            yield f"{place}: no version is served"
        # Where the folder is mounted is its name here.
        base = folder / model.base_path.lstrip("/")
        for version in sorted(set(versions)):
            if version < 1 or not (base / str(version)).is_dir():
                yield f"{place}: version {version} has no folder {base / str(version)}"
            else:
                yield from _saved_model(base / str(version), largest)
        for path in sorted(base.iterdir()) if base.is_dir() else ():
            if not re.fullmatch(r"[1-9]\d{0,17}", path.name):
                yield f"{path}: a version's folder should be named by a number"


def _text(file, kind):
    """What a configuration file says, or `None`; fields that are not declared are passed over."""
    try:
        return text_format.Parse(
            file.read_text(encoding="utf-8"), _CLASSES[kind](), allow_unknown_field=True
        )
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        yield f"{file}: it cannot be read: {error}"
        return None


def _batching(file):
    """Gives the rows of a request at most, `None` where it cannot be said."""
    batching = yield from _text(file, "BatchingParameters")
    if batching is None:
        return None
    sizes, largest = list(batching.allowed_batch_sizes), batching.max_batch_size.value
    if sizes != sorted(set(sizes)) or not sizes or sizes[0] < 1:
        yield f"{file}: allowed_batch_sizes should be increasing, from 1. Received: {sizes}"
    elif sizes[-1] != largest:
        yield (
            f"{file}: the last of allowed_batch_sizes, {sizes[-1]}, should be max_batch_size, "
            + (f"{largest}")
        )
    for key in ("num_batch_threads", "max_enqueued_batches"):
        if batching.HasField(key) and getattr(batching, key).value < 1:
            yield f"{file}: {key} should be at least 1"
    if batching.batch_timeout_micros.value < 0:
        yield f"{file}: batch_timeout_micros should be at least 0"
    return largest


def _monitoring(file):
    monitoring = yield from _text(file, "MonitoringConfig")
    if monitoring is not None:
        path = monitoring.prometheus_config.path
        if path and not path.startswith("/"):
            yield f"{file}: path should begin with /. Received: {path}"


def _saved_model(folder, largest):
    file = folder / "saved_model.pb"
    try:
        saved = _CLASSES["SavedModel"].FromString(file.read_bytes())
    except (OSError, message.DecodeError) as error:
        yield f"{file}: it cannot be read: {error}"
        return
    tags = [list(graph.meta_info_def.tags) for graph in saved.meta_graphs]
    if ["serve"] not in tags:
        yield f"{file}: it has no graph with the tag serve. Received: {tags}"
        return
    graph = saved.meta_graphs[tags.index(["serve"])]
    nodes = {node.name for node in graph.graph_def.node}
    signatures = {each.key: each.value for each in graph.signature_def}
    if "serving_default" not in signatures:
        yield f"{file}: it has no signature serving_default"
    for name, signature in signatures.items():
        if name.startswith("__"):  # of the loader's own
            continue
        if signature.method_name != _PREDICT:
            yield f"{file}: signature '{name}': its method is {signature.method_name or 'empty'}"
        for tensor in (*signature.inputs, *signature.outputs):
            if tensor.value.dtype == 0 or tensor.value.name.partition(":")[0] not in nodes:
                yield f"{file}: signature '{name}': {tensor.key} is no tensor of the graph"
    variables = sorted((folder / "variables").glob("variables.data-*"))
    index = folder / "variables/variables.index"
    if index.is_file() != bool(variables):
        yield f"{index} and variables.data-* should be there together"
    elif variables:
        count = int(variables[0].name.rpartition("-")[2])
        if len(variables) != count:
            yield f"{index}: {count} files of variables should be there, and are {len(variables)}"
    yield from _warmup(folder / _WARMUP, signatures, largest)


def _warmup(file, signatures, largest):
    if not file.is_file():
        return
    count = 0
    try:
        for record in _records(file.read_bytes()):
            count += 1
            request = _CLASSES["PredictionLog"].FromString(record).predict_log.request
            yield from _request(f"{file}: record {count}", request, signatures, largest)
    except (struct.error, message.DecodeError) as error:
        yield f"{file}: record {count + 1} cannot be read: {error}"
    if count > MOST_WARMUP_RECORDS:
        yield f"{file}: it has {count} records; TF Serving takes {MOST_WARMUP_RECORDS}"


def _records(data):
    """The records of a TFRecord file, whose sums are left to the hashes of the artifact."""
    start = 0
    while start < len(data):
        (size,) = struct.unpack_from("<Q", data, start)
        struct.unpack_from("<I", data, start + 12 + size)  # its end is there
        yield data[start + 12 : start + 12 + size]
        start += 16 + size


def _request(place, request, signatures, largest):
    name = request.model_spec.signature_name or "serving_default"
    if name not in signatures:
        yield f"{place}: there is no signature '{name}'"
        return
    wanted = {tensor.key: tensor.value for tensor in signatures[name].inputs}
    given = {tensor.key: tensor.value for tensor in request.inputs}
    if given.keys() != wanted.keys():
        yield f"{place}: '{name}' takes {', '.join(wanted)}. Received: {', '.join(given)}"
        return
    for key, tensor in given.items():
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        own = [dim.size for dim in wanted[key].tensor_shape.dim]
        fits = len(shape) == len(own) and all(b in (-1, a) for a, b in zip(shape, own, strict=True))
        if tensor.dtype != wanted[key].dtype or not fits:
            yield f"{place}: {key} of '{name}' should be of the shape {own}. Received: {shape}"
        elif largest is not None and shape[:1] > [largest]:
            yield f"{place}: it has {shape[0]} rows, and max_batch_size is {largest}"
