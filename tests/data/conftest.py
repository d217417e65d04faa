import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """No test reads or writes the user's own cache."""
    folder = tmp_path / "kgen-cache"
    monkeypatch.setenv("KGEN_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def run_python(cache_folder):
    """Starts a fresh Python on a piece of code; returns the `subprocess.Popen`."""

    def run(code, *args, **environment):
        import os

        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def random_images():
    def make(count, *shape, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)

    return make
