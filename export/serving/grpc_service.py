"""TensorFlow Serving's gRPC API for a `Service`: PredictionService and ModelService.

Its messages are the real ones, of `tensorflow-serving-api`, which import TensorFlow.
"""

import hashlib
import hmac
import time

from export.serving import grpc_messages as messages
from export.serving.errors import RequestError, bad
from export.serving.grpc_messages import grpc

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


async def start(service, address, *, token=None, log=lambda entry: None):
    """Starts and returns a `grpc.aio.Server` of a loaded `Service`.

    Args:
        service: `export.serving.Service`.
        address: String, where to listen, such as `127.0.0.1:8500`.
        token: String, what clients must send as metadata `authorization: Bearer ...`, or `None`.
        log: Callable of a dict, one for each request.
    """
    limits = service.limits
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 2**16),
            ("grpc.so_reuseport", 0),  # a port that is taken is an error
        ],
        maximum_concurrent_rpcs=limits.connections,
    )
    answers = _Answers(service, token, log)
    messages.prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(answers), server
    )
    messages.model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        _ModelService(answers), server
    )
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} cannot be listened at: {error}") from error
    await server.start()
    return server


class _Answers:
    """What all methods have in common: who may ask, errors, the log."""

    def __init__(self, service, token, log):
        self.service, self._log = service, log
        self._token = None if token is None else _digest(token.encode())

    async def __call__(self, method, context, answer):
        """`await answer(details)`, with errors as gRPC has them; `details` is for the log."""
        start, details, failure = time.perf_counter(), {}, None
        code = 499  # where the client has gone
        try:
            self._check(context)
            answered = await answer(details)
            code = 200
            return answered
        except RequestError as error:
            code, failure = error.status, error
        except Exception as error:
            code, failure = 500, RequestError(500, "The server failed; its log has the reason.")
            details["error"] = f"{type(error).__name__}: {error}"
        finally:
            seconds = time.perf_counter() - start
            if details.get("model"):
                self.service.metrics.answered(
                    details["model"], details.get("endpoint", ""), "grpc", code, seconds
                )
            entry = {"time": time.time(), "client": context.peer(), "method": method}
            self._log({**entry, "status": code, "ms": round(1000 * seconds, 3), **details})
        trailing = ()
        if failure.retry_after is not None:
            trailing = (("grpc-retry-pushback-ms", str(1000 * failure.retry_after)),)
        code = _CODES.get(code, grpc.StatusCode.INTERNAL)
        await context.abort(code, str(failure), trailing)

    def _check(self, context):
        if self._token is None:
            return
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        scheme, _, token = str(given).partition(" ")
        same = hmac.compare_digest(_digest(token.strip().encode()), self._token)
        if scheme.lower() != "bearer" or not same:
            raise RequestError(
                401, "This server asks for the metadata authorization: Bearer TOKEN."
            )

    def find(self, request):
        """The `Version` that a request's `model_spec` names."""
        if not request.HasField("model_spec"):
            raise bad("Missing ModelSpec")
        spec = request.model_spec
        if not spec.name:
            raise bad("ModelSpec has no name specified.")
        version = spec.version.value if spec.HasField("version") else None
        return self.service.find(spec.name, version, spec.version_label or None)


class _PredictionService(messages.prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, answers):
        self._answers = answers

    async def Predict(self, request, context):
        async def answer(details):
            service, version = self._answers.service, self._answers.find(request)
            name = request.model_spec.signature_name or "serving_default"
            if name not in version.signatures:  # in TensorFlow Serving's words, by its code
                raise RequestError(412, f'Serving signature key "{name[:100]}" not found.')
            known = version.signatures[name]
            details.update(model=version.name, version=version.number, endpoint=known.endpoint)
            inputs = {}
            for key, tensor in request.inputs.items():
                try:
                    inputs[key] = messages.from_proto(tensor, service.limits.body_bytes)
                except ValueError as error:
                    raise bad(f"{key[:100]} {error}.") from None
            wanted = _wanted(known, request.output_filter)
            outputs = await service.predict(version, name, inputs)
            response = messages.predict_pb2.PredictResponse()
            _described(response.model_spec, version, name)
            for key in wanted:
                response.outputs[key].CopyFrom(messages.to_proto(outputs[key]))
            return response

        return await self._answers("Predict", context, answer)

    async def GetModelMetadata(self, request, context):
        async def answer(details):
            if not request.metadata_field:
                raise bad("GetModelMetadataRequest must specify at least one metadata_field")
            if unknown := set(request.metadata_field) - {"signature_def"}:
                raise bad(f"Metadata field {min(unknown)[:100]} is not supported")
            version = self._answers.find(request)
            signatures = messages.get_model_metadata_pb2.SignatureDefMap()
            for name, signature in version.signatures.items():
                definition = signatures.signature_def[name]
                definition.method_name = "tensorflow/serving/predict"
                for side in ("inputs", "outputs"):
                    specs = version.endpoints[signature.endpoint][side]
                    for key, own in getattr(signature, side).items():
                        _describe(getattr(definition, side)[key], key, specs[own], key != own)
            response = messages.get_model_metadata_pb2.GetModelMetadataResponse()
            _described(response.model_spec, version)
            response.metadata["signature_def"].Pack(signatures)
            return response

        return await self._answers("GetModelMetadata", context, answer)


class _ModelService(messages.model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, answers):
        self._answers = answers

    async def GetModelStatus(self, request, context):
        async def answer(details):
            version = self._answers.find(request)
            numbers = [version.number]
            spec = request.model_spec
            if not spec.HasField("version") and not spec.version_label:
                numbers = sorted(self._answers.service.models[version.name], reverse=True)
            response = messages.get_model_status_pb2.GetModelStatusResponse()
            for number in numbers:
                status = response.model_version_status.add(version=number)
                status.state = messages.get_model_status_pb2.ModelVersionStatus.AVAILABLE
                status.status.error_code = 0  # makes the field be there, as TensorFlow Serving does
            return response

        return await self._answers("GetModelStatus", context, answer)


def _wanted(signature, output_filter):
    """Names of the outputs that are asked for, by default all."""
    names = list(signature.outputs)
    for number, name in enumerate(output_filter):
        if name not in names:
            raise bad(
                f"output tensor alias not found in signature: {name[:100]} Outputs expected to be "
                f"in the set {{{','.join(sorted(names))}}}."
            )
        if name in output_filter[:number]:
            raise bad(f"duplicate output tensor alias: {name}")
    return list(output_filter) or names


def _described(spec, version, signature=""):
    spec.name, spec.signature_name = version.name, signature
    spec.version.value = version.number


def _describe(info, name, spec, png):
    """Fills a `TensorInfo`."""
    info.name = f"{name}:0"
    info.dtype = messages.NUMBERS["object" if png else spec["dtype"]]
    for size in spec["shape"][:1] if png else spec["shape"]:
        info.tensor_shape.dim.add(size=-1 if isinstance(size, str) else size)


def _digest(text):
    # Digests have one length, so that comparing them tells nothing of the token's.
    return hashlib.sha256(text).digest()
