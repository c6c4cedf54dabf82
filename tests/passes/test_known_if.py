"""Ifs with a known condition, Loops that make no round."""

from __future__ import annotations

import pytest
from olc.analysis import shapes
from olc.passes import Context, known_if
from pass_oracle import assert_same, feeds, load, ops, parse, run, save, transform


def simple() -> str:
    return branches("{ a0 = Exp(x) }", "{ b0 = Neg(x) }")


def branches(then: str, other: str, outputs: int = 1) -> str:
    a, b = (", ".join(f"float[2] {n}{i}" for i in range(outputs)) for n in "ab")
    return f"<then_branch = t () => ({a}) {then}, else_branch = f () => ({b}) {other}>"


@pytest.mark.parametrize(("condition", "kept"), [("1", "Exp"), ("0", "Neg")])
def test_the_taken_branch_stays(condition: str, kept: str) -> None:
    proto = parse(f"""g (float[2] x) => (float[2] y) <bool c = {{{condition}}}> {{
        r = Relu(x)
        z = If (c) {branches("{ p = Exp(r) a0 = Abs(p) }", "{ q = Neg(r) b0 = Abs(q) }")}
        y = Add(z, r)
    }}""")
    after, changes, _ = transform(known_if, proto)
    assert changes == 1
    assert ops(after.graph) == ["Relu", kept, "Abs", "Add"]
    assert list(after.graph.node[2].output) == ["z"]  # the name of the If's result


def test_an_unknown_condition_stays() -> None:
    proto = parse(f"g (bool c, float[2] x) => (float[2] y) {{ y = If (c) {simple()} }}")
    _, changes, _ = transform(known_if, proto)
    assert changes == 0


def test_a_default_that_a_caller_may_override_is_not_known() -> None:
    text = f"g (bool c, float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If (c) {simple()} }}"
    assert known_if.run(load(parse(text)), Context()) == 0


def test_a_condition_that_shapes_prove() -> None:
    proto = parse(f"""g (float[N, 2] x) => (float[N, 2] y) <int64 one = {{1}}, int64 two = {{2}}> {{
        s = Shape(x)
        d = Gather <axis = 0> (s, one)
        c = Equal(d, two)
        y = If (c) {branches("{ a0 = Exp(x) }", "{ b0 = Neg(x) }").replace("float[2] ", "float[N, 2] ")}
    }}""")
    model = load(proto)
    assert known_if.run(model, Context()) == 0
    shapes.infer(model)
    assert known_if.run(model, Context()) == 1
    after = save(model)
    assert ops(after.graph)[-1] == "Exp"
    feed = feeds(proto)
    assert_same(run(proto, feed), run(after, feed))


def test_the_branchs_initializers_and_names_come_along_without_clashes() -> None:
    """``k``, ``p`` and node names occur in both Ifs, and as an If's body beside them."""
    one = branches("<float[2] k = {1, 2}> { [n] p = Add(x, k) a0 = Exp(p) }", "{ b0 = Neg(x) }")
    two = branches("<float[2] k = {3, 4}> { [n] p = Add(x, k) a0 = Abs(p) }", "{ b0 = Neg(x) }")
    proto = parse(f"""g (float[2] x, bool d) => (float[2] y) <bool c = {{1}}> {{
        u = If (c) {one}
        v = If (c) {two}
        w = If (d) {one}
        y = Sum(u, v, w)
    }}""")
    after, changes, _ = transform(known_if, proto)
    assert changes == 2
    assert ops(after.graph) == ["Add", "Exp", "Add", "Abs", "If", ["Add", "Exp"], ["Neg"], "Sum"]
    assert len({t.name for t in after.graph.initializer}) == 3
    assert len({n.name for n in after.graph.node if n.op_type == "Add"}) == 2


