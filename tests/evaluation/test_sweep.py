"""A model compared at other sizes than those that it was compiled at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import frontend, ir
from olc.cli import main
from olc.errors import BadInput
from olc.evaluation import inputs, roles, sizes, sweep
from olc.evaluation.evaluate import evaluate

from tests import planted


def model(path: Path, body: str, declared: str = "N, 6") -> Path:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[{declared}] x) => (float[{declared}] y) '
        f"<int64[1] first = {{0}}> {{ {body} }}"
    )
    onnx.save(proto, path)
    return path


def test_each_kind_is_varied_alone_and_all_together() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (int64[batch, seq] input_ids, int64[batch, total] attention_mask, '
        "float[batch, 2, past, 4] past_key_values) => (float[batch, seq, 4] y) { y = Identity(past_key_values) }"
    )
    chosen = sizes.choose(roles.inputs(ir.serde.deserialize_model(proto)))
    assert chosen.values == {"batch": 1, "seq": 1, "past": 16, "total": 17}
    found = [s.values for s in sizes.around(chosen)]
    assert found == [
        {"batch": 3, "seq": 1, "past": 16, "total": 17},
        {"batch": 1, "seq": 5, "past": 16, "total": 21},
        {"batch": 1, "seq": 40, "past": 16, "total": 56},
        {"batch": 1, "seq": 1, "past": 0, "total": 1},
        {"batch": 1, "seq": 1, "past": 7, "total": 8},
        {"batch": 3, "seq": 40, "past": 7, "total": 47},
    ]


def test_a_model_right_for_one_row_only_is_seen(tmp_path: Path) -> None:
    a = model(tmp_path / "a.onnx", "y = Cos(x)")
    b = model(tmp_path / "b.onnx", "s = ReduceSum(x, first) c = Cos(s) z = Sub(x, x) y = Add(z, c)")
    plan = inputs.plan(frontend.load(a))
    found = evaluate(a, b, time_s=0, measure_memory=False, corners=sweep.corners(plan))
    assert found.within, "one row, as it was compiled"
    (point,) = found.swept
    assert point.corner.sizes == {"N": 3}
    assert "with N=3 output 'y': relative error" in (point.why_not() or "")
    assert point.why_not(exact=False) is None
    assert found.to_dict()["swept"][0]["within"] is False


def test_sizes_that_the_source_refuses_say_nothing_and_those_that_only_the_artifact_refuses_do(tmp_path: Path) -> None:
    eight = "s = Constant<value_ints = [-1, 2, 6]>() r = Reshape(x, s) q = Shape(x) y = Reshape(r, q)"
    a, b = model(tmp_path / "a.onnx", "y = Identity(x)", "N, M, 6"), model(tmp_path / "b.onnx", eight, "N, M, 6")
    plan = inputs.plan(frontend.load(a), {"N": 1})
    found = {tuple(p.corner.sizes.items()): p for p in evaluate(
        a, b, dims={"N": 1}, time_s=0, measure_memory=False, corners=sweep.corners(plan)).swept}  # fmt: skip
    failed = [p for p in found.values() if p.failure]
    assert failed
    assert all("it does not run" in (p.why_not(exact=False) or "") for p in failed)
    turned = evaluate(b, a, dims={"N": 1}, time_s=0, measure_memory=False, corners=sweep.corners(plan)).swept
    assert {bool(p.problem) for p in turned} == {True, False}
    assert all(p.why_not() is None for p in turned)


def test_a_grid_is_every_combination_and_not_too_many(tmp_path: Path) -> None:
    plan = inputs.plan(frontend.load(model(tmp_path / "m.onnx", "y = Identity(x)", "batch, seq, 6")))
    found = [c.feed["x"].shape for c in sweep.grid(plan, {"seq": [2, 4], "batch": [1, 3]})]
    assert found == [(1, 2, 6), (3, 2, 6), (1, 4, 6), (3, 4, 6)]
    assert sweep.grid(plan, {}) == []
    with pytest.raises(BadInput, match="65 combinations"):
        sweep.grid(plan, {"seq": list(range(1, 66))})
    assert [(c.sizes, c.threads) for c in sweep.grid(plan, {"threads": [1, 4]})] == [({"threads": 1}, 1), ({"threads": 4}, 4)]
    with pytest.raises(BadInput, match="no inputs can be made with batch=999999999, seq"):
        sweep.grid(plan, {"seq": [999_999_999], "batch": [999_999_999]})[0].feed  # noqa: B018
    with pytest.raises(BadInput, match="no dimension 'sq'") as caught:
        sweep.grid(plan, {"sq": [1]})
    assert caught.value.where == "--sweep"


FOR_ONE_ROW = "return op.Add(op.Cos(op.ReduceSum(m.x, op.constant(np.array([0])))), op.Sub(m.x, m.x))"


@pytest.mark.parametrize("data", [False, True])
def test_a_compile_takes_back_what_is_right_at_the_size_of_its_samples_only(
    data: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = model(tmp_path / "m.onnx", "n = Neg(x) y = Cos(n)")
    arguments = [str(source), "--rules", str(planted.cosine(tmp_path, FOR_ONE_ROW))]
    if data:
        np.savez(tmp_path / "data.npz", x=np.ones((1, 6), np.float32))
        arguments += ["--data", str(tmp_path / "data.npz")]
    assert main(["compile", *arguments, "-q"]) == 0
    report = json.loads((tmp_path / "m.olc.olc.json").read_text())
    assert [t["rule"] for t in report["taken_back"]] == ["cos-of-neg"]
    assert [n.op_type for n in onnx.load(tmp_path / "m.olc.onnx").graph.node] == ["Neg", "Cos"]
    assert all(p["within"] for p in report["evaluation"]["swept"])
    assert main(["bisect", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["culprit"]["by"] == "cos-of-neg"
    assert np.load(found["inputs"])["x"].shape[0] == 3, "the sample that shows it"


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = model(tmp_path / "m.onnx", "n = Neg(x) y = Cos(n)", "batch, seq, 6")
    assert main(["compile", str(source), "--sweep", "seq=4..16,batch=1..2", "--html", str(tmp_path / "m.html")]) == 0
    rows = json.loads((tmp_path / "m.olc.olc.json").read_text())["evaluation"]["swept"]
    timed = [p["sizes"] for p in rows if p["paired"]]
    assert timed == [{"seq": s, "batch": b} for s in (4, 8, 16) for b in (1, 2)]
    assert "batch=2, seq=16" in capsys.readouterr().out
    assert "batch=2, seq=16" in (tmp_path / "m.html").read_text()
    assert main(["evaluate", str(source), str(source), "--sweep", "threads=1..2,seq=8", "--time", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["swept"]
    assert [p["sizes"] for p in found] == [{"seq": 8, "threads": n} for n in (1, 2)]
    assert all(p["paired"] and p["within"] for p in found)
    for wrong in ("seq", "seq=8..4", "seq=a..b"):
        assert main(["compile", str(source), "--sweep", wrong]) == 2
    assert main(["compile", str(source), "--sweep", "seq=4", "--no-evaluate"]) == 2
    assert main(["evaluate", str(source), str(source), "--sweep", "seq=4", "--time", "0.1", "--json"]) == 0
    capsys.readouterr()


def test_sizes_of_which_there_are_no_inputs_are_left_out(tmp_path: Path) -> None:
    """One length is the other less 8: with few tokens it would be negative."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[seq, 8] x, float["seq - 8", 8] p) => (float[m, 8] y) '
        "{ y = Concat<axis = 0>(x, p) }"
    )
    onnx.save(proto, tmp_path / "m.onnx")
    assert main(["compile", str(tmp_path / "m.onnx"), "-q"]) == 0
    swept = json.loads((tmp_path / "m.olc.olc.json").read_text())["evaluation"]["swept"]
    assert {bool(p["problem"]) for p in swept} == {True, False}
    assert {p["within"] for p in swept if p["problem"]} == {None}
    assert main(["compile", str(tmp_path / "m.onnx"), "--sweep", "seq=1"]) == 3


