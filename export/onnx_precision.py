"""ONNX with the weights in 16 or in 8 bits: files of half and of a quarter of the size.

Weights alone are rounded, and the graph makes float32 of them before all else: a runtime does so
when it loads the file, and is as fast as with the weights whole. All else stays as it was, so that
the noise, which is made of integers and of tables, is the same bit for bit, no operator in float16
or int8 is asked for, and what a sum or a logarithm needs of precision it has.

Converters of graphs do otherwise. `onnxruntime.transformers.float16` gives graphs of these samplers
that do not load, and to compute in float16 is no gain on a CPU, where ONNX Runtime puts a cast
before and after each node. `onnxruntime.quantization.quantize_dynamic` leaves out transposed
convolutions, and weights that a loop takes from outside, where `export.onnx` puts all of them.
`DequantizeLinear` in place of a cast and a product is computed in every run, and has ONNX Runtime
round what goes into the product too.
"""

import math

import numpy as np
import onnx

from export import loops

#: Where an operator takes its weights, and the axis of what it gives by each of them.
_CHANNELS = {("MatMul", 1): -1, ("Gemm", 1): 1, ("Conv", 1): 0, ("ConvTranspose", 1): 1}
# Look-ups have a row for each index.
_CHANNELS[("Gather", 0)] = 0
# Smaller tensors weigh nothing.
_SMALLEST = 1024


def reduced(models, format_):
    """Copies of `onnx.ModelProto`s by name, with weights as `"onnx_fp16"` or `"onnx_int8"`."""
    return {name: _reduced(model, FORMATS[format_]) for name, model in models.items()}


def _reduced(model, store):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    inputs = {value.name for value in graph.input}
    uses = _uses(graph)
    tensors, nodes = [], []
    for tensor in graph.initializer:
        stored = None
        if tensor.name not in inputs and _is_weight(tensor):
            weight = onnx.numpy_helper.to_array(tensor)
            stored = store(tensor.name, weight, uses.get(tensor.name, ()))
        for values, added in zip((tensors, nodes), stored or ([_copied(tensor)], []), strict=True):
            values += added
    nodes += [_copied(node) for node in graph.node]
    for values, new in ((graph.initializer, tensors), (graph.node, nodes)):
        del values[:]
        values.extend(new)
    return copy


def _is_weight(tensor):
    """Whether it is a matrix or a kernel: biases, and the tables of the noise, have one axis."""
    large = math.prod(tensor.dims) * 4 >= _SMALLEST
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1 and large


def _uses(graph):
    """Which operators take a tensor, loops included: name to pairs of a node and the input."""
    uses = {}
    for part in loops.subgraphs(graph):
        for node in part.node:
            for number, name in enumerate(node.input):
                uses.setdefault(name, []).append((node, number))
    return uses


def _as_fp16(name, weight, uses):
    with np.errstate(over="ignore"):
        half = weight.astype("float16")
    if not np.isfinite(half).all():  # such as masks of -1e9
        return None
    stored = onnx.numpy_helper.from_array(half, f"{name}_fp16")
    cast = onnx.helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)
    return [stored], [cast]


def _as_int8(name, weight, uses):
    """With a scale for each channel of what the operators give that take it."""
    axes = {_channels(node, number, weight.ndim) for node, number in uses}
    if len(axes) != 1 or None in axes:  # no weight, or one that is shared by different uses
        return None
    [axis] = axes
    others = tuple(number for number in range(weight.ndim) if number != axis)
    scale = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale)
    rounded = np.rint(weight / scale).astype("int8")
    stored = onnx.numpy_helper.from_array(rounded, f"{name}_int8")
    scales = onnx.numpy_helper.from_array(scale, f"{name}_scale")
    whole = f"{name}_whole"
    cast = onnx.helper.make_node("Cast", [stored.name], [whole], to=onnx.TensorProto.FLOAT)
    product = onnx.helper.make_node("Mul", [whole, scales.name], [name])
    return [stored, scales], [cast, product]


def _channels(node, number, rank):
    axis = _CHANNELS.get((node.op_type, number))
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Gemm" and attributes.get("transB"):
        axis = 0
    if node.op_type == "Gather" and attributes.get("axis"):
        axis = None
    return None if axis is None else axis % rank


def _copied(message):
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


FORMATS = {"onnx_fp16": _as_fp16, "onnx_int8": _as_int8}
