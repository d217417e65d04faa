"""A client of servers of artifacts: `kgen serve`, TensorFlow Serving, Triton and KServe."""

import base64
import io
import json
import random
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from export import manifest as schema
from export.serving.errors import ServingError

#: Rows of a request where nobody chose; a server that takes less says so, and gets less.
BATCH_SIZE = 64

#: How servers say what they take: `kgen serve`, TensorFlow Serving, Triton.
_LIMIT = re.compile(
    r"(?:at most (?=\d+ rows)|maximum input batch size |batch-size must be <= )(\d+)"
)


class Client:
    """Calls a served model, and gives arrays.

    Requests of many rows are split into several. What a server refuses for a moment (429 and 503;
    RESOURCE_EXHAUSTED and UNAVAILABLE) or does not answer, as when it is started anew, is asked for
    again, after `Retry-After` where the server says it: endpoints have no state, so that a second
    answer is the first.

    Args:
        address: String, such as `"http://127.0.0.1:8501"`; of gRPC `"127.0.0.1:8500"`, with
            `grpcs://` before it for TLS.
        protocol: `"rest"`, TensorFlow Serving's REST API with pictures as PNG; `"grpc"`, its gRPC
            API, which needs `pip install 'kgen[grpc]'`; `"v2"`, the Open Inference Protocol with
            binary tensors, where the server has these.
        model: String, the model's name; `None` for the only one, where the server lists its models.
        version: Int, the model's version; `None` for the newest.
        label: String, the version's label in TensorFlow Serving, in place of `version`.
        token: String, the bearer token that the server asks for.
        timeout: Float, seconds that a request has, with all its tries.
        retries: Int, further tries at most.
        batch_size: Int, rows of a request at most; `None` for 64, or what the server takes.

    Example:

    >>> client = export.serving.Client("http://127.0.0.1:8501")
    >>> client.generate(seeds=range(100), labels=3, temperature=0.5).shape
    (100, 28, 28, 1)
    """

    def __init__(
        self,
        address: str,
        protocol: str = "rest",
        *,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        batch_size: int | None = None,
    ) -> None:
        if protocol not in ("rest", "grpc", "v2"):
            raise ValueError(f"protocol must be 'rest', 'grpc' or 'v2'. Received: {protocol!r}")
        if version is not None and label is not None:
            raise ValueError(f"Give one of version and label. Received: {version!r} and {label!r}")
        if label is not None and protocol == "v2":
            raise ValueError("The Open Inference Protocol has no labels: give a version.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {batch_size}")
        retry = _Retry(timeout, retries)
        if protocol == "grpc":
            from export.serving import grpc_client

            self._server: Any = grpc_client.Server(address, token, retry)
        else:
            kind = _Rest if protocol == "rest" else _OpenInference
            self._server = kind(_Http(address, token, retry))
        self._model, self._place = model, {"version": version, "label": label}
        self._batch_size = batch_size
        self._limits: dict[str, Any] = {}
        self._known: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._server.close()

    @property
    def model(self) -> str:
        """The name of the model that is called."""
        if self._model is None:
            names = list(self.models())
            if len(names) != 1:
                raise ValueError(
                    f"Say which model, with model=...; the server has: {', '.join(names) or 'none'}"
                )
            self._model = names[0]
        return self._model

    def models(self) -> dict[str, list[int]]:
        """Dict of the names of models to lists of their versions.

        TensorFlow Serving does not list its models: there it is of `model` alone.
        """
        listed = self._server.models()
        if listed is None:
            if self._model is None:
                raise ServingError("This server does not list its models: give model=...")
            listed = {self._model: self._server.versions(self._model)}
        return listed

    def metadata(self, endpoint: str = "generate") -> dict[str, Any]:
        """What an endpoint takes and gives, as the server says: a dict of `inputs` and `outputs`,
        each a dict of names to `dtype` and `shape`, whose first side is -1.
        """
        if endpoint not in self._known:
            self._known[endpoint] = self._server.metadata(self.model, endpoint, **self._place)
        return self._known[endpoint]

    def generate(
        self,
        seeds: Iterable[int],
        labels: int | Sequence[int] | np.ndarray | None = None,
        *,
        endpoint: str = "generate",
        **options: Any,
    ) -> np.ndarray:
        """Images, uint8 `[N, H, W, C]`, one for each seed.

        Args:
            seeds: Sequence of N ints from 0 to 2**31 - 1; the same seed gives the same image.
            labels: Int, or one for each seed, of a model that has classes.
            endpoint: String, a variant of the sampler that the artifact has.
            **options: Those of sampling, such as `temperature`: a number, or one for each seed.
        """
        labels = {} if labels is None else {"label": labels}
        return self.call(endpoint, seed=list(seeds), **labels, **options)["image"]

    def call(self, endpoint: str, /, **inputs: Any) -> dict[str, np.ndarray]:
        """Outputs of an endpoint, a dict of arrays, for its inputs by name.

        Images are uint8 `[N, H, W, C]`, masks `[N, H, W]` of 0 and 1. One row, or a value without
        an axis of rows, stands for all. With options of sampling among the inputs it is the
        endpoint `..._with_options` that is called.

        Raises:
            ValueError: Inputs that the endpoint does not have, or not of such shapes and dtypes.
            ServingError: What the server says where it refuses or fails.
        """
        name, described = self._find(endpoint, inputs)
        arrays = _rows({key: _array(key, described["inputs"][key], v) for key, v in inputs.items()})
        count = len(next(iter(arrays.values())))
        parts, start = [], 0
        while start < count:
            size = self._batch_size or self._limits.get(name, BATCH_SIZE)
            batch = {key: array[start : start + size] for key, array in arrays.items()}
            try:
                parts.append(self._server.call(self.model, name, described, batch, **self._place))
            except ServingError as error:
                told = _LIMIT.search(str(error))
                if self._batch_size or not told or not 0 < int(told[1]) < size:
                    raise
                self._limits[name] = int(told[1])
                continue
            start += size
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _find(self, endpoint, inputs):
        """The endpoint that takes these inputs: its name, and what it takes and gives."""
        described = self.metadata(endpoint)
        if not inputs:
            raise ValueError(f"{endpoint} takes {', '.join(described['inputs'])}. Received: none")
        if not inputs.keys() - described["inputs"].keys():
            return endpoint, described
        try:
            name = endpoint + schema.WITH_OPTIONS
            with_options = self.metadata(name)
        except ServingError:
            with_options = described
        if unknown := inputs.keys() - with_options["inputs"].keys():
            raise ValueError(
                f"{self.model}'s {endpoint} takes {', '.join(with_options['inputs'])}. "
                f"Received: {', '.join(sorted(unknown))}"
            )
        return name, with_options