def test_graph_outputs_keep_their_names() -> None:
    """One result is given twice, one is an initializer, one a value from outside by Identity."""
    proto = parse(f"""g (float[2] x) => (float[2] y0, float[2] y1, float[2] y2, float[2] y3) <bool c = {{1}}> {{
        y0, y1, y2, y3 = If (c) {
        branches(
            "<float[2] a2 = {5, 6}> { a0 = Exp(x) a1 = Identity(a0) a3 = Identity(x) }",
            "{ b0 = Exp(x) b1 = Neg(x) b2 = Neg(x) b3 = Neg(x) }",
            4,
        )
    }
    }}""")
    after, changes, _ = transform(known_if, proto)
    assert changes == 1
    assert "If" not in ops(after.graph)


def test_one_value_as_two_results() -> None:
    proto = parse(f"""g (float[2] x) => (float[2] y0, float[2] y1) <bool c = {{1}}> {{
        y0, y1 = If (c) {branches("{ a0 = Exp(x) a1 = Neg(x) }", "{ b0 = Exp(x) b1 = Neg(x) }", 2)}
    }}""")
    body = proto.graph.node[0].attribute[0].g
    body.output[1].name = "a0"
    model = load(proto)
    assert known_if.run(model, Context()) == 1
    after = save(model)
    feed = feeds(proto)
    (expected,) = run(parse("g (float[2] x) => (float[2] y0) { y0 = Exp(x) }"), feed)
    assert_same([expected, expected], run(after, feed))


def test_nested_ifs_go_in_one_run() -> None:
    inner = branches("{ a0 = Exp(x) }", "{ b0 = Neg(x) }").replace("a0", "m0").replace("b0", "m1")
    outer = branches(f"{{ a0 = If (c) {inner} }}", "{ b0 = Neg(x) }")
    proto = parse(f"g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If (c) {outer} }}")
    after, changes, _ = transform(known_if, proto)
    assert changes == 2
    assert ops(after.graph) == ["Exp"]


def test_an_if_in_a_body_that_stays() -> None:
    inner = branches("{ m = Exp(x) a0 = Neg(m) }", "{ b0 = Neg(x) }").replace("a0", "m0").replace("b0", "m1")
    outer = branches(f"{{ a0 = If (c) {inner} }}", "{ b0 = Abs(x) }")
    proto = parse(f"g (bool d, float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If (d) {outer} }}")
    after, changes, _ = transform(known_if, proto)
    assert changes == 1
    assert ops(after.graph) == ["If", ["Exp", "Neg"], ["Abs"]]


def test_metadata_of_the_branchs_nodes_survives() -> None:
    proto = parse(f"g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If (c) {simple()} }}")
    proto.graph.node[0].attribute[0].g.node[0].metadata_props.add(key="namespace", value="/m")
    after, _, _ = transform(known_if, proto)
    assert after.graph.node[0].metadata_props[0].value == "/m"


LOOP = """g (float[2] x, int64 n, bool t) => (float[2] y%s)
<int64 zero = {0}, int64 two = {2}, bool true = {1}, bool no = {0}> {
    e = Exp(x)
    y, s = Loop (%s, e) <body = l (int64 i, bool c, float[2] a) => (bool k, float[2] a2, float[2] s1) {
        k = Identity(c) a2 = Add(a, x) s1 = Neg(a) }>
}"""


@pytest.mark.parametrize(
    ("given", "gone"),
    [("zero, true", 1), ("zero, t", 1), ("n, no", 1), ("two, no", 1), ("two, true", 0), ("n, true", 0), (", no", 1)],
)
def test_a_loop_without_rounds_returns_what_it_was_given(given: str, gone: int) -> None:
    after, changes, _ = transform(known_if, parse(LOOP % ("", given)), n=1, t=True)
    assert changes == gone
    assert ("Loop" in ops(after.graph)) is not bool(gone)


def test_a_loop_without_rounds_that_returns_an_input_as_an_output() -> None:
    text = LOOP.replace("(%s, e)", "(zero, true, x)") % ""
    after, changes, _ = transform(known_if, parse(text), n=1, t=True)
    assert changes == 1
    assert ops(after.graph) == ["Exp", "Identity"]


def test_a_loop_whose_scan_output_is_used_stays() -> None:
    _, changes, _ = transform(known_if, parse(LOOP % (", float[M, 2] s", "zero, true")))
    assert changes == 0
