"""Whether a step of training fits the machine: said before the first, with what would help."""

import contextlib
import math
import time
import warnings

import keras

from kgen.layers.transformer import TransformerBlock
from kgen.memory import SMALLER, memory, on_cpu


def attention_bytes(model, batch_size):
    """What the attention of a step needs at least: a float32 weight of every token for every other
    one, kept for the gradient, in each layer and head of each image; with gradient checkpointing
    in one layer.
    """
    blocks = [layer for layer in model._layers_to_train() if isinstance(layer, TransformerBlock)]
    pairs = [block.num_heads * (block.num_tokens or 0) ** 2 for block in blocks]
    join = max if getattr(model, "gradient_checkpointing", False) else sum
    return 4 * batch_size * (join(pairs) if pairs else 0)


def feature_bytes(model, batch_size):
    """What the features of a step's convolutions need at least: every layer's outcome is kept for
    the gradient; with gradient checkpointing one of each block.
    """
    needed = 0
    for layer in model._layers_to_train():
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose):
            # Of no graph of layers, or of maps of any size.
            with contextlib.suppress(AttributeError, TypeError):
                needed += _bytes(layer) * math.prod(layer.output.shape[1:])
        elif hasattr(layer, "num_places"):  # a block of a network that is no such graph
            kept = 1 if getattr(model, "gradient_checkpointing", False) else 4
            needed += _bytes(layer) * kept * layer.num_places * layer.filters
    return batch_size * needed


def _bytes(layer):
    """Of a number in what a layer computes."""
    return 4 if layer.compute_dtype == "float32" else 2


def check_size(model, batch_size):
    """Refuses a step that is larger than the machine, where it has no GPU.

    With a GPU, whose kernels may do with less, it warns. A `ValueError` names what would fit.
    """
    there = memory()
    # Weights, their gradients, and two moments of the optimizer.
    weights = 16 * sum(math.prod(v.shape) for v in model.trainable_variables)
    attention, features = attention_bytes(model, batch_size), feature_bytes(model, batch_size)
    needed = weights + attention + features
    if there is None or needed <= there:
        return
    parts = {"weights": weights, "attention": attention, "features": features}
    most = max(parts, key=parts.get)
    fits = max(0, int((there - weights) / (2 * (needed - weights) / batch_size)))
    text = (
        f"A step of {batch_size} images takes at least {needed / 1e9:,.0f} GB, "
        f"{parts[most] / 1e9:,.0f} of them for {most}, and this machine has {there / 1e9:,.0f} GB. "
        + (f"Take a batch_size of {fits} or less. " if fits else "")
        + ("Set gradient_checkpointing=True. " if checkpointing_is_off(model) else "")
        + SMALLER
    )
    if on_cpu():
        raise ValueError(text)
    warnings.warn(text, stacklevel=2)


def checkpointing_is_off(model):
    return getattr(model, "gradient_checkpointing", None) is False


def measure_step(model_class, preset, seconds=1.0):
    """What a training step of a preset costs here, after the first: measured for some `seconds`.

    A dict of `parameters` that train, `batch_size` and `seconds` per step.
    """
    model = model_class.from_preset(preset)
    model.compile()
    size = model.default_batch_size
    split = model.example_data(size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of autoencoders that nobody has trained
        if model.needs_adapting():
            model.adapt(split.images)
        model.train_on_batch(*split.arrays())
    steps, start = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - start < seconds:
        model.train_on_batch(*split.arrays())
        steps += 1
    return {
        "parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
        "batch_size": size,
        "seconds": (time.perf_counter() - start) / steps,
    }
