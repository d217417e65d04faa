"""What `export.loops` does to a graph, by hand-written ones."""

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnxruntime
import pytest

from export import loops


def read(text):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')


def run(model, **inputs):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def operators(graph):
    return [node.op_type for node in graph.node]


# Carries a weight, and through an inner loop too; computes of it in every step; gives it back.
CARRIES = """
    main (float[N, 2] x, int64 count) => (float[N, 2] y, float[2, 2] w_last)
    <float[2, 2] w = {1.5, -2, 0.25, 1}, bool true = {1}, int64 two = {2}>
    {
        y, w_last, w_again = Loop (count, true, x, w, w) <body = outer (
            int64 i, bool go, float[N, 2] a, float[2, 2] u, float[2, 2] z)
            => (bool go_out, float[N, 2] b, float[2, 2] u_out, float[2, 2] z_out)
        {
            go_out = Identity (go)
            u_out = Identity (u)
            z_out = Identity (z)
            turned = Transpose <perm = [1, 0]> (z)
            b, v_last = Loop (two, go, a, z) <body = inner (
                int64 j, bool going, float[N, 2] c, float[2, 2] v)
                => (bool going_out, float[N, 2] d, float[2, 2] v_out)
            {
                going_out = Identity (going)
                v_out = Identity (v)
                half = Constant <value = float {0.5}> ()
                small = Mul (v, half)
                product = MatMul (c, small)
                sum = MatMul (c, turned)
                d = Add (product, sum)
            }>
        }>
    }
"""


@pytest.mark.parametrize("count", [0, 1, 3])
def test_loops_carry_and_compute_only_what_changes(count):
    model = read(CARRIES)
    inputs = {"x": np.float32([[1, 2], [3, 4], [-1, 0.5]]), "count": np.array(count)}
    expected = run(model, **inputs)
    loops.simplify(model)
    onnx.checker.check_model(model, full_check=True)
    for before, after in zip(expected, run(model, **inputs), strict=True):
        np.testing.assert_array_equal(before, after)
    graph, outer, inner = loops.subgraphs(model.graph)
    assert sorted(operators(graph)) == ["Constant", "Loop", "Mul", "Transpose"]
    # What the model gives stays; what nothing takes goes.
    assert [len(node.output) for node in graph.node if node.op_type == "Loop"] == [2]
    assert sorted(operators(inner)) == ["Gemm", "Identity", "MatMul"]
    assert len(inner.input) == 3 and len(outer.input) == 4


# Of its four steps two run the inner loop, as PixelCNN++ does for the pixels of a coarser level.
NOT_IN_EVERY_STEP = """
    main (float[N, 2] x) => (float[N, 2] y)
    <float[2, 2] w = {1.5, -2, 0.25, 1}, bool true = {1}, int64 four = {4}, int64 one = {1},
     int64 two = {2}, int64 zero = {0}>
    {
        y = Loop (four, true, x) <body = outer (int64 i, bool go, float[N, 2] a)
            => (bool go_out, float[N, 2] b)
        {
            go_out = Identity (go)
            odd = Mod (i, two)
            even = Equal (odd, zero)
            b = Loop (one, CONDITION, a) <body = inner (int64 j, bool going, float[N, 2] c)
                => (bool going_out, float[N, 2] d)
            {
                going_out = Identity (going)
                turned = Transpose <perm = [1, 0]> (w)
                dear = MatMul (a, turned)
                d = Sub (c, dear)
            }>
        }>
    }
"""


@pytest.mark.parametrize("condition", ["even", "true"])
def test_what_not_every_step_needs_is_not_computed_in_every_step(condition):
    model = read(NOT_IN_EVERY_STEP.replace("CONDITION", condition))
    x = np.float32([[1, 2], [3, 4], [-1, 0.5]])
    [expected] = run(model, x=x)
    loops.simplify(model)
    np.testing.assert_array_equal(run(model, x=x)[0], expected)
    graph, outer, inner = map(operators, loops.subgraphs(model.graph))
    assert "Transpose" in graph, "it depends on no step"
    assert ("MatMul" in outer) == (condition == "true")
    assert ("MatMul" in inner) == (condition == "even")