def _array(name, spec, value):
    """An input as an array of its dtype and of its rank, with one row where it had no rows."""
    array, dtype = np.asarray(value), np.dtype(spec["dtype"])
    shape = tuple(spec["shape"][1:])
    if -1 in shape and array.ndim in (len(shape), len(shape) + 1):  # of any height and width
        own = array.shape[-len(shape) :]
        shape = tuple(o if side == -1 else side for side, o in zip(shape, own, strict=True))
    if shape == (1,) and array.ndim == 1:  # numbers as Triton has them
        array = array[:, None]
    if array.ndim == 0 and shape in ((), (1,)):
        array = array.reshape(1, *shape)
    elif array.ndim == len(shape):
        array = array[None]
    if array.ndim == 0 or array.shape[1:] != shape:
        raise ValueError(
            f"{name} must have the shape {('rows', *shape)}. Received: {array.shape}".replace(
                "'rows'", "rows"
            )
        )
    if dtype.kind == "f":
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{name} must be numbers. Received: {array.dtype}")
        return array.astype(dtype)
    ends = np.iinfo(dtype)
    if array.size and not (
        array.dtype.kind in "iu" and ends.min <= array.min() and array.max() <= ends.max
    ):
        raise ValueError(
            f"{name} must be integers from {ends.min} to {ends.max}. Received: "
            f"{array.dtype}, {np.array2string(array.ravel(), threshold=4, edgeitems=2)}"
        )
    return array.astype(dtype)


