"""The rewriter: what it declines and why, that it ends, and that its cost grows with the model."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx.parser
import pytest
from olc import ir, matching, rewriter
from olc.analysis import shapes
from olc.errors import RuleError
from olc.matching import Match
from olc.passes import Context
from olc.rewriter import Outcome, Rewriter, rewrite, why
from olc.rules import EXACT, F64, Case, Rule, dims, f32, registry, rule

from tests.rewriting import (
    CASES,
    AddNegToSub,
    DropIdentity,
    Grow,
    NegNeg,
    ReluRelu,
    SubToAddNeg,
    graph,
    made,
    ops,
    run,
)

# --- what is declined -----------------------------------------------------------------------------------------------


def other_dtype(op, m):
    return op.Cast(m.x, to=F64)


def other_rank(op, m):
    return op.Unsqueeze(m.x, np.array([0]))


def other_size(op, m):
    return op.Concat(m.x, m.x, axis=0)


def unknown_operator(op, m):
    return op.HardSwich(m.x)


def unknown_attribute(op, m):
    return op.Relu(m.x, alpha=1.0)


def missing_attribute(op, m):
    return op.Cast(m.x)


def too_many_inputs(op, m):
    return op.Relu(m.x, m.x)


def nothing(op, m):
    return None


def two_results(op, m):
    return m.x, m.x


def its_own_result(op, m):
    return op.Neg(m.roots[0])


def renamed(op, m):
    m.root.name = "mine"
    return m.x


DECLINED = [
    (other_dtype, "would be double, not float"),
    (other_rank, "would have shape"),
    (other_size, "not proved to be"),
    (unknown_operator, "HardSwich is not an operator of opset 18"),
    (unknown_attribute, "has no attribute 'alpha'"),
    (missing_attribute, "needs the attribute 'to'"),
    (too_many_inputs, "takes 1 to 1 inputs, not 2"),
    (nothing, "gives None, not a value"),
    (two_results, "gives 2 results for 1 roots"),
    (its_own_result, "not visible there"),
]


@pytest.mark.parametrize(("result", "words"), DECLINED, ids=lambda p: getattr(p, "__name__", ""))
def test_an_illegal_result_is_declined_and_leaves_the_graph_alone(result: Any, words: str) -> None:
    r = made(result)
    text = "a = Neg(x) y = Neg(a)"
    with pytest.raises(RuleError, match=words) as e:
        rewrite(graph(text, "float[2] x", "float[2] y"), [r], strict=True)
    assert e.value.where == "rule 'made' at Neg 'Neg_1'"
    model = graph(text, "float[2] x", "float[2] y")
    before = ir.serde.serialize_model(model)
    outcome = rewrite(model, [r])
    assert not outcome.changes
    assert all(words in reason for _, reason in outcome.refused)
    assert ir.serde.serialize_model(model) == before
    assert all(len(v.uses()) == 1 for v in [model.graph.inputs[0], model.graph[0].outputs[0]]), "no use is left behind"


def test_a_rewrite_that_touches_its_match_is_a_fault() -> None:
    with pytest.raises(RuleError, match="changes the graph that it matched"):
        rewrite(graph("a = Neg(x) y = Neg(a)"), [made(renamed)], strict=True)


def test_a_shape_that_is_not_proved_is_declined_without_blame() -> None:
    @rule(group="t", safety=EXACT)
    class DropZeros:
        """A sum with something is the other value, which nothing proves to have the same shape."""

        def pattern(op, x, z):
            return op.Add(x, z)

        def rewrite(op, m):
            return m.x

        cases = [Case("vectors", x=f32["N"], z=f32["N"])]

    outcome = run(graph("t = Add(x, z) y = Neg(t)", "float[N] x, float[M] z", "float[K] y"), DropZeros)
    assert not outcome.changes
    assert any("not proved" in reason for _, reason in outcome.refused)


def test_an_error_in_a_rule_leaves_no_uses_behind() -> None:
    def crash(op, m):
        op.Relu(m.x)
        raise ValueError("the author's own")

    model = graph("a = Neg(x) y = Neg(a)")
    with pytest.raises(ValueError, match="the author's own"):
        rewrite(model, [made(crash)], strict=True)
    assert len(model.graph.inputs[0].uses()) == 1
    (why,) = rewrite(model, [made(crash)]).quarantined.values()
    assert "ValueError" in why
    assert "the author's own" in why
    assert len(model.graph.inputs[0].uses()) == 1


def test_a_value_from_elsewhere_is_not_visible() -> None:
    def thief(op, m):
        other = next(n for n in m.root.graph if n.op_type == "Abs")
        return op.Relu(other.outputs[0])

    model = graph("s = Abs(x) a = Neg(x) b = Neg(a) y = Add(b, s)")
    with pytest.raises(RuleError, match="reads 's', which is not visible there"):
        rewrite(model, [made(thief)], strict=True)


# --- options --------------------------------------------------------------------------------------------------------


def test_stop_after() -> None:
    for stop in (0, 1, 2):
        model = graph("a = Relu(x) b = Relu(a) c = Relu(b) y = Relu(c)")
        assert run(model, ReluRelu, stop_after=stop).changes == stop
        assert len(model.graph) == 4 - stop


def test_skip_names_a_rule_or_a_rule_at_a_node() -> None:
    text = "a = Relu(x) y = Relu(a) n = Neg(x) z = Neg(n)"
    both = "float[N,4] y, float[N,4] z"
    assert run(graph(text, outputs=both), ReluRelu, NegNeg, ctx=Context(skip=frozenset({"relu-relu"}))).applied == {
        "neg-neg": 1
    }
    at = Context(skip=frozenset({"neg-neg@Neg_3"}))
    assert run(graph(text, outputs=both), ReluRelu, NegNeg, ctx=at).applied == {"relu-relu": 1}


def test_sites_allow_a_rule_at_named_nodes() -> None:
    text = "a = Relu(x) y = Relu(a) b = Relu(x) z = Relu(b)"
    model = graph(text, outputs="float[N,4] y, float[N,4] z")
    assert run(model, ReluRelu, sites={"relu-relu": frozenset({"Relu_3"})}).changes == 1
    assert model.graph.outputs[1].producer().metadata_props


def test_larger_patterns_come_first() -> None:
    @rule(group="t", safety=EXACT)
    class ThreeNegs:
        """Three negations are one, since two of them cancel."""

        def pattern(op, x):
            return op.Neg(op.Neg(op.Neg(x)))

        def rewrite(op, m):
            return op.Neg(m.x)

        cases = CASES

    model = graph("a = Neg(x) b = Neg(a) y = Neg(b)")
    assert run(model, NegNeg, ThreeNegs).applied == {"neg-neg": 1} or ops(model) == ["Neg"]
    assert ops(model) == ["Neg"]


# --- termination ----------------------------------------------------------------------------------------------------


def test_a_rule_that_feeds_itself_is_named() -> None:
    with pytest.raises(RuleError, match="rule 'grow' feeds itself"):
        run(graph("y = Abs(x)"), Grow)


def test_rules_that_undo_each_other_are_named() -> None:
    one, other = "'add-neg-to-sub'", "'sub-to-add-neg'"
    with pytest.raises(RuleError, match=f"rules ({one}, {other}|{other}, {one}) undo each other"):
        run(graph("y = Sub(x, z)", "float[4] x, float[4] z", "float[4] y"), SubToAddNeg, AddNegToSub)


def test_a_users_compile_goes_on_without_them() -> None:
    model = graph("t = Abs(x) r = Relu(t) y = Relu(r)")
    ctx = Context()
    outcome = run(model, Grow, ReluRelu, strict=False, ctx=ctx)
    assert "feeds itself" in outcome.quarantined["grow"]
    assert outcome.applied["relu-relu"] == 1
    assert any("taken out" in e.detail for e in ctx.events)


# --- cost and order -------------------------------------------------------------------------------------------------


def counted(model: ir.Model, rules: list[Rule], monkeypatch: pytest.MonkeyPatch) -> tuple[int, Outcome]:
    """How often a pattern was matched in a run."""
    calls = 0
    original = rewriter.match

    def match(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **options)

    with monkeypatch.context() as m:
        m.setattr(rewriter, "match", match)
        return (outcome := rewrite(model, rules, strict=True)) and calls, outcome


def chain(n: int) -> ir.Model:
    """Relu, Relu, Add 0, Neg, Neg, Identity, over and over."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4]))
    kinds = ["Relu", "Relu", "Neg", "Neg", "Identity"]
    nodes: list[ir.Node] = []
    v = x
    for i in range(n):
        node = ir.make_node(kinds[i % len(kinds)], [v], name=f"n{i}")
        v = node.outputs[0]
        v.name, v.type, v.shape = f"v{i}", x.type, x.shape
        nodes.append(node)
    model = ir.Model(ir.Graph([x], [v], nodes=nodes, opset_imports={"": 18}, name="chain"), ir_version=10)
    shapes.infer(model)
    return model


