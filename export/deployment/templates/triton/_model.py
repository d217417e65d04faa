"""Runs model.onnx, beside this file, in ONNX Runtime, for Triton's Python backend."""

import pathlib

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        path = pathlib.Path(__file__).with_name("model.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.ranks = {value.name: len(value.shape) for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]

    def execute(self, requests):
        """All requests that Triton has put together are one batch."""
        inputs = {
            name: np.concatenate([self._rows(request, name, rank) for request in requests])
            for name, rank in self.ranks.items()
        }
        first = next(iter(self.ranks))
        sizes = [len(self._rows(request, first, self.ranks[first])) for request in requests]
        outputs = self.session.run(self.outputs, inputs)
        ends = np.cumsum(sizes)[:-1]
        parts = [np.split(output, ends) for output in outputs]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, np.ascontiguousarray(part))
                    for name, part in zip(self.outputs, row, strict=True)
                ]
            )
            for row in zip(*parts, strict=True)
        ]

    @staticmethod
    def _rows(request, name, rank):
        array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        return array.reshape(-1) if rank == 1 else array