def _rows(arrays):
    """Arrays of as many rows as one another: one row stands for all."""
    sizes = {name: len(array) for name, array in arrays.items()}
    count = max(sizes.values()) if 0 not in sizes.values() else 0
    if count == 0 or not set(sizes.values()) <= {1, count}:
        said = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(f"Inputs must have the same number of rows, at least 1. Received: {said}")
    return {
        name: np.broadcast_to(array, (count, *array.shape[1:])) for name, array in arrays.items()
    }


class _Retry:
    """Tries again what may be tried again, in the time that there is."""

    def __init__(self, timeout, retries):
        self.timeout, self.retries = timeout, retries

    def __call__(self, attempt):
        """What `attempt` returns, a callable of the seconds that are left: a result, or an error to
        raise with the seconds after which it may be tried again, `None` for the usual ones.
        """
        deadline = time.monotonic() + self.timeout
        for number in range(self.retries + 1):
            done, result, after = attempt(max(0.001, deadline - time.monotonic()))
            if done:
                return result
            # Longer and longer, and not all clients at once.
            pause = after if after is not None else 0.1 * 2**number
            pause *= random.uniform(1.0, 1.25)
            if number == self.retries or time.monotonic() + pause >= deadline:
                raise result
            time.sleep(pause)


class _Http:
    """Requests over HTTP, with a token and further tries."""

    def __init__(self, address, token, retry):
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise ImportError(
                "A client over HTTP needs httpx: pip install 'kgen[client]'"
            ) from error
        if not re.match(r"https?://.", address):
            raise ValueError(f"address must begin with http:// or https://. Received: {address!r}")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._httpx, self._retry = httpx, retry
        self._client = httpx.Client(base_url=address, headers=headers, timeout=retry.timeout)

    def close(self):
        self._client.close()

    def send(self, method, path, content=None, headers=None):
        """The response; `ServingError` with the server's own message where it is an error."""

        def attempt(seconds):
            try:
                response = self._client.request(
                    method, path, content=content, headers=headers, timeout=seconds
                )
            except self._httpx.TimeoutException:
                where = f"{method} {self._client.base_url.join(path)}"
                said = f"No answer within {self._retry.timeout:g} s: {where}"
                raise ServingError(said) from None
            except self._httpx.TransportError as error:
                where = self._client.base_url.join(path)
                return False, ServingError(f"No answer from {where}: {error}"), None
            if response.is_success:
                return True, response, None
            error = ServingError(_said(response), response.status_code)
            if response.status_code not in (429, 503):
                raise error
            return False, error, _seconds(response.headers.get("retry-after"))

        return self._retry(attempt)

    def json(self, method, path, content=None, headers=None):
        return _parsed(self.send(method, path, content, headers), path)


def _parsed(response, path):
    try:
        return response.json()
    except ValueError:
        raise ServingError(f"{path}: the answer is no JSON.", response.status_code) from None


def _seconds(text):
    """`Retry-After` in seconds; its other form, a date, counts as none."""
    return float(text) if text and re.fullmatch(r"\d{1,6}", text) else None


def _said(response):
    """What a server says of an error: every one of them in `error`, KServe also in `detail`."""
    try:
        body = response.json()
        said = next(body[key] for key in ("error", "detail", "message") if body.get(key))
    except (ValueError, StopIteration, AttributeError):
        said = response.text[:500].strip() or response.reason_phrase
    request = response.request
    return f"{said} ({request.method} {request.url.path}: {response.status_code})"


def _kgen_models(http):
    """The models that `kgen serve` lists; `None` of another server."""
    try:
        listed = http.json("GET", "models.json")
        return {model["name"]: list(model["versions"]) for model in listed["models"]}
    except ServingError as error:
        if error.status in (401, 403, None):
            raise
    except (KeyError, TypeError):
        pass
    return None