def test_the_cost_of_a_chain_grows_with_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {}
    for n in (1_000, 8_000):
        model = chain(n)
        calls[n], outcome = counted(model, [ReluRelu, NegNeg, DropIdentity], monkeypatch)
        assert outcome.applied["neg-neg"] == n // 5
        assert len(model.graph) <= 2, "all Relus fold into one"
    assert calls[8_000] < 9 * calls[1_000]
    assert calls[8_000] < 20 * 8_000


def test_a_value_with_8000_users_costs_no_more_than_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(n: int) -> ir.Model:
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4]))
        base = ir.make_node("Abs", [x], name="base")
        nodes, ends = [base], []
        h = base.outputs[0]
        h.name = "hub"
        for i in range(n):
            a = ir.make_node("Neg", [h], name=f"a{i}")
            b = ir.make_node("Neg", [a.outputs[0]], name=f"b{i}")
            c = ir.make_node("Relu", [b.outputs[0]], name=f"c{i}")
            for j, node in enumerate((a, b, c)):
                node.outputs[0].name = f"v{i}_{j}"
            nodes += [a, b, c]
            ends.append(c.outputs[0])
        total = ir.make_node("Sum", ends, name="total")
        total.outputs[0].name = "y"
        total.outputs[0].type, total.outputs[0].shape = x.type, x.shape
        g = ir.Graph([x], total.outputs, nodes=[*nodes, total], opset_imports={"": 18}, name="hub")
        model = ir.Model(g, ir_version=10)
        shapes.infer(model)
        return model

    copied = []
    uses = ir.Value.uses
    monkeypatch.setattr(ir.Value, "uses", lambda v: copied.append(len(found := uses(v))) or found)
    calls = {}
    for n in (1_000, 8_000):
        model = hub(n)
        copied.clear()
        calls[n], outcome = counted(model, [NegNeg, ReluRelu], monkeypatch)
        assert outcome.changes == n
        assert sum(copied) < 10 * n, "uses() copies, and from each of the users that is quadratic"
    assert calls[8_000] < 9 * calls[1_000]
    assert calls[8_000] < 10 * 8_000


