"""ONNX: one file per endpoint, with the weights of all of them in one file beside.

`convert` makes the models, `write` the files, also of what `export.onnx_precision` makes of models.
tf2onnx writes broken graphs and reports success, so nothing it gives is trusted: what it
logs as an error is raised, the graph is checked, and `export.parity` then runs it.
"""

import contextlib
import hashlib
import logging
import math
import pathlib

import numpy as np
import onnx
import onnx.version_converter
import tf2onnx
import tf2onnx.onnx_opset.tensor
import tf2onnx.optimizer.optimizer_base
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph
from tf2onnx.tf_utils import TF_SUBGRAPH_ATTRS

from export import loops, tracing
from export.errors import ExportError

FOLDER = "onnx"
WEIGHTS = "weights.bin"

# tf2onnx knows no later one; onnx.version_converter lifts its result.
_TF2ONNX_OPSET = 18
# Smaller tensors are shapes and axes, which shape inference must see in the graph itself.
_SMALLEST_EXTERNAL = 1024
# Page size: what the ONNX format asks for, so that runtimes can map the file.
_ALIGNMENT = 4096


def convert(calls, endpoints, opset, step, properties):
    """`onnx.ModelProto`s by the name of their file; options may be left out there.

    `calls` are concrete functions by endpoint, as from `trace`; `step` is told what is converted
    next; `properties` are strings by name that each file tells of itself, beside its endpoint.
    """
    models = {}
    for whole, endpoint in tracing.whole(endpoints).items():
        name = whole.removesuffix(tracing.WITH_OPTIONS)
        step(f"converting to ONNX: {name}")
        models[name] = _convert(name, calls[whole], endpoint, opset)
        onnx.helper.set_model_props(models[name], {**properties, "endpoint": name})
    return models


def write(folder, models, endpoints, opset, name=FOLDER):
    """Writes models, whose weights it takes out, as `<name>/<endpoint>.onnx` of an artifact.

    A single endpoint becomes one self-contained file. Several share `<name>/weights.bin`, in
    which equal tensors are stored once; `Artifact.save_onnx` makes a self-contained file of one.

    Returns a dict for the manifest: opset, and for each endpoint its file and the names that
    its inputs and outputs have there.
    """
    folder = pathlib.Path(folder) / name
    folder.mkdir()
    if len(models) > 1:
        _share_weights(models.values(), folder / WEIGHTS)
    for key, model in models.items():
        path = folder / f"{key}.onnx"
        path.write_bytes(model.SerializeToString())
        # By path, because the checker then finds the external data too.
        onnx.checker.check_model(str(path), full_check=True)
    signatures = {
        key: {
            "endpoint": key,
            "file": f"{name}/{key.removesuffix(tracing.WITH_OPTIONS)}.onnx",
            "inputs": tracing.input_names(endpoint),
            "outputs": {output: output for output in endpoint.outputs},
        }
        for key, endpoint in endpoints.items()
    }
    description = {"path": name, "opset": opset, "signatures": signatures}
    if (folder / WEIGHTS).exists():
        description["external_data"] = f"{name}/{WEIGHTS}"
    return description


def _convert(name, call, endpoint, opset):
    try:
        model = _from_function(name, call, _mended())
    except _PassFailedError:
        model = _from_function(name, call, _mended(careful=True))
    if opset != _TF2ONNX_OPSET:
        model = onnx.version_converter.convert_version(model, opset)
    loops.simplify(model)
    _finish(model, name, endpoint)
    _lift_weights(model.graph)
    return model


def _from_function(name, call, mended):
    with _logged_errors() as errors, mended:
        try:
            model, _ = tf2onnx.convert.from_function(
                _Traced(call),
                input_signature=(),
                opset=_TF2ONNX_OPSET,
                custom_op_handlers={op: (handler, []) for op, handler in _HANDLERS.items()},
            )
        except _PassFailedError:
            raise
        except Exception as error:  # of any class, after any of the logged ones
            errors.append(str(error).strip())
    if errors:
        raise ExportError(f"Endpoint '{name}' does not convert to ONNX: {'; '.join(errors)}")
    return model


