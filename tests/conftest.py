import os
import pathlib
import signal
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Workers share the cores: threads that wait for one cost ten times the work of small products.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

# Triton, which a torch for GPUs brings, crashes the process once TensorFlow is loaded
# (tensorflow/tensorflow#124205); the published metrics to test against do without it.
sys.modules.setdefault("triton", None)

# A shell that starts a job in the background has it ignore Ctrl-C, and so would all tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir():
    """The folder with real data; tests that need it are skipped without it."""
    folder = os.environ.get("KGEN_DATA_DIR")
    if not folder:
        pytest.skip("KGEN_DATA_DIR is not set: it names the folder with mnist.npz")
    return pathlib.Path(folder)


@pytest.fixture
def tensorflow_only():
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")


@pytest.fixture(scope="session")
def run_python():
    """Runs Python code in a process of its own, on a chosen Keras backend."""

    def run(code, *arguments, backend=None, check=True, timeout=300, env=None):
        environment = {**os.environ, **(env or {})}
        if backend:
            environment["KERAS_BACKEND"] = backend
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
        )
        assert not check or result.returncode == 0, result.stderr[-3000:]
        return result

    return run
