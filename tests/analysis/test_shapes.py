"""The shape analysis on small models: what it sees through, what it believes, what it leaves open."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from olc import ir, storage
from olc.analysis import dims as d
from olc.analysis import shapes
from onnx_ir import serde

from tests.work import calls


def parsed(text: str, opset: int = 21, more: str = "") -> ir.Model:
    return serde.deserialize_model(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{more}]>\n{text}'))


def inferred(text: str, opset: int = 21, more: str = "") -> dict[str, ir.Value]:
    """The values of a model's main graph by name, with their facts."""
    model = parsed(text, opset, more)
    shapes.infer(model)
    return values(model)


def values(model: ir.Model) -> dict[str, ir.Value]:
    made = [*model.graph.inputs, *(v for n in model.graph for v in n.outputs)]
    return {v.name: v for v in made if v.name}


def said(value: ir.Value) -> str:
    shape = shapes.dims(value)
    return "?" if shape is None else ", ".join(str(n) for n in shape)


def held(value: ir.Value) -> str:
    found = shapes.elements(value)
    return "?" if found is None else ", ".join(str(e) for e in found)


# ------------------------------------------------------------------------------------------------ seeing through


def test_torchscript_expand_web() -> None:
    """Where(Equal(r, -1), 1, r) is r, because a size is never -1."""
    v = inferred(
        """g (float[batch, seq] x, float[1,1,1,8] w) => (float y)
          <int64[1] axes = {0}, int64 one = {1}, int64 zero = {0}, int64[1] minus = {-1}, int64[1] flat = {-1},
          int64[1] eight = {8}> {
          s = Shape(x)  b = Gather<axis=0>(s, zero)  q = Gather<axis=0>(s, one)
          ub = Unsqueeze(b, axes)  uq = Unsqueeze(q, axes)  t = Concat<axis=0>(ub, minus, uq, eight)
          r = Reshape(t, flat)  rs = Shape(r)  o = ConstantOfShape<value = int64[1] {1}>(rs)  m = Mul(o, minus)
          e = Equal(r, m)  target = Where(e, o, r)  y = Expand(w, target)
        }"""
    )
    assert held(v["e"]) == "0, 1, 0, 0"
    assert held(v["target"]) == "batch, 1, seq, 8"
    assert said(v["y"]) == "batch, 1, seq, 8"


def test_reshape_web() -> None:
    v = inferred(
        """g (float[b, s, 384] x) => (float y, float z)
          <int64[1] at = {0}, int64[1] end = {2}, int64[2] heads = {12, 32}, int64[3] back = {0, 0, -1}> {
          s = Shape(x)  lead = Slice(s, at, end)  t = Concat<axis=0>(lead, heads)  a = Reshape(x, t)
          y = Transpose<perm = [0, 2, 1, 3]>(a)  u = Transpose<perm = [0, 2, 1, 3]>(y)  z = Reshape(u, back)
        }"""
    )
    assert said(v["y"]) == "b, 12, s, 32"
    assert said(v["z"]) == "b, s, 384"


def test_transposed_keys_of_decomposed_attention() -> None:
    v = inferred(
        """g (float[b, 6, s, 64] k) => (float y)
          <int64[1] h = {6}, int64[1] w = {64}, int64[1] m = {-1}> {
          n = Shape<start = 2, end = 3>(k)  b = Shape<start = 0, end = 1>(k)
          t = Concat<axis=0>(m, n, w)  a = Reshape(k, t)  c = Transpose<perm=[0,2,1]>(a)
          u = Concat<axis=0>(b, h, w, n)  y = Reshape(c, u)
        }"""
    )
    assert said(v["a"]) == "6*b, s, 64"
    assert said(v["y"]) == "b, 6, 64, s"


def test_cache_lengths_add_up() -> None:
    v = inferred(
        """g (float[b, 3, past, 64] p, float[b, 3, seq, 64] k, float[b, 3, seq, 64] q) => (float y) {
          c = Concat<axis=2>(p, k)  t = Transpose<perm=[0,1,3,2]>(c)  y = MatMul(q, t)
        }"""
    )
    assert said(v["y"]) == "b, 3, seq, past + seq"


