"""Whether a model fits the machine: said before the first step, with what would help."""

import math
import os
import time
import warnings

import keras
import numpy as np

from kgen.layers.transformer import TransformerBlock


def attention_bytes(model, batch_size):
    """What the attention of a step needs at least: a float32 weight of every token for every other
    one, kept for the gradient, in each layer and head of each image.
    """
    blocks = [layer for layer in model._layers_to_train() if isinstance(layer, TransformerBlock)]
    pairs = sum(block.num_heads * (block.num_tokens or 0) ** 2 for block in blocks)
    return 4 * batch_size * pairs


def memory():
    """Bytes of this machine, or `None` where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def check_size(model, batch_size):
    """Refuses a step whose attention alone is larger than the machine, where it has no GPU.

    With a GPU, whose kernels may do with less, it warns. A `ValueError` names what would fit.
    """
    needed, there = attention_bytes(model, batch_size), memory()
    if there is None or needed <= there:
        return
    tokens = max(
        b.num_tokens or 0 for b in model._flatten_layers() if isinstance(b, TransformerBlock)
    )
    fits = int(there // (2 * attention_bytes(model, 1)))
    text = (
        f"Attention among {tokens:,} tokens takes {needed / 1e9:,.0f} GB for a step of "
        f"{batch_size} images, and this machine has {there / 1e9:,.0f} GB. "
        + (f"Take a batch_size of {fits} or less, or fewer" if fits else "Take fewer")
        + " tokens: smaller images, a larger patch_size, or a model that draws codes or latents "
        "(vq_transformer, maskgit, dit with an autoencoder)."
    )
    if any(str(device).lower().startswith("cpu") for device in keras.distribution.list_devices()):
        raise ValueError(text)
    warnings.warn(text, stacklevel=2)


def measure_step(model_class, preset, seconds=1.0):
    """What a training step of a preset costs here, after the first: measured for some `seconds`.

    A dict of `parameters` that train, `batch_size` and `seconds` per step.
    """
    model = model_class.from_preset(preset)
    model.compile()
    size = model.default_batch_size
    images = np.random.default_rng(0).integers(0, 256, (size, *model.image_shape), "uint8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of autoencoders that nobody has trained
        if model.needs_adapting():
            model.adapt(images)
        model.train_on_batch(images)
    steps, start = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - start < seconds:
        model.train_on_batch(images)
        steps += 1
    return {
        "parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
        "batch_size": size,
        "seconds": (time.perf_counter() - start) / steps,
    }
