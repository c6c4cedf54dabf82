"""One spelling for what exporters write in several ways."""

from __future__ import annotations

import pytest
from olc.passes import Context, normalize
from onnx import helper
from pass_oracle import load, ops, parse, transform


def test_trailing_omitted_inputs_are_cut_and_inner_ones_stay() -> None:
    proto = parse("g (float[2] x, float m) => (float[2] y) { a = Clip(x) y = Clip(a, , m) }")
    proto.graph.node[0].input.extend(["", ""])
    after, changes, _ = transform(normalize, proto)
    assert [list(n.input) for n in after.graph.node] == [["x"], ["a", "", "m"]]
    assert changes == 2


def test_required_empty_inputs_stay() -> None:
    proto = parse("""g (float[2] x) => (float[2] y) {
        y = Neg(x)
    }""")
    node = helper.make_node("Loop", ["", ""], [], body=helper.make_graph([], "b", [], []))
    proto.graph.node.append(node)
    model = load(proto)
    normalize.run(model, Context())
    assert len(list(model.graph)[-1].inputs) == 2


@pytest.mark.parametrize(
    ("node", "kept"),
    [
        ("Softmax <axis = -1> (x)", []),
        ("Softmax <axis = 1> (x)", ["axis"]),
        ("Elu <alpha = 1.0> (x)", []),
        ("Elu <alpha = 2.0> (x)", ["alpha"]),
        ("LeakyRelu <alpha = 0.01> (x)", []),
        ("Gemm <alpha = 1.0, beta = 1.0, transA = 0, transB = 1> (x, x)", ["transB"]),
        ("ReduceSum <keepdims = 1, noop_with_empty_axes = 0> (x)", []),
        ('Gelu <approximate = "none"> (x)', []),
        ('Gelu <approximate = "tanh"> (x)', ["approximate"]),
        ("Transpose <perm = [1, 0]> (x)", ["perm"]),
        ("Cast <to = 1> (x)", ["to"]),
    ],
)
def test_attributes_that_hold_the_declared_default_go(node: str, kept: list[str]) -> None:
    proto = parse(f"g (float[2, 2] x) => (float[A, B] y) {{ y = {node} }}", opset=20)
    after, _, _ = transform(normalize, proto)
    assert [a.name for a in after.graph.node[0].attribute] == kept


def test_the_default_is_that_of_the_models_opset() -> None:
    """Softmax's axis is 1 by default at opset 12 and -1 from 13 on."""
    text = "g (float[2, 2, 2] x) => (float[2, 2, 2] y) { y = Softmax <axis = %d> (x) }"
    for axis, kept in ((1, 0), (-1, 1)):
        after, _, _ = transform(normalize, parse(text % axis, opset=12))
        assert len(after.graph.node[0].attribute) == kept


def test_references_and_unknown_operators_are_left() -> None:
    proto = parse(
        "g (float[2] x) => (float[2] y) { y = own.F <alpha = 1.0> (x) }",
        imports=', "own" : 1',
        functions="""<domain: "own", opset_import: ["" : 18]>
        F <alpha: float = 1.0> (a, b) => (c) { d = Elu <alpha: float = @alpha> (a) c = Elu <alpha = 1.0> (d) }""",
    )
    proto.graph.node[0].input.append("")
    after, changes, _ = transform(normalize, proto)
    assert changes == 1  # the second Elu
    assert list(after.graph.node[0].input) == ["x", ""]
    assert len(after.functions[0].node[0].attribute) == 1


@pytest.mark.parametrize(
    ("opset", "node", "gone"),
    [
        (7, "Dropout <ratio = 0.3> (x)", True),
        (11, "Dropout(x)", True),
        (13, "Dropout(x)", True),
        (13, "Dropout(x, r)", True),
        (13, "Dropout(x, r, no)", True),
        (13, "Dropout(x, r, yes)", False),
        (13, "Dropout(x, r, t)", False),
        (13, "Dropout(x, zero, t)", True),
    ],
)
def test_dropout_that_drops_nothing_is_its_input(opset: int, node: str, gone: bool) -> None:
    proto = parse(
        f"""g (float[7] x, bool t) => (float[7] y)
            <float r = {{1e-12}}, float zero = {{0.0}}, bool no = {{0}}, bool yes = {{1}}> {{
        a = {node} y = Neg(a) }}""",
        opset=opset,
        ir_version=8,
    )
    after, _, _ = transform(normalize, proto)
    assert ops(after.graph) == (["Neg"] if gone else ["Dropout", "Neg"])


def test_dropout_whose_mask_is_used_stays() -> None:
    proto = parse("g (float[7] x) => (float[7] y, bool[7] m) { a, m = Dropout(x) y = Neg(a) }")
    after, _, _ = transform(normalize, proto)
    assert ops(after.graph) == ["Dropout", "Neg"]


def test_a_dropout_that_gives_a_graph_output() -> None:
    proto = parse("g (float[7] x) => (float[7] y, float[7] z) { y = Dropout(x) a = Neg(x) z = Dropout(a) }")
    after, changes, _ = transform(normalize, proto)
    assert changes == 2
    assert ops(after.graph) == ["Identity", "Neg"]
    assert list(after.graph.node[1].output) == ["z"]


def test_bodies_and_functions_are_reached() -> None:
    proto = parse(
        """g (bool c, float[2] x) => (float[2] y) {
        z = If (c) <then_branch = t () => (float[2] p) { p = Elu <alpha = 1.0> (x) },
                    else_branch = f () => (float[2] q) { d = Dropout(x) q = Abs(d) }>
        y = own.F(z) }""",
        imports=', "own" : 1',
        functions="""<domain: "own", opset_import: ["" : 18]>
        F (a) => (b) { d = Dropout(a) b = Elu <alpha = 1.0> (d) }""",
    )
    after, changes, _ = transform(normalize, proto)
    assert changes == 4
    assert ops(after.graph) == ["If", ["Elu"], ["Abs"], "F"]
    assert [n.op_type for n in after.functions[0].node] == ["Elu"]


def test_the_default_domain_has_one_name() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = Elu <alpha = 1.0> (x) }")
    proto.opset_import[0].domain = "ai.onnx"
    model = load(proto)
    assert normalize.run(model, Context()) == 2
    assert model.opset_imports == {"": 18}