def test_convolution_lengths() -> None:
    v = inferred(
        """g (float[b, 1, n] x, float[8, 1, 10] w, float[8, 8, 3] u) => (float y, int64 z)
          <int64 ten = {10}, int64 five = {5}, int64 one = {1}, int64 three = {3}, int64 two = {2}, int64 at = {2}> {
          a = Conv<strides = [5]>(x, w)  y = Conv<strides = [2]>(a, u)
          s = Shape(x)  n = Gather(s, at)  p = Sub(n, ten)  q = Div(p, five)  r = Add(q, one)
          f = Sub(r, three)  g0 = Div(f, two)  z = Add(g0, one)
        }"""
    )
    assert said(v["y"]) == "b, 8, floor(n/10) - 1"
    # n - 10, which Div rounds towards zero, is not negative, or the convolution would refuse it
    assert held(v["q"]) == "floor(n/5) - 2"
    ran = d.evaluate(shapes.dims(v["y"])[2], {"n": 400})  # type: ignore[index]
    assert ran == ((400 - 10) // 5 + 1 - 3) // 2 + 1


NESTED = """g (float[batch, {n}] s, float[4,1,10] w, float[4,4,3] w2{more}) => (float y, int64 count)
  <int64 ten = {{10}}, int64 three = {{3}}, int64 two = {{2}}, int64 five = {{5}}, int64 one = {{1}}, int64[1] axis = {{1}}> {{
  shape = Shape(s)  n = Gather<axis=0>(shape, one)
  a = Sub(n, ten)  b = Div(a, five)  c = Sub(b, two)  e = Div(c, two)  count = Add(e, one)
  x = Unsqueeze(s, axis)  {body}
}}"""
CONVS = "h = Conv<strides=[5]>(x, w)  y = Conv<strides=[2]>(h, w2)"


def test_a_division_of_what_a_convolution_needs_rounds_down() -> None:
    """ONNX's Div rounds towards zero, which is down where both are >= 0. Runtimes refuse an axis shorter than a window, so that
    of 10 at steps of 5 and 3 at steps of 2 shows at least 20 samples: also to divisions that come before it."""
    v = inferred(NESTED.format(n="n", more="", body=CONVS))
    assert shapes.dims(v["y"])[2] == shapes.elements(v["count"])[0]
    assert held(v["b"]) == "floor(n/5) - 2"


@pytest.mark.parametrize(("body", "more"), [
    ("h = Conv<strides=[5]>(x, w)  y = MaxPool<strides=[2], kernel_shape=[3]>(h)", ""),
    ("y = If (run) <then_branch = t () => (float t1) { h = Conv<strides=[5]>(x, w)  t1 = Conv<strides=[2]>(h, w2) },"
     " else_branch = f () => (float f1) { f1 = Identity(x) }>", ", bool run"),
    (f"{CONVS.replace('strides=[2]', 'strides=[2], pads=[1, 1]')}", ""),
])  # fmt: skip
def test_a_division_of_what_may_be_negative_is_not_known(body: str, more: str) -> None:
    """No pool is asked, and no branch that need not run; with padding, fewer samples do."""
    assert shapes.elements(inferred(NESTED.format(n="n", more=more, body=body))["count"]) is None


def test_sizes_through_floats() -> None:
    """PaddlePaddle and torch's interpolate compute sizes in float32."""
    v = inferred(
        """g (float[b, 3, h, w] x) => (float y)
          <float two = {2}, float half = {0.5}, int64[1] at = {2}, int64[1] end = {4}, int64[2] lead = {1, 3}> {
          s = Shape(x)  hw = Slice(s, at, end)  f = Cast<to=1>(hw)  big = Mul(f, two)  fl = Floor(big)
          i = Cast<to=7>(fl)  sm = Mul(f, half)  c = Ceil(sm)  j = Cast<to=7>(c)
          t = Concat<axis=0>(lead, i)  y = Resize(x, , , t)
        }"""
    )
    assert held(v["i"]) == "2*h, 2*w"
    assert held(v["j"]) == str(d.ceildiv(d.symbol("h"), 2)) + ", " + str(d.ceildiv(d.symbol("w"), 2))
    assert said(v["y"]) == "1, 3, 2*h, 2*w"


def test_padding_to_a_multiple() -> None:
    v = inferred(
        """g (float[b, h, w, 8] x) => (float y)
          <int64 seven = {7}, int64 one = {1}, int64[1] ax = {0}, int64[4] z4 = {0, 0, 0, 0}, int64[2] z2 = {0, 0}> {
          s = Shape(x)  h = Gather(s, one)  r = Mod(h, seven)  p = Sub(seven, r)  q = Mod(p, seven)
          u = Unsqueeze(q, ax)  pads8 = Concat<axis=0>(z4, ax, u, z2)
          y = Pad(x, pads8)
        }"""
    )
    n = shapes.dims(v["y"])[1]  # type: ignore[index]
    for h in range(30):
        assert d.evaluate(n, {"h": h}) == -(-h // 7) * 7


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("y = Slice(x, s0, e3, a1)", "b, min(n, 3)"),
        ("y = Slice(x, s1, big, a1)", "b, max(n - 1, 0)"),
        ("y = Slice(x, s0, m1, a1)", "b, max(n - 1, 0)"),
        ("y = Slice(x, s0, big, a1, two)", "b, floor((n + 1)/2)"),
        ("y = Slice(x, m1, small, a1, m1)", "b, n"),
        ("y = Slice(x, m2, big, a1)", "b, "),
    ],
)
def test_slices_of_symbolic_sizes(body: str, want: str) -> None:
    v = inferred(
        f"""g (float[b, n] x) => (float y)
          <int64[1] s0 = {{0}}, int64[1] s1 = {{1}}, int64[1] e3 = {{3}}, int64[1] a1 = {{1}}, int64[1] m1 = {{-1}},
          int64[1] m2 = {{-2}}, int64[1] two = {{2}}, int64[1] big = {{9223372036854775807}},
          int64[1] small = {{-9223372036854775807}}> {{ {body} }}"""
    )
    assert said(v["y"]).startswith(want)
    assert (want == "b, ") or said(v["y"]) == want
    if want == "b, ":  # the last two elements, or as many as there are
        for n in range(5):
            assert d.evaluate(shapes.dims(v["y"])[1], {"n": n}) == min(n, 2)  # type: ignore[index]


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_from_the_end_of_a_symbolic_number(axis: int, behind: bool) -> None:
    """`x[-n:]` is the last n, but all where n is 0; `x[:-n]` what is before them, but nothing where n is 0."""
    start, end = ("at", "big") if behind else ("s0", "at")
    v = inferred(
        f"""g (float[m] x, float[p, n, k] w) => (float y)
          <int64[1] big = {{9223372036854775807}}, int64[1] s0 = {{0}}, int64[1] a = {{{axis}}}> {{
          z = Shape<start = 1, end = 2>(w)  p1 = Shape<end = 1>(w)  at = Neg(z)  t = Add(p1, z)  o = Shape<start = 2>(w)
          q = Concat<axis = 0>(z, t, o)  r = Reshape(x, q)  y = Slice(r, {start}, {end}, a)
        }}"""
    )
    found = shapes.dims(v["y"])
    assert found is not None
    for n, p, k in ((0, 0, 3), (0, 4, 0), (1, 0, 2), (2, 3, 5), (3, 1, 1), (5, 5, 5), (5, 2, 3)):
        whole = (n, n + p, k)[axis]
        cut = len(range(whole)[-n:]) if behind else len(range(whole)[:-n])
        assert d.evaluate(found[axis], {"n": n, "p": p, "k": k}) == cut
    if axis < 2 and behind:
        assert d.fits(found[axis], d.symbol("n"))