def test_a_model_that_draws_random_numbers_is_not_compared_at_other_sizes(tmp_path: Path) -> None:
    """TopK refuses one row, after the numbers are drawn: the artifact, which is not run then, would draw others later."""
    body = ("k = Constant<value_ints = [3]>() r = RandomUniformLike<seed = 7.0>(x) a = Add(x, r) y, i = TopK<axis = 1>(a, k) ")
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[batch, seq, 4] x) => (float[batch, three, 4] y) {{ {body} }}'
    )
    onnx.save(proto, tmp_path / "m.onnx")
    assert main(["compile", str(tmp_path / "m.onnx"), "-q"]) == 0
    report = json.loads((tmp_path / "m.olc.olc.json").read_text())
    assert report["evaluation"]["swept"] == []
    assert any("the model draws random numbers (RandomUniformLike)" in n for n in report["notes"])


@pytest.mark.parametrize(("dropout", "swept"), [
    ("Dropout(x)", True), ("Dropout(x, half)", True), ("Dropout(x, half, yes)", False),
])  # fmt: skip
def test_dropout_draws_only_where_it_is_trained(dropout: str, swept: bool, tmp_path: Path) -> None:
    body = f"half = Constant<value = float {{0.5}}>() yes = Constant<value = bool {{1}}>() d = {dropout} y = Relu(d)"
    found = sweep.drawn(frontend.load(model(tmp_path / "m.onnx", body)))
    assert (found is None) == swept


def test_sizes_with_which_only_the_second_model_fails_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = model(tmp_path / "a.onnx", "y = Relu(x)", "batch, seq")
    b = model(tmp_path / "b.onnx", "s = Constant<value_ints = [1, 128]>() r = Reshape(x, s) y = Relu(r)", "batch, seq")
    assert main(["evaluate", str(a), str(b), "--sweep", "seq=64..256", "--time", "0.1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "with seq=64 it does not run:" in out
    assert "with seq=256 it does not run:" in out
    assert "; but with seq=64 it does not run" in out
    assert "seq=128" in out, "a size that is the usual one is named, too"


def test_no_more_than_so_many_sizes_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"x{i}" for i in range(20)]
    inputs_of = ", ".join(f"float[d{i}, 2, 2, 2, 2] {n}" for i, n in enumerate(names))
    outputs = ", ".join(f"float[d{i}, 2, 2, 2, 2] y{i}" for i in range(20))
    body = " ".join(f"y{i} = Neg({n})" for i, n in enumerate(names))
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> g ({inputs_of}) => ({outputs}) {{ {body} }}')
    onnx.save(proto, tmp_path / "m.onnx")
    plan = inputs.plan(frontend.load(tmp_path / "m.onnx"))
    assert len(sweep.corners(plan)) <= sweep.CORNERS
    monkeypatch.setattr(sweep, "SECONDS", -1.0)
    source = model(tmp_path / "a.onnx", "y = Relu(x)", "batch, seq")
    plan = inputs.plan(frontend.load(source))
    grid = sweep.grid(plan, {"seq": [3]})
    found = evaluate(source, source, time_s=0, measure_memory=False, corners=sweep.corners(plan), grid=grid)
    assert {p.problem for p in found.swept if not p.corner.timed} == {sweep.LATE}
    assert [p.problem for p in found.swept if p.corner.timed] == [""]
