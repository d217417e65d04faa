"""How networks are told the class of an image, and how what it says is made to say more.

Guidance without a classifier: Ho and Salimans, "Classifier-free diffusion guidance" (2022; arXiv
2207.12598). Training hides some of the labels (algorithm 1), so that one network knows the images
with and without their class; sampling goes further in the direction of the class (equation 6).
"""

import keras
import numpy as np
from keras import layers, ops

from kgen import random
from kgen.checks import Number


def class_input(num_classes):
    """The input of a network that is told the class, one-hot; a list, empty without classes."""
    return [] if num_classes is None else [keras.Input((num_classes,), name="one_hot_label")]


def with_class(x, labels, num_classes):
    """What a network with a `class_input` takes: a list of `x` and, with classes, the labels."""
    if num_classes is None:
        return [x]
    return [x, ops.one_hot(labels, num_classes, dtype="float32")]


def add_class(x, one_hot=None):
    """Adds to (B, ..., filters) a bias for the class, (B, num_classes), if there are any."""
    if one_hot is None:
        return x
    bias = layers.Dense(x.shape[-1], use_bias=False)(one_hot)
    return layers.Add()([x, layers.Reshape((*[1] * (len(x.shape) - 2), x.shape[-1]))(bias)])


def hide_labels(labels, seeds, share, num_classes):
    """Labels of which a share says "no class", `num_classes` (Ho and Salimans, algorithm 1)."""
    if labels is None or not share:
        return labels
    hidden = random.uniform(seeds, (), stream=2) < share
    return ops.where(hidden, np.int32(num_classes), labels)


#: What the option `guidance_scale` may be: any number, and 1 is the network itself.
GUIDANCE = Number(off=1)


def guides(guidance_scale):
    """Whether a scale is another than 1; that of a tensor is."""
    return ops.is_tensor(guidance_scale) or guidance_scale != GUIDANCE.off


def check_guidance(model, guidance_scale):
    """Raises a ValueError where a scale compares with what a model never learnt."""
    if not guides(guidance_scale):
        return
    if model.num_classes is None:
        raise _no_classes(guidance_scale)
    if not model.label_dropout:
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

    With w + 1 for the scale it is equation 6 of Ho and Salimans: 1 is the network itself, 0 the
    one without classes. Both are computed in one pass of twice the batch. A `ValueError` where a
    network without classes is to be guided by them; see `check_guidance`.
    """
    if not guides(guidance_scale):
        return ops.cast(network(*inputs, labels), "float32")
    if labels is None:
        raise _no_classes(guidance_scale)
    labels = ops.concatenate([labels, ops.full_like(labels, num_classes)], axis=0)
    inputs = [ops.concatenate([x, x], axis=0) for x in inputs]
    told, free = ops.split(ops.cast(network(*inputs, labels), "float32"), 2, axis=0)
    return free + guidance_scale * (told - free)
