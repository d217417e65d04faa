"""Reads the graphs of an artifact before a runtime does, and refuses what kgen would not write.

A graph is a program. These lists hold the operators that the models of the zoo are exported with,
and others of their kinds that a model's endpoints may need: what comes out follows from what goes
in, and nothing else is read, written, said or called. So there is no operator here for files,
networks, Python, printing, hash tables, queues, summaries or random state. The SavedModel's own
reading and writing of variables stands apart, and is held to its place.

The files are parsed and not loaded, without TensorFlow, `onnx` and LiteRT. Only the fields that
matter are declared, by their numbers in the published .proto files and in LiteRT's schema.fbs.
"""

import functools
import pathlib
import re
import struct

from flatbuffers import encode, number_types, packer, table
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from export.errors import ExportError


def _names(text):
    return frozenset(text.split())


#: TensorFlow's operators.
SAVED_MODEL = _names(
    """
    Const Identity IdentityN NoOp StopGradient Cast Bitcast EnsureShape
    Shape ShapeN Size Rank Fill ZerosLike OnesLike Range LinSpace BroadcastTo BroadcastArgs

    Abs Neg Sign Square Sqrt Rsqrt Reciprocal Exp Expm1 Log Log1p Pow Floor Ceil Round Rint
    Sin Cos Tan Asin Acos Atan Atan2 Sinh Cosh Tanh Asinh Acosh Atanh
    Erf Erfc Erfinv Ndtri Lgamma Digamma
    Sigmoid Softplus Softsign Elu Selu Relu Relu6 LeakyRelu
    Add AddN AddV2 Sub Mul MulNoNan Div DivNoNan RealDiv FloorDiv TruncateDiv
    Mod FloorMod TruncateMod Xdivy Xlogy Xlog1py SquaredDifference Maximum Minimum ClipByValue

    Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalNot
    IsFinite IsInf IsNan Select SelectV2
    BitwiseAnd BitwiseOr BitwiseXor Invert LeftShift RightShift

    Sum Mean Prod Max Min All Any ArgMax ArgMin Cumsum Cumprod TopKV2 LowerBound UpperBound

    Reshape Squeeze ExpandDims Transpose Pack Unpack ConcatV2 Split SplitV Slice StridedSlice
    Tile Pad PadV2 MirrorPad ReverseV2 ReverseSequence Roll GatherV2 GatherNd ScatterNd OneHot
    TensorScatterUpdate TensorScatterAdd TensorScatterSub TensorScatterMax TensorScatterMin
    Where InvertPermutation MatrixBandPart MatrixDiagV3 MatrixDiagPartV3 MatrixSetDiagV3
    SpaceToDepth DepthToSpace SpaceToBatchND BatchToSpaceND XlaDynamicSlice XlaDynamicUpdateSlice

    MatMul BatchMatMulV2 BatchMatMulV3 Einsum BiasAdd Softmax LogSoftmax FusedBatchNormV3
    Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 DepthwiseConv2dNative
    AvgPool MaxPool AvgPool3D MaxPool3D
    ResizeBilinear ResizeNearestNeighbor ResizeBicubic ResizeArea DecodePng EncodePng
    Substr StringJoin ReduceJoin

    PartitionedCall StatefulPartitionedCall While StatelessWhile If StatelessIf Case StatelessCase
    EmptyTensorList TensorListReserve TensorListFromTensor TensorListLength TensorListElementShape
    TensorListGetItem TensorListSetItem TensorListPushBack TensorListPopBack TensorListStack

    Placeholder VarHandleOp ReadVariableOp
    """
)
#: What reads the variables when a SavedModel is loaded, and what would write them.
_RESTORE = _names("Const Identity NoOp RestoreV2 AssignVariableOp")
_SAVE = _names(
    """
    Const Identity NoOp Pack Select StringJoin StaticRegexFullMatch DisableCopyOnRead
    ReadVariableOp ShardedFilename SaveV2 MergeV2Checkpoints
    """
)

