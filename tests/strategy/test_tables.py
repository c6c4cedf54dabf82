"""Tables of embeddings in 8 bits beside what -O3 chose: smaller, inside the budget, and no slower; else they stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir
from olc.analysis import shapes
from olc.strategy import quantize, search
from olc.strategy.part import Fit
from olc.strategy.plan import Choice, Plan

from tests.quantizing import FEEDS, LAYERS, SPEED, WIDTH, Bench, model, searched

ROWS = 1100


@pytest.fixture(autouse=True)
def profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer takes the same time."""
    monkeypatch.setattr("olc.strategy.search.node_times", lambda *_: {f"h{i + 1}": 1.0 for i in range(LAYERS)})


def with_table(m: ir.Model) -> ir.Model:
    """The model, with a row of a table added to what its first layer reads."""
    proto = ir.serde.serialize_model(m)
    table = np.random.default_rng(9).normal(size=(ROWS, WIDTH)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["B"]))
    first = next(n for n in proto.graph.node if n.input[0] == "x")
    first.input[0] = "embedded"
    proto.graph.node.insert(0, onnx.helper.make_node("Gather", ["table", "ids"], ["row"], name="words"))
    proto.graph.node.insert(1, onnx.helper.make_node("Add", ["x", "row"], ["embedded"], name="embedding"))
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made


@pytest.fixture
def with_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [np.random.default_rng(i).integers(0, ROWS, 40) for i in range(len(FEEDS))]
    monkeypatch.setattr("tests.quantizing.FEEDS", [f | {"ids": i} for f, i in zip(FEEDS, ids, strict=True)])


@pytest.mark.usefixtures("with_ids")
def test_tables_are_rounded_beside_what_is_faster(tmp_path: Path) -> None:
    plan, bench = searched(with_table(model()), tmp_path)
    assert {rule for rule, _ in plan.kept()} == {"int8-linear", "int8-block-table"}
    tried = next(t for t in bench.trials if "table" in t.what)
    assert (tried.what, tried.kept) == ("1 table in 8 bits", True)
    assert plan.sites["int8-block-table", "words"].why == "smaller"
    best = next(f for f in bench.fits if ("int8-block-table", "words") in f.sites)
    assert len(best.sites) == LAYERS + 1


@pytest.mark.usefixtures("with_ids")
def test_a_table_for_which_a_budget_has_no_room_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "breach", lambda self, opened, differences: "too far" if any(
        n == "GatherBlockQuantized" for n in self.kernels[id(opened)]) else None)  # fmt: skip
    plan, _ = searched(with_table(model()), tmp_path)
    assert {rule for rule, _ in plan.kept()} == {"int8-linear"}
    assert plan.sites["int8-block-table", "words"] == Choice(False, "too far", 1.0)


@pytest.mark.usefixtures("with_ids")
def test_a_table_that_makes_the_model_slower_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPEED, "GatherBlockQuantized", 1.0)
    plan, _ = searched(with_table(model()), tmp_path)
    assert {rule for rule, _ in plan.kept()} == {"int8-linear"}
    assert "times the speed" in plan.sites["int8-block-table", "words"].why


@pytest.mark.usefixtures("with_ids")
@pytest.mark.parametrize("options", [{"keep_float": ("words",)}, {"keep_float": ("table",)}])
def test_a_table_is_kept_where_that_is_asked(options: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    plan, _ = searched(with_table(model()), tmp_path, **options)
    assert {rule for rule, _ in plan.sites} & set(quantize.SMALLER) == set()
    assert ("int8-linear", "h1") in plan.kept()


@pytest.mark.usefixtures("with_ids")
def test_a_table_that_something_else_reads_is_no_smaller(tmp_path: Path) -> None:
    proto = ir.serde.serialize_model(with_table(model()))
    proto.graph.node.append(onnx.helper.make_node("Gemm", ["x", "table"], ["scores"], name="scores", transB=1))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["B", ROWS]))
    m = ir.serde.deserialize_model(proto)
    shapes.infer(m)
    plan, _ = searched(m, tmp_path, keep_float=("scores",))
    assert ("int8-linear", "h1") in plan.kept()
    assert plan.sites["int8-block-table", "words"].why == "it is no smaller"


def test_tables_go_first_where_the_budget_is_exceeded() -> None:
    sites = {("int8-linear", "a"): Choice(True, "", 2.0), ("int8-block-table", "t"): Choice(True, "smaller", 1.0)}
    fits = [Fit(2.0, 0.0040, (("int8-linear", "a"),), {}), Fit(2.0, 0.0045, tuple(sites), {})]
    plan, error = search.next_best(Plan("onnxruntime-cpu", 3, sites=sites), fits, 0.0045)
    assert (plan.kept(), error) == ({("int8-linear", "a")}, 0.0040)
    assert search.next_best(plan, fits, error)[0].kept() == set(), "what failed is not tried again"


@pytest.mark.usefixtures("with_ids")
def test_where_nothing_is_faster_a_table_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for op in ("DynamicQuantizeMatMul", "MatMulNBits"):
        monkeypatch.setitem(SPEED, op, 0.5)
    plan, _ = searched(with_table(model()), tmp_path)
    assert plan.kept() == set()
