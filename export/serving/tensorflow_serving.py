"""TensorFlow Serving's REST API: status, metadata and predict, in its shapes and its words.

https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import binascii

from export.serving.errors import bad
from export.serving.http import Routes, json_response, parsed

routes = Routes("TensorFlow Serving")

_DTYPES = {
    "uint8": "DT_UINT8",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "uint32": "DT_UINT32",
    "float32": "DT_FLOAT",
}
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "signature_name": {"type": "string", "default": "serving_default"},
                    "instances": {"type": "array", "items": {}},
                    "inputs": {},
                },
            },
            "example": {"signature_name": "image_bytes", "instances": [{"seed": 7}]},
        }
    },
}


def _at(suffix=""):
    """The paths of a model, of its versions and of their labels."""
    model = "/v1/models/{name:name}"
    places = (model, f"{model}/versions/{{version:name}}", f"{model}/labels/{{label:name}}")
    return [place + suffix for place in places]


@routes.add("GET", *_at(), summary="Status of a model's versions")
async def status(request):
    service, asked = request.scope["service"], request.path_params
    version = service.find(asked["name"], asked.get("version"), asked.get("label"))
    versions = [version]
    if "version" not in asked and "label" not in asked:
        versions = [v for _, v in sorted(service.models[version.name].items(), reverse=True)]
    return json_response(
        {
            "model_version_status": [
                {
                    "version": str(v.number),
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
                for v in versions
            ]
        }
    )


@routes.add("GET", *_at("/metadata"), summary="Signatures of a model")
async def metadata(request):
    service, asked = request.scope["service"], request.path_params
    version = service.find(asked["name"], asked.get("version"), asked.get("label"))
    return json_response(
        {
            "model_spec": {
                "name": version.name,
                "signature_name": "",
                "version": str(version.number),
            },
            "metadata": {
                "signature_def": {
                    "signature_def": {
                        name: {
                            "inputs": _tensors(version, signature, "inputs"),
                            "outputs": _tensors(version, signature, "outputs"),
                            "method_name": "tensorflow/serving/predict",
                        }
                        for name, signature in version.signatures.items()
                    }
                }
            },
        }
    )


def _tensors(version, signature, side):
    described = {}
    for name, own in getattr(signature, side).items():
        spec = version.endpoints[signature.endpoint][side][own]
        shape = spec["shape"] if name == own else spec["shape"][:1]
        sizes = [{"size": "-1" if isinstance(s, str) else str(s), "name": ""} for s in shape]
        described[name] = {
            "dtype": _DTYPES[spec["dtype"]] if name == own else "DT_STRING",
            "tensor_shape": {"dim": sizes, "unknown_rank": False},
            "name": f"{name}:0",
        }
    return described


@routes.add("POST", *_at(":predict"), summary="Outputs of a signature", requestBody=_BODY)
async def predict(request):
    service, asked = request.scope["service"], request.path_params
    version = service.find(asked["name"], asked.get("version"), asked.get("label"))
    body = parsed(await request.body())
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise bad('The body should be an object with either "instances" or "inputs".')
    if unknown := set(body) - {"signature_name", "instances", "inputs"}:
        raise bad(f"There is no field {min(unknown)[:100]!r} in a request to predict.")
    name = body.get("signature_name", "serving_default")
    if not isinstance(name, str):
        raise bad("signature_name should be a string.")
    known = version.signatures.get(name)
    request.scope["kgen"].update(
        model=version.name,
        version=version.number,
        endpoint=known.endpoint if known else "",
        protocol="tensorflow_serving",
    )
    names = list(known.inputs) if known else []
    rows = "instances" in body
    inputs = _from_rows(body["instances"], names) if rows else _columns(body["inputs"], names)
    outputs = await service.predict(version, name, {k: _bytes(v) for k, v in inputs.items()})
    if rows:
        answer = {"predictions": _to_rows(outputs)}
    else:
        values = {key: _said(value) for key, value in outputs.items()}
        answer = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    return json_response(answer)


def _from_rows(instances, names):
    """`instances` as columns: each is an object, or the bare value of the only input."""
    if not isinstance(instances, list) or not instances:
        raise bad('"instances" should be a list of at least one row.')
    objects = [isinstance(row, dict) and set(row) != {"b64"} for row in instances]
    if not any(objects):
        if len(names) != 1:
            raise bad(f"Each instance should be an object with {', '.join(names)}.")
        return {names[0]: instances}
    keys = instances[0].keys() if objects[0] else None
    if not all(objects) or any(row.keys() != keys for row in instances):
        raise bad("All instances should be objects with the same keys.")
    return {key: [row[key] for row in instances] for key in keys}


def _columns(inputs, names):
    if isinstance(inputs, dict):
        return {k: v if isinstance(v, list) else [v] for k, v in inputs.items()}
    if len(names) != 1:
        raise bad(f'"inputs" should be an object with {", ".join(names)}.')
    return {names[0]: inputs if isinstance(inputs, list) else [inputs]}


def _bytes(values):
    """A column of `{"b64": ...}` as bytes; any other as it is."""
    if not (values and isinstance(values[0], dict)):
        return values
    decoded = []
    for value in values:
        if not (
            isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)
        ):
            raise bad('Bytes should be {"b64": "..."} in every row.')
        try:
            decoded.append(base64.b64decode(value["b64"], validate=True))
        except (binascii.Error, ValueError, TypeError):
            raise bad("b64 holds what is no base64.") from None
    return decoded


def _said(column):
    """A column for JSON."""
    if isinstance(column, list):
        return [{"b64": base64.b64encode(value).decode()} for value in column]
    return column


def _to_rows(outputs):
    columns = {key: _said(value) for key, value in outputs.items()}
    if len(columns) == 1:
        return next(iter(columns.values()))
    size = len(next(iter(columns.values())))
    return [{key: column[i] for key, column in columns.items()} for i in range(size)]
