"""Golden inputs, and what Keras gives for them."""

import numpy as np
import tensorflow as tf

from export import manifest as schema
from export import parity, tracing
from export.errors import ExportError


class Reference:
    """Published endpoints, by name, in Keras, compiled by `tf.function` and run on the CPU."""

    def __init__(self, endpoints):
        self.endpoints = endpoints
        self._functions = tracing.trace_all(endpoints)

    def __call__(self, name, inputs):
        """Dict of arrays in, dict of arrays out."""
        order = self.endpoints[name].inputs
        # A GPU rounds differently (TF32), and the runtimes are compared on the CPU.
        with tf.device("CPU:0"):
            outputs = self._functions[name](*(tf.constant(inputs[key]) for key in order))
        return {key: value.numpy() for key, value in outputs.items()}


def make(reference, rows, seed):
    """Golden inputs drawn from the specs, and Keras's outputs for them in one batch of `rows`.

    A dict of endpoint name to `{"inputs": ..., "outputs": ...}`. `ExportError` if an output is
    not finite.
    """
    golden = {}
    # What the model is for first: its images are inputs of the others.
    main = schema.main(reference.endpoints)
    for name in sorted(reference.endpoints, key=lambda name: name != main):
        rng = np.random.default_rng(seed)
        own = golden[main]["outputs"].get("image") if golden else None
        inputs = {
            key: _input(spec, rows, rng, own)
            for key, spec in reference.endpoints[name].inputs.items()
        }
        outputs = reference(name, inputs)
        for key, array in outputs.items():
            if not np.isfinite(array).all():
                raise ExportError(
                    f"Endpoint '{name}' gives values in output '{key}' that are not finite, "
                    f"in Keras itself. Has training diverged?"
                )
        golden[name] = {"inputs": inputs, "outputs": outputs}
    return {name: golden[name] for name in reference.endpoints}


def prove_rows(reference, golden, batch_sizes, step):
    """Shows that Keras itself gives each row the same at every batch size.

    `ExportError` if an endpoint mixes the rows of a batch or has hidden state.
    """
    rows = []
    for name, arrays in golden.items():
        for batch_size in batch_sizes:
            step(f"Keras: {name}, batch size {batch_size}")
            outputs = parity.in_batches(
                lambda batch, name=name: reference(name, batch), arrays["inputs"], batch_size
            )
            rows += parity.judge(
                arrays["outputs"],
                outputs,
                format="keras",
                runtime="Keras",
                signature=name,
                endpoint=name,
                batch_size=batch_size,
            )
    return rows


def _example(spec):
    """The shape of a golden row; where sides are free, another than that of training."""
    if None not in spec.shape:
        return spec.shape
    height, width, channels = spec.example_shape
    return (height + 5, width + 9, channels)


def _input(spec, rows, rng, own_images):
    shape = (rows, *_example(spec))
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        low = -np.inf if spec.minimum is None else spec.minimum
        high = np.inf if spec.maximum is None else spec.maximum
        array = rng.standard_normal(shape)
        if spec.default is not None:  # of every fourth row the default itself
            array = spec.default + 0.5 * array * (np.arange(rows) % 4 > 0)
        return np.clip(array, low, high).astype(dtype)
    limits = np.iinfo(dtype)
    low = limits.min if spec.minimum is None else int(spec.minimum)
    high = limits.max if spec.maximum is None else int(spec.maximum)
    array = rng.integers(low, high, shape, dtype, endpoint=True)
    if not spec.shape:
        # The ends of the range are where integer arithmetic goes wrong.
        array[0], array[-1] = low, high
    elif own_images is not None and own_images.shape == shape and own_images.dtype == dtype:
        array[: rows // 2] = own_images[: rows // 2]
    return array
