"""The loops of an ONNX graph, made fast: what no step changes is computed once.

tf2onnx carries all that a loop sees from step to step, the weights too, and computes in each what
follows from them. A runtime then takes no weight for a constant, so that it neither computes
ahead nor packs a matrix for its products. (Optimisers of ONNX graphs leave this as it is:
onnxscript's adds a copy for each tensor carried, onnxoptimizer fails on the bodies.)
"""

import collections
import math

import onnx


def simplify(model):
    """Makes a model's loops smaller, in place; what it gives stays equal.

    Equal bit for bit, but for layer normalisations, which a runtime may sum in another order.
    """
    graph = model.graph
    _name_once(graph, set())
    _release(graph)
    _take_out(graph)
    _remove_unused(graph)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {}
    for part, typed in zip(list(subgraphs(graph)), subgraphs(inferred), strict=True):
        types.update(_types(typed))
        _leave_out_detours(part, types)
        _join_products(part, types)
        _join_normalizations(part, types)
    _remove_unused(graph)


def subgraphs(graph):
    """A graph and all graphs in it, outer ones first."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from subgraphs(body)


def defined(graph):
    """Names that a graph gives to its tensors."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (output for node in graph.node for output in node.output if output)


def _bodies(node):
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def _used(node):
    """Names that a node takes, and those that graphs in it take."""
    yield from node.input
    for body in _bodies(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from _used(inner)


def _name_once(graph, taken, scope=()):
    """Gives each tensor a name that no other has, nor one in another graph."""
    scope = dict(scope)
    for name in list(defined(graph)):
        new, number = name, 0
        while new in taken:
            number += 1
            new = f"{name}_{number}"
        taken.add(new)
        scope[name] = new
    for value in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
        value.name = scope.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [scope.get(name, name) for name in names]
        for body in _bodies(node):
            _name_once(body, taken, scope)


def replace(graph, renamed):
    """Has a graph's nodes, and what a body gives, take other tensors."""
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for body in _bodies(node):
            replace(body, renamed)
            _make_outputs(body, renamed)


def _make_outputs(body, renamed):
    """What a body gives, it makes: copies of tensors from elsewhere."""
    for number, value in enumerate(body.output):
        if value.name in renamed:
            copy = f"{value.name}_copy_{number}"
            body.node.add(op_type="Identity", input=[renamed[value.name]], output=[copy])
            value.name = copy


def _release(graph):
    """Has the bodies of loops take from around them what each step would hand on unchanged."""
    for node in graph.node:
        if node.op_type == "Loop":
            _release_from(graph, node, *_bodies(node))
        for body in _bodies(node):
            _release(body)


def _release_from(graph, loop, body):
    copies = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity"}
    outputs = {value.name for value in graph.output}
    inside, outside, kept = {}, {}, []
    for number, start in enumerate(loop.input[2:]):
        carried, name = body.input[2 + number].name, body.output[1 + number].name
        while name in copies:
            name = copies[name]
        if name == carried and loop.output[number] not in outputs:
            inside[carried] = outside[loop.output[number]] = start
        else:
            kept.append(number)
    collected = range(len(loop.input) - 2, len(loop.output))
    for values, first, left in (
        (body.input, 2, kept),
        (loop.input, 2, kept),
        (body.output, 1, [*kept, *collected]),
        (loop.output, 0, [*kept, *collected]),
    ):
        for number in reversed(range(len(values) - first)):
            if number not in left:
                del values[first + number]
    replace(body, inside)
    _make_outputs(body, inside)
    replace(graph, outside)


def _take_out(graph, changing=()):
    """Moves nodes that no step of a loop changes to before it.

    `changing` are names of what each step of a loop around the graph, or its own, makes anew.
    Not every such step may run a loop in it (PixelCNN++'s coarse pixels): what it makes anew stays
    there, for it would be computed in vain.
    """
    changing = _following(changing, graph.node)
    nodes = []
    for node in graph.node:
        for body in _bodies(node):
            own = {value.name for value in body.input}
            _take_out(body, changing | own)
            if node.op_type == "Loop":
                always = changing.isdisjoint(node.input[:2])
                nodes += _taken_out(graph, body, own if always else changing | own)
        nodes.append(_copy(node))
    del graph.node[:]
    graph.node.extend(nodes)


def _following(names, nodes):
    """The names, and those of all that nodes make of them."""
    names = set(names)
    for node in nodes:
        if not names.isdisjoint(_used(node)):
            names.update(node.output)
    return names


def _taken_out(graph, body, changing):
    """The nodes that nothing of `changing` changes, which leave the body."""
    changing = set(changing)
    left, moved = [], []
    for node in body.node:
        if _bodies(node) or changing.intersection(node.input):
            changing.update(node.output)
            left.append(_copy(node))
        else:
            moved.append(_copy(node))
    # The body keeps its own constants: shapes are inferred from them.
    constants, copied = {tensor.name: tensor for tensor in body.initializer}, {}
    for node in moved:
        for number, name in enumerate(node.input):
            if name in constants and name not in copied:
                copied[name] = f"{name}_outside"
                graph.initializer.add().CopyFrom(constants[name])
                graph.initializer[-1].name = copied[name]
            node.input[number] = copied.get(name, name)
    del body.node[:]
    body.node.extend(left)
    _make_outputs(body, {name: name for node in moved for name in node.output})
    return moved


def _copy(node):
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _leave_out_detours(graph, types):
    """Leaves out slices of all that there is, and what has an index count from the end."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor).ravel().tolist()
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= 8
    }
    outputs = {value.name for value in graph.output}
    renamed = {}
    for node in graph.node:
        if node.op_type == "Slice" and node.output[0] not in outputs:
            _, shape = types.get(node.input[0], (None, None))
            if _is_whole(shape, *(constants.get(name, []) for name in node.input[1:])):
                renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
        elif node.op_type == "Gather":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            _, shape = types.get(node.input[0], (None, None))
            size = shape[axis] if shape else None
            node.input[1] = _unwrapped(node.input[1], size, makers, constants)
    replace(graph, renamed)


#: The end of a slice that goes on to the end, as tf2onnx writes it: longer than any axis.
_ALL = 10**9


def _is_whole(shape, starts, ends, axes=(), steps=(1,)):
    if shape is not None and len(axes) == len(ends):
        sizes = [shape[axis] for axis in axes]
        ends = [_ALL if end == size else end for end, size in zip(ends, sizes, strict=True)]
    return set(starts) == {0} and set(steps) == {1} and min(ends, default=0) >= _ALL


def _unwrapped(name, size, makers, constants):
    """The index `i` where `name` is `i < 0 ? i + size : i`, which ONNX does by itself."""

    def made_by(op_type, name):
        node = makers.get(name)
        return node.input if node is not None and node.op_type == op_type else None

    if size is None or not (choice := made_by("Where", name)):
        return name
    condition, wrapped, index = choice
    compared, added = made_by("Less", condition), made_by("Add", wrapped)
    if not compared or not added or constants.get(compared[1]) != [0]:
        return name
    cast = made_by("Cast", compared[0]) or compared
    sizes = [constants.get(other) for other in added if other != index]
    return index if cast[0] == index and sizes == [[size]] else name


def _remove_unused(graph):
    """Removes nodes and constants that nothing takes."""
    needed = {value.name for value in graph.output}
    for number in reversed(range(len(graph.node))):
        node = graph.node[number]
        if needed.intersection(node.output):
            for body in _bodies(node):
                _remove_unused(body)
            needed.update(_used(node))
        else:
            del graph.node[number]
    for number in reversed(range(len(graph.initializer))):
        if graph.initializer[number].name not in needed:
            del graph.initializer[number]


def _types(graph):
    """Types and shapes of tensors by name; a shape is a list, with `None` for what is not known."""
    types = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            sides = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
            types[value.name] = kind.elem_type, sides
    return types


def _join_products(graph, types):
    """Makes one node of a product of two matrices and a sum with a third, or with a row."""
    makers = {name: node for node in graph.node for name in node.output}
    uses = collections.Counter(name for node in graph.node for name in _used(node))
    uses.update(value.name for value in graph.output)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, added in (node.input, reversed(node.input)):
            maker = makers.get(product)
            if maker is None or maker.op_type != "MatMul" or uses[product] > 1:
                continue
            names = [*maker.input, added]
            kinds, shapes = zip(*(types.get(name, (None, [])) for name in names), strict=True)
            ranks = [len(shape) for shape in shapes]
            if set(kinds) != {onnx.TensorProto.FLOAT} or ranks not in ([2, 2, 1], [2, 2, 2]):
                continue
            rows, columns = shapes[0][0], shapes[1][1]
            if columns is not None and shapes[2] in ([columns], [1, columns], [rows, columns]):
                node.op_type = "Gemm"
                node.input[:] = names
                break


def _join_normalizations(graph, types):
    """Makes one node of the thirteen of Keras's layer normalisation over the last axis."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def inputs(name, op_type):
        node = makers.get(name)
        return list(node.input) if node is not None and node.op_type == op_type else [None, None]

    def is_mean(name, rank):
        """Of the last axis, which it keeps."""
        node, (_, axes) = makers.get(name), inputs(name, "ReduceMean")
        if axes not in constants or not all(a.i for a in node.attribute if a.name == "keepdims"):
            return False
        axes = onnx.numpy_helper.to_array(constants[axes]).tolist()
        return axes in ([-1], [rank - 1])

    for node in graph.node:
        if node.op_type != "Add":
            continue
        # x * factor + (-mean * factor + offset), with factor = scale / sqrt(variance + epsilon)
        x, factor = inputs(node.input[0], "Mul")
        kind, shape = types.get(x, (None, []))
        shifted, offset = inputs(node.input[1], "Add")
        negative, same = inputs(shifted or node.input[1], "Mul")
        mean = inputs(negative, "Neg")[0]
        inverse, scale = inputs(factor, "Mul")
        root = inputs(inverse or factor, "Reciprocal")[0]
        variance, epsilon = inputs(inputs(root, "Sqrt")[0], "Add")
        square = inputs(inputs(variance, "ReduceMean")[0], "Mul")
        if not (
            kind == onnx.TensorProto.FLOAT
            and (shape and shape[-1] is not None)
            and factor == same
            and is_mean(mean, len(shape))
            and is_mean(variance, len(shape))
            and inputs(mean, "ReduceMean")[0] == x
            and square[0] == square[1]
            and inputs(square[0], "Sub") == [x, mean]
            and epsilon in constants
            and (scale is None) == (offset is None)
        ):
            continue
        if scale is None:
            scale = f"{node.output[0]}_scale"
            ones = onnx.helper.make_tensor(scale, kind, shape[-1:], [1.0] * shape[-1])
            graph.initializer.append(ones)
        elif any(types.get(name, (0, [0]))[1][-1] != shape[-1] for name in (scale, offset)):
            continue
        node.op_type = "LayerNormalization"
        node.input[:] = [x, scale, *([offset] if offset else [])]
        epsilon = onnx.numpy_helper.to_array(constants[epsilon]).item()
        node.attribute.extend(
            [
                onnx.helper.make_attribute("axis", -1),
                onnx.helper.make_attribute("epsilon", epsilon),
            ]
        )