#: Names of dtypes in TensorFlow, and in the Open Inference Protocol.
TENSORFLOW = {
    "DT_UINT8": "uint8",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT32": "uint32",
    "DT_FLOAT": "float32",
    "DT_STRING": "object",
}
_V2 = {"UINT8": "uint8", "INT32": "int32", "INT64": "int64", "UINT32": "uint32", "FP32": "float32"}


class _Rest:
    """TensorFlow Serving's REST API, with pictures as PNG where the model has such signatures."""

    def __init__(self, http):
        self._http, self._signatures = http, {}
        self.close = http.close

    def models(self):
        return _kgen_models(self._http)

    def versions(self, model):
        status = self._http.json("GET", f"v1/models/{model}")["model_version_status"]
        return sorted(int(each["version"]) for each in status if each["state"] == "AVAILABLE")

    def metadata(self, model, endpoint, version, label):
        if not self._signatures:
            path = _path(model, version, label) + "/metadata"
            found = self._http.json("GET", path)["metadata"]["signature_def"]["signature_def"]
            self._signatures.update(found)
        if endpoint not in self._signatures:
            raise ServingError(
                f"{model} has no signature {endpoint}; it has {', '.join(self._signatures)}.", 404
            )
        signature = self._signatures[endpoint]
        return {
            side: {
                name: {
                    "dtype": TENSORFLOW.get(tensor["dtype"], tensor["dtype"]),
                    "shape": [int(dim["size"]) for dim in tensor["tensor_shape"].get("dim", [])],
                }
                for name, tensor in signature.get(side, {}).items()
            }
            for side in ("inputs", "outputs")
        }

    def call(self, model, endpoint, described, arrays, version, label):
        png = schema.png_signature(endpoint)
        known = self._signatures.get(png, {})
        given = {}
        for name, array in arrays.items():
            key = schema.png_name(name)
            if key in known.get("inputs", {}):
                given[key] = [{"b64": base64.b64encode(p).decode()} for p in _encoded(array)]
            else:
                given[name] = array.tolist()
        signature = png if known else endpoint
        body = json.dumps({"signature_name": signature, "inputs": given}, allow_nan=False)
        path = _path(model, version, label) + ":predict"
        headers = {"content-type": "application/json"}
        values = self._http.json("POST", path, body, headers)["outputs"]
        outputs = known.get("outputs", described["outputs"])
        if len(outputs) == 1:  # the only output comes without its name
            values = {next(iter(outputs)): values}
        return {
            name: _decoded(values[schema.png_name(name)], spec)
            if schema.png_name(name) in outputs
            else _shaped(np.array(values[name], spec["dtype"]), spec)
            for name, spec in described["outputs"].items()
        }


def _path(model, version, label):
    place = f"/versions/{version}" if version is not None else ""
    return f"v1/models/{model}{place or (f'/labels/{label}' if label is not None else '')}"


def _encoded(array):
    """Images `[N, H, W, C]`, or masks `[N, H, W]`, as PNG, with masks white where they are 1."""
    from kgen.images import encode_png

    return [encode_png(row if row.ndim == 3 else 255 * (row > 0).astype("uint8")) for row in array]


def _decoded(values, spec):
    """Images, or masks, from PNG in base64."""
    import PIL.Image

    shape = tuple(spec["shape"][1:])
    rows = []
    for value in values:
        with PIL.Image.open(io.BytesIO(base64.b64decode(value["b64"])), formats=("PNG",)) as png:
            rows.append(np.asarray(png))
    array = np.stack(rows)
    if len(shape) == 2:
        return (array > 127).astype("uint8").reshape(-1, *shape)
    return _shaped(array, spec)


def _shaped(array, spec):
    """Rows in the shape that is told of them, where they may have lost an axis of one."""
    shape = spec["shape"][1:]
    if -1 in shape:
        return array.reshape(*array.shape[:3], shape[-1])
    return array.reshape(-1, *shape)