class _Traced:
    """A function that is traced already, as tf2onnx asks for one."""

    def __init__(self, call):
        self.call = call

    def get_concrete_function(self):
        return self.call


def _finish(model, name, endpoint):
    """Names, shapes and domains as the endpoint states them."""
    graph = model.graph
    domains = {node.domain for node in _nodes(graph)} - {"", "ai.onnx"}
    if domains:
        foreign = sorted({node.op_type for node in _nodes(graph) if node.domain in domains})
        raise ExportError(
            f"Endpoint '{name}' does not convert to ONNX: it needs the operators "
            f"{', '.join(foreign)} of the domains {', '.join(sorted(domains))}."
        )
    for kind, values, specs in (
        ("inputs", graph.input, _renamed(endpoint.inputs, tracing.input_names(endpoint))),
        ("outputs", graph.output, endpoint.outputs),
    ):
        received = sorted(value.name for value in values)
        if received != sorted(specs):
            raise ExportError(
                f"Endpoint '{name}' converts to an ONNX graph with the {kind} {received}; "
                f"it should have {sorted(specs)}."
            )
        # In the endpoint's own order, with a name for the free axis.
        ordered = [
            onnx.helper.make_tensor_value_info(
                key,
                onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)),
                # One value of an option stands for all rows.
                (
                    "batch" if spec.default is None else f"{key}_batch_or_1",
                    *(_side(key, i) if side is None else side for i, side in enumerate(spec.shape)),
                ),
                spec.description,
            )
            for key, spec in specs.items()
        ]
        del values[:]
        values.extend(ordered)
    for key, spec in endpoint.inputs.items():
        if spec.default is not None:  # an initializer of an input's name is its default
            default = np.array([spec.default], spec.dtype)
            graph.initializer.append(onnx.numpy_helper.from_array(default, key))
    imports = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    for number, subgraph in enumerate(loops.subgraphs(graph)):
        # tf2onnx names them after TensorFlow's functions, which a process numbers.
        subgraph.name = f"{name}_{number}" if number else name
        subgraph.ClearField("doc_string")
    model.doc_string = endpoint.description
    model.producer_name = "kgen"
    model.producer_version = ""


def _side(key, axis):
    """The name of a free side of an input or output."""
    return f"{key}_{('height', 'width')[axis]}"


def _renamed(specs, names):
    return {names[key]: spec for key, spec in specs.items()}


def _nodes(graph):
    return [node for subgraph in loops.subgraphs(graph) for node in subgraph.node]


def _is_large(tensor):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return math.prod(tensor.dims) * dtype.itemsize >= _SMALLEST_EXTERNAL


def _content(tensor):
    """What tells tensors apart: type, shape and the data, as little-endian bytes."""
    array = onnx.numpy_helper.to_array(tensor)
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return tensor.data_type, tuple(tensor.dims), data


def _lift_weights(main):
    """Moves the large tensors of loops and branches out to the main graph, equal ones once.

    Not every runtime looks for external data inside of loops: onnxruntime-web does not, nor does
    ONNX Runtime for a model in memory, or where the data is a symbolic link.
    """
    lifted = {}  # by content

    def lift(tensor):
        copied = onnx.TensorProto()
        copied.CopyFrom(tensor)
        return lifted.setdefault(_content(tensor), copied).name

    renamed = {}
    for graph in loops.subgraphs(main):
        large = {tensor.name: lift(tensor) for tensor in graph.initializer if _is_large(tensor)}
        small = [tensor for tensor in graph.initializer if tensor.name not in large]
        del graph.initializer[:]
        graph.initializer.extend(small)
        renamed |= large
    loops.replace(main, renamed)
    main.initializer.extend(lifted.values())


