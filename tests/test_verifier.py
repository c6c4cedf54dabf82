"""The verifier finds what a faulty pass leaves behind in the graph in memory, names it, and is quick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from olc import ir, storage, verifier
from olc.deserialize import from_proto
from olc.errors import VerificationFailed
from olc.frontend import load
from olc.verifier import Problem, check, find_cycle, label, verify

from tests.bad_models import MODELS
from tests.proto_tools import everything, relu_chain
from tests.work import calls

TEXT = """
<ir_version: 10, opset_import: ["": 21, "local": 1]>
main (float[N, 4] x, bool c, int64 k) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}, float half = {0.5}>
{
    a = Mul (x, w)
    b = If (c) <
        then_branch = yes () => (float[N, 4] t) { u = Neg (a) t = Mul (u, half) },
        else_branch = no () => (float[N, 4] e) { e = Softmax <axis = 1> (a) }
    >
    d = local.Twice (b)
    y = Add (d, a)
}
<domain: "local", opset_import: ["": 21]>
Twice (p) => (q) { q = Add (p, p) }
"""


@pytest.fixture
def model() -> ir.Model:
    return load(TEXT)


def nodes(model: ir.Model) -> dict[str, ir.Node]:
    return {n.outputs[0].name or "": n for g in ir.all_graphs(model) for n in g}


def test_sound_models_have_no_problem(model: ir.Model) -> None:
    assert verify(model) == []
    assert verify(storage.load_proto(everything())) == []
    check(model)


def stale_use(m: ir.Model) -> None:
    extra = ir.make_node("Neg", [nodes(m)["a"].outputs[0]], name="extra")
    m.graph.append(extra)
    m.graph.remove(extra)  # without safe=True its input still counts it


def unlisted_use(m: ir.Model) -> None:
    a = nodes(m)["a"].outputs[0]
    a._uses.clear()


def use_of_another(m: ir.Model) -> None:
    a, d = nodes(m)["a"].outputs[0], nodes(m)["d"].outputs[0]
    y = nodes(m)["y"]
    y._inputs = (a, d)  # swapped behind onnx-ir's back


def moved_down(m: ir.Model) -> None:
    a = nodes(m)["a"]
    m.graph.remove(a)
    m.graph.append(a)


def reads_removed(m: ir.Model) -> None:
    m.graph.remove(nodes(m)["a"])


def reads_inner(m: ir.Model) -> None:
    nodes(m)["y"].replace_input_with(0, nodes(m)["u"].outputs[0])


def reads_other_branch(m: ir.Model) -> None:
    nodes(m)["e"].replace_input_with(0, nodes(m)["u"].outputs[0])


def reads_foreign(m: ir.Model) -> None:
    nodes(m)["y"].replace_input_with(0, load(TEXT).graph.inputs[0])


def reads_loose(m: ir.Model) -> None:
    nodes(m)["y"].replace_input_with(0, ir.Value(name="loose"))


def branch_returns_outer(m: ir.Model) -> None:
    branch = next(ir.subgraphs(nodes(m)["b"]))
    branch.outputs[0] = nodes(m)["a"].outputs[0]


def output_of_nothing(m: ir.Model) -> None:
    m.graph.outputs[0] = ir.Value(name="z")


def output_twice(m: ir.Model) -> None:
    m.graph.outputs.append(m.graph.outputs[0])


def input_twice(m: ir.Model) -> None:
    m.graph.inputs.append(m.graph.inputs[0])


def same_name(m: ir.Model) -> None:
    nodes(m)["d"].outputs[0].name = "a"


def hidden_name(m: ir.Model) -> None:
    nodes(m)["u"].outputs[0].name = "a"


def no_name(m: ir.Model) -> None:
    nodes(m)["a"].outputs[0].name = ""


def initializer_elsewhere(m: ir.Model) -> None:
    m.graph.initializers.data["other"] = m.graph.initializers.data.pop("w")


def initializer_without_data(m: ir.Model) -> None:
    m.graph.initializers["w"].const_value = None


def initializer_of_another_type(m: ir.Model) -> None:
    m.graph.initializers["w"].const_value = ir.Tensor(np.zeros(4, np.float64))


def initializer_of_another_shape(m: ir.Model) -> None:
    m.graph.initializers["w"].const_value = ir.Tensor(np.zeros(5, np.float32))


def initializer_produced(m: ir.Model) -> None:
    d = nodes(m)["d"].outputs[0]
    d.const_value = ir.Tensor(np.zeros(4, np.float32))
    m.graph.initializers.data["d"] = d


def wrong_dtype(m: ir.Model) -> None:
    nodes(m)["y"].replace_input_with(0, m.graph.inputs[2])


def wrong_attribute(m: ir.Model) -> None:
    nodes(m)["e"].attributes["axes"] = ir.make_attr("axes", 1)


def attribute_elsewhere(m: ir.Model) -> None:
    nodes(m)["e"].attributes["axis"] = ir.make_attr("other", 1)


def attribute_without_value(m: ir.Model) -> None:
    nodes(m)["e"].attributes["axis"] = ir.Attr("axis", ir.AttributeType.INT, None)


def too_many_inputs(m: ir.Model) -> None:
    nodes(m)["e"].resize_inputs(2)


def unknown_operator(m: ir.Model) -> None:
    nodes(m)["a"].op_type = "Mull"


def lost_import(m: ir.Model) -> None:
    del m.opset_imports["local"]


def lost_function(m: ir.Model) -> None:
    """Fine for the verifier, since another domain may be a runtime's own; the call then has no known signature."""
    m.functions.clear()


