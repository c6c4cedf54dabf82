"""Calls of model-local functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx.parser
import pytest
from olc.errors import BadInput
from olc.passes import Context, inline_functions
from pass_oracle import assert_same, feeds, load, ops, parse, run, save, transform


def own(text: str, imports: str = "", opset: int = 18) -> str:
    return f'<domain: "own", opset_import: ["" : {opset}{imports}]> {text}'


def model(graph: str, *functions: str, opset: int = 18) -> Any:
    return parse(graph, imports=', "own" : 1', functions="\n".join(functions), opset=opset)


def test_a_call_becomes_the_body_under_the_calls_name() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) { [first] a = own.F(x) [second] b = own.F(a) y = Neg(b) }",
        own("F (p) => (r) { [e] q = Exp(p) r = Abs(q) }"),
    )
    after, changes, ctx = transform(inline_functions, proto)
    assert changes == 2
    assert ops(after.graph) == ["Exp", "Abs", "Exp", "Abs", "Neg"]
    assert [n.name for n in after.graph.node][:3:2] == ["first/e", "second/e"]
    assert [list(n.output) for n in after.graph.node] == [["first/q"], ["a"], ["second/q"], ["b"], ["y"]]
    assert not after.functions
    assert [i.domain for i in after.opset_import] == [""]
    assert [e.site for e in ctx.events] == ["first", "second"]


def test_nested_calls_and_overloads() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) { a = own.A(x) y = own.B(a) }",
        own("A (p) => (r) { q = own.B(p) r = own.B(q) }", ', "own" : 1'),
        own("B (p) => (r) { r = Exp(p) }"),
    )
    proto.functions[1].overload = "o"
    proto.functions[0].node[0].overload = proto.functions[0].node[1].overload = proto.graph.node[1].overload = "o"
    other = proto.functions.add()
    other.CopyFrom(proto.functions[1])
    other.overload = "unused"
    other.node[0].op_type = "Neg"
    loaded = load(proto)  # ONNX Runtime refuses nested overloads
    assert inline_functions.run(loaded, Context()) == 4
    assert ops(save(loaded).graph) == ["Exp", "Exp", "Exp"]


def test_attributes_given_defaulted_and_absent() -> None:
    body = own("F <axis> (p) => (r) { q = Elu <alpha: float = @alpha> (p) r = Softmax <axis: int = @axis> (q) }")
    proto = model(
        "g (float[2, 3] x) => (float[2, 3] y) { a = own.F(x) b = own.F <alpha = 2.0, axis = 0> (a) y = Neg(b) }",
        body,
    )
    proto.functions[0].attribute_proto.add(name="alpha", type=1, f=0.5)
    after, _, _ = transform(inline_functions, proto)
    assert [[a.name for a in n.attribute] for n in after.graph.node] == [["alpha"], [], ["alpha"], ["axis"], []]
    assert [n.attribute[0].f for n in after.graph.node if n.op_type == "Elu"] == [0.5, 2.0]


def test_references_pass_through_nested_functions() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) { y = own.A <s = 3.0> (x) }",
        own("A <s> (p) => (r) { r = own.B <t: float = @s> (p) }", ', "own" : 1'),
        own("B <t> (p) => (r) { r = Elu <alpha: float = @t> (p) }"),
    )
    after, _, _ = transform(inline_functions, proto)
    assert after.graph.node[0].attribute[0].f == 3.0


def test_omitted_inputs_and_unused_outputs() -> None:
    proto = model(
        "g (float[4] x, float m) => (float[4] y) { a, d = own.F(x) b, c = own.F(a, , m) y = Neg(b) }",
        own("F (p, lo, hi) => (r, s) { r = Clip(p, lo, hi) s = Exp(p) }"),
    )
    after, _, _ = transform(inline_functions, proto)
    assert [list(n.input) for n in after.graph.node if n.op_type == "Clip"] == [["x", "", ""], ["a", "", "m"]]
    del proto.graph.node[0].output[1:]  # ONNX Runtime refuses a call with fewer outputs than the function has
    loaded = load(proto)
    assert inline_functions.run(loaded, Context()) == 2
    assert ops(save(loaded).graph) == ["Clip", "Exp", "Clip", "Exp", "Neg"]


def test_a_result_that_is_an_input() -> None:
    """ONNX Runtime refuses such functions, so what is expected is written out."""
    proto = model(
        "g (float[2] x) => (float[2] y, float[2] z, float[2] w) { y, z = own.F(x) v, w = own.F(y) }",
        own("F (p) => (p, r) { r = Abs(p) }"),
    )
    loaded = load(proto)
    assert inline_functions.run(loaded, Context()) == 2
    expected = parse("g (float[2] x) => (float[2] y, float[2] z, float[2] w) { y = Identity(x) z = Abs(x) w = Abs(y) }")
    feed = feeds(expected)
    assert_same(run(expected, feed), run(save(loaded), feed))
    proto = model(
        "g (float[2] x) => (float[2] v) { e = Exp(x) y, z = own.F(e) v = Sum(y, z) }",
        own("F (p) => (p, r) { r = Abs(p) }"),
    )
    loaded = load(proto)
    inline_functions.run(loaded, Context())
    after = save(loaded)
    assert ops(after.graph) == ["Exp", "Abs", "Sum"]
    assert list(after.graph.node[0].output) == ["e"]  # an outer value keeps its name


def test_a_result_given_twice_although_the_checker_forbids_it() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y, float[2] z) { y, z = own.F(x) }",
        own("F (p) => (r, s) { r = Abs(p) s = Neg(p) }"),
    )
    proto.functions[0].output[1] = "r"
    loaded = load(proto)
    inline_functions.run(loaded, Context())
    after = save(loaded)
    assert ops(after.graph) == ["Abs", "Neg", "Identity"]


def test_bodies_inside_functions_and_calls_inside_bodies() -> None:
    proto = model(
        """g (bool c, float[2] x) => (float[2] y) {
          z = If (c) <then_branch = t () => (float[2] p) { p = own.F(c, x) },
                      else_branch = f () => (float[2] q) { q = own.F(c, x) }>
          y = own.F(c, z)
        }""",
        own("""F (c, p) => (r) {
          h = Exp(p)
          r = If (c) <then_branch = t () => (a) <float[2] k = {1, 2}> { h2 = Add(h, k) a = Neg(h2) },
                      else_branch = f () => (b) <float[2] k = {3, 4}> { b = Mul(h, k) }>
        }"""),
    )
    after, changes, _ = transform(inline_functions, proto)
    assert changes == 3
    inner = ["Exp", "If", ["Add", "Neg"], ["Mul"]]
    assert ops(after.graph) == ["If", inner, inner, *inner]
    model_ = load(after)
    assert len(save(model_).graph.node) == 3


def test_names_never_clash() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) { [f] q = own.F(x) [n] a = own.F(q) y = Neg(a) }",
        own("F (p) => (r) { [n] q = Exp(p) r = Abs(q) }"),
    )
    proto.graph.node[1].name = "f/n"
    proto.graph.node[2].output[0] = "f/q"
    proto.graph.output[0].name = "f/q"
    after, _, _ = transform(inline_functions, proto)
    outputs = [o for n in after.graph.node for o in n.output]
    assert len(set(outputs)) == len(outputs) == 5
    nodes = [n.name for n in after.graph.node if n.name]
    assert len(set(nodes)) == len(nodes)


def test_metadata_of_call_and_body() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = own.F(x) }", own("F (p) => (r) { q = Exp(p) r = Abs(q) }"))
    call = proto.graph.node[0]
    call.metadata_props.add(key="namespace", value="/layer")
    proto.functions[0].node[0].metadata_props.add(key="namespace", value="/inner")
    proto.functions[0].node[0].doc_string = "doc"
    after, _, _ = transform(inline_functions, proto)
    assert [n.metadata_props[0].value for n in after.graph.node] == ["/inner", "/layer"]
    assert after.graph.node[0].doc_string == "doc"


@pytest.mark.parametrize("length", [1, 2, 3])
def test_recursion_is_refused_with_the_cycle(length: int) -> None:
    functions = [own(f"F{i} (p) => (r) {{ r = own.F{(i + 1) % length}(p) }}", ', "own" : 1') for i in range(length)]
    proto = model("g (float[2] x) => (float[2] y) { y = Neg(x) }", own("F (p) => (r) { r = Exp(p) }"))
    for text in functions:
        proto.functions.append(onnx.parser.parse_function(text))
    with pytest.raises(BadInput) as error:
        inline_functions.run(load(proto), Context())
    assert error.value.what.count("own::F") == length + 1
    assert error.value.hint


def test_a_chain_of_many_functions_is_no_recursion() -> None:
    count = 3000
    functions = [own(f"F{i} (p) => (r) {{ r = own.F{i + 1}(p) }}", ', "own" : 1') for i in range(count)]
    proto = model("g (float[2] x) => (float[2] y) { y = own.F0(x) }", own("F0 (p) => (r) { r = own.F1(p) }", ', "own" : 1'))
    for text in [*functions[1:], own(f"F{count} (p) => (r) {{ r = Exp(p) }}")]:
        proto.functions.append(onnx.parser.parse_function(text))
    loaded = load(proto)
    assert inline_functions.run(loaded, Context()) == count + 1
    assert ops(save(loaded).graph) == ["Exp"]


def test_functions_that_double_forever_stay_calls() -> None:
    functions = [own(f"F{i} (p) => (r) {{ q = own.F{i + 1}(p) r = own.F{i + 1}(q) }}", ', "own" : 1') for i in range(40)]
    proto = model("g (float[2] x) => (float[2] y) { y = own.F0(x) }", *functions, own("F40 (p) => (r) { r = Exp(p) }"))
    loaded, ctx = load(proto), Context()
    assert inline_functions.run(loaded, ctx) == 0
    assert "nodes" in ctx.events[0].detail


def test_another_opset_with_the_same_meaning_is_fine() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = own.F(x) }", own("F (p) => (r) { r = Exp(p) }", opset=15))
    _, changes, _ = transform(inline_functions, proto)
    assert changes == 1


def test_a_newer_opset_with_another_meaning_stays_and_says_so() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = own.F(x) }", own("F (p) => (r) { r = Neg(p) }", opset=18))
    proto.functions[0].node[0].op_type = "Gelu"
    proto.functions[0].opset_import[0].version = 20
    loaded, ctx = load(proto), Context()
    assert inline_functions.run(loaded, ctx) == 0
    assert "version 20" in ctx.events[0].detail
    assert len(loaded.functions) == 1


def test_an_operator_that_the_target_runs_stays_a_call() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = own.F(x) }", own("F (p) => (r) { r = Neg(p) }"))
    table = SimpleNamespace(supports=lambda op, domain, version: (op, domain) == ("F", "own"))
    loaded = load(proto)
    assert inline_functions.run(loaded, Context(target=SimpleNamespace(table=table))) == 0
    table.supports = lambda op, domain, version: False
    assert inline_functions.run(loaded, Context(target=SimpleNamespace(table=table))) == 1


def test_domains_that_only_a_function_used_are_imported_by_the_model() -> None:
    text = own("F (p) => (r) { r = other.Custom(p) }", ', "other" : 7')
    proto = model("g (float[2] x) => (float[2] y) { y = own.F(x) }", text)
    loaded = load(proto)
    inline_functions.run(loaded, Context())
    assert loaded.opset_imports == {"": 18, "other": 7}


def test_shapes_written_in_a_function_are_not_taken_over() -> None:
    """They were written for one call; a dim called N there is not the N of the model."""
    proto = model("g (float[N] x) => (float[N] y) { y = own.F(x) }", own("F (p) => (r) { q = Exp(p) r = Neg(q) }"))
    info = proto.functions[0].value_info.add(name="q")
    info.type.tensor_type.elem_type = 1
    info.type.tensor_type.shape.dim.add(dim_param="N")
    loaded = load(proto)
    inline_functions.run(loaded, Context())
    value = loaded.graph[0].outputs[0]
    assert value.dtype is not None
    assert value.shape is None
