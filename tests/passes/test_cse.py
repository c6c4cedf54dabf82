"""Common subexpressions."""

from __future__ import annotations

import pytest
from olc.passes import Context, cse
from pass_oracle import load, ops, parse, save, transform


def test_equal_chains_become_one() -> None:
    proto = parse("""g (float[7] x) => (float[7] y) {
        a = Exp(x) b = Neg(a)
        c = Exp(x) d = Neg(c)
        y = Add(b, d)
    }""")
    after, changes, ctx = transform(cse, proto)
    assert ops(after.graph) == ["Exp", "Neg", "Add"]
    assert changes == 2
    assert len(ctx.events) == 2


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("Softmax <axis = 0> (x)", "Softmax <axis = 0> (x)", True),
        ("Softmax <axis = 0> (x)", "Softmax <axis = 1> (x)", False),
        ("Elu <alpha = 0.0> (x)", "Elu <alpha = -0.0> (x)", False),
        ("LeakyRelu <alpha = 0.5> (x)", "LeakyRelu <alpha = 0.5> (x)", True),
        ("Exp(x)", "Neg(x)", False),
        ("Exp(x)", "Exp(z)", False),
        ("Add(x, z)", "Add(z, x)", True),
        ("Mul(x, z)", "Mul(z, x)", True),
        ("Sum(x, z)", "Sum(z, x)", True),
        ("Sum(x, z, z)", "Sum(z, x, z)", False),
        ("Sub(x, z)", "Sub(z, x)", False),
        ("Max(x, z)", "Max(z, x)", False),
        ("Min(x, z)", "Min(z, x)", False),
        ("Clip(x, , z1)", "Clip(x, z1)", False),
        ("Dropout(x)", "Dropout(x)", True),
        ("Dropout(x, , t)", "Dropout(x, , t)", False),
        ("Bernoulli(x)", "Bernoulli(x)", False),
        ("RandomNormalLike <seed = 1.0> (x)", "RandomNormalLike <seed = 1.0> (x)", False),
    ],
)
def test_what_counts_as_the_same(first: str, second: str, merged: bool) -> None:
    proto = parse(f"""g (float[2, 2] x, float[2, 2] z, float z1, bool t) => (float[2, 2] y) {{
        a = {first}
        b = {second}
        y = Sub(a, b)
    }}""")
    model = load(proto)
    assert cse.run(model, Context()) == int(merged)
    if "Random" not in first and "Bernoulli" not in first and ", t)" not in first:
        transform(cse, proto)


def test_max_of_integers_commutes() -> None:
    proto = parse("g (int64[2] x, int64[2] z) => (int64[2] y) { a = Max(x, z) b = Max(z, x) y = Sub(a, b) }")
    _, changes, _ = transform(cse, proto)
    assert changes == 1


def test_omitted_outputs_must_agree() -> None:
    proto = parse("""g (float[4] x) => (float[4] y) <int64[1] k = {2}> {
        a = Unique <sorted = 1> (x)
        b, i = Unique <sorted = 1> (x)
        c, j = Unique <sorted = 1> (x)
        d = Concat <axis = 0> (a, b, c)
        l = Concat <axis = 0> (i, j)
        m = Cast <to = 1> (l)
        e = Concat <axis = 0> (d, m)
        y = Identity(x)
    }""")
    after, changes, _ = transform(cse, proto)
    assert changes == 1
    assert ops(after.graph).count("Unique") == 2


def test_two_graph_outputs_of_one_expression_keep_their_names() -> None:
    proto = parse("g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x) z = Exp(x) }")
    after, changes, _ = transform(cse, proto)
    assert changes == 1
    assert ops(after.graph) == ["Exp", "Identity"]
    assert [v.name for v in after.graph.output] == ["y", "z"]


def test_the_kept_node_takes_the_name_of_the_graph_output() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { a = Exp(x) y = Exp(x) b = Neg(a) }")
    after, changes, _ = transform(cse, proto)
    assert changes == 1
    assert [list(n.output) for n in after.graph.node] == [["y"], ["b"]]
    assert list(after.graph.node[1].input) == ["y"]


def test_identities_of_one_value_that_are_outputs_stay() -> None:
    proto = parse("g (float[2] x) => (float[2] y, float[2] z, float[2] w) { y = Identity(x) z = Identity(x) w = Exp(x) }")
    _, changes, _ = transform(cse, proto)
    assert changes == 0


