"""Pure row-wise functions over arrays: compiled, in batches of one size, with a progress bar."""

import inspect

import keras
import numpy as np
from keras import ops

from kgen import random
from kgen.checks import check_int, check_seed, unknown_name
from kgen.training.step import Batch, compile_function


class Generation:
    """Gives a model `generate`, and what runs any of its endpoints over arrays."""

    def generate(
        self, n=None, labels=None, seed=0, *, seeds=None, batch_size=64, progress="auto", **options
    ):
        """Draws images, compiled and in batches.

        Args:
            n: Int, how many images; or a sequence of ints, one seed per image.
            labels: For a class-conditional model, one class for all images or one each.
            seed: Int; image *i* is drawn from the *i*-th seed derived from it.
            seeds: Sequence of ints, one seed per image, in place of `n` and `seed`. The
                same seed gives the same image here, in TF Serving and in ONNX Runtime.
            batch_size: Int, images per call of the compiled sampler.
            progress: Bool, or `"auto"` for a progress bar when there are over 8 batches.
            **options: Further arguments of the model's `sample`, the same for all images.

        Returns:
            uint8 NumPy array `[n, H, W, C]`.

        Raises:
            ValueError: Labels are missing, out of range or not wanted, or an option is unknown.
        """
        if n is not None and np.ndim(n):
            n, seeds = None, n
        if (n is None) == (seeds is None):
            raise ValueError(f"Give either n or seeds. Received: n={n}, seeds={seeds}")
        if seeds is None:
            seeds = row_seeds(check_int(0, n=n), seed)
        return self.run_endpoint(
            *("generate", {}, labels),
            seeds=seeds,
            batch_size=batch_size,
            progress=progress,
            **options,
        )

    def run_endpoint(
        self,
        name,
        inputs,
        labels=None,
        seed=0,
        *,
        seeds=None,
        batch_size=64,
        progress="auto",
        **options,
    ):
        """Runs one of `endpoints()` over arrays: what is exported is what runs here.

        `inputs` is a dict of arrays `[N, ...]`, all that the endpoint takes but seeds and labels.
        The other arguments are as for `generate`, a row for an image. Returns a NumPy array
        `[N, ...]`, or a dict of them where the endpoint gives several.
        """
        options = self.check_options(options)
        endpoint = self.endpoints()[name]
        total = len(next(iter(inputs.values()), () if seeds is None else seeds))
        if "seed" in endpoint.inputs:
            if seeds is None:
                seeds = row_seeds(total, seed)
            elif len(seeds) != total:
                raise ValueError(f"seeds must be one per image, {total}. Received: {len(seeds)}")
            inputs = {**inputs, "seed": np.array([check_seed(s) for s in seeds], "int32")}
        labels = self._check_labels(labels, total)
        if "label" in endpoint.inputs:
            inputs = {**inputs, "label": labels}
        outputs = self.run_batched(
            (name, *options.items()),
            lambda **tensors: endpoint.function(**tensors, **options),
            inputs,
            batch_size=batch_size,
            progress=progress,
            description=f"{name.removesuffix('e').capitalize()}ing",
        )
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def run_over(self, name, function, x, y=None, seed=0, **run):
        """Runs a pure, row-wise function over the images of a split, with a seed for each.

        `function` takes a `kgen.training.step.Batch`; images are given as for `fit`, and image *i*
        gets the *i*-th seed derived from `seed`. The rest and the result are as for `run_batched`.
        """
        split = self.check_split(x, y)
        inputs = {"images": split.images, "seeds": row_seeds(len(split), seed)}
        if self.num_classes is not None:
            inputs["labels"] = split.labels

        def call(images, seeds, labels=None):
            return function(Batch(images, labels, seeds))

        return self.run_batched(name, call, inputs, **run)

    def check_options(self, options):
        """Options of `sample`, sorted by name; `ValueError` where it has no argument of a name."""
        known = list(inspect.signature(self.sample).parameters)[2:]
        for option in options:
            if option not in known:
                raise ValueError(unknown_name("option", option, known))
        return dict(sorted(options.items()))

    def run_batched(
        self, name, function, inputs, batch_size=64, progress="auto", description="Running"
    ):
        """Runs a pure, row-wise function over arrays, compiled, in batches of one size.

        `function` takes the tensors of `inputs` (arrays `[N, ...]` by name) by keyword and returns
        a tensor `[B, ...]` or a dict of them; its compiled form is kept under `name`, which is
        hashable. The last batch is padded to `batch_size`, so nothing compiles twice. Returns a
        NumPy array `[N, ...]`, or a dict of them.
        """
        total = len(next(iter(inputs.values())))
        batch_size = max(1, min(check_int(1, batch_size=batch_size), total))
        if name not in self._compiled_functions:
            # XLA compiles anew for every batch size: worth it only where it is home.
            self._compiled_functions[name] = compile_function(
                self, function, jit_compile=keras.backend.backend() == "jax"
            )
        compiled = self._compiled_functions[name]
        starts = range(0, max(total, 1), batch_size)
        if progress == "auto":
            progress = len(starts) > 8
        outputs = []
        for start in track(starts, description, progress):
            chunk = {k: np.asarray(v[start : start + batch_size]) for k, v in inputs.items()}
            size = len(next(iter(chunk.values())))
            chunk = {
                k: np.concatenate([v, np.zeros((batch_size - size, *v.shape[1:]), v.dtype)])
                for k, v in chunk.items()
            }
            result = compiled(**{k: ops.convert_to_tensor(v) for k, v in chunk.items()})
            outputs.append(
                keras.tree.map_structure(lambda t, n=size: ops.convert_to_numpy(t)[:n], result)
            )
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


def row_seeds(n, seed):
    """The seeds of `n` images derived from one: int32 NumPy array `[n]`."""
    return ops.convert_to_numpy(random.row_seeds(check_seed(seed), n))


def track(items, description, progress=True):
    """The items, with a progress bar while they are gone through, where `progress` is true."""
    if not progress:
        return items
    from rich.progress import track

    return track(items, description=description)
