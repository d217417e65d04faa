"""What any model that draws pixel by pixel is held against."""

import itertools
import json
import math
import sys

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.training.step import compile_function


@pytest.fixture(scope="session")
def recompute():
    """Images as they are drawn by running the whole network again for every pass of every pixel."""

    def draw(model, seeds, labels=None, temperature=1.0, images=None, mask=None):
        height, width, _ = model.image_shape
        distribution = model.distribution
        seeds, x = ops.convert_to_tensor(seeds), np.zeros((len(seeds), *model.image_shape))
        known = None if images is None else ops.convert_to_numpy(model.to_levels(images))
        network = compile_function(model, model.final_network)
        for i, j in itertools.product(range(height), range(width)):
            if j == 0:
                noise = kgen.random.gumbel(seeds, (width, *distribution.noise_shape), stream=i)
            if mask is not None and mask[i, j]:
                x[:, i, j] = known[:, i, j]
                continue
            for step in range(distribution.passes):
                inputs = ops.convert_to_tensor(x, "float32")
                parameters = network(inputs, labels)[:, i, j]
                drawn = distribution.draw(
                    parameters, noise[:, j], inputs[:, i, j], step, temperature
                )
                x[:, i, j] = ops.convert_to_numpy(drawn)
        return ops.convert_to_numpy(model.to_images(ops.convert_to_tensor(x, "float32")))

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
            logs = ops.convert_to_numpy(model.log_prob(images, labels))
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
def on_backend(on_jax, run_python, monkeypatch):
    """`on_backend(name, code, *arguments)`: in a process that is there already, if one is."""

    def run(name, code, *arguments):
        pytest.importorskip(name)
        if name == keras.backend.backend():
            monkeypatch.setattr(sys, "argv", ["-c", *map(str, arguments)])
            exec(code, {"__name__": "__main__"})
        elif name == "jax":
            on_jax(code, *arguments)
        else:
            run_python(code, *arguments, backend=name)

    return run


@pytest.fixture
def run_tests_on_jax(run_python):
    """Runs some tests of a file in a process of its own, on JAX."""

    def run(file, names):
        if keras.backend.backend() == "jax":
            pytest.skip("they run on JAX already")
        pytest.importorskip("jax")
        code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
        arguments = (file, "-q", "-n0", "-k", names, "-p", "no:cacheprovider")
        result = run_python(code, *arguments, backend="jax", check=False)
        assert result.returncode == 0, result.stdout[-3000:]
        assert " passed" in result.stdout and "skipped" not in result.stdout

    return run