def test_one_name_in_two_graphs():
    """A body's own names hide those around it, which its weights are then moved beside."""
    model = read(
        """
        main (float[N] x) => (float[N] y)
        <bool true = {1}, int64 two = {2}, float w = {3}, float k = {7}>
        {
            first = Loop (two, true, x) <body = one (int64 i, bool go, float[N] a)
                => (bool go_out, float[N] b) <float w = {5}>
            { go_out = Identity (go) t = Add (w, w) b = Mul (a, t) }>
            second = Loop (two, true, first, w) <body = two_ (
                int64 i, bool go, float[N] a, float k) => (bool go_out, float[N] b, float k_out)
            { go_out = Identity (go) k_out = Identity (k) t = Add (k, k) b = Sub (a, t) }>
            y = Add (second, k)
        }
    """.replace("second = Loop", "second, w_out = Loop")
    )
    x = np.float32([1, -2])
    [expected] = run(model, x=x)
    loops.simplify(model)
    [received] = run(model, x=x)
    np.testing.assert_array_equal(received, expected)
    np.testing.assert_array_equal(received, (x * 100 - 12 + 7).astype("float32"))


def test_an_index_counts_from_the_end_only_where_it_did():
    """A look-up that wraps by the size of its axis is plain; one by another number stays."""
    text = """
        main (float[5] x, int64[N] i) => (float[N] y)
        <int64 zero = {0}, int64 size = {SIZE}>
        {
            below = Less (i, zero)
            wrapped = Add (i, size)
            index = Where (below, wrapped, i)
            y = Gather (x, index)
        }
    """
    for size, plain in ((5, True), (3, False)):
        model = read(text.replace("SIZE", str(size)))
        inputs = {"x": np.arange(5, dtype="float32"), "i": np.int64([0, 4, -1, -3])}
        expected = run(model, **inputs)
        loops.simplify(model)
        np.testing.assert_array_equal(expected, run(model, **inputs))
        assert (operators(model.graph) == ["Gather"]) == plain


def test_sums_that_are_not_of_a_row_stay():
    """A product of one row with a sum of many, or of whole numbers, is not one node."""
    model = read("""
        main (float[1, 2] x, float[2, 3] w, float[N, 3] many, int32[1, 2] k, int32[2, 3] m,
              int32[1, 3] n) => (float[N, 3] y, int32[1, 3] z)
        { p = MatMul (x, w) y = Add (p, many) q = MatMul (k, m) z = Add (q, n) }
    """)
    loops.simplify(model)
    assert operators(model.graph) == ["MatMul", "Add", "MatMul", "Add"]


@pytest.mark.parametrize("scaled", [True, False])
def test_a_layer_normalization_is_one_node(scaled):
    """Keras's, as TensorFlow spells it; over another axis it stays."""
    factor, shift = ("scaled = Mul (inverse, w)", "shift = Add (moved, b)")
    if not scaled:
        factor, shift = "scaled = Identity (inverse)", "shift = Identity (moved)"
    text = f"""
        main (float[N, 4] x) => (float[N, 4] y)
        <int64[1] last = {{AXIS}}, float epsilon = {{0.25}},
         float[1, 4] w = {{1, -2, 3, 0.5}}, float[1, 4] b = {{4, 3, -2, 1}}>
        {{
            mean = ReduceMean <keepdims = 1> (x, last)
            away = Sub (x, mean)
            square = Mul (away, away)
            variance = ReduceMean <keepdims = 1> (square, last)
            safe = Add (variance, epsilon)
            root = Sqrt (safe)
            inverse = Reciprocal (root)
            {factor}
            negative = Neg (mean)
            moved = Mul (negative, scaled)
            {shift}
            large = Mul (x, scaled)
            y = Add (large, shift)
        }}
    """
    if not scaled:  # without the copies
        text = text.replace("scaled = Identity (inverse)", "").replace("scaled)", "inverse)")
        text = text.replace("shift = Identity (moved)", "").replace("shift)", "moved)")
    x = np.random.default_rng(0).normal(2, 3, (5, 4)).astype("float32")
    for axis, count in (("-1", 1), ("1", 1), ("0", 13 if scaled else 11)):
        model = read(text.replace("AXIS", axis))
        [expected] = run(model, x=x)
        loops.simplify(model)
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node) == count
        np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-5, atol=1e-6)