def test_backward_slice_from_before_the_first_element_is_left_open() -> None:
    """ONNX Runtime takes the first element (as ONNX's text says), numpy and the reference evaluator none."""
    v = inferred(
        """g (float[1, 4] x) => (float y)
          <int64[1] start = {-6}, int64[1] end = {-6}, int64[1] a1 = {0}, int64[1] back = {-1}> {
          y = Slice(x, start, end, a1, back)
        }"""
    )
    assert not isinstance(shapes.dims(v["y"])[0], int)  # type: ignore[index]


# ------------------------------------------------------------------------------------------------------ believing


def test_declared_shapes_of_outputs_are_not_believed() -> None:
    v = inferred("g (float[b, 3] x) => (float[Gemm_dim_0, Gemm_dim_1, 7] y) { y = Relu(x) }")
    assert said(v["y"]) == "b, 3"


def test_declared_shapes_of_intermediates_fill_gaps_only() -> None:
    text = """g (float[b, s] x, bool[b] keep) => (float y)
        <int64[2] zero = {0, 0}, float[b, 9] a, float[4, unk__3] c, float[b, s] e> {
        a = Relu(x)  c = Compress<axis=0>(x, keep)  e = some.domain.Unknown(x)  y = Relu(c)
    }"""
    v = inferred(text.replace("<int64[2] zero = {0, 0}, ", "<"), more=', "some.domain" : 1')
    assert said(v["a"]) == "b, s"  # inferred: not what is declared
    assert said(v["c"]) == "4, s"  # the number that inference lacks, but not the name
    assert said(v["e"]) == "b, s"  # all of it, over names of the inputs