def call_with_too_many(m: ir.Model) -> None:
    nodes(m)["d"].resize_inputs(2)


def branch_with_two_outputs(m: ir.Model) -> None:
    next(ir.subgraphs(nodes(m)["b"])).outputs.append(nodes(m)["u"].outputs[0])


def function_elsewhere(m: ir.Model) -> None:
    m.functions["local", "Other", ""] = m.functions.pop(("local", "Twice", ""))


def function_in_circles(m: ir.Model) -> None:
    q = nodes(m)["q"]
    q.domain, q.op_type = "local", "Twice"
    q.resize_inputs(1)


def emptied(m: ir.Model) -> None:
    m.graph.outputs.clear()
    m.graph.remove(list(m.graph))


def body_left_behind(m: ir.Model) -> None:
    """Removing an If leaves what its branches read in use, unless they are taken apart too."""
    nodes(m)["d"].replace_input_with(0, nodes(m)["a"].outputs[0])
    m.graph.remove(nodes(m)["b"], safe=True)


def input_without_type(m: ir.Model) -> None:
    m.graph.inputs[2].type = None


def from_the_future(m: ir.Model) -> None:
    m.ir_version = 999


def node_elsewhere(m: ir.Model) -> None:
    nodes(m)["a"]._graph = ir.Graph([], [], nodes=[])


def reads_what_a_body_is_given(m: ir.Model) -> None:
    branch = next(ir.subgraphs(nodes(m)["b"]))
    inner = ir.make_constant(np.ones(4, np.float32), "inner")
    branch.initializers.add(inner)
    nodes(m)["y"].replace_input_with(0, inner)


def unlisted_use_of_an_input(m: ir.Model) -> None:
    m.graph.inputs[0]._uses.clear()


