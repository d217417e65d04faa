"""The cached samplers: each new place costs one place of the network, and not the network.

`draw` serves networks over pixels, row by row and column by column; `draw_tokens` serves causal
transformers, token by token. Both are one graph of loops, which converts to ONNX.
"""

import math

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import Number
from kgen.layers.causal_conv import held_kernels
from kgen.layers.conditioning import GUIDANCE, guided, guided_rows, per_row, rows_needed

#: What the options of a draw from logits may be.
CHOICE = {
    "temperature": Number(above=0),
    "top_k": Number(least=1, whole=True, optional=True),
    "top_p": Number(above=0, most=1, optional=True, off=1),
}
GUIDED_CHOICE = {**CHOICE, "guidance_scale": GUIDANCE}


def check_choice(**options):
    """Raises a ValueError where an option of a draw is out of range; tensors are not looked at."""
    for name, value in options.items():
        if not ops.is_tensor(value):
            CHOICE[name].check(name, value)


def keep_likeliest(logits, top_k=None, top_p=None):
    """Logits `[B, ..., Q]`, of which all but the `top_k` likeliest, and of these all but the
    likeliest that together have the probability `top_p`, a number or one for each row, are never
    drawn; `None` keeps all. Of equal ones the first are kept.
    """
    num_choices = logits.shape[-1]
    if top_k is not None and top_k < num_choices:
        logits = _keep(logits, int(top_k), ops.top_k(logits, int(top_k))[0][..., -1:])
    if top_p is None or not (ops.is_tensor(top_p) or top_p < 1):
        return logits
    if not ops.is_tensor(top_p):
        return _keep_share(logits, top_p)
    asked, batch = top_p < 1, ops.shape(logits)[0]
    rows = rows_needed(asked, least=1)  # onnxruntime-web cannot put none in order
    kept = _keep_share(logits[:rows], per_row(top_p[:rows], logits))
    kept = ops.concatenate([kept, logits], axis=0)[:batch]
    return ops.where(per_row(asked, logits), kept, logits)


def _keep_share(logits, top_p):
    ordered = ops.top_k(logits, logits.shape[-1])[0]
    shares = ops.softmax(ordered, axis=-1)
    before = ops.cumsum(shares, axis=-1) - shares
    # The likeliest one has nothing before it: it always stays.
    places = np.arange(1, logits.shape[-1] + 1, dtype="int32")
    count = ops.max(ops.where(before < top_p, places, np.int32(1)), axis=-1, keepdims=True)
    least = ops.min(ops.where(places <= count, ordered, np.inf), axis=-1, keepdims=True)
    return _keep(logits, count, least)


def _keep(logits, count, least):
    """The `count` likeliest of the last axis, the last of which is `least`, `[B, ..., 1]`."""
    likelier, equal = logits > least, ops.equal(logits, least)
    left = count - ops.sum(ops.cast(likelier, "int32"), axis=-1, keepdims=True)
    first = ops.cumsum(ops.cast(equal, "int32"), axis=-1) <= left
    return ops.where(ops.logical_or(likelier, ops.logical_and(equal, first)), logits, -1e30)


def draw(network, distribution, shape, seeds, labels=None, temperature=1.0, known=None, mask=None):
    """The cached sampler: draws what a network describes, place by place in raster order.

    The network is one of `AutoregressiveGenerator`, the distribution one of `distributions`. Scaled
    levels, float32 `[B, H, W, C]`; those in the `mask` `[B, H, W]` are kept as in `known`.
    """
    check_choice(temperature=temperature)
    height, width, channels = shape
    batch = ops.shape(seeds)[0]
    if known is not None:  # rows and columns lead, as they do in all that is looped over
        known = ops.transpose(known, (1, 2, 0, 3))
        mask = ops.cast(ops.transpose(mask, (1, 2, 0))[..., None], "bool")

    noise_of_row = noise_by_rows(seeds, height, (width, *distribution.noise_shape))
    blank = ops.zeros((batch, channels))

    def draw_row(row, carry):
        image, rows = carry
        context, rows = network.begin_row(rows, row, labels)
        noise = noise_of_row(row)

        def draw_pixel(column, carry):
            x, columns, collected = carry
            last = ops.take(x, column, axis=0)  # x begins with the border
            here = _at(context, column)
            drawn = blank
            for step in range(distribution.passes):
                parameters, after, outputs = network.pixel(here, columns, column, last, drawn, step)
                drawn = distribution.draw(
                    parameters, ops.take(noise, column, axis=0), drawn, step, temperature
                )
                if known is not None:
                    given = ops.take(ops.take(known, row, axis=0), column, axis=0)
                    # As a pass draws: one channel after the other, or all in one pass.
                    count = channels if step == distribution.passes - 1 else step + 1
                    given = given * (np.arange(channels) < count)
                    keep = ops.take(ops.take(mask, row, axis=0), column, axis=0)
                    drawn = ops.where(keep, given, drawn)
            collected = tuple(
                _put(rows, column, new) for rows, new in zip(collected, outputs, strict=True)
            )
            return _put(x, column + 1, drawn), after, collected

        start = ops.zeros((width + 1, batch, channels)), network.start_columns(batch)
        collected = tuple(
            ops.zeros((width, batch, size)) for size in getattr(network, "output_sizes", ())
        )
        x, _, collected = ops.fori_loop(0, width, draw_pixel, (*start, collected))
        rows = network.end_row(rows, context, x[1:], collected)
        return _put(image, row, x[1:]), rows

    image = ops.zeros((height, width, batch, channels))
    with held_kernels(network):
        image, _ = ops.fori_loop(0, height, draw_row, (image, network.start(batch)))
    return ops.transpose(image, (2, 0, 1, 3))


