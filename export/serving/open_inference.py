"""The Open Inference Protocol, version 2, with the extension of binary tensors.

https://github.com/kserve/open-inference-protocol; the extension is Triton's
(extension_binary_data.md). A model `NAME` here is the endpoint `generate`, `NAME.ENDPOINT` any.
"""

import math

import numpy as np
import orjson
from starlette.responses import Response

import kgen
from export import manifest as schema
from export.calls import DATATYPES
from export.serving.errors import bad, not_found
from export.serving.http import Routes, json_response, parsed

routes = Routes("Open Inference Protocol v2")

_DTYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in DATATYPES.items()}
_HEADER = "inference-header-content-length"
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "parameters": {"type": "object"},
                    "inputs": {"type": "array", "items": {"type": "object"}},
                    "outputs": {"type": "array", "items": {"type": "object"}},
                },
            },
            "example": {
                "inputs": [{"name": "seed", "datatype": "INT32", "shape": [1], "data": [7]}]
            },
        }
    },
}


@routes.add("GET", "/v2", summary="The server")
async def server(request):
    return json_response(
        {"name": "kgen", "version": kgen.__version__, "extensions": ["binary_tensor_data"]}
    )


@routes.add("GET", "/v2/health/live", summary="Whether the server lives")
async def live(request):
    return json_response({"live": True})


@routes.add("GET", "/v2/health/ready", summary="Whether the server takes requests")
async def ready(request):
    return json_response({"ready": True})


def _find(request):
    """The version and the endpoint that a request's path names."""
    service, asked = request.scope["service"], request.path_params
    name, endpoint = asked["model"], None
    if name not in service.models:
        name, _, endpoint = name.rpartition(".")
    version = service.find(name or asked["model"], asked.get("version"))
    endpoint = schema.main(version.endpoints) if endpoint is None else endpoint
    if endpoint not in version.endpoints:
        there = ", ".join(version.endpoints)
        raise not_found(f"{name} has no endpoint {endpoint[:100]}; it has {there}.")
    return version, endpoint


def _at(suffix=""):
    """The paths of a model, of its versions too."""
    model = "/v2/models/{model:name}"
    return f"{model}{suffix}", f"{model}/versions/{{version:name}}{suffix}"


@routes.add("GET", *_at(), summary="Inputs and outputs of a model")
async def metadata(request):
    version, endpoint = _find(request)
    described = version.endpoints[endpoint]

    def tensors(specs):
        return [
            {
                "name": name,
                "datatype": DATATYPES[spec["dtype"]],
                "shape": [-1 if isinstance(side, str) else side for side in spec["shape"]],
            }
            for name, spec in specs.items()
        ]

    return json_response(
        {
            "name": request.path_params["model"],
            "versions": [str(n) for n in sorted(request.scope["service"].models[version.name])],
            "platform": version.runtime.platform,
            "inputs": tensors(described["inputs"]),
            "outputs": tensors(described["outputs"]),
        }
    )


@routes.add("GET", *_at("/ready"), summary="Whether a model takes requests")
async def model_ready(request):
    _find(request)
    return json_response({"name": request.path_params["model"], "ready": True})


@routes.add(
    "POST",
    *_at("/infer"),
    summary="Outputs of a model",
    requestBody=_BODY,
)
async def infer(request):
    version, endpoint = _find(request)
    details = request.scope["kgen"]
    details.update(
        model=version.name, version=version.number, endpoint=endpoint, protocol="open_inference"
    )
    body = await request.body()
    header, binary = _split(body, request.headers.get(_HEADER))
    asked = parsed(header)
    if not isinstance(asked, dict) or not isinstance(asked.get("inputs"), list):
        raise bad('The body should be an object with a list of "inputs".')
    inputs, begin = {}, 0
    for tensor in asked["inputs"]:
        name, array, size = _tensor(tensor, binary, begin)
        if name in inputs:
            raise bad(f"The input {name[:100]!r} is there twice.")
        inputs[name] = array
        begin += size
    if begin != len(binary):
        raise bad(f"{len(binary)} bytes follow the header, and inputs name {begin} of them.")
    specs = version.endpoints[endpoint]["inputs"]
    inputs = _as_in_triton(inputs, version.endpoints[endpoint])
    for name, array in inputs.items():
        if name in specs and array.dtype != np.dtype(specs[name]["dtype"]):
            wanted = DATATYPES[specs[name]["dtype"]]
            raise bad(f"{name} should be {wanted}. Received: {DATATYPES[array.dtype.name]}")
    wanted = _wanted(asked, version.endpoints[endpoint]["outputs"])
    outputs = await request.scope["service"].run(version, endpoint, inputs)
    return _answer(request, version, asked, wanted, outputs)