class _OpenInference:
    """The Open Inference Protocol, version 2.

    Of its binary extension a client needs what stands here, some dozen lines; `tritonclient` brings
    an HTTP library of its own for it, and neither reads `Retry-After` nor knows more dtypes.
    """

    def __init__(self, http):
        self._http, self._binary, self._names = http, None, {}
        self.close = http.close

    def models(self):
        listed = _kgen_models(self._http)
        if listed is None:  # Triton's extension, in which every endpoint is a model
            try:
                found = self._http.json("POST", "v2/repository/index", "{}")
            except ServingError:
                return None
            names, listed = {model["name"] for model in found}, {}
            for model in found:
                parts = model["name"].split(".")
                own = not any(".".join(parts[:size]) in names for size in range(1, len(parts)))
                # What is not loaded has no version there, or another state.
                if own and model.get("version") and model.get("state", "READY") == "READY":
                    listed.setdefault(model["name"], []).append(int(model["version"]))
        return listed

    def versions(self, model):
        return [int(v) for v in self._http.json("GET", f"v2/models/{model}").get("versions", [])]

    def metadata(self, model, endpoint, version, label):
        found = self._http.json("GET", _v2_path(model, endpoint, version))
        outputs = {tensor["name"] for tensor in found["outputs"]}
        # In a graph no output has the name of an input, so that there `image` is `input_image`.
        own = {
            tensor["name"].removeprefix("input_"): tensor["name"]
            for tensor in found["inputs"]
            if tensor["name"].removeprefix("input_") in outputs
        }
        self._names[endpoint] = own
        shown = {name: key for key, name in own.items()}
        return {
            side: {
                shown.get(tensor["name"], tensor["name"]) if side == "inputs" else tensor["name"]: {
                    "dtype": _V2.get(tensor["datatype"], tensor["datatype"]),
                    "shape": [int(size) for size in tensor["shape"]],
                }
                for tensor in found[side]
            }
            for side in ("inputs", "outputs")
        }

    def call(self, model, endpoint, described, arrays, version, label):
        if self._binary is None:
            extensions = self._http.json("GET", "v2").get("extensions", [])
            self._binary = "binary_tensor_data" in extensions
        inputs, parts = [], []
        for name, array in arrays.items():
            tensor = {
                "name": self._names[endpoint].get(name, name),
                "shape": list(array.shape),
                "datatype": next(key for key, dtype in _V2.items() if dtype == array.dtype.name),
            }
            if self._binary:
                parts.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
                tensor["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                tensor["data"] = array.ravel().tolist()
            inputs.append(tensor)
        asked = {"inputs": inputs}
        headers = {"content-type": "application/json"}
        if self._binary:
            asked["parameters"] = {"binary_data_output": True}
        head = json.dumps(asked, allow_nan=False).encode()
        if self._binary:
            headers = {
                "content-type": "application/octet-stream",
                "inference-header-content-length": str(len(head)),
            }
        path = _v2_path(model, endpoint, version) + "/infer"
        response = self._http.send("POST", path, b"".join([head, *parts]), headers)
        return _v2_outputs(response, path)


def _v2_path(model, endpoint, version):
    name = model if endpoint == "generate" else f"{model}.{endpoint}"
    return f"v2/models/{name}" + (f"/versions/{version}" if version is not None else "")


def _v2_outputs(response, path):
    length = response.headers.get("inference-header-content-length")
    if length is None:
        described, begin = _parsed(response, path), 0
    else:
        begin = int(length)
        described = json.loads(response.content[:begin])
    arrays = {}
    for tensor in described["outputs"]:
        dtype = np.dtype(_V2[tensor["datatype"]])
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(tensor["data"], dtype)
        else:
            data = response.content[begin : begin + size]
            array, begin = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype), begin + size
        arrays[tensor["name"]] = array.reshape(tensor["shape"])
    return arrays