#: Operators of ONNX's own domain. The standard has none that reaches out of the graph; left out are
#: those of other sources of data than the inputs (random numbers, pictures), of strings, sequences
#: and maps, of training, and of several devices.
ONNX = _names(
    """
    Constant ConstantOfShape Identity Cast CastLike BitCast Shape Size Range EyeLike Expand

    Abs Neg Sign Sqrt Reciprocal Exp Log Pow Floor Ceil Round
    Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Erf
    Sigmoid HardSigmoid HardSwish Softplus Softsign Elu Selu Celu Relu LeakyRelu PRelu
    ThresholdedRelu Gelu Mish Swish
    Add Sub Mul Div Mod Sum Mean Max Min Clip

    Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN IsInf Where
    BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift

    ReduceSum ReduceMean ReduceProd ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceSumSquare ArgMax ArgMin CumSum CumProd TopK

    Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Tile Pad Trilu Compress
    Gather GatherND GatherElements ScatterND ScatterElements TensorScatter OneHot NonZero
    ReverseSequence SpaceToDepth DepthToSpace Resize Upsample

    MatMul Gemm Einsum Conv ConvTranspose AveragePool MaxPool GlobalAveragePool GlobalMaxPool
    Softmax LogSoftmax Hardmax BatchNormalization InstanceNormalization LayerNormalization
    GroupNormalization RMSNormalization LpNormalization MeanVarianceNormalization
    Attention RotaryEmbedding LSTM GRU RNN

    Loop Scan If
    """
)

#: LiteRT's operators, by their numbers in its schema.
LITERT = frozenset(
    int(number)
    for number in re.findall(
        r"\b(\d+) [A-Z]",
        """
    0 ADD 1 AVERAGE_POOL_2D 2 CONCATENATION 3 CONV_2D 4 DEPTHWISE_CONV_2D 5 DEPTH_TO_SPACE
    6 DEQUANTIZE 8 FLOOR 9 FULLY_CONNECTED 11 L2_NORMALIZATION 12 L2_POOL_2D 14 LOGISTIC
    17 MAX_POOL_2D 18 MUL 19 RELU 20 RELU_N1_TO_1 21 RELU6 22 RESHAPE 23 RESIZE_BILINEAR
    25 SOFTMAX 26 SPACE_TO_DEPTH 28 TANH 34 PAD 36 GATHER 37 BATCH_TO_SPACE_ND
    38 SPACE_TO_BATCH_ND 39 TRANSPOSE 40 MEAN 41 SUB 42 DIV 43 SQUEEZE 45 STRIDED_SLICE 47 EXP
    48 TOPK_V2 49 SPLIT 50 LOG_SOFTMAX 53 CAST 54 PRELU 55 MAXIMUM 56 ARG_MAX 57 MINIMUM 58 LESS
    59 NEG 60 PADV2 61 GREATER 62 GREATER_EQUAL 63 LESS_EQUAL 64 SELECT 65 SLICE 66 SIN
    67 TRANSPOSE_CONV 69 TILE 70 EXPAND_DIMS 71 EQUAL 72 NOT_EQUAL 73 LOG 74 SUM 75 SQRT
    76 RSQRT 77 SHAPE 78 POW 79 ARG_MIN 81 REDUCE_PROD 82 REDUCE_MAX 83 PACK 84 LOGICAL_OR
    85 ONE_HOT 86 LOGICAL_AND 87 LOGICAL_NOT 88 UNPACK 89 REDUCE_MIN 90 FLOOR_DIV 91 REDUCE_ANY
    92 SQUARE 93 ZEROS_LIKE 94 FILL 95 FLOOR_MOD 96 RANGE 97 RESIZE_NEAREST_NEIGHBOR
    98 LEAKY_RELU 99 SQUARED_DIFFERENCE 100 MIRROR_PAD 101 ABS 102 SPLIT_V 104 CEIL
    105 REVERSE_V2 106 ADD_N 107 GATHER_ND 108 COS 109 WHERE 110 RANK 111 ELU
    112 REVERSE_SEQUENCE 113 MATRIX_DIAG 114 QUANTIZE 115 MATRIX_SET_DIAG 116 ROUND
    117 HARD_SWISH 118 IF 119 WHILE 122 SCATTER_ND 123 SELECT_V2 126 BATCH_MATMUL 128 CUMSUM
    130 BROADCAST_TO 132 CONV_3D 140 REDUCE_ALL 141 CONV_3D_TRANSPOSE 145 BROADCAST_ARGS
    150 GELU 151 DYNAMIC_UPDATE_SLICE 152 RELU_0_TO_1 156 ATAN2 158 SIGN 159 BITCAST
    160 BITWISE_XOR 161 RIGHT_SHIFT
    """,
    )
)

