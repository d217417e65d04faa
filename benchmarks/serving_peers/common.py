"""What every peer of benchmarks/serving.py shares: its command line and the ONNX Runtime session.

    python benchmarks/serving_peers/NAME.py FILE.onnx PORT MAX_BATCH THREADS WORKERS raw|json

Each of them answers `POST` of `{"seed": 7}` with the 3072 bytes of the image (`raw`) or with
`{"image": [[[...]]]}` (`json`), and merges up to MAX_BATCH requests into a call by the library's
own means. WORKERS is the number of processes or threads that run the model, THREADS that of each.
"""

import json
import os
import sys


class Settings:
    def __init__(self, file, port, max_batch, threads, workers, answer):
        self.file, self.answer = file, answer
        self.port, self.max_batch = int(port), int(max_batch)
        self.threads, self.workers = int(threads), int(workers)


def settings():
    """From the command line, or from the environment in processes that a library starts itself."""
    if len(sys.argv) == 7 and sys.argv[1].endswith(".onnx"):
        os.environ["SERVING_PEER"] = json.dumps(sys.argv[1:])
    return Settings(*json.loads(os.environ["SERVING_PEER"]))


class Model:
    """Seeds in, `uint8` images out."""

    def __init__(self, file, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self([0])

    def __call__(self, seeds):
        import numpy as np

        return self.session.run(["image"], {"seed": np.array(seeds, "int32")})[0]


def encode(image, answer):
    """Bytes of the answer's body."""
    if answer == "raw":
        return image.tobytes()
    import orjson

    return orjson.dumps({"image": image}, option=orjson.OPT_SERIALIZE_NUMPY)


MEDIA = {"raw": "application/octet-stream", "json": "application/json"}
