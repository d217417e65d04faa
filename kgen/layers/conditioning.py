"""How networks are told the class of an image, and how what it says is made to say more.

Guidance without a classifier: Ho and Salimans, "Classifier-free diffusion guidance" (2022; arXiv
2207.12598). Training hides some of the labels (algorithm 1), so that one network knows the images
with and without their class; sampling goes further in the direction of the class (equation 6).
"""

import contextlib
import contextvars

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import Number


def class_input(num_classes):
    """The input of a network that is told the class, one-hot; a list, empty without classes."""
    return [] if num_classes is None else [keras.Input((num_classes,), name="one_hot_label")]


def with_class(x, labels, num_classes):
    """What a network takes whose inputs are `joined`: `x`, or a list of it and one-hot labels."""
    if num_classes is None:
        return x
    return [x, ops.one_hot(labels, num_classes, dtype="float32")]


def joined(x, one_hot):
    """The inputs of a network: a tensor alone, so that it is called with one, or a list."""
    return [x, *one_hot] if one_hot else x


def add_class(x, one_hot=None):
    """Adds to (B, ..., filters) a bias for the class, (B, num_classes), if there are any."""
    if one_hot is None:
        return x
    bias = layers.Dense(x.shape[-1], use_bias=False)(one_hot)
    return layers.Add()([x, layers.Reshape((*[1] * (len(x.shape) - 2), x.shape[-1]))(bias)])


def modulated_by_class(x, one_hot):
    """Scales and shifts (B, ..., filters) by what is learnt for the class, (B, num_classes)."""
    shape = layers.Reshape((*[1] * (len(x.shape) - 2), x.shape[-1]))
    scale, shift = (
        shape(layers.Dense(x.shape[-1], use_bias=False, kernel_initializer=first)(one_hot))
        for first in ("ones", "zeros")
    )
    return layers.Add()([layers.Multiply()([x, scale]), shift])


def hide_labels(labels, seeds, share, num_classes):
    """Labels of which a share says "no class", `num_classes` (Ho and Salimans, algorithm 1)."""
    if labels is None or not share:
        return labels
    hidden = random.uniform(seeds, (), stream=2) < share
    return ops.where(hidden, np.int32(num_classes), labels)


#: What the option `guidance_scale` may be: any number, and 1 is the network itself.
GUIDANCE = Number(off=1)


def guides(guidance_scale):
    """Whether a scale is another than 1; those of a tensor or an array are."""
    return _several(guidance_scale) or guidance_scale != GUIDANCE.off


def can_guide(model):
    """Whether a model knows images both with and without their class."""
    return model.num_classes is not None and model.label_dropout > 0


def check_guidance(model, guidance_scale):
    """Raises a ValueError where a scale compares with what a model never learnt."""
    if not guides(guidance_scale) or can_guide(model):
        return
    if model.num_classes is None:
        raise _no_classes(guidance_scale)
    raise ValueError(
        "guidance_scale compares with the model that is told no class, which label_dropout=0 "
        "never trained: leave it at 1, or train with label_dropout=0.1. Received: "
        f"guidance_scale={guidance_scale}, label_dropout={model.label_dropout}"
    )


def _no_classes(guidance_scale):
    return ValueError(
        "guidance_scale compares with a model without classes, and this one has none: leave it at "
        f"1, or build the model with num_classes. Received: guidance_scale={guidance_scale}"
    )


def guided(network, inputs, labels, num_classes, guidance_scale):
    """What a network says without a class, plus so many times what the class changes; float32.

    With w + 1 for the scale, a number or one for each row, it is equation 6 of Ho and Salimans: 1
    is the network itself, 0 the one without classes. Both are computed in one pass, that without
    classes for so many rows as `guided_rows` says. A `ValueError` where a network without classes
    is to be guided by them; see `check_guidance`.
    """
    if not guides(guidance_scale):
        return ops.cast(network(*inputs, labels), "float32")
    if labels is None:
        raise _no_classes(guidance_scale)
    batch, rows = ops.shape(labels)[0], guided_rows(guidance_scale, labels)
    labels = ops.concatenate([labels, ops.full_like(labels, num_classes)[:rows]], axis=0)
    inputs = [ops.concatenate([x, x[:rows]], axis=0) for x in inputs]
    outputs = ops.cast(network(*inputs, labels), "float32")
    told = outputs[:batch]
    free = ops.concatenate([outputs[batch:], told], axis=0)[:batch]
    scale = per_row(guidance_scale, told)
    # A row that is not guided is the network's own to the last bit, whatever stands beside it.
    return ops.where(ops.equal(scale, 1.0), told, free + scale * (told - free))


def guidance_in(guidance_scale, low, high, times):
    """A scale where times `[B]` are from `low` to `high`, numbers or one for each row, and 1
    elsewhere.
    """
    everywhere = not _several(low) and not _several(high) and low <= 0 and high >= 1
    if everywhere or not guides(guidance_scale):
        return guidance_scale
    inside = ops.logical_and(times >= low, times <= high)
    return ops.where(inside, guidance_scale, 1.0)


def guided_rows(guidance_scale, labels):
    """How many rows of a batch, whose labels are given, `guided` computes without a class too."""
    if not guides(guidance_scale):
        return 0
    if not ops.is_tensor(guidance_scale):
        return ops.shape(labels)[0]
    return rows_needed(ops.not_equal(guidance_scale, 1.0))


# Options of sampling, of which each row may have its own -------------------------------


def per_row(value, x):
    """A number, or a tensor `[B]` of one for each row of `x` `[B, ...]`, as it broadcasts."""
    return ops.reshape(value, (-1, *[1] * (len(x.shape) - 1))) if _several(value) else value


def _several(value):
    return ops.is_tensor(value) or np.ndim(value) > 0


_SIZES_BY_VALUES = contextvars.ContextVar("sizes_by_values", default=False)


@contextlib.contextmanager
def sizes_by_values():
    """What is traced in the block may have tensors whose sizes depend on values.

    XLA, and so JAX, must know all sizes before it runs; other runtimes need not compute what no
    row of a batch asks for.
    """
    token = _SIZES_BY_VALUES.set(True)
    try:
        yield
    finally:
        _SIZES_BY_VALUES.reset(token)


def rows_needed(asked, least=0):
    """Of how many rows something is computed that those ask for where `asked`, bool `[B]`, is true:
    all, or with `sizes_by_values` the `least` where no row does.
    """
    size = ops.shape(asked)[0]
    return ops.where(ops.any(asked), size, least) if _SIZES_BY_VALUES.get() else size