# message -> field -> (number, type), of TensorFlow and of ONNX; a list is a repeated field. On the
# wire a map is a repeated message of `key` and `value`. There is no `oneof`: what a file sets twice
# is seen twice.
_MESSAGES = {
    "SavedModel": {"meta_graphs": (2, ["MetaGraph"])},
    "MetaGraph": {
        "graph_def": (2, "Graph"),
        "saver_def": (3, "Saver"),
        "collection_def": (4, ["Collection"]),
        "signature_def": (5, ["Signature"]),
        "asset_file_def": (6, [bytes]),
        "object_graph_def": (7, "ObjectGraph"),
    },
    "Graph": {"node": (1, ["Node"]), "library": (2, "Library")},
    "Library": {"function": (1, ["Function"]), "gradient": (2, [bytes])},
    "Function": {"signature": (1, "Operator"), "node_def": (3, ["Node"])},
    "Operator": {"name": (1, str), "input_arg": (2, ["Argument"])},
    "Argument": {"name": (1, str)},
    "Node": {
        "name": (1, str),
        "op": (2, str),
        "input": (3, [str]),
        "device": (4, str),
        "attr": (5, ["Attribute"]),
    },
    "Attribute": {"key": (1, str), "value": (2, "Value")},
    "Value": {"list": (1, "Values"), "placeholder": (9, str), "func": (10, "Called")},
    "Values": {"func": (9, ["Called"])},
    "Called": {"name": (1, str), "attr": (2, [bytes])},
    "Saver": {
        "filename_tensor_name": (1, str),
        "save_tensor_name": (2, str),
        "restore_op_name": (3, str),
    },
    "Collection": {"key": (1, str), "value": (2, "CollectionValue")},
    "CollectionValue": {
        "node_list": (1, "Names"),
        **{kind: (number, [bytes]) for number, kind in enumerate(("b", "i", "f", "any"), 2)},
    },
    "Names": {"value": (1, [str])},
    "Signature": {"key": (1, str), "value": (2, "SignatureValue")},
    "SignatureValue": {
        "inputs": (1, ["Tensor"]),
        "outputs": (2, ["Tensor"]),
        "method_name": (3, str),
        "defaults": (4, [bytes]),
    },
    "Tensor": {"key": (1, str), "value": (2, "TensorInfo")},
    "TensorInfo": {"name": (1, str)},
    "ObjectGraph": {"nodes": (1, ["Object"]), "concrete_functions": (2, ["Concrete"])},
    "Object": {
        "user_object": (4, ["UserObject"]),
        "asset": (5, [bytes]),
        "constant": (9, [bytes]),
        "resource": (10, [bytes]),
        "saveable_objects": (11, [bytes]),
        "registered_name": (13, [bytes]),
        "serialized_user_proto": (14, [bytes]),
        "registered_saver": (16, [bytes]),
    },
    "UserObject": {"identifier": (1, str)},
    "Concrete": {"key": (1, str)},
    "OnnxModel": {
        "graph": (7, "OnnxGraph"),
        "opset_import": (8, ["OnnxOpset"]),
        "training_info": (20, [bytes]),
        "functions": (25, [bytes]),
    },
    "OnnxOpset": {"domain": (1, str)},
    "OnnxGraph": {
        "node": (1, ["OnnxNode"]),
        "initializer": (5, ["OnnxTensor"]),
        "input": (11, ["OnnxName"]),
        "output": (12, ["OnnxName"]),
        "sparse_initializer": (15, [bytes]),
    },
    "OnnxName": {"name": (1, str)},
    "OnnxNode": {
        "input": (1, [str]),
        "output": (2, [str]),
        "op_type": (4, str),
        "attribute": (5, ["OnnxAttribute"]),
        "domain": (7, str),
        "overload": (8, str),
    },
    "OnnxAttribute": {
        "t": (5, "OnnxTensor"),
        "g": (6, "OnnxGraph"),
        "tensors": (10, ["OnnxTensor"]),
        "graphs": (11, ["OnnxGraph"]),
        "ref_attr_name": (21, str),
        "sparse_tensor": (22, [bytes]),
        "sparse_tensors": (23, [bytes]),
    },
    "OnnxTensor": {
        "name": (8, str),
        "external_data": (13, ["OnnxEntry"]),
        "data_location": (14, int),
    },
    "OnnxEntry": {"key": (1, str), "value": (2, str)},
}
_PACKAGE = "kgen.graphs"
_KINDS = {str: "TYPE_STRING", bytes: "TYPE_BYTES", int: "TYPE_INT64"}