def test_unknown_names_are_not_equal() -> None:
    v = inferred('g (float["?", "?", s] x, float["-1", s] y) => (float z) { z = Identity(x) }'.replace('"', ""))
    a, b, _ = shapes.dims(v["x"])  # type: ignore[misc]
    assert a != b


def test_expressions_in_names() -> None:
    model = parsed("g (float[b, n] x, float[b, m] y) => (float z) { z = Concat<axis=1>(x, y) }")
    model.graph.inputs[1].shape = ir.Shape(["b", "past + n"])
    shapes.infer(model)
    assert said(values(model)["z"]) == "b, 2*n + past"


def test_sizes_given_by_a_caller_may_be_anything() -> None:
    """A target that is an input could hold 0 (copy) or -1 (infer): nothing may be concluded from it."""
    v = inferred("g (float[2, 3] x, int64[2] t) => (float y, float z) { y = Reshape(x, t)  z = Expand(x, t) }")
    a, b = shapes.dims(v["y"])  # type: ignore[misc]
    assert not isinstance(a, int)
    assert not isinstance(b, int)
    assert said(v["z"]) == "2, 3"


def test_overridable_initializers_are_no_constants() -> None:
    model = parsed("g (float[2, 3] x, int64[2] t) => (float y) { y = Reshape(x, t) }")
    t = model.graph.inputs[1]
    t.const_value = ir.Tensor(np.array([3, 2]), name="t")
    model.graph.register_initializer(t)
    shapes.infer(model)
    assert all(not isinstance(n, int) for n in shapes.dims(values(model)["y"]) or (0,))


def test_possibly_zero_sizes_do_not_cancel() -> None:
    v = inferred(
        """g (float[b, s] x) => (float y) <int64 zero = {0}, int64 one = {1}> {
          sh = Shape(x)  b = Gather(sh, zero)  s = Gather(sh, one)  p = Mul(b, s)  e = Equal(p, s)  l = Less(b, p)
          c = Equal(b, b)  y = Identity(x)
        }"""
    )
    assert held(v["e"]) == "?"
    assert held(v["l"]) == "?"
    assert held(v["c"]) == "1"


def test_integers_wrap_only_where_they_fit() -> None:
    v = inferred(
        """g (float[s] x) => (int64 y) <int64 big = {9223372036854775807}, int64 one = {1}, int64 low = {-1},
          int64 n300 = {300}> {
          a = Add(big, one)  b = Cast<to=2>(n300)  c = Cast<to=13>(low)  e = Cast<to=6>(n300)  y = Add(a, one)
        }"""
    )
    assert held(v["a"]) == "?"
    assert held(v["b"]) == "?"
    assert held(v["c"]) == "?"
    assert held(v["e"]) == "300"


# ------------------------------------------------------------------------------------------------- control flow


def test_if_joins_its_branches() -> None:
    v = inferred(
        """g (bool c, float[b, s] x) => (float y, float z) {
          y, z = If (c) <then_branch = t () => (float[b, s] p, float q) { p = Relu(x)  q = Identity(x) },
                         else_branch = e () => (float[b, s] r, float t) { r = Neg(x)  t = ReduceSum<keepdims=0>(x) }>
        }"""
    )
    assert said(v["y"]) == "b, s"
    assert said(v["z"]) == "?"


