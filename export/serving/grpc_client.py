"""The side of `Client` that speaks TensorFlow Serving's gRPC API."""

import re

from export.serving import grpc_messages as messages
from export.serving.errors import ServingError
from export.serving.grpc_messages import grpc

_LARGEST = 2**28  # bytes of an answer


class Server:
    """TensorFlow Serving at an address, such as `127.0.0.1:8500` or `grpcs://example.org:443`."""

    def __init__(self, address, token, retry):
        target = re.sub(r"^grpcs?://", "", address)
        if "://" in target:
            raise ValueError(
                f"address must be host:port, or grpcs://host:port. Received: {address}"
            )
        options = [("grpc.max_receive_message_length", _LARGEST), ("grpc.enable_retries", 0)]
        if address.startswith("grpcs://"):
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
        else:
            channel = grpc.insecure_channel(target, options)
        self._predict = messages.prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = messages.model_service_pb2_grpc.ModelServiceStub(channel)
        self._metadata = None if token is None else [("authorization", f"Bearer {token}")]
        self._retry, self._signatures = retry, {}
        self.close = channel.close

    def models(self):
        return None  # TensorFlow Serving does not list them

    def versions(self, model):
        request = messages.get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        found = self._send(self._models.GetModelStatus, request).model_version_status
        available = messages.get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return sorted(each.version for each in found if each.state == available)

    def metadata(self, model, endpoint, version, label):
        if not self._signatures:
            request = messages.get_model_metadata_pb2.GetModelMetadataRequest()
            _specify(request.model_spec, model, version, label)
            request.metadata_field.append("signature_def")
            packed = self._send(self._predict.GetModelMetadata, request).metadata["signature_def"]
            signatures = messages.get_model_metadata_pb2.SignatureDefMap()
            packed.Unpack(signatures)
            self._signatures.update(signatures.signature_def)
        if endpoint not in self._signatures:
            there = ", ".join(sorted(self._signatures))
            raise ServingError(f"{model} has no signature {endpoint}; it has {there}.", "NOT_FOUND")
        return {
            side: {
                name: {
                    "dtype": messages.DTYPES.get(tensor.dtype, str(tensor.dtype)),
                    "shape": [dim.size for dim in tensor.tensor_shape.dim],
                }
                for name, tensor in getattr(self._signatures[endpoint], side).items()
            }
            for side in ("inputs", "outputs")
        }

    def call(self, model, endpoint, described, arrays, version, label):
        # Pictures go as they are: in this protocol a byte is a byte.
        request = messages.predict_pb2.PredictRequest()
        _specify(request.model_spec, model, version, label)
        request.model_spec.signature_name = endpoint
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(messages.to_proto(array))
        outputs = self._send(self._predict.Predict, request).outputs
        return {name: messages.from_proto(tensor, _LARGEST) for name, tensor in outputs.items()}

    def _send(self, method, request):
        again = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)

        def attempt(seconds):
            try:
                return True, method(request, timeout=seconds, metadata=self._metadata), None
            except grpc.RpcError as error:
                said = ServingError(f"{error.details()} ({error.code().name})", error.code().name)
                if error.code() not in again:
                    raise said from None
                # What gRPC's own clients read, and what TensorFlow Serving does not say.
                pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms", "")
                after = int(pushback) / 1000 if re.fullmatch(r"\d{1,9}", pushback) else None
                return False, said, after

        return self._retry(attempt)


def _specify(spec, model, version, label):
    spec.name = model
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
