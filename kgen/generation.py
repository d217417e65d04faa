"""Pure row-wise functions over arrays: compiled, in batches of one size, with a progress bar."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen import random
from kgen.checks import check_int, check_seed, unknown_name
from kgen.docstrings import of_sampler
from kgen.endpoint import option_spec
from kgen.layers.conditioning import can_guide, check_guidance
from kgen.training.step import Batch, compile_function

#: So many compiled functions are kept, those that were used last.
MOST_FUNCTIONS = 32

#: So many images, at most, are drawn by one call: they are all kept in memory.
MOST_IMAGES = 2**24

#: With more batches than this there is a progress bar, and XLA pays for what draws step by step.
FEW_BATCHES = 8


class Generation:
    """Gives a model `generate`, and what runs any of its endpoints over arrays."""

    #: The numbers among the options of `sample`: what each may be, a `kgen.checks.Number` by name.
    #: One that is not whole is a tensor of what `generate` compiles, unless it is `None` or `off`,
    #: so that a new value compiles nothing, and every image may have its own; all other options are
    #: constants of it.
    sampling_numbers: dict[str, Any] = {}

    #: Whether `sample` loops over the places of an image, in hundreds of small steps.
    place_by_place = False

    def generate(
        self,
        n: int | Sequence[int] | None = None,
        labels: int | Sequence[int] | np.ndarray | None = None,
        seed: int = 0,
        *,
        seeds: Sequence[int] | np.ndarray | None = None,
        batch_size: int = 64,
        progress: bool | str = "auto",
        jit_compile: bool | str = "auto",
        **options: Any,
    ) -> np.ndarray:
        """Draws images, compiled and in batches.

        Args:
            n: Int, how many images; or a sequence of ints, one seed per image.
            labels: For a class-conditional model, one class for all images or one each.
            seed: Int; image *i* is drawn from the *i*-th seed derived from it.
            seeds: Sequence of ints, one seed per image, in place of `n` and `seed`. The
                same seed gives the same image here, in TF Serving and in ONNX Runtime.
            batch_size: Int, images per call of the compiled sampler. Fewer images are padded to
                a power of two, so that other numbers of images compile nothing new.
            progress: Bool, or `"auto"` for a progress bar when there are over 8 batches.
            jit_compile: Bool, whether XLA compiles the sampler, or `"auto"`: on JAX, and on
                TensorFlow for over 8 batches of a model that draws place by place (pixels, or
                codes in an order), where the seconds of compiling pay. Images are the same.
            **options: Further arguments of the model's `sample`, the same for all images; those
                that are numbers, but not whole ones (`temperature`, `top_p`, `guidance_scale`), may
                be a sequence with one for each.

        Returns:
            uint8 NumPy array `[n, H, W, C]`.

        Raises:
            ValueError: Labels are missing, out of range or not wanted, or an option is unknown
                or out of range.
        """
        if n is not None and np.ndim(n):
            n, seeds = None, n
        if (n is None) == (seeds is None):
            raise ValueError(f"Give either n or seeds. Received: n={n}, seeds={seeds}")
        if seeds is None:
            seeds = row_seeds(n, seed)
        return self.run_endpoint(
            *("generate", {}, labels),
            seeds=seeds,
            batch_size=batch_size,
            progress=progress,
            jit_compile=jit_compile,
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
        jit_compile="auto",
        **options,
    ):
        """Runs one of `endpoints()` over arrays: what is exported is what runs here.

        `inputs` is a dict of arrays `[N, ...]`, all that the endpoint takes but seeds and labels.
        The other arguments are as for `generate`, a row for an image. Returns a NumPy array
        `[N, ...]`, or a dict of them where the endpoint gives several.
        """
        batch_size = check_int(1, batch_size=batch_size)
        endpoint = self.endpoints()[name]
        total = len(next(iter(inputs.values()), () if seeds is None else seeds))
        options = self.check_options(options, total)
        numbers = {}
        if "seed" in endpoint.inputs or endpoint.inputs.keys() & self.sampling_numbers.keys():
            options, numbers = self._part_options(options, total)
        if jit_compile == "auto" and self.place_by_place and "seed" in endpoint.inputs:
            jit_compile = total > FEW_BATCHES * batch_size or "auto"
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
            (name, *options.items(), *numbers),
            lambda **tensors: endpoint.function(**tensors, **options),
            inputs | numbers,
            batch_size=batch_size,
            progress=progress,
            jit_compile=jit_compile,
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

    def check_options(self, options, total=None):
        """Options of `sample`, sorted by name, numbers as Python has them.

        With a `total` of images a number that is not whole may be a sequence, one for each. A
        `ValueError` where `sample` has no argument of a name, or one is out of range.
        """
        _, *rest = inspect.signature(self.sample).parameters.values()
        known = [p.name for p in rest if p.default is not p.empty and p.name != "labels"]
        for option in options:
            if option not in known:
                raise ValueError(unknown_name("option", option, known))
        options = {
            name: _check_number(name, value, self.sampling_numbers[name], total)
            if name in self.sampling_numbers
            else value
            for name, value in options.items()
        }
        if "guidance_scale" in options:
            check_guidance(self, options["guidance_scale"])
        return dict(sorted(options.items()))

    def option_specs(self):
        """The options of which every image may have its own: `TensorSpec`, with default, by name.

        Guidance is among them where a model can be guided.
        """
        parameters, said = inspect.signature(self.sample).parameters, _meanings(type(self))
        specs = {}
        for name, number in self.sampling_numbers.items():
            if number.whole or (name.startswith("guidance_") and not can_guide(self)):
                continue  # it shapes the graph, or there is nothing to compare with
            default = parameters[name].default
            default = number.off if default is None else default
            specs[name] = option_spec(number, default, said[name].partition(". ")[0].rstrip("."))
        return specs

    def _part_options(self, options, total):
        """Checked options: what is constant in a compiled sampler, and arrays `[total]`."""
        parameters = inspect.signature(self.sample).parameters
        constants, arrays = dict(options), {}
        for name, number in self.sampling_numbers.items():
            value = options.get(name, parameters[name].default if name in parameters else None)
            off = np.ndim(value) == 0 and value in (None, number.off)
            if not number.whole and not off:
                constants.pop(name, None)
                arrays[name] = np.broadcast_to(np.float32(value), (total,))
        return constants, arrays

    def run_batched(
        self,
        name,
        function,
        inputs,
        batch_size=64,
        progress="auto",
        jit_compile="auto",
        description="Running",
    ):
        """Runs a pure, row-wise function over arrays, compiled, in batches of one size.

        `function` takes the tensors of `inputs` (arrays `[N, ...]` by name) by keyword and returns
        a tensor `[B, ...]` or a dict of them. Its compiled form is kept under `name`, which is
        hashable, until `MOST_FUNCTIONS` others were used. The last batch is padded to `batch_size`,
        and a single one to a power of two, by its last row. `jit_compile` is as for `generate`, but
        that `"auto"` is JAX alone. Returns a NumPy array `[N, ...]`, or a dict of them.
        """
        if jit_compile not in ("auto", True, False):
            raise ValueError(
                f"jit_compile must be True, False or 'auto'. Received: jit_compile={jit_compile!r}"
            )
        if jit_compile == "auto":
            # XLA takes its time for every size of a batch: on TensorFlow only who asks for it.
            jit_compile = keras.backend.backend() == "jax"
        total = len(next(iter(inputs.values())))
        batch_size = check_int(1, batch_size=batch_size)
        batch_size = max(1, min(batch_size, 1 << max(total - 1, 0).bit_length()))
        functions, key = self._compiled_functions, (name, batch_size, jit_compile)
        compiled = functions.pop(key, None) or compile_function(self, function, jit_compile)
        functions[key] = compiled  # in the order of their use
        while len(functions) > MOST_FUNCTIONS:
            functions.pop(next(iter(functions)))
        starts = range(0, max(total, 1), batch_size)
        if progress == "auto":
            progress = len(starts) > FEW_BATCHES
        outputs = []
        for start in track(starts, description, progress):
            chunk = {k: np.asarray(v[start : start + batch_size]) for k, v in inputs.items()}
            size = len(next(iter(chunk.values())))
            chunk = {k: _filled(v, batch_size) for k, v in chunk.items()}
            result = compiled(**{k: ops.convert_to_tensor(v) for k, v in chunk.items()})
            outputs.append(
                keras.tree.map_structure(lambda t, n=size: ops.convert_to_numpy(t)[:n], result)
            )
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


@functools.cache  # every `generate` asks for its endpoint
def _meanings(model_class):
    return of_sampler(model_class)


def _check_number(name, value, number, total):
    """A number, or where they are wanted an array of `total`, as `check_options` has them."""
    array = np.asarray(value)
    if total is None or number.whole or array.ndim != 1 or array.dtype.kind not in "iuf":
        return number.check(name, value)
    if len(array) != total:
        raise ValueError(
            f"{name} must be one number for all images or one for each of {total}. Received: "
            f"{len(array)} of them"
        )
    for extreme in (array.min(), array.max()) if total else ():
        number.check(name, extreme)
    return array


def _filled(rows, size):
    """Rows, of which the last is repeated until there are `size` of them."""
    if not len(rows):
        return np.zeros((size, *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def row_seeds(n, seed):
    """The seeds of `n` images derived from one, all different: int32 NumPy array `[n]`."""
    n = check_int(0, most=MOST_IMAGES, n=n)
    return ops.convert_to_numpy(random.row_seeds(check_seed(seed), n))


def track(items, description, progress=True):
    """The items, with a progress bar while they are gone through, where `progress` is true."""
    if not progress:
        return items
    from rich.progress import track

    return track(items, description=description)