def test_results_that_must_be_found_among_many_users_cost_no_more_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slices of one value are wanted, which has many that do not fit together."""
    roots, visits, found = matching._roots, [], {}
    monkeypatch.setattr(matching, "_roots", lambda *arguments: visits.append(1) or roots(*arguments))
    for n in (40, 80):
        cuts = "".join(f"s{i} = Slice(x, b{i}, b{i + 1}, axis) y{i} = {('Sin', 'Cos', 'Exp')[i % 3]}(s{i}) " for i in range(n))
        known = "".join(f"int64[1] b{i} = {{{2 * i}}}, " for i in range(n + 1)) + "int64[1] axis = {1}"
        results = ", ".join(f"float[N,2] y{i}" for i in range(n))
        text = f'<ir_version: 10, opset_import: ["": 18]> g (float[N,{2 * n}] x) => ({results}) <{known}> {{ {cuts} }}'
        model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
        shapes.infer(model)
        visits.clear()
        assert rewrite(model, [registry()["three-slices-as-split"]]).changes == 0
        found[n] = len(visits)
    assert found[80] < 2.5 * found[40]


DETERMINISM = """
import hashlib
from olc import ir
from olc.rewriter import rewrite
from olc.rules import registry
from tests.rewriting import AddNegToSub, DropIdentity, JoinMatMuls, MATMULS, NegNeg, ReluRelu, graph
m = graph("p = MatMul(x, a) i = Identity(p) n = Neg(i) k = Neg(n) "
          "q = MatMul(x, b) r = Relu(q) s = Relu(r) t = Neg(s) y = Add(k, t)",
          "float[N,4] x", "float[N,2] y", known=MATMULS)
