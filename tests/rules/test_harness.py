"""The harness catches every rule of ``wrong/``, each by the check that is meant to, and lets sound rules pass."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc.ir import DataType
from olc.rules import EXACT, Case, Refused, Rule, f16, f32, load_file, rule
from olc.soundness import Finding, check_rule, data, draws, mutants, oracle
from olc.soundness.case_model import Draw, Invalid, build, why_invalid

HERE = Path(__file__).parent

# rule: the checks that find it, and words of the finding's variant or message
CAUGHT = {
    "add-to-mul": ("numerics", "was"),
    "add-neg-to-sub": ("terminates", "undo each other"),
    "adds-zero": ("numerics", "was 0.0, is -0.0"),
    "captures": ("rewrite", "not visible there"),
    "cast-cast-unguarded": ("numerics", "mid="),
    "changes-dtype": ("rewrite", "the result would be"),
    "changes-shared-interior": ("numerics", "has another consumer"),
    "changes-weight": ("rewrite", "changes the graph that it matched"),
    "crashes": ("rewrite", "at crashes.py:"),
    "drops-bias": ("numerics", "was"),
    "feeds-itself": ("terminates", "feeds itself"),
    "folds-default": ("numerics", "can be overridden by the caller"),
    "ignores-axis": ("numerics", "axis"),
    "ignores-rest-of-attributes": ("rewrite", "has another keepdims"),
    "illegal-operator": ("rewrite", "HardSwish is not an operator of opset 7"),
    "loses-broadcast": ("rewrite", "the result"),
    "near-one": ("numerics", "c made"),
    "never-fires": ("fires", "not of integers"),
    "not-idempotent": ("idempotent", "a second run"),
    "overflows": ("numerics", "was"),
    "reads-its-own-result": ("rewrite", "not visible there"),
    "reciprocal": ("numerics", "was"),
    "renames-initializer": ("rewrite", "changes the graph that it matched"),
    "renames-another-initializer": ("initializers", "is now called"),
    "reshape-for-one-shape": ("rewrite", "the result"),
    "silent-refusal": ("refuses", "fires on a case that it should refuse"),
    "sub-to-add-neg": ("terminates", "undo each other"),
    "times-zero": ("numerics", "is 0.0"),
    "transpose-for-one-rank": ("numerics", "perm="),
    "wrong-epsilon": ("numerics", "was"),
}
WRONG = sorted((HERE / "wrong").glob("*.py"))


@pytest.mark.parametrize("path", WRONG, ids=lambda p: p.stem)
@pytest.mark.parametrize("seed", [0, 7])
def test_wrong_rules_are_caught(path: Path, seed: int) -> None:
    rules = load_file(path)
    for r in rules:
        found = check_rule(r, rules, seed)
        check, words = CAUGHT[r.name]
        hits = [f for f in found if f.severity == "error" and f.check == check and words in f"{f.variant}: {f.message}"]
        assert hits, "\n".join(map(str, found)) or f"{r.name} passed"


def test_every_wrong_rule_is_expected_to_be_caught() -> None:
    assert {r.name for path in WRONG for r in load_file(path)} == set(CAUGHT)


SOUND = load_file(HERE / "sound.py")


@pytest.mark.parametrize("r", SOUND, ids=lambda r: r.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_sound_rules_pass(r: Rule, seed: int) -> None:
    assert [str(f) for f in check_rule(r, SOUND, seed, rounds=8)] == []


# --- findings -------------------------------------------------------------------------------------------------------


def finding(path: str) -> Finding:
    (r,) = load_file(HERE / "wrong" / path)
    return next(f for f in check_rule(r) if f.check == CAUGHT[r.name][0])


def test_a_finding_holds_the_smallest_input() -> None:
    f = finding("adds_zero.py")
    lines = f.smallest.splitlines()
    x = next(line for line in lines if line.startswith("x = "))
    assert x in ("x = float32[1] [-0.0]", "x = -0.0")
    assert "Add (x" in f.smallest
    assert "[seed 0]" in str(f)


def test_a_finding_of_a_crash_names_the_line() -> None:
    f = finding("crashes.py")
    line = int(f.message.rsplit(":", 1)[-1])
    assert "dims(m.x)[1]" in (HERE / "wrong" / "crashes.py").read_text().splitlines()[line - 1]


def test_findings_follow_from_the_seed() -> None:
    (r,) = load_file(HERE / "wrong" / "overflows.py")
    assert check_rule(r, seed=3) == check_rule(r, seed=3)


def test_findings_are_json() -> None:
    assert json.loads(json.dumps(vars(finding("reciprocal.py"))))["check"] == "numerics"


# --- declaration ----------------------------------------------------------------------------------------------------


def test_declaration_is_checked() -> None:
    @rule(group="t", safety=EXACT)
    class Terse:
        """Too short."""

        def pattern(op, x):
            return op.Relu(op.Relu(x))

        def unless(m):
            return "the moon is full" if m.x.dtype == DataType.STRING else None

        def rewrite(op, m):
            return op.Relu(m.x)

        cases = [Refused("a vector", x=f32["N"], because="never")]

    found = {f.variant: f for f in check_rule(Terse) if f.check == "declared"}
    assert set(found) == {"docstring"}, "the first finding of a check stands for its echoes"
    assert "too short" in found["docstring"].message


def test_an_idle_reason_is_a_warning() -> None:
    @rule(group="t", safety=EXACT)
    class Idle:
        """Relu of Relu is Relu, because what it gave is not negative."""

        def pattern(op, x):
            return op.Relu(op.Relu(x))

        def unless(m):
            if m.x.dtype == DataType.FLOAT16:
                return "half precision is not wanted"
            return "the moon is full tonight" if m.x.dtype == DataType.STRING else None

        def rewrite(op, m):
            return op.Relu(m.x)

        cases = [
            Case("a vector", x=f32["N"]),
            Refused("half", x=f16["N"], because="half precision"),
        ]

    (f,) = check_rule(Idle)
    assert (f.severity, f.check) == ("warning", "declared")
    assert "the moon is full tonight" in f.message


def test_a_case_that_gives_no_model_is_said() -> None:
    @rule(group="t", safety=EXACT)
    class Unbuildable:
        """Relu of a sum is itself, but the case gives shapes that do not go together."""

        def pattern(op, x, y):
            return op.Relu(op.Relu(op.Add(x, y)))

        def rewrite(op, m):
            return op.Relu(op.Add(m.x, m.y))

        cases = [Case("clash", x=f32[2, 3], y=f32[2, 4]), Case("half given", x=f32[2, 3])]

    found = check_rule(Unbuildable)
    assert [(f.case, f.check) for f in found if f.variant == "plain"] == [("clash", "numerics"), ("half given", "builds")]
    assert "nothing was compared" in found[0].message
    assert "no value for 'y'" in found[1].message


# --- draws and mutants ----------------------------------------------------------------------------------------------


@rule(group="t", safety=EXACT)
class Tower:
    """Neg of a sum of either of two things, so that there is something to choose and to swap."""

    def pattern(op, x, y, c):
        return op.Neg(op.Add(op.either(op.Relu(x), op.Abs(x)), op.Add(op.Mul(y, 0.5), c)))

    def rewrite(op, m):
        return op.Neg(op.Neg(op.Neg(m.x)))

    cases = [Case("a matrix", x=f32["N", 4], y=f32["N", 4], c=np.ones(4, np.float32))]


def ops(draw: Draw) -> list[str]:
    return [n.op_type for n in build(Tower, draw).proto.graph.node]


def test_alternatives_are_all_built() -> None:
    draw = draws.canonical(Tower, Tower.cases[0], 0)
    asked = build(Tower, draw).asked
    assert asked == [2]
    built = [ops(draw.but(choices=c)) for c in draws.all_choices(asked, np.random.default_rng(0))]
    assert [b[0] for b in built] == ["Relu", "Abs"]


def test_draws_vary_what_the_standard_lets_vary() -> None:
    draw = draws.canonical(Tower, Tower.cases[0], 0)
    node = build(Tower, draw.but(constants="node"))
    assert [n.op_type for n in node.proto.graph.node].count("Constant") == 2
    assert not node.proto.graph.initializer
    shapes = {
        style: {len(t.dims) for t in build(Tower, draw.but(literals=style)).proto.graph.initializer if t.dims != [4]}
        for style in ("scalar", "vector", "rank")
    }
    assert shapes == {"scalar": {0}, "vector": {1}, "rank": {2}}
    named = build(Tower, draw.but(declare="symbolic")).proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in named] == ["N", 4]
    assert not build(Tower, draw.but(declare="unknown")).proto.graph.input[0].type.tensor_type.HasField("shape")
    orders = {
        tuple(tuple(n.input) for n in build(Tower, draw.but(swap=True, seed=s)).proto.graph.node) for s in range(60)
    }
    assert len(orders) == 8, "three commutative operators, each in two orders"


def test_dims_of_zero_one_and_equal_ones_are_drawn() -> None:
    random = np.random.default_rng(0)
    drawn = [draws.plain(SOUND[2], SOUND[2].cases[0], i, random).dims for i in range(8)]
    assert set(drawn[1].values()) == {1}
    assert len(set(drawn[2].values())) == 1
    assert any(0 in d.values() for d in [drawn[3], draws.plain(SOUND[2], SOUND[2].cases[0], 3, random).dims])


def test_a_draw_without_a_model_is_invalid() -> None:
    draw = draws.canonical(Tower, Tower.cases[0], 0)
    with pytest.raises(Invalid):
        build(Tower, draw.but(values={**draw.values, "y": f32[7, 7]}))


def test_mutants_are_legal_models_that_run() -> None:
    built = build(Tower, draws.canonical(Tower, Tower.cases[0], 0))
    labels = []
    for label, mutate in mutants.of(built, 18):
        c = mutate(built)
        assert c is not None, label
        assert why_invalid(c.proto) is None, label
        feed = data.feeds(c.inputs, "plain", 0)
        feed.update({k: v[0] for k, v in c.contents.items()})
        assert all(np.isfinite(o).all() for o in oracle.reference(c.proto, feed)), label
        assert oracle.consistent(c.proto, feed), label
        labels.append(label)
    for part in ("another consumer", "graph output", "captured", "overridden", "two copies", "Loop", "If", "function"):
        assert any(part in label for label in labels), part


def test_mutants_change_attributes_and_use_extra_outputs() -> None:
    @rule(group="t", safety=EXACT, since=13)
    class Pool:
        """Relu of a window, for the attributes and the second output of MaxPool."""

        def pattern(op, x):
            return op.Relu(op.MaxPool(x, kernel_shape=[2, 2]))

        def rewrite(op, m):
            return op.Relu(m.x)

        cases = [Case("an image", x=f32["N", 2, 4, 4])]

    built = build(Pool, draws.canonical(Pool, Pool.cases[0], 0))
    made = {}
    for label, mutate in mutants.of(built, 18):
        with contextlib.suppress(Invalid):
            made.setdefault(label, mutate(built))
    assert made["MaxPool has another ceil_mode"].proto.graph.node[0].attribute[-1].i == 1
    assert len(made["the extra output of MaxPool is used"].proto.graph.node[0].output) == 2


def test_one_root_can_depend_on_another() -> None:
    @rule(group="t", safety=EXACT)
    class Pair:
        """Two sums with the same value, to be merged."""

        def pattern(op, x, a, b):
            return op.Add(x, a), op.Add(x, b)

        def rewrite(op, m):
            both = op.Add(m.x, op.Concat(op.Unsqueeze(m.a, [0]), op.Unsqueeze(m.b, [0]), axis=0))
            return op.Split(both, num_outputs=2, axis=0, outputs=2)

        cases = [Case("vectors", x=f32["N"], a=f32["N"], b=f32["N"])]

    built = build(Pair, draws.canonical(Pair, Pair.cases[0], 0))
    mutate = dict(mutants.of(built, 18))["one root depends on another"]
    c = mutate(built)
    assert c is not None
    assert why_invalid(c.proto) is None
    assert set(c.inputs) == {"x", "a"}


# --- contents and comparison ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [DataType.FLOAT, DataType.FLOAT16, DataType.DOUBLE, DataType.BFLOAT16])
def test_specials_hold_every_special_number(dtype: DataType) -> None:
    a = data.fill(dtype, (64,), "specials", np.random.default_rng(0)).astype(np.float64)
    assert np.isnan(a).any()
    assert np.isposinf(a).any()
    assert np.isneginf(a).any()
    assert ((a == 0) & np.signbit(a)).any()
    assert ((a != 0) & (np.abs(a) < 1e-4)).any()


MODEL = '<ir_version: 10, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) {{ y = {} }}'


def model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(MODEL.format(body))


def differ(level: str, before: str, after: str, x: list[float]) -> oracle.Difference | None:
    return oracle.compare(level, model(before), model(after), {"x": np.array(x, np.float32)})


def test_exact_compares_bits() -> None:
    assert differ("EXACT", "Identity(x)", "Identity(x)", [np.nan, np.inf, -0.0]) is None
    assert differ("EXACT", "Abs(x)", "Identity(x)", [0.0, 1.0]) is None
    d = differ("EXACT", "Abs(x)", "Identity(x)", [1.0, -0.0])
    assert d is not None
    assert d.at == (1,)
    quiet = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert differ("EXACT", "Identity(x)", "Neg(x)", quiet.tolist()) is None, "NaN is NaN"


def test_close_allows_rounding_only() -> None:
    root = "Sqrt(x)"
    assert differ("CLOSE", root, root, [2.0, 3.0]) is None
    assert differ("CLOSE", "Softplus(x)", "Neg(x)", [1.0]) is not None
    assert differ("CLOSE", "Identity(x)", "Neg(x)", [1e-3, 0.0]) is not None
    assert differ("CLOSE", "Exp(x)", "Identity(x)", [np.inf, np.nan]) is None, "nothing finite to compare"


def test_close_finds_lost_finiteness() -> None:
    d = differ("CLOSE", "Sigmoid(x)", "Exp(x)", [0.0, 100.0])
    assert d is not None


def test_dtype_and_shape_are_compared() -> None:
    other = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N] x) => (double[N] y) { y = Cast <to = 11> (x) }'
    )
    d = oracle.compare("CLOSE", model("Identity(x)"), other, {"x": np.zeros(2, np.float32)})
    assert d is not None
    assert "float64" in d.text


def test_truth_is_computed_in_double() -> None:
    wide = oracle.in_double(
        onnx.parser.parse_model(
            """<ir_version: 10, opset_import: ["" : 18]> g (float[N] x) => (float[N] y)
            <float c = {1.5}> { t = Cast <to = 10> (x)  u = Cast <to = 1> (t)  y = Mul(u, c) }"""
        )
    )
    (y,) = oracle.reference(wide, {"x": np.array([1e-9])})
    assert y.dtype == np.float64
    assert y[0] == pytest.approx(1.5e-9, rel=1e-15)


def test_contrib_operators_run_on_onnx_runtime() -> None:
    contrib = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>
        g (float[N] x) => (float[N] y) { y = com.microsoft.Gelu(x) }"""
    )
    outputs, by_reference = oracle.run(contrib, {"x": np.zeros(3, np.float32)})
    assert not by_reference
    assert outputs[0].tolist() == [0, 0, 0]