def _as_in_triton(inputs, described):
    """Inputs as Triton's models of `kgen deploy` have them, under their names and shapes here.

    There an input is `input_NAME` where an output is NAME, and a value for each row has the shape
    `[rows, 1]`.
    """
    named = {f"input_{name}": name for name in described["inputs"] if name in described["outputs"]}
    inputs = {
        named.get(name, name) if named.get(name) not in inputs else name: array
        for name, array in inputs.items()
    }
    scalars = {name for name, spec in described["inputs"].items() if len(spec["shape"]) == 1}
    return {
        name: array[:, 0] if name in scalars and array.shape[1:] == (1,) else array
        for name, array in inputs.items()
    }


def _split(body, length):
    """A body's JSON, and the bytes of tensors that follow it."""
    if length is None:
        return body, b""
    if not length.isascii() or not length.isdecimal() or int(length) > len(body):
        raise bad(f"{_HEADER} should be the number of bytes of the JSON. Received: {length[:100]}")
    return body[: int(length)], body[int(length) :]


def _tensor(tensor, binary, begin):
    """One input: its name, its array, and how many of the binary bytes it took."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise bad('Each input should be an object with a "name".')
    name, shape, datatype = tensor["name"], tensor.get("shape"), tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise bad(f"{name[:100]} needs a datatype of {', '.join(_DTYPES)}.")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 8
        or not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**31 for s in shape)
    ):
        raise bad(f"{name[:100]} needs a shape, a list of ints.")
    dtype, count = _DTYPES[datatype], math.prod(shape)
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if size != count * dtype.itemsize or begin + size > len(binary):
            raise bad(
                f"{name[:100]} of the shape {shape} has {count * dtype.itemsize} bytes. "
                f"Received: binary_data_size {str(size)[:30]}, {len(binary) - begin} bytes left"
            )
        array = np.frombuffer(binary, dtype, count, begin)
        return name, array.astype(dtype.newbyteorder("=")).reshape(shape), size
    if "data" not in tensor:
        raise bad(f'{name[:100]} has neither "data" nor binary_data_size.')
    return name, _of_list(name, tensor["data"], dtype, shape, count), 0


def _of_list(name, data, dtype, shape, count):
    """`data`, flat or nested, as an array."""
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):
        raise bad(f"{name[:100]}: data should be numbers, flat or in the shape.") from None
    kinds = "iu" if dtype.kind in "iu" else "iuf"
    if array.dtype.kind not in kinds or array.size != count:
        raise bad(f"{name[:100]}: data should be {count} numbers of its datatype.")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype.newbyteorder("="))
    if dtype.kind in "iu" and not (cast == array).all():
        ends = np.iinfo(dtype)
        raise bad(f"{name[:100]}: data should be {ends.min} to {ends.max}.")
    return cast.reshape(shape)


def _wanted(asked, outputs):
    """Names of the outputs to give, each with whether as bytes."""
    parameters = asked.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise bad('"parameters" should be an object.')
    binary = parameters.get("binary_data_output") is True
    if not asked.get("outputs"):
        return dict.fromkeys(outputs, binary)
    if not isinstance(asked["outputs"], list):
        raise bad('"outputs" should be a list.')
    wanted = {}
    for output in asked["outputs"]:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in outputs:
            raise bad(f"There is no output {str(name)[:100]!r}; there are {', '.join(outputs)}.")
        own = output.get("parameters") or {}
        wanted[name] = own.get("binary_data", binary) is True if isinstance(own, dict) else binary
    return wanted


def _answer(request, version, asked, wanted, outputs):
    described, parts = [], []
    for name, binary in wanted.items():
        array = outputs[name]
        tensor = {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if binary:
            parts.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = np.ascontiguousarray(array).ravel()
        described.append(tensor)
    answer = {
        "model_name": request.path_params["model"],
        "model_version": str(version.number),
        **({"id": asked["id"]} if isinstance(asked.get("id"), str) else {}),
        "outputs": described,
    }
    if not parts:
        return json_response(answer)
    header = orjson.dumps(answer, None, orjson.OPT_SERIALIZE_NUMPY)
    return Response(
        b"".join([header, *parts]),
        headers={_HEADER: str(len(header))},
        media_type="application/octet-stream",
    )
