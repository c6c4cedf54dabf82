"""Models from text, and small rules to rewrite them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from olc import ir, verifier
from olc.analysis import shapes
from olc.rewriter import Outcome, rewrite
from olc.rules import CLOSE, EXACT, Case, Const, Rule, array, f32, load_file, rule

CASES = [Case("a vector", x=f32["N"])]
MATMULS = "float[4,2] a = {1,2,3,4,5,6,7,8}, float[4,1] b = {1,2,3,4}"


def load(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    for i, n in enumerate(proto.graph.node):
        n.name = n.name or f"{n.op_type}_{i}"
    model = ir.serde.deserialize_model(proto)
    shapes.infer(model)
    return model


def graph(body: str, inputs: str = "float[N,4] x", outputs: str = "float[N,4] y", known: str = "") -> ir.Model:
    weights = f"<{known}>" if known else ""
    return load(f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}')


def run(model: ir.Model, *rules: Rule, strict: bool = True, **options: Any) -> Outcome:
    """Rewrite, and see that what comes out is a sound graph."""
    outcome = rewrite(model, rules, strict=strict, **options)
    assert [p.what for p in verifier.verify(model)] == []
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    return outcome


def ops(g: ir.Graph | ir.Model) -> list[str]:
    return [n.op_type for n in (g.graph if isinstance(g, ir.Model) else g)]


# --- rules to rewrite with ------------------------------------------------------------------------------------------


@rule(group="t", safety=EXACT)
class ReluRelu:
    """Relu of Relu is Relu, because what it gave is not negative."""

    def pattern(op, x):
        return op.Relu(op.Relu(x))

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = CASES


@rule(group="t", safety=EXACT)
class DropIdentity:
    """Identity gives its input, so that its users may read that, by definition."""

    def pattern(op, x):
        return op.Identity(x)

    def rewrite(op, m):
        return m.x

    cases = CASES


@rule(group="t", safety=EXACT)
class NegNeg:
    """The negation of a negation is the value itself: only the sign bit changes, twice."""

    def pattern(op, x):
        return op.Neg(op.Neg(x))

    def rewrite(op, m):
        return m.x

    cases = CASES


@rule(group="t", safety=CLOSE("another rounding"))
class AddTwice:
    """Two sums with constants are one, since addition is associative but for rounding."""

    def pattern(op, x, a: Const, b: Const):
        return op.Add(op.Add(x, a), b)

    def rewrite(op, m):
        return op.Add(m.x, array(m.a) + array(m.b))

    cases = [Case("numbers", x=f32["N"], a=1.0, b=2.0)]


@rule(group="t", safety=EXACT)
class Grow:
    """Abs of a value is Abs of Abs of it, which never ends."""

    def pattern(op, x):
        return op.Abs(x)

    def rewrite(op, m):
        return op.Abs(op.Abs(m.x))

    cases = CASES


SubToAddNeg, AddNegToSub = load_file(Path(__file__).parent / "rules" / "wrong" / "undo_each_other.py")


@rule(group="t", safety=CLOSE("sums in another order"), since=18)
class JoinMatMuls:
    """Two products of one input with constant matrices are one product and a Split, column by column."""

    def pattern(op, x, a: Const, b: Const):
        return op.MatMul(x, a), op.MatMul(x, b)

    def rewrite(op, m):
        a, b = array(m.a), array(m.b)
        both = op.MatMul(m.x, np.concatenate([a, b], axis=1))
        return op.Split(both, np.array([a.shape[1], b.shape[1]]), axis=-1, outputs=2)

    cases = [Case("two", x=f32["N", 4], a=f32[4, 2], b=f32[4, 3])]


@rule(group="t", safety=EXACT)
class JoinSums:
    """Two sums of one value are one of twice the length: merged only where neither depends on the other."""

    def pattern(op, x, a, b):
        return op.Add(x, op.Abs(a)), op.Add(x, op.Abs(b))

    def rewrite(op, m):
        pair = op.Abs(op.Concat(m.a, m.b, axis=0))
        both = op.Add(op.Concat(m.x, m.x, axis=0), pair)
        return op.Split(both, axis=0, num_outputs=2, outputs=2)

    cases = [Case("vectors", x=f32["N"], a=f32["N"], b=f32["N"])]


def made(result: Any, **declared: Any) -> Rule:
    """A rule on Neg(Neg(x)) whose rewrite is the function."""

    class Made:
        """A rule for one test, which says why it is sound in no other words than these."""

        def pattern(op, x):
            return op.Neg(op.Neg(x))

        rewrite = result
        cases = CASES

    return rule(group="t", safety=EXACT, **declared)(Made)
