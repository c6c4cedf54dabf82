"""The rewriter: what it commits, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir
from olc.analysis import shapes
from olc.passes import Context
from olc.rewriter import rewrite
from olc.rules import CLOSE, rule

from tests.rewriting import (
    CASES,
    MATMULS,
    AddTwice,
    DropIdentity,
    JoinMatMuls,
    JoinSums,
    NegNeg,
    ReluRelu,
    graph,
    load,
    made,
    ops,
    run,
)

# --- commit ---------------------------------------------------------------------------------------------------------


def test_rewrites_are_numbered_and_stamped() -> None:
    model = graph("a = Relu(x) b = Relu(a) c = Relu(b) y = Relu(c)")
    ctx = Context()
    outcome = run(model, ReluRelu, ctx=ctx)
    assert outcome.applied == {"relu-relu": 3}
    (node,) = model.graph
    assert node.metadata_props["olc.rule"] == "relu-relu#3"
    assert node.name == "Relu_3", "the name of the root that it stands for"
    assert [e.number for e in ctx.events] == [1, 2, 3]
    assert {e.by for e in ctx.events} == {"relu-relu"}
    assert ctx.events[0].detail == "Relu Relu -> Relu"


def test_numbers_go_on_in_the_same_context() -> None:
    ctx = Context()
    run(graph("a = Relu(x) y = Relu(a)"), ReluRelu, ctx=ctx)
    model = graph("a = Relu(x) y = Relu(a)")
    run(model, ReluRelu, ctx=ctx)
    assert model.graph[0].metadata_props["olc.rule"] == "relu-relu#2"


def test_a_new_node_says_where_it_comes_from() -> None:
    model = graph("a = Relu(x) y = Relu(a)")
    model.graph[1].metadata_props["namespace"] = "encoder/layer.0"
    model.graph[0].metadata_props["other"] = "kept by nobody"
    run(model, ReluRelu)
    assert model.graph[0].metadata_props["olc.from"] == "Relu_1,Relu_0"
    assert model.graph[0].metadata_props["namespace"] == "encoder/layer.0"
    assert "other" not in model.graph[0].metadata_props


def test_new_constants_become_initializers_with_names_of_their_own() -> None:
    model = graph("s = Add(x, a) t = Add(s, a) y = Add(t, b)", known="float[4] a = {1,2,3,4}, float b = {1}")
    before = {n: v.const_value.numpy().copy() for n, v in model.graph.initializers.items()}
    run(model, AddTwice)
    assert ops(model) == ["Add"]
    (w,) = [v for v in model.graph[0].inputs if v.is_initializer()]
    assert w.const_value.numpy().tolist() == [3, 5, 7, 9]
    for name, data in before.items():
        assert np.array_equal(model.graph.initializers[name].const_value.numpy(), data)
    assert len(set(model.graph.initializers)) == len(model.graph.initializers)


def test_names_do_not_clash_with_those_of_the_model() -> None:
    known = "float[4] a = {1,2,3,4}, float b = {1}, float[4] y_add_twice = {0,0,0,0}"
    model = graph("s = Add(x, a) y_add = Neg(s) t = Add(s, b) z = Mul(y_add, y_add_twice) y = Add(t, z)", known=known)
    model.graph[1].replace_input_with(0, model.graph.inputs[0])
    shapes.infer(model)
    run(model, AddTwice)
    names = [o.name for n in model.graph for o in n.outputs] + list(model.graph.initializers)
    assert len(names) == len(set(names))


def test_a_number_takes_the_dtype_of_its_neighbours() -> None:
    def result(op, m):
        return op.Pow(op.Mul(op.Abs(op.Add(m.x, 1)), 0.5), 2.0)

    model = graph("a = Neg(x) y = Neg(a)", "float16[N,4] x", "float16[N,4] y")
    run(model, made(result))
    assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16}


def test_a_number_next_to_the_unknown_is_declined() -> None:
    model = load(
        """<ir_version: 10, opset_import: ["" : 18, "f" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = f.Body(x) }
        <opset_import: ["" : 18], domain: "f"> Body (x) => (z) { a = Neg(x) z = Neg(a) }"""
    )
    for f in model.functions.values():
        for v in f.inputs:
            v.type = None
        for n in f:
            for o in n.outputs:
                o.type = None
    r = made(lambda op, m: op.Mul(m.x, 1.0))
    outcome = rewrite(model, [r], strict=True)
    assert not outcome.changes or all(v.dtype is not None for f in model.functions.values() for n in f for v in n.outputs)


def test_a_new_domain_is_imported() -> None:
    @rule(group="t", safety=CLOSE("one kernel"), targets=["onnxruntime-cpu"])
    class Contrib:
        """The product with the sigmoid is QuickGelu with alpha 1."""

        def pattern(op, x):
            return op.Mul(x, op.Sigmoid(x))

        def rewrite(op, m):
            return op.domain("com.microsoft").QuickGelu(m.x, alpha=1.0)

        cases = CASES

    from olc import targets

    model = graph("s = Sigmoid(x) y = Mul(x, s)")
    outcome = rewrite(model, [Contrib], Context(target=targets.get("onnxruntime-cpu")), strict=True)
    assert outcome.changes == 1
    assert model.opset_imports["com.microsoft"] == 1
    declined = rewrite(graph("s = Sigmoid(x) y = Mul(x, s)"), [Contrib])
    assert [reason for _, reason in declined.refused] == ["QuickGelu is not an operator of opset 1 of com.microsoft"]


# --- graph outputs --------------------------------------------------------------------------------------------------


def outputs_of(model: ir.Model, x: list[float]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    return [o.tolist() for o in ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, {"x": np.array(x, np.float32)})]


def test_an_output_keeps_its_name_and_type() -> None:
    model = graph("a = Relu(x) y = Relu(a)")
    run(model, ReluRelu)
    (y,) = model.graph.outputs
    assert (y.name, y.dtype) == ("y", ir.DataType.FLOAT)


def test_an_input_that_becomes_an_output_is_carried_by_an_identity() -> None:
    model = graph("a = Neg(x) y = Neg(a)", "float[2] x", "float[2] y")
    outcome = run(model, NegNeg, DropIdentity)
    assert ops(model) == ["Identity"]
    assert outcome.applied == {"neg-neg": 1}, "and no rule removes the carrier"
    assert outputs_of(model, [1, 2]) == [[1, 2]]


def test_an_initializer_that_becomes_an_output_is_carried_too() -> None:
    model = graph("a = Neg(w) y = Neg(a)", "float[2] x", "float[2] y", known="float[2] w = {3, 4}")
    run(model, NegNeg, DropIdentity)
    assert ops(model) == ["Identity"]
    assert outputs_of(model, [1, 2]) == [[3, 4]]
    assert list(model.graph.initializers) == ["w"]


def test_an_output_that_becomes_another_output_is_carried_too() -> None:
    model = graph("z = Abs(x) a = Neg(z) y = Neg(a)", "float[2] x", "float[2] z, float[2] y")
    run(model, NegNeg, DropIdentity)
    assert sorted(ops(model)) == ["Abs", "Identity"]
    assert outputs_of(model, [-1, 2]) == [[1, 2], [1, 2]]


def test_two_outputs_that_become_the_same_value() -> None:
    model = graph("b = Abs(x) a = Neg(b) y = Neg(a) c = Neg(b) z = Neg(c)", "float[2] x", "float[2] y, float[2] z")
    run(model, NegNeg, DropIdentity)
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    assert outputs_of(model, [-1, 2]) == [[1, 2], [1, 2]]


def test_an_interior_value_moves_to_the_output() -> None:
    model = graph("b = Abs(x) y = Identity(b)")
    run(model, DropIdentity)
    assert ops(model) == ["Abs"]
    assert model.graph.outputs[0].producer() is model.graph[0]


def test_an_array_is_a_result() -> None:
    r = made(lambda op, m: np.zeros(2, np.float32))
    model = graph("a = Neg(x) b = Neg(a) y = Abs(b)", "float[2] x", "float[2] y")
    run(model, r)
    assert ops(model) == ["Abs"]
    assert outputs_of(model, [1, 2]) == [[0, 0]]


# --- bodies and functions -------------------------------------------------------------------------------------------


def body_of(model: ir.Model) -> ir.Graph:
    return next(g for n in model.graph for g in ir.subgraphs(n))


def test_branches_are_rewritten() -> None:
    model = load(
        """<ir_version: 10, opset_import: ["" : 18]> g (bool c, float[N,4] x) => (float[N,4] y) <float one = {1}> {
          y = If(c) <
            then_branch = t () => (float[N,4] a) { p = Add(x, one) q = Add(p, one) a = Relu(q) },
            else_branch = e () => (float[N,4] b) { r = Relu(x) b = Relu(r) }
          > }"""
    )
    outcome = run(model, ReluRelu, AddTwice)
    assert outcome.applied == {"relu-relu": 1, "add-twice": 1}
    then, other = list(ir.subgraphs(model.graph[0]))
    assert (ops(then), ops(other)) == (["Add", "Relu"], ["Relu"])
    assert [v.const_value.numpy().tolist() for v in then.initializers.values()] == [2], "constants join the body"
    assert list(model.graph.initializers) == ["one"]


def test_a_branch_that_gives_an_outer_value_keeps_an_identity() -> None:
    model = load(
        """<ir_version: 10, opset_import: ["" : 18]> g (bool c, float[N,4] x) => (float[N,4] y) {
          h = Abs(x)
          y = If(c) <
            then_branch = t () => (float[N,4] a) { n = Neg(h) a = Neg(n) },
            else_branch = e () => (float[N,4] b) { b = Identity(h) }
          > }"""
    )
    run(model, NegNeg, DropIdentity)
    assert [ops(g) for g in ir.subgraphs(model.graph[1])] == [["Identity"], ["Identity"]]


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_loop_and_scan_bodies_are_rewritten(kind: str) -> None:
    if kind == "Loop":
        text = """<ir_version: 10, opset_import: ["" : 18]> g (int64 n, bool go, float[4] x) => (float[4] y) {
          y = Loop(n, go, x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] t) {
            d = Identity(c) p = Relu(s) q = Relu(p) t = Neg(q) }> }"""
    else:
        text = """<ir_version: 10, opset_import: ["" : 18]> g (float[4] s0, float[3,4] x) => (float[4] s, float[3,4] y) {
          s, y = Scan<num_scan_inputs = 1>(s0, x) <body = b (float[4] s_in, float[4] e) => (float[4] s_out, float[4] t) {
            s_out = Add(s_in, e) p = Relu(e) q = Relu(p) t = Neg(q) }> }"""
        text = text.replace("Scan<num_scan_inputs = 1>(s0, x) <body", "Scan(s0, x) <num_scan_inputs = 1, body")
    model = load(text)
    assert run(model, ReluRelu).changes == 1
    assert ops(body_of(model)).count("Relu") == 1


def test_functions_are_rewritten_and_have_constant_nodes() -> None:
    model = load(
        """<ir_version: 10, opset_import: ["" : 18, "f" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = f.Body(x) }
        <opset_import: ["" : 18], domain: "f"> Body (x) => (z)
        { a = Constant<value_float = 1.0>() s = Add(x, a) z = Add(s, a) }"""
    )
    outcome = rewrite(model, [AddTwice], strict=True)
    assert outcome.changes == 1
    (f,) = model.functions.values()
    assert sorted(ops(f.graph)) in (["Add", "Constant"], ["Add", "Constant", "Constant"])
    assert not f.graph.initializers
    onnx.checker.check_model(ir.serde.serialize_model(model))


# --- several roots --------------------------------------------------------------------------------------------------



def test_two_roots_become_one_node() -> None:
    model = graph(
        "p = MatMul(x, a) n = Neg(p) q = MatMul(x, b) y = Add(n, q)", "float[N,4] x", "float[N,2] y", known=MATMULS
    )
    assert run(model, JoinMatMuls).applied == {"join-mat-muls": 1}
    assert ops(model) == ["MatMul", "Split", "Neg", "Add"], "sorted: the first root's users stay behind it"


def test_roots_that_depend_on_each_other_are_not_merged() -> None:
    model = graph("p = Abs(a) s = Add(x, p) q = Abs(s) y = Add(x, q)", "float[4] x, float[4] a", "float[4] y")
    outcome = run(model, JoinSums)
    assert not outcome.changes
    assert [reason for _, reason in outcome.refused] == ["a result would depend on itself"] * len(outcome.refused)
    free = graph("p = Abs(a) s = Add(x, p) q = Abs(b) t = Add(x, q) y = Mul(s, t)",
                 "float[4] x, float[4] a, float[4] b", "float[4] y")  # fmt: skip
    assert run(free, JoinSums).changes == 1
