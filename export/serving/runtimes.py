"""What runs an artifact's endpoints in the server: ONNX Runtime, or TensorFlow on the SavedModel.

Each is made of an artifact that was verified and gives `call(endpoint, inputs)`: a dict of arrays
by the manifest's names to such a dict, for an endpoint with all of its options.
"""

import contextlib
import hashlib

from export import manifest as schema
from export.errors import VerificationError


class OnnxRuntime:
    """Sessions of ONNX Runtime on the CPU, from memory.

    What is run are the bytes whose hashes were checked: a file that changes later changes nothing.
    """

    format = "onnx"
    platform = "onnxruntime_onnx"

    def __init__(self, artifact, endpoints, threads):
        import onnx
        import onnxruntime

        section = artifact.manifest["formats"]["onnx"]
        self._calls, self.loops = {}, set()
        self._run_options = onnxruntime.RunOptions()
        weights = section.get("external_data")
        data = _bytes(artifact, weights) if weights else None
        for endpoint in endpoints:
            signature = section["signatures"][endpoint]
            graph = _bytes(artifact, signature["file"])
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = threads
            # Threads that spin for work would take the cores from the server itself.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            if data is not None:
                name = weights.rpartition("/")[2]
                options.add_external_initializers_from_files_in_memory([name], [data], [len(data)])
            session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
            self._calls[endpoint] = session, signature["inputs"], signature["outputs"]
            nodes = onnx.ModelProto.FromString(graph).graph.node
            if any(node.op_type == "Loop" for node in nodes):
                self.loops.add(endpoint)

    def call(self, endpoint, inputs):
        session, names, outputs = self._calls[endpoint]
        values = session.run(
            list(outputs.values()),
            {names[key]: array for key, array in inputs.items()},
            self._run_options,
        )
        return dict(zip(outputs, values, strict=True))

    def stop(self):
        """Has a call that runs end at its next operator."""
        self._run_options.terminate = True


class SavedModelRuntime:
    """TensorFlow, through the SavedModel's signatures."""

    format = "saved_model"
    platform = "tensorflow_savedmodel"

    def __init__(self, artifact, endpoints, threads):
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # TensorFlow runs already: the first model chose
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        loaded = tf.saved_model.load(str(artifact.path / schema.SAVED_MODEL))
        self._module = loaded  # a signature holds its variables weakly
        self._calls = {endpoint: loaded.signatures[endpoint] for endpoint in endpoints}
        self._constant = tf.constant
        self.loops = {
            endpoint
            for endpoint, function in self._calls.items()
            if _operators(function.graph.as_graph_def()) & {"While", "StatelessWhile"}
        }

    def call(self, endpoint, inputs):
        tensors = {key: self._constant(array) for key, array in inputs.items()}
        return {key: value.numpy() for key, value in self._calls[endpoint](**tensors).items()}

    def stop(self):
        """TensorFlow ends no call that runs."""


RUNTIMES = {"onnx": OnnxRuntime, "saved_model": SavedModelRuntime}


def _operators(graph):
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    return {node.op for nodes in bodies for node in nodes}


def _bytes(artifact, name):
    """A file's bytes, which must be those that the manifest names."""
    data = (artifact.path / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != artifact.manifest["files"][name]["sha256"]:
        raise VerificationError(f"{artifact.path / name} was changed while it was loaded.")
    return data