def _share_weights(models, path):
    """Moves the large tensors of all models into one file, each distinct content once."""
    offsets = {}
    with path.open("wb") as file:
        for model in models:
            for tensor in filter(_is_large, model.graph.initializer):
                _, _, data = _content(tensor)
                digest = hashlib.sha256(data).digest()
                if digest not in offsets:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    offsets[digest] = file.tell()
                    file.write(data)
                tensor.raw_data = data  # set_external_data wants a tensor that has it
                onnx.external_data_helper.set_external_data(
                    tensor, path.name, offset=offsets[digest], length=len(data)
                )
                for field in ("raw_data", "float_data", "int32_data", "int64_data"):
                    tensor.ClearField(field)
    if not offsets:
        path.unlink()


@contextlib.contextmanager
def _logged_errors():
    """Silences tf2onnx and collects what it would only have logged as an error."""
    errors = []

    class Collector(logging.Handler):
        def emit(self, record):
            if record.levelno >= logging.ERROR:
                errors.append(record.getMessage().splitlines()[0])

    # tf2onnx gives each of its modules a logger and raises its level through the root's.
    logger = logging.getLogger("tf2onnx")
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [Collector()], False
    logger.setLevel(logging.ERROR)
    try:
        yield errors
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


class _PassFailedError(Exception):
    """A pass over the ONNX graph failed and left it half done."""


@contextlib.contextmanager
def _mended(careful=False):
    """Has tf2onnx know the shapes inside of loops, and optimise a graph in place.

    It reads a graph's functions in the order of a hash table, and one that comes before its
    caller goes without the shapes of its arguments. What needs a rank, such as a convolution,
    then fails. It also copies a graph before each pass, in case this fails, and writes it after
    each, which takes longer than all else: that is left to the `careful` way, which goes on
    without the pass.
    """
    optimizer = tf2onnx.optimizer
    passes, transposes = optimizer.optimizer_base.GraphOptimizerBase, optimizer.TransposeOptimizer
    replaced = [
        (tf2onnx.tfonnx, "resolve_functions", _resolve_functions),
        (transposes, "_add_handler", _add_handler(transposes._add_handler)),
    ]
    if not careful:
        replaced += [
            (optimizer, "optimize_graph", _in_place(optimizer.optimize_graph)),
            (passes, "optimize", _optimize),
        ]
    with contextlib.ExitStack() as stack:
        for owner, name, new in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        yield


def _add_handler(handle):
    """How a transposition passes an addition: tf2onnx looks for the largest side of a scalar."""

    def without_scalars(self, transpose, node):
        if node.inputs[1].is_const() and not node.inputs[1].get_tensor_value(as_list=False).shape:
            return self._handle_node_having_branches(transpose, node)
        return handle(self, transpose, node)

    return without_scalars


def _in_place(optimize):
    def optimize_in_place(graph, catch_errors, optimizers):
        try:
            graph = optimize(graph, False, optimizers)
        except Exception as error:
            raise _PassFailedError from error
        graph.delete_unused_nodes(graph.outputs)
        return graph

    return optimize_in_place


def _optimize(self, graph, iteration):
    """One pass, without writing the whole graph as protobuf, which is read at the end alone, and
    without looking for unused nodes where nothing has changed."""
    self.opt_iteration = iteration
    graph = self._optimize(graph)
    if self.graph_been_opt:
        graph.delete_unused_nodes(graph.outputs)
    return graph


def _resolve_functions(graph):
    """The functions that a TensorFlow graph calls, as graphs; callees come before callers."""
    definitions, resolved = graph._functions, {}

    def visit(graph):
        for node in graph.get_operations():
            shapes = [tensor.shape for tensor in node.inputs]
            if node.type in ("If", "StatelessIf"):  # the first input is the condition
                shapes = shapes[1:]
            for attribute in TF_SUBGRAPH_ATTRS & node.node_def.attr.keys():
                name = node.node_def.attr[attribute].func.name
                if name not in resolved:
                    definition = definitions[name].definition
                    function = function_def_to_graph(definition, input_shapes=shapes)
                    visit(function)
                    resolved[name] = function

    visit(graph)
    return list(resolved.values())


