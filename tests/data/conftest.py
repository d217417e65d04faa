import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """No test reads or writes the user's own cache."""
    folder = tmp_path / "kgen-cache"
    monkeypatch.setenv("KGEN_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def random_images():
    def make(count, *shape, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)

    return make


@pytest.fixture
def make_folder(tmp_path):
    """Writes image files below a new folder: `make_folder({"cat/0.png": array, ...})`."""

    def make(files, name="pictures"):
        for path, content in files.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                array = np.asarray(content)
                Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(file)
        return tmp_path / name

    return make