rewrite(m, [NegNeg, ReluRelu, DropIdentity, JoinMatMuls, AddNegToSub], strict=True)
print(hashlib.sha256(ir.serde.serialize_model(m).SerializeToString(deterministic=True)).hexdigest())
"""


def test_the_result_does_not_depend_on_the_hash_seed() -> None:
    done = {
        subprocess.run(
            [sys.executable, "-c", DETERMINISM], check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(done) == 1


# --- why ------------------------------------------------------------------------------------------------------------


def test_why_tells_the_best_first_and_changes_nothing() -> None:
    @rule(group="t", safety=EXACT)
    class Picky:
        """Relu of Relu of Abs is Abs, because Abs is not negative; for matrices only."""

        def pattern(op, x):
            return op.Relu(op.Relu(op.Abs(x)))

        def unless(m):
            return None if len(dims(m.x)) == 2 else "it is no matrix"

        def rewrite(op, m):
            return op.Abs(m.x)

        cases = [Case("a matrix", x=f32["N", 2])]

    model = graph(
        "a = Abs(x) b = Relu(a) y = Relu(b) c = Abs(v) d = Relu(c) z = Relu(d) e = Neg(x) f = Relu(e) w = Relu(f)",
        "float[N,4] x, float[4] v", "float[N,4] y, float[4] z, float[N,4] w",
    )  # fmt: skip
    before = ir.serde.serialize_model(model)
    found = why(model, Picky)
    kinds = ["match" if isinstance(m, Match) else "refused" if m.refused else m.depth for _, m in found]
    assert kinds == ["match", "refused", 2, 1, 1, 1]
    assert [n.name for n, _ in found[:3]] == ["Relu_2", "Relu_5", "Relu_8"]
    assert ir.serde.serialize_model(model) == before
    (only,) = why(model, Picky, at="w")
    assert only[0].name == "Relu_8"
    ((_, other),) = why(model, Picky, at="Abs_0")
    assert "it is Abs, not Relu" in str(other)
    assert why(model, Picky, at="nowhere") == []


def test_a_rewriter_without_rules_does_nothing() -> None:
    model = graph("a = Relu(x) y = Relu(a)")
    assert Rewriter(model, []).run().changes == 0
    assert len(model.graph) == 2


@rule(group="t", safety=EXACT)
class Raises:
    """A rule with a mistake in its code."""

    def pattern(op, x):
        return op.Relu(x)

    def unless(m):
        return {}["what is not there"]

    def rewrite(op, m):
        return m.x

    cases = CASES


def test_a_rule_whose_code_raises_is_taken_out_by_name() -> None:
    model = graph("a = Relu(x) b = Relu(a) y = Neg(b)")
    outcome = run(model, Raises, ReluRelu, strict=False)
    assert "raised KeyError" in outcome.quarantined["raises"]
    assert ops(model) == ["Relu", "Neg"]
    with pytest.raises(KeyError):
        run(graph("y = Relu(x)"), Raises)