# Operators that tf2onnx has no handler for, or a slow one, from those that it has.


def _compose(build):
    """A tf2onnx handler that replaces a node by what `build(op, constant, *inputs)` returns."""

    def handler(ctx, node, name, args):
        shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
        numpy_dtype = onnx.helper.tensor_dtype_to_np_dtype(dtype)

        def op(op_type, *inputs):
            made = ctx.make_node(op_type, list(inputs), shapes=[shape], dtypes=[dtype])
            return made.output[0]

        def constant(value):
            array = np.array(value, numpy_dtype)
            return ctx.make_const(tf2onnx.utils.make_name(name), array).output[0]

        inputs, outputs = list(node.input), list(node.output)
        ctx.remove_node(name)
        ctx.make_node(
            "Identity",
            [build(op, constant, *inputs)],
            outputs=outputs,
            shapes=[shape],
            dtypes=[dtype],
            name=name,
        )

    return handler


def _one_hot(ctx, node, name, args):
    """With the depth as a scalar, where tf2onnx makes it a vector of one number."""
    depth = node.input[1]
    tf2onnx.onnx_opset.tensor.OneHot.any_version_after9(ctx.opset, ctx, node)
    if node.type == "OneHot":
        ctx.replace_input(node, node.input[1], depth, 1)


def _reshape(ctx, node, name, args):
    """To a constant shape, where all but one side of it are known."""
    sides = _sides(ctx, node.input[1])
    inferred = ctx.get_shape(node.output[0])
    if inferred is not None:
        sides = [max(pair) for pair in zip(sides or inferred, inferred, strict=True)]
    if sides is not None and sides.count(-1) <= 1:
        constant = ctx.make_const(tf2onnx.utils.make_name(name), np.array(sides, "int64"))
        ctx.replace_input(node, node.input[1], constant.output[0], 1)
    tf2onnx.onnx_opset.tensor.Reshape.version_5(ctx, node)


def _sides(ctx, name):
    """What is known of a shape that a graph computes: a list, with -1 for the sides that are not.

    `None` where not even their number is known.
    """
    node, size = ctx.get_node_by_output(name), ctx.get_shape(name)
    if node is not None:
        if node.is_const():
            return node.get_tensor_value(as_list=False).ravel().tolist()
        if node.type == "Shape":
            return ctx.get_shape(node.input[0])
        if node.type in _OF_SHAPES:
            inputs = [_sides(ctx, part) for part in node.input]
            if None not in inputs:
                return _OF_SHAPES[node.type](*inputs)
    return None if size is None or -1 in size else [-1] * math.prod(size)


# What operators make of shapes as lists, in which -1 is unknown.
_OF_SHAPES = {
    "Cast": lambda x: x,
    "Squeeze": lambda x, *axes: x,
    "Unsqueeze": lambda x, *axes: x,
    "Concat": lambda *parts: [side for part in parts for side in part],
    "Gather": lambda x, indices: [x[index] for index in indices],
    "ReduceProd": lambda x, *axes: [-1 if -1 in x else math.prod(x)],
}


_HANDLERS = {
    # Exact GELU on TensorFlow 2.21.
    "Erfc": _compose(lambda op, constant, x: op("Sub", constant(1), op("Erf", x))),
    "Log1p": _compose(lambda op, constant, x: op("Log", op("Add", x, constant(1)))),
    "Expm1": _compose(lambda op, constant, x: op("Sub", op("Exp", x), constant(1))),
    # tf2onnx has a handler, which makes six nodes for integers. Every look-up needs one.
    "SelectV2": _compose(lambda op, constant, *inputs: op("Where", *inputs)),
    "OneHot": _one_hot,
    "Reshape": _reshape,
}