def test_if_with_known_condition_takes_its_branch() -> None:
    v = inferred(
        """g (float[b, s] x) => (float y) <bool c = {0}> {
          y = If (c) <then_branch = t () => (float p) { p = Relu(x) },
                      else_branch = e () => (float q) { q = ReduceSum<keepdims=0>(x) }>
        }"""
    )
    assert said(v["y"]) == ""
    assert shapes.dims(v["y"]) == ()


def test_loop_keeps_what_is_invariant() -> None:
    v = inferred(
        """g (int64 m, float[b, s] x, float[n] a) => (float y, float grown, float rows) <bool go = {1}> {
          y, grown, rows = Loop (m, go, x, a) <body =
            l (int64 i, bool k, float u, float w) => (bool k2, float u2, float w2, float r) {
            k2 = Identity(k)  u2 = Relu(u)  w2 = Concat<axis=0>(w, w)  r = ReduceMax<keepdims=0>(u)
          }>
        }"""
    )
    assert said(v["y"]) == "b, s"
    (grown,) = shapes.dims(v["grown"])  # type: ignore[misc]
    assert grown != d.symbol("n")
    assert d.is_size(grown)
    assert len(shapes.dims(v["rows"]) or ()) == 1


def test_loop_of_changing_rank_is_unknown() -> None:
    v = inferred(
        """g (int64 m, float[n] x) => (float y) <bool go = {1}, int64[1] ax = {0}> {
          y = Loop (m, go, x) <body = l (int64 i, bool k, float u) => (bool k2, float u2) {
            k2 = Identity(k)  u2 = Unsqueeze(u, ax)
          }>
        }"""
    )
    assert said(v["y"]) == "?"


def test_scan_stacks_over_the_sequence() -> None:
    v = inferred(
        """g (float[h] s, float[t, h] x) => (float e, float[t, h] y) {
          e, y = Scan <num_scan_inputs = 1, body = l (float[h] c, float[h] u) => (float[h] c2, float[h] o) {
            c2 = Add(c, u)  o = Identity(c2)
          }> (s, x)
        }"""
    )
    assert said(v["e"]) == "h"
    assert said(v["y"]) == "t, h"


def test_calls_of_functions_see_their_inputs_and_attributes() -> None:
    text = """g (float[b, 4] x, float[7] w) => (float y, float z) {
        y = local.f <axis = 1> (x)  z = local.f <axis = 0> (w)
    }
    <opset_import: ["" : 21], domain: "local"> f <axis> (x) => (y) {
        s = Shape(x)  y = Softmax <axis : int = @axis> (x)
    }"""
    model = parsed(text, more=', "local" : 1')
    shapes.infer(model)
    v = values(model)
    assert said(v["y"]) == "b, 4"
    assert said(v["z"]) == "7"
    (function,) = model.functions.values()
    assert shapes.dims(function.outputs[0]) is None  # no call's facts stay behind in the body


# --------------------------------------------------------------------------------------------------- the interface


def test_infer_node_outside_of_a_graph() -> None:
    model = parsed("g (float[b, s, 8] x) => (float y) { y = Relu(x) }")
    shapes.infer(model)
    target = ir.make_constant(np.array([0, -1], np.int64), "t")
    node = ir.make_node("Reshape", [values(model)["x"], target])
    shapes.infer_node(node, model)
    assert said(node.outputs[0]) == "b, 8*s"
    assert node.outputs[0].dtype == ir.DataType.FLOAT


def test_new_symbols_of_a_later_node_are_new() -> None:
    model = parsed("g (float[b] x) => (int64 y) { y = NonZero(x) }")
    shapes.infer(model)
    first = shapes.dims(values(model)["y"])
    node = ir.make_node("NonZero", [values(model)["x"]])
    shapes.infer_node(node, model)
    assert shapes.dims(node.outputs[0])[1] != first[1]  # type: ignore[index]


def test_inference_is_deterministic_and_repeatable() -> None:
    model = parsed("g (float[b, ?] x) => (int64 y) { a = NonZero(x)  y = NonZero(a) }".replace("?", "s"))
    shapes.infer(model)
    once = [said(v) for v in values(model).values()]
    shapes.infer(model)
    assert [said(v) for v in values(model).values()] == once


def test_first_unknown_names_the_culprit() -> None:
    model = parsed("g (float[b] x) => (float y) { a = Relu(x)  c = far.Off(a)  y = Neg(c) }", more=', "far" : 1')
    shapes.infer(model)
    (line,) = shapes.first_unknown(model)
    assert line.startswith("c: no shape from far::Off")