#: Up to so many numbers of an image are drawn at once, beyond them row by row: in a loop each of
#: the many small operations is run again, but all noise of a batch of large images takes memory.
_MOST_AT_ONCE = 2**15


def noise_by_rows(seeds, height, shape):
    """A function from a row to its Gumbel noise `[W, B, ...]`, for rows of the shape `(W, ...)`."""

    def by_columns(noise):
        return ops.moveaxis(noise, 1, 0)

    if height * math.prod(shape) > _MOST_AT_ONCE:
        return lambda row: by_columns(random.gumbel(seeds, shape, stream=row))
    rows = np.arange(height, dtype="int32")[:, None]
    seeds, streams = seeds + np.zeros_like(rows), rows + ops.zeros_like(seeds)
    noise = random.gumbel(ops.reshape(seeds, (-1,)), shape, ops.reshape(streams, (-1,)))
    noise = ops.reshape(noise, (height, -1, *shape))
    return lambda row: by_columns(ops.take(noise, row, axis=0))


def _at(tree, column):
    """The tensors of a nested tuple at one place of their leading axis."""
    if isinstance(tree, tuple):
        return tuple(_at(part, column) for part in tree)
    return ops.take(tree, column, axis=0)


def _put(x, index, row):
    """`x` with one place of its leading axis set. It converts to ONNX, and is fast there."""
    return ops.scatter_update(x, ops.reshape(index, (1, 1)), ops.cast(row, x.dtype)[None])


def draw_tokens(
    network,
    seeds,
    labels=None,
    known=None,
    mask=None,
    temperature=1.0,
    top_k=None,
    top_p=None,
    guidance_scale=1.0,
):
    """The cached sampler of causal transformers: one token after the other, int32 `[B, T]`.

    A network has `length`, `num_tokens`, `num_classes`, and

    - `start(batch_size)`: its cache before the first token;
    - `step(last, cache, position, labels)`: logits `[B, Q]` of the token at an int32 scalar
      `position`, from the one before it, int32 `[B]`, and the new cache; the label `num_classes`
      stands for none.

    Tokens in the `mask` `[B, T]` are kept as in `known`, int32 `[B, T]`. Options are as for
    `ImageGPT.sample`.
    """
    check_choice(temperature=temperature, top_k=top_k, top_p=top_p)
    length, batch = network.length, ops.shape(seeds)[0]
    noise = random.gumbel(seeds, (length, random.categorical_size(network.num_tokens)))
    noise = ops.moveaxis(noise, 1, 0)
    if known is not None:
        known, mask = ops.transpose(known), ops.cast(ops.transpose(mask), "bool")

    def draw_token(position, carry):
        tokens, cache = carry

        def step(last, labels):
            nonlocal cache
            logits, cache = network.step(last, cache, position, labels)
            return logits

        last = ops.take(tokens, ops.maximum(position - 1, 0), axis=0)
        logits = guided(step, (last,), labels, network.num_classes, guidance_scale)
        logits = keep_likeliest(logits / per_row(temperature, logits), top_k, top_p)
        drawn = random.categorical(logits, ops.take(noise, position, axis=0))
        if known is not None:
            keep = ops.take(mask, position, axis=0)
            drawn = ops.where(keep, ops.take(known, position, axis=0), drawn)
        return _put(tokens, position, drawn), cache

    tokens = ops.zeros((length, batch), "int32")
    # With guidance also that of the pass without a class.
    cache = network.start(batch + guided_rows(guidance_scale, seeds))
    tokens, _ = ops.fori_loop(0, length, draw_token, (tokens, cache))
    return ops.transpose(tokens)