_OBJECTS = ("_generic_user_object", "trackable_list_wrapper", "signature_map")
_INIT = "__saved_model_init_op"


def check(folder, formats):
    """Reads every graph of an artifact; `ExportError` names the file and what it must not hold.

    `formats` are the sections of the manifest, by name: what they say of signatures must be what
    the graphs say, or the proof would run others than a server does. Nothing is run.
    """
    folder = pathlib.Path(folder)
    if section := formats.get("saved_model"):
        _checked(_saved_model, folder, f"{section['path']}/saved_model.pb", "SavedModel", section)
    for section in (formats[name] for name in formats if name in _ONNX):
        external = section.get("external_data", "").rpartition("/")[2]
        for signature in section["signatures"].values():
            _checked(_onnx, folder, signature["file"], "OnnxModel", signature, external)
    if section := formats.get("litert"):
        files = {signature["file"] for signature in section["signatures"].values()}
        for file in sorted(files):
            of_file = {k: s for k, s in section["signatures"].items() if s["file"] == file}
            _checked(_litert, folder, file, None, of_file)


_ONNX = ("onnx", "onnx_fp16", "onnx_int8", "web")


def _checked(look, folder, name, kind, *arguments):
    try:
        content = (folder / name).read_bytes()
        look(_message(kind).FromString(content) if kind else content, *arguments)
    except (_RefusedError, message.DecodeError) as error:
        said = error if isinstance(error, _RefusedError) else f"is no graph: {error}"
        raise ExportError(f"{name} {said}.") from error


class _RefusedError(Exception):
    """What is wrong with a graph, as the end of a sentence about its file."""


def _refuse(wrong, said):
    if wrong:
        raise _RefusedError(said)


# SavedModel -----------------------------------------------------------------------------


def _saved_model(model, section):
    _refuse(len(model.meta_graphs) != 1, f"holds {len(model.meta_graphs)} graphs; kgen writes one")
    [meta] = model.meta_graphs
    _refuse(meta.asset_file_def, "names asset files, which kgen does not write")
    library = meta.graph_def.library
    _refuse(library.gradient, "has gradients in its library, which kgen does not write")
    functions = {function.signature.name: function for function in library.function}
    nodes = {node.name: node for node in meta.graph_def.node}
    unique = (len(functions), len(nodes)) == (len(library.function), len(meta.graph_def.node))
    _refuse(not unique, "has two functions or operations of one name")

    apart = _variables_apart(meta.saver_def, nodes, functions)
    callers = {node for node, _ in apart.values()}
    for node in nodes.values():
        _check_node(node, functions, {} if node.name in callers else apart)
    for name, function in functions.items():
        operators = apart[name][1] if name in apart else SAVED_MODEL
        for node in function.node_def:
            _check_node(node, functions, apart, operators, f"function '{name}'")
    _check_start(meta, nodes)
    _check_signatures(meta, nodes, callers, section["signatures"])
    _check_objects(meta.object_graph_def, functions, apart)


def _check_node(node, functions, apart, operators=SAVED_MODEL, where="the graph"):
    """One operation: its operator, its device, and the functions that it calls."""
    place = f"'{node.name[:100]}' of {where}"
    _refuse(
        node.op not in operators,
        f"has the operator '{node.op[:100]}' in {place}, which is none that kgen exports: it was "
        f"not run",
    )
    device = re.fullmatch(r"(/device:\w+:(\d+|\*))?", node.device)
    _refuse(not device, f"puts {place} on the device '{node.device[:100]}'")
    for attribute in node.attr:
        value = attribute.value
        _refuse(value.placeholder, f"leaves an attribute of {place} to its caller")
        called = [*value.list.func, *([value.func] if value.HasField("func") else [])]
        for function in called:
            _refuse(
                function.attr or function.name not in functions or function.name in apart,
                f"calls '{function.name[:100]}' in {place}, which is none of its functions for "
                f"endpoints",
            )


