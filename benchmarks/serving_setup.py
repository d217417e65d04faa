"""What the benchmarks of serving share: an artifact to serve, and servers as processes."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import serving_client

NAME = "dcgan-32x32"


def make_artifact(folder, preset="dcgan_32x32", seed=0):
    """Exports a preset's sampler with random weights, which do not matter to the time."""
    import keras
    import numpy as np

    import export
    import kgen

    keras.utils.set_random_seed(seed)
    model = kgen.ImageGenerator.from_preset(preset)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:  # untrained, images are of nearly one grey
        if len(variable.shape) > 1:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    path = pathlib.Path(folder) / NAME
    export.export(model, path, ("onnx",), overwrite=True, progress=False, seed=seed)
    return path


def end_on_sigterm():
    """SIGTERM ends this process as Ctrl-C does, so that no server stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def kgen_serve(artifact, port, *options, python=sys.executable):
    """Command of `kgen serve`; the proof of the artifact is not repeated, to start at once."""
    serve = [python, "-m", "kgen", "serve", artifact, "--port", port, "--hashes-only"]
    return [*serve, *options]


def manifest(artifact):
    return json.loads((pathlib.Path(artifact) / "manifest.json").read_text())


def inputs(artifact, seeds):
    """Inputs of `generate` by name, as lists: these seeds, and zeros for all else."""
    names = manifest(artifact)["endpoints"]["generate"]["inputs"]
    return {name: list(seeds) if name == "seed" else [0] * len(seeds) for name in names}


def predict(artifact, seeds):
    """A request of TF Serving's REST API for images in JSON."""
    body = json.dumps({"inputs": inputs(artifact, seeds)}).encode()
    return serving_client.request(f"/v1/models/{manifest(artifact)['name']}:predict", body)


def infer(artifact, seeds):
    """A request of the Open Inference Protocol for images as bytes."""
    tensors = [
        {"name": name, "datatype": "INT32", "shape": [len(values)], "data": values}
        for name, values in inputs(artifact, seeds).items()
    ]
    body = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    path = f"/v2/models/{manifest(artifact)['name']}/infer"
    return serving_client.request(path, json.dumps(body).encode())


class Running:
    """A server from its first answer of status 200 until it is stopped by its process id."""

    def __init__(self, command, port, ready, timeout=120, preexec_fn=None, log=None):
        self.port, self._ready, self._timeout = port, ready, timeout
        self._command = list(map(str, command))
        self._preexec_fn, self._log = preexec_fn, log

    def __enter__(self):
        environment = {
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "PYTHONUNBUFFERED": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            "PATH": f"{pathlib.Path(self._command[0]).parent}:{os.environ['PATH']}",
        }
        self.log = self._log or tempfile.TemporaryFile()
        start = time.monotonic()
        self.process = subprocess.Popen(
            self._command,
            stdout=self.log,
            stderr=self.log,
            env=environment,
            start_new_session=True,
            preexec_fn=self._preexec_fn,
        )
        while time.monotonic() < start + self._timeout and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if serving_client.once(self.port, self._ready, timeout=20)[0] == 200:
                    self.seconds = time.monotonic() - start
                    return self
            time.sleep(0.02)
        self.__exit__()
        self.log.seek(0)
        said = self.log.read()
        said = said if isinstance(said, str) else said.decode(errors="replace")
        raise RuntimeError(f"did not start: {said[-2000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what it started and left
        self.process.wait()

    def cpu_seconds(self):
        """Of the process and all that it has started."""
        parents, times = {}, {}
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(path.parent.name)] = int(fields[1])
            times[int(path.parent.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        own = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in own} - own:
            own |= more
        return sum(times.get(each, 0) for each in own)

    def memory(self):
        """Bytes of the process that are its own (RSS)."""
        pages = int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def session(artifact):
    """Function of a list of seeds that gives ONNX Runtime's own images."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    file = pathlib.Path(artifact) / "onnx" / "generate.onnx"
    loaded = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def images(seeds):
        given = inputs(artifact, seeds)
        return loaded.run(["image"], {k: np.array(v, "int32") for k, v in given.items()})[0]

    return images


def images(artifact, seeds):
    """The bytes of each seed's image by ONNX Runtime alone, by seed."""
    seeds = list(seeds)
    rows = session(artifact)(seeds)
    return {seed: row.tobytes() for seed, row in zip(seeds, rows, strict=True)}
