"""Marks of origin in the PNG that a SavedModel's own graph makes, see `kgen.origin`.

A chunk is spliced in behind the header of each picture. It is constant but for the numbers that a
request gives: seed, label and options have places of fixed width in it, an int by its decimal
digits, a float32 by the hexadecimal ones of its bits. A checksum is linear in the bits of what it
is of: each digit changes that of the constant chunk by what stands for it in a table.

The sha256 of the artifact's manifest cannot be in it, for the manifest names the SavedModel by its
own. That of the model is, which the manifest states too.
"""

import dataclasses
import re
import zlib

import numpy as np
import tensorflow as tf

from export import tracing
from kgen import origin

_BYTES = [bytes([value]) for value in range(256)]
_DIGITS = b"0123456789abcdef"
_REST = 2**31 - 1  # of a string, whatever its length
_WIDTHS = {"int32": 10, "float32": 8}
_INTS = ("seed", "label")


def marked(pngs, claim, inputs, specs):
    """PNG strings `[B]` with a mark in each.

    Args:
        pngs: String tensor `[B]`.
        claim: `kgen.origin.Claim`, but for the numbers.
        inputs: Dict of name to tensor `[B]`, the numbers, or `[1]` for an option of all rows.
        specs: Dict of their names to `kgen.TensorSpec`.
    """
    head = tf.strings.substr(pngs, 0, origin.HEADER)
    rest = tf.strings.substr(pngs, origin.HEADER, _REST)
    data, places = _template(claim, {name: specs[name].dtype for name in inputs})
    chunk = origin.chunk(data)
    if not places:
        return tf.strings.join([head, chunk, rest])
    digits = {name: _digits(_of_rows(inputs[name], pngs, specs[name])) for name in places}
    pieces, end = [], -8  # the chunk begins with its length and its name
    for name, place in places.items():
        characters = tf.gather([_BYTES[digit] for digit in _DIGITS], digits[name])
        pieces += [chunk[8 + end : 8 + place], tf.strings.reduce_join(characters, axis=1)]
        end = place + digits[name].shape[1]
    pieces.append(chunk[8 + end : -4])
    changed = [place + i for name, place in places.items() for i in range(digits[name].shape[1])]
    checksum = _checksum(data, changed, tf.concat(list(digits.values()), axis=1))
    return tf.strings.join([head, *pieces, checksum, rest])


def numbers(endpoint):
    """The names of those inputs of an endpoint that stand in a mark."""
    return [
        name
        for name, spec in endpoint.inputs.items()
        if name in _INTS or (spec.default is not None and spec.dtype == "float32")
    ]


def _template(claim, dtypes):
    """The data of a chunk with zeros for all digits; and the place of the first one of each number,
    by name, in their order.
    """
    sign = f"@{claim.model_sha256}@"  # which no model has in its name
    texts = {name: f"{sign}{name}{sign}" for name in dtypes}
    options = {name: f"0x{text}" for name, text in texts.items() if name not in _INTS}
    fields = {f"{name}s": (text,) for name, text in texts.items() if name in _INTS}
    claim = dataclasses.replace(claim, **fields, options={**claim.options, **options})
    first, *others = re.split(f"{sign}(\\w+){sign}", claim.packet())
    data, places = origin.CHUNK_HEAD + first.encode(), {}
    for name, text in zip(others[::2], others[1::2], strict=True):
        places[name] = len(data)
        data += b"0" * _WIDTHS[dtypes[name]] + text.encode()
    return data, places


def _of_rows(tensor, pngs, spec):
    rows = tf.shape(pngs)[0]
    return tracing.clipped(tensor if spec.default is None else tracing.for_all(tensor, rows), spec)


def _digits(numbers):
    """The digits of int32 or float32 `[B]`, int32 `[B, width]`."""
    places = range(_WIDTHS[numbers.dtype.name])[::-1]
    if numbers.dtype == tf.int32:
        return numbers[:, None] // [10**place for place in places] % 10
    bits = tf.bitcast(numbers, tf.int32)[:, None]
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, [4 * p for p in places]), 15)


def _checksum(data, changed, digits):
    """The checksum of chunks: strings `[B]` of 4 bytes.

    `data` has zeros in the places `changed`, where the chunks have digits, int32 `[B, N]`.
    """
    table = np.zeros((len(changed), 16), "uint32")
    zeros = bytes(4 + len(data))
    for i, place in enumerate(changed):
        for digit, character in enumerate(_DIGITS):
            other = bytearray(zeros)
            other[4 + place] = character ^ ord("0")
            table[i, digit] = zlib.crc32(other) ^ zlib.crc32(zeros)
    rows = tf.gather(_bits(table.ravel()), digits + 16 * np.arange(len(changed), dtype="int32"))
    constant = _bits(np.uint32([zlib.crc32(b"iTXt" + data)]))
    bits = (tf.reduce_sum(rows, axis=1) + constant) % 2  # what adding without carry is
    values = tf.reduce_sum(tf.reshape(bits, (-1, 4, 8)) * [128, 64, 32, 16, 8, 4, 2, 1], axis=2)
    return tf.strings.reduce_join(tf.gather(_BYTES, values), axis=1)


def _bits(numbers):
    """uint32 `[N]` by their bits, the highest first: int32 `[N, 32]`."""
    return np.unpackbits(numbers.astype(">u4").view("uint8").reshape(-1, 4), axis=1).astype("int32")