def _variables_apart(saver, nodes, functions):
    """The functions that read and write the variables: name -> (their caller, their operators).

    They are the two of which nothing else makes use, and they read and write where they are told
    by who loads or saves.
    """
    filename = saver.filename_tensor_name.removesuffix(":0")
    _refuse(
        filename not in nodes or nodes[filename].op != "Placeholder",
        "does not ask for the name of the file with its variables",
    )
    apart = {}
    for caller, operators in (
        (saver.restore_op_name, _RESTORE),
        (saver.save_tensor_name.removesuffix(":0"), _SAVE),
    ):
        node = nodes.get(caller)
        calls = [a.value.func.name for a in node.attr if a.key == "f"] if node else []
        function = functions.get(calls[0]) if len(calls) == 1 else None
        _refuse(
            function is None
            or node.op != "StatefulPartitionedCall"
            or node.input[:1] != [filename]
            or function.signature.name in apart,
            f"does not read and write its variables as kgen has it, in '{caller[:100]}'",
        )
        apart[function.signature.name] = (caller, operators)
        # The reading is what loading runs: of that file, and of no other.
        given = [argument.name for argument in function.signature.input_arg[:1]]
        for inner in function.node_def:
            _refuse(
                inner.op == "RestoreV2" and inner.input[:1] != given,
                f"reads variables from elsewhere, in '{inner.name[:100]}'",
            )
    callers = {caller for caller, _ in apart.values()}
    for node in nodes.values():
        used = callers & {re.sub(r"^\^|:\d+$", "", name) for name in node.input}
        _refuse(used, f"reads or writes its variables for '{node.name[:100]}'")
    return apart


def _check_start(meta, nodes):
    """What runs when the SavedModel is loaded, beside the reading of variables: nothing."""
    started = []
    for collection in meta.collection_def:
        value = collection.value
        _refuse(
            collection.key != "saved_model_main_op" or value.b or value.i or value.f or value.any,
            f"has a collection '{collection.key[:100]}', which kgen does not write",
        )
        started += value.node_list.value
    for signature in meta.signature_def:
        if signature.key == _INIT:
            started += [tensor.value.name for tensor in signature.value.outputs]
    for name in started:
        node = nodes.get(name.partition(":")[0])
        idle = node is not None and node.op == "NoOp" and not node.input
        _refuse(not idle, f"runs '{name[:100]}' when it is loaded")


def _check_signatures(meta, nodes, callers, expected):
    found = {signature.key: signature.value for signature in meta.signature_def}
    found.pop(_INIT, None)
    _refuse(
        found.keys() != expected.keys() or len(meta.signature_def) > len(found) + 1,
        f"has the signatures {_listed(found)}, the manifest {_listed(expected)}",
    )
    for key, signature in found.items():
        for side in ("inputs", "outputs"):
            tensors = {tensor.key: tensor.value.name for tensor in getattr(signature, side)}
            _refuse(
                tensors != expected[key][side],
                f"has other {side} for the signature '{key}' than the manifest",
            )
            for tensor in tensors.values():
                node = tensor.partition(":")[0]
                _refuse(
                    node not in nodes
                    or node in callers
                    or (side == "inputs") != (nodes[node].op == "Placeholder"),
                    f"has no tensor '{tensor[:100]}' for the {side} of '{key}'",
                )
        _refuse(signature.defaults, f"has defaults for the signature '{key}'")


def _check_objects(graph, functions, apart):
    """What TensorFlow's Python makes of it: plain objects, variables and functions."""
    for number, node in enumerate(graph.nodes):
        strange = [field.name for field, _ in node.ListFields() if field.name != "user_object"]
        strange += [o.identifier for o in node.user_object if o.identifier not in _OBJECTS]
        _refuse(strange, f"has an object ({number}) of the kind {_listed(strange)}")
    for concrete in graph.concrete_functions:
        _refuse(
            concrete.key not in functions or concrete.key in apart,
            f"offers the function '{concrete.key[:100]}', which is none for endpoints",
        )


# ONNX -----------------------------------------------------------------------------------


