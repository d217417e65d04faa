"""What any model that draws pixel by pixel is held against."""

import itertools
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import kgen


@pytest.fixture(scope="session")
def recompute():
    """Images as they are drawn by running the whole network again for every channel."""

    def draw(model, seeds, labels=None, temperature=1.0):
        height, width, channels = model.image_shape
        levels, x = model.num_levels, np.zeros((len(seeds), *model.image_shape), "float32")
        inputs = {} if labels is None else {"labels": labels}
        shape = (width, *model.distribution.noise_shape)

        def gumbel(seeds, rows):
            return kgen.random.gumbel(seeds, shape, stream=rows[0])

        for i, j, c in itertools.product(range(height), range(width), range(channels)):
            if j == c == 0:
                rows = np.full(len(seeds), i, "int32")
                noise = model.run_batched("gumbel", gumbel, {"seeds": seeds, "rows": rows})
            logits = model.run_batched("network", model.network, {"x": x, **inputs})
            logits = logits[:, i, j].reshape(-1, channels, levels)[:, c]
            drawn = np.argmax(logits / temperature + noise[:, j, c], axis=-1)
            x[:, i, j, c] = 2 * drawn / (levels - 1) - 1
        return np.floor((x + 1) * 127.5 + 0.5).astype("uint8")

    return draw


@pytest.fixture(scope="session")
def depends_on():
    """What the parameters of every pixel depend on, by gradient.

    A bool array `[H, W, C, H, W, C]`: whether those of a pixel and channel, the first three
    axes, follow another, the last three, in any of eight images.
    """

    def gradient(model, x, weights):
        def total(x):
            return ops.sum(model.network(x, training=True) * weights)

        if keras.backend.backend() == "jax":
            import jax

            return np.asarray(jax.jit(jax.grad(total))(x))
        import tensorflow as tf

        @tf.function
        def compiled(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = total(x)
            return tape.gradient(y, x)

        return compiled(tf.constant(x)).numpy()

    def measure(model):
        rng = np.random.default_rng(1)
        shape, n = model.image_shape, math.prod(model.image_shape)
        # As many copies of an image as it has pixels and channels: one of them looked at in each.
        copies = 4 * rng.choice([-1.0, 1.0], (8, 1, *shape)).repeat(n, axis=1)
        looked_at = np.eye(n).reshape(n, *shape, 1) * rng.normal(size=(8, n, *shape, 1))
        weights = np.broadcast_to(looked_at, (*looked_at.shape[:-1], model.num_levels))
        weights = weights.reshape(8 * n, *shape[:2], -1).astype("float32")
        result = gradient(model, copies.reshape(-1, *shape).astype("float32"), weights)
        return (result.reshape(8, *shape, *shape) != 0).any(axis=0)

    return measure


@pytest.fixture(scope="session")
def total_probability():
    """The sum of the probabilities of all images there are, by class if there are any."""

    def add(model):
        size, levels = math.prod(model.image_shape), model.num_levels
        grid = np.array(list(itertools.product(range(levels), repeat=size)), "float64")
        images = np.floor(grid * 255 / (levels - 1) + 0.5).astype("uint8")
        images = images.reshape(-1, *model.image_shape)

        def total(labels=None):
            inputs = {"images": images} if labels is None else {"images": images, "labels": labels}
            logs = model.run_batched("all", model.log_prob, inputs, batch_size=len(images))
            return np.exp(logs.astype("float64")).sum()

        if model.num_classes is None:
            return [total()]
        return [total(np.full(len(images), i, "int32")) for i in range(model.num_classes)]

    return add


@pytest.fixture
def exported_alike(tmp_path, tensorflow_only):
    """Exports a model; how many pixels of `generate` were equal, by format and signature."""

    def check(model):
        import export

        export.export(model, tmp_path / "artifact", progress=False)
        manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
        return {
            (figure["format"], figure["signature"]): figure["equal"]
            for figure in manifest["parity"]
            if figure["endpoint"] == "generate"
        }

    return check


@pytest.fixture
def run_tests_on_jax(run_python):
    """Runs some tests of a file in a process of its own, on JAX."""

    def run(file, names):
        if keras.backend.backend() == "jax":
            pytest.skip("they run on JAX already")
        pytest.importorskip("jax")
        code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
        arguments = (file, "-q", "-k", names, "-p", "no:cacheprovider", "--import-mode=importlib")
        result = run_python(code, *arguments, backend="jax", check=False)
        assert result.returncode == 0, result.stdout[-3000:]
        assert " passed" in result.stdout and "skipped" not in result.stdout

    return run