@pytest.mark.parametrize(
    "body",
    [
        "y = Add(x, v)", "y = Reshape(x, bad)", "y = Transpose<perm = [0, 1, 2, 3]>(x)", "y = Concat<axis = 9>(x, x)",
        "y = Squeeze(x, far)", "y = MatMul(x, v)", "y = Conv(x, v)", "y = Gather<axis = 5>(x, far)", "y = Size()",
        "y = Slice(x, far, far, far, zero)", "y = Unsqueeze(x, far)", "y = Einsum<equation = \"abc,d->q\">(x, v)",
        "y = Pad(x, bad)", "y = Tile(x, bad)", "y = TopK(x, far)", "y = Softmax()", "y = ReduceSum(x, far)",
        "y = Gemm(v, v)", "y = Expand(x, bad)", "y = Attention(x, x, x)", "y = LSTM(x, v, v)", "y = Split(x, bad)",
        "y = Resize(x, , bad)", "y = OneHot(x, v, v)", "y = DepthToSpace<blocksize = 2>(v)", "y = Cast<to = 99>(x)",
        "y = AveragePool<kernel_shape = [1,2,3,4,5]>(x)", "y = Range(x, v, far)", "y = NotAnOperator(x)",
        "y = Flatten<axis = 9>(x)",
    ],
)  # fmt: skip
def test_nodes_that_cannot_run_raise_nothing(body: str) -> None:
    model = parsed(
        f"""g (float[2, s, 3] x, float[5] v) => (float y)
        <int64[1] bad = {{-7}}, int64[1] far = {{77}}, int64[1] zero = {{0}}> {{ {body} }}""",
        opset=23,
    )
    shapes.infer(model)


def test_work_is_linear() -> None:
    def work(n: int) -> int:
        lines = "  ".join(
            f"a{i} = Reshape(r{i - 1}, t)  b{i} = Reshape(a{i}, u)  c{i} = Add(b{i}, z)  r{i} = Relu(c{i})" for i in range(1, n)
        )
        model = parsed(
            f"""g (float[b, 64, s] x) => (float y) <int64[2] t = {{0, -1}}, int64[3] u = {{0, 64, -1}}, float z = {{0}}>
            {{ r0 = Relu(x)  {lines}  y = Neg(r{n - 1}) }}"""
        )
        made = calls(lambda: shapes.infer(model))
        assert said(values(model)["y"]) == "b, 64, s"
        return made

    assert work(1600) < 4.2 * work(400)


def test_places_of_what_is_filled_with_ones_are_as_many_as_entries() -> None:
    found = inferred("""g (float[b, s] x) => (int64 y) {
        n = Shape(x) a = ConstantOfShape<value = int64[1] {1}>(n) y = NonZero(a) z = ConstantOfShape(n) w = NonZero(z) }""")
    assert said(found["y"]) == "2, b*s"
    assert said(found["w"]).startswith("2, ?")


def test_places_of_a_range() -> None:
    found = inferred("""g (float[b, s] x) => (int64 y) {
        n = Shape<start = 1>(x) two = Constant<value_int = 2>() all = Squeeze(n)
        positions = Range(two, all, two) last = Constant<value_int = -1>() end = Gather(positions, last)
        some = Constant<value_ints = [0, -2, 3]>() y = Gather(positions, some)
        f = Cast<to = 1>(positions) z = Gather(f, last) }""")
    assert held(found["end"]) == "2*max(floor((s + 1)/2) - 1, 0)"
    assert held(found["y"]) == "2, 2*max(floor((s + 1)/2) - 1, 0) - 2, 8"
    assert held(found["z"]) == "?"


def test_a_sparse_constant_has_its_dense_shape() -> None:
    held = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    at = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [2], [0, 5])
    head = '<ir_version: 10, opset_import: ["" : 21]>'
    model = onnx.parser.parse_model(f"{head} g (float[N, 6] x) => (float[N, M] y) {{ y = MatMul(x, w) }}")
    sparse = onnx.helper.make_sparse_tensor(held, at, [6, 4])
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    loaded = storage.load_proto(model)
    shapes.infer(loaded)
    assert said(values(loaded)["y"]) == "N, 4"