IN_BODY = """g (bool c, float[2] x) => (float[2] y, float[2] z) {
    %s
    y = If (c) <
      then_branch = t () => (float[2] a) { p = Exp(x) a = Neg(p) },
      else_branch = f () => (float[2] b) { b = Exp(x) }
    >
    %s
}"""


def test_a_body_uses_what_the_graph_around_it_computed_before() -> None:
    proto = parse(IN_BODY % ("e = Exp(x)", "z = Relu(e)"))
    after, changes, _ = transform(cse, proto)
    assert changes == 2
    # A body cannot return a value of the graph around it: an Identity carries it.
    assert ops(after.graph) == ["Exp", "If", ["Neg"], ["Identity"], "Relu"]


def test_a_body_does_not_use_what_comes_after_it() -> None:
    proto = parse(IN_BODY % ("", "e = Exp(x) z = Relu(e)"))
    _, changes, _ = transform(cse, proto)
    assert changes == 0


def test_two_branches_do_not_share() -> None:
    proto = parse(IN_BODY % ("", "z = Relu(x)"))
    after, _, _ = transform(cse, proto)
    assert ops(after.graph) == ["If", ["Exp", "Neg"], ["Exp"], "Relu"]


def test_an_outer_name_that_the_body_defines_itself_is_not_visible() -> None:
    proto = parse(IN_BODY % ("e = Exp(x)", "z = Relu(e)"))
    body = proto.graph.node[1].attribute[0].g
    body.node.add(op_type="Abs", input=["x"], output=["e"])  # illegal, but files do it
    model = load(proto)
    assert cse.run(model, Context()) == 1


def test_constants_merge_by_content_and_minus_zero_is_another() -> None:
    proto = parse("""g (float[2] x) => (float[2] y, float[2] z, float[2] w) {
        y = Constant <value = float[2] {0.0, 1.0}>()
        z = Constant <value = float[2] {-0.0, 1.0}>()
        w = Constant <value = float[2] {0.0, 1.0}>()
    }""")
    after, changes, _ = transform(cse, proto)
    assert changes == 1
    assert ops(after.graph) == ["Constant", "Constant", "Identity"]


def test_calls_of_functions_merge_unless_something_in_them_is_random() -> None:
    proto = parse(
        "g (float[2] x) => (float[2] y) { a = own.P(x) b = own.P(x) c = own.R(x) d = own.R(x) e = own.Q(x) f = own.Q(x)"
        " g1 = Sub(a, b) g2 = Sub(c, d) g3 = Sub(e, f) y = Sum(g1, g2, g3) }",
        imports=', "own" : 1',
        functions="""<domain: "own", opset_import: ["" : 18]> P (a) => (b) { b = Exp(a) }
        <domain: "own", opset_import: ["" : 18, "own" : 1]> Q (a) => (b) { b = own.R(a) }
        <domain: "own", opset_import: ["" : 18]> R (a) => (b) { b = RandomNormalLike(a) }""",
    )
    assert cse.run(load(proto), Context()) == 1


def test_operators_of_unknown_domains_are_left() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { a = Exp(x) y = Neg(a) }", imports=', "own" : 1')
    for name in ("p", "q"):
        proto.graph.node.add(op_type="Custom", domain="own", input=["x"], output=[name])
    assert cse.run(load(proto), Context()) == 0


def test_function_bodies_merge_too_and_references_count_as_attributes() -> None:
    proto = parse(
        "g (float[2] x) => (float[2] y) { y = own.F <s = 1.0, t = 2.0> (x) }",
        imports=', "own" : 1',
        functions="""<domain: "own", opset_import: ["" : 18]> F <s, t> (a) => (y) {
            b = Elu <alpha: float = @s> (a) c = Elu <alpha: float = @t> (a) d = Elu <alpha: float = @s> (a)
            e = Add(b, c) y = Add(e, d)
        }""",
    )
    after, changes, _ = transform(cse, proto)
    assert changes == 1
    assert [n.op_type for n in after.functions[0].node] == ["Elu", "Elu", "Add", "Add"]


def test_the_kept_value_gets_what_only_the_other_knew() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }")
    info = proto.graph.value_info.add(name="b")
    info.type.tensor_type.elem_type = 1
    info.metadata_props.add(key="k", value="v")
    after, _, _ = transform(cse, proto)
    (found,) = after.graph.value_info
    assert found.name == "a"
    assert found.metadata_props[0].value == "v"


def test_an_annotated_value_stays() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }")
    note = proto.graph.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    model = load(proto)
    assert cse.run(model, Context()) == 0
    assert len(save(model).graph.node) == 3
