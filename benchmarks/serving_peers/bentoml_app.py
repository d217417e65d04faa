"""BentoML: adaptive batching in each worker process; takes and gives rows, as batchable calls do.

`raw` is base64 in JSON: its batchable calls cannot answer bytes.
"""

import base64
import os
import pathlib
import sys

import bentoml
import common
import numpy as np

given = common.settings()
batching = {"batchable": True, "max_batch_size": given.max_batch, "max_latency_ms": 10_000}
batching = batching if given.max_batch > 1 else {}


@bentoml.service(
    workers=given.workers,
    threads=1,
    traffic={"timeout": 60, "max_concurrency": 1000},
    logging={"access": {"enabled": False}},
)
class Generate:
    def __init__(self):
        self.model = common.Model(given.file, given.threads)

    if given.answer == "json":

        @bentoml.api(route="/image", **batching)
        def image(self, seed: np.ndarray) -> np.ndarray:
            return self.model(seed)

    else:

        @bentoml.api(route="/image", **batching)
        def image(self, seed: np.ndarray) -> list[str]:
            return [base64.b64encode(image.tobytes()).decode() for image in self.model(seed)]


if __name__ == "__main__":
    os.chdir(pathlib.Path(__file__).parent)
    options = ["--host", "127.0.0.1", "--port", str(given.port), "-q"]
    command = [sys.executable, "-m", "bentoml", "serve", "bentoml_app:Generate", *options]
    os.execv(sys.executable, command)