FAULTS: dict[Callable[[ir.Model], None], tuple[str, str]] = {
    stale_use: ("uses", "'a' lists 4 uses but is read 3 times, among them Neg 'extra', which is in no graph"),
    unlisted_use: ("uses", "'a' lists 0 uses but is read 3 times"),
    use_of_another: ("uses", "'d' lists a use that reads something else"),
    moved_down: ("order", "input 0 reads 'a' before Mul 'of a' produces it"),
    reads_removed: ("owner", "reads 'a' of Mul 'of a', which is in no graph"),
    reads_inner: ("owner", "reads 'u' of Neg 'of u', which is not visible here"),
    reads_other_branch: ("owner", "reads 'u' of Neg 'of u', which is not visible here"),
    reads_foreign: ("owner", "reads 'x', which belongs to a graph that is not around this one"),
    reads_loose: ("dangling", "reads 'loose', which nothing defines"),
    branch_returns_outer: ("body", "output 'a' belongs to another graph"),
    output_of_nothing: ("dangling", "output 'z' is not defined by anything"),
    output_twice: ("duplicate", "'y' is an output twice"),
    input_twice: ("duplicate", "'x' is an input twice"),
    same_name: ("duplicate", "'a' is defined twice, the second time by local.Twice 'of a'"),
    hidden_name: ("shadow", "'a' (Neg 'of a') is already defined in a graph around this one"),
    no_name: ("name", "a value (Mul) has no name"),
    initializer_elsewhere: ("name", "initializer 'w' is filed under 'other'"),
    initializer_without_data: ("tensor", "initializer 'w' has no data"),
    initializer_of_another_type: ("type", "initializer 'w' is declared FLOAT but holds DOUBLE"),
    initializer_of_another_shape: ("shape", "initializer 'w' is declared [4] but holds [5]"),
    initializer_produced: ("duplicate", "'d' is an initializer and produced by a node"),
    wrong_dtype: ("type", "Add mixes INT64 and FLOAT"),
    wrong_attribute: ("attribute", "attribute 'axes' is not one of Softmax's"),
    attribute_elsewhere: ("name", "attribute 'other' is filed under 'axis'"),
    attribute_without_value: ("attribute", "attribute 'axis' has no value"),
    too_many_inputs: ("count", "Softmax takes 1 inputs, not 2"),
    unknown_operator: ("operator", "ai.onnx has no operator 'Mull' at opset 21"),
    lost_import: ("opset", "domain 'local' is used but not imported"),
    call_with_too_many: ("count", "function Twice has 1 inputs, not 2"),
    branch_with_two_outputs: ("body", "then_branch has 2 outputs, but the node needs 1"),
    function_elsewhere: ("name", "is filed under ('local', 'Other', '')"),
    function_in_circles: ("cycle", "functions call one another in a circle: local:Twice -> local:Twice"),
    body_left_behind: (
        "uses",
        "'a' lists 4 uses but is read 2 times, among them Neg 'of u', which is in no graph of the",
    ),
    node_elsewhere: ("owner", "Mul 'of a' says that it is in another graph"),
    reads_what_a_body_is_given: ("owner", "reads 'inner', which belongs to a graph that is not around this one"),
    unlisted_use_of_an_input: ("uses", "'x' lists 0 uses but is read 1 times"),
    emptied: ("empty", "the graph has no nodes and no outputs"),
    input_without_type: ("type", "graph input 'k' has no type"),
    from_the_future: ("version", "IR version 999"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_is_named(model: ir.Model, fault: Callable[[ir.Model], None]) -> None:
    fault(model)
    kind, what = FAULTS[fault]
    problems = verify(model)
    assert any(p.kind == kind and what in p.what for p in problems), problems
    with pytest.raises(VerificationFailed) as caught:
        check(model, "after cse")
    assert caught.value.exit_code == 5
    assert str(caught.value.where).startswith("after cse")


def test_every_kind_of_problem_is_tested() -> None:
    documented = {
        k.strip() for k in (verifier.__doc__ or "").split("``Problem.kind`` is one of: ``")[1].split("``")[0].split(",")
    }
    seen = {kind for kind, _ in FAULTS.values()}
    for proto, _what, _hint in MODELS.values():
        built, problems = from_proto(proto)
        seen |= {p.kind for p in problems} or {p.kind for p in verify(built)}
    assert documented - seen == {"limit", "text"}  # these two: test_bad_input, test_fuzz_loader
    assert seen <= documented


def test_a_function_without_body_may_be_the_runtimes(model: ir.Model) -> None:
    lost_function(model)
    assert verify(model) == []


def test_verifying_changes_nothing(model: ir.Model) -> None:
    before = storage.to_bytes(model)
    verify(model)
    assert storage.to_bytes(model) == before


def test_problems_are_shown_in_three_parts() -> None:
    p = Problem("name", "what", "where", "hint")
    assert str(p) == "where: what (hint)"
    assert str(Problem("name", "what", "")) == "what"


def test_the_number_of_problems_is_bounded() -> None:
    proto = relu_chain(1000)
    for n in proto.graph.node:
        n.op_type = "Nope" + n.name
    built, _ = from_proto(proto)
    problems = verify(built)
    assert len(problems) == verifier.LIMIT


def test_labels() -> None:
    assert label(ir.make_node("Relu", [], name="r")) == "Relu 'r'"
    assert label(ir.make_node("Relu", [])) == "Relu"
    long = ir.make_node("Relu", [], name="n" * 10_000, domain="d")
    assert len(label(long)) < 100


def test_cycles_are_found_wherever_they_are(model: ir.Model) -> None:
    assert find_cycle(model.graph) == []
    nodes(model)["a"].replace_input_with(0, nodes(model)["d"].outputs[0])
    assert [n.outputs[0].name for n in find_cycle(model.graph)] == ["a", "d", "b"]
    proto = relu_chain(50_000)
    proto.graph.node[0].input[0] = "v50000"
    built, _ = from_proto(proto)
    assert len(find_cycle(built.graph)) == 50_000


def test_verifying_is_little_enough_work_to_do_after_every_pass() -> None:
    built = storage.load_proto(relu_chain(5_000))
    assert calls(lambda: verify(built)) < 100 * 5_000


def test_work_per_node_does_not_depend_on_the_readers_of_a_value() -> None:
    def fan(count: int) -> Any:
        proto = relu_chain(1)
        for i in range(count):
            proto.graph.node.add(op_type="Relu", input=["v1"], output=[f"r{i}"])
        return storage.load_proto(proto)

    small, large = fan(1_000), fan(8_000)
    assert calls(lambda: verify(large)) < 8.5 * calls(lambda: verify(small))