def _onnx(model, signature, external):
    _refuse(model.functions, "has functions, which kgen does not write")
    _refuse(model.training_info, "has steps of training, which kgen does not write")
    foreign = sorted({opset.domain for opset in model.opset_import} - {"", "ai.onnx"})
    _refuse(foreign, f"needs operators of the domain {_listed(foreign)}; kgen exports ONNX's own")
    own_values = {tensor.name for tensor in model.graph.initializer}
    for side, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        names = sorted(value.name for value in values)
        expected = sorted(signature[side].values())
        # An input with a value of its own may be left out: all of them, or none.
        required = [name for name in names if name not in own_values]
        _refuse(
            expected not in (names, required),
            f"has the {side} {_listed(names)}, the manifest {_listed(expected)}",
        )
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        _refuse(graph.sparse_initializer, "has sparse weights, which kgen does not write")
        tensors = list(graph.initializer)
        for node in graph.node:
            _refuse(
                node.domain not in ("", "ai.onnx") or node.overload or node.op_type not in ONNX,
                f"has the operator '{':'.join(filter(None, (node.domain, node.op_type)))[:100]}' "
                f"for '{(node.output[0] if node.output else '')[:100]}', which is none that kgen "
                f"exports: it was not run",
            )
            for attribute in node.attribute:
                _refuse(
                    attribute.ref_attr_name or attribute.sparse_tensor or attribute.sparse_tensors,
                    f"has an attribute of '{node.op_type}' that kgen does not write",
                )
                tensors += [attribute.t, *attribute.tensors]
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
        for tensor in tensors:
            _check_data(tensor, external)


def _check_data(tensor, external):
    """Where a tensor's data is: in the file itself, or in the one file of weights beside it."""
    if not tensor.external_data and not tensor.data_location:
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    plain = len(entries) == len(tensor.external_data)
    plain = plain and entries.keys() <= {"location", "offset", "length"}
    location = entries.get("location", "")
    _refuse(
        not plain or not external or location != external,
        f"takes '{tensor.name[:100]}' from '{location[:200]}', and not from "
        f"'{external or 'its own file'}'",
    )


# LiteRT ---------------------------------------------------------------------------------


def _litert(content, signatures):
    # The fields of a table by their places in schema.fbs.
    _refuse(content[4:8] != b"TFL3", "is no file of LiteRT")
    try:
        model = _Table(content)
        for operator in model.tables(1):
            # The first 127 may stand in the older field alone.
            number = max(operator.number(0, "Int8"), operator.number(3, "Int32"))
            custom = operator.text(1)
            _refuse(
                custom or number not in LITERT,
                f"has the operator '{custom[:100] or number}', which is none that kgen exports: "
                f"it was not run",
            )
        _refuse(model.vector(8) or model.vector(9), "takes data from other files")
        found = {
            signature.text(2): [sorted(e.text(0) for e in signature.tables(n)) for n in (0, 1)]
            for signature in model.tables(7)
        }
    except (struct.error, IndexError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise _RefusedError(f"is no graph: {error}") from error
    expected = {
        key: [sorted(signature[side].values()) for side in ("inputs", "outputs")]
        for key, signature in signatures.items()
    }
    _refuse(
        found != expected,
        f"has the signatures {_listed(found)} or inputs and outputs of them that are not those of "
        f"the manifest: {_listed(expected)}",
    )


class _Table:
    """A table of a flatbuffer, by default the root."""

    def __init__(self, content, place=None):
        place = encode.Get(packer.uoffset, content, 0) if place is None else place
        self._table = table.Table(content, place)

    def number(self, field, kind):
        place = self._place(field)
        flags = getattr(number_types, f"{kind}Flags")
        return self._table.Get(flags, place + self._table.Pos) if place else 0

    def text(self, field):
        place = self._place(field)
        return self._table.String(place + self._table.Pos).decode() if place else ""

    def vector(self, field):
        """How long a vector is."""
        place = self._place(field)
        return self._table.VectorLen(place) if place else 0

    def tables(self, field):
        for number in range(self.vector(field)):
            start = self._table.Vector(self._place(field))
            yield _Table(self._table.Bytes, self._table.Indirect(start + 4 * number))

    def _place(self, field):
        return self._table.Offset(4 + 2 * field)


# Parsing --------------------------------------------------------------------------------


@functools.cache
def _message(kind):
    file = descriptor_pb2.FileDescriptorProto(
        name="kgen/graphs.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field_name, (number, field_type) in fields.items():
            repeated = isinstance(field_type, list)
            field_type = field_type[0] if repeated else field_type
            field = described.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(field_type, str):
                field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{field_type}"
            else:
                field.type = getattr(field, _KINDS[field_type])
    pool = descriptor_pool.DescriptorPool()  # one of its own: apart from TensorFlow's and ONNX's
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{kind}"))


def _listed(names):
    return ", ".join(str(name)[:100] for name in sorted(names)[:20]) or "none"
