"""Plans as text, and plans that do not fit what they are given with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc.cli import main
from olc.driver import compile
from olc.errors import BadInput, OutputError
from olc.settings import Settings
from olc.strategy.plan import Body, Choice, Plan

from tests import planted

OFF_A_LITTLE = "return op.Add(op.Cos(m.x), op.constant(np.array(0.01, np.float32)))"
"""Rounding would hide it."""
SITE = ("int8-linear", "mm")


def model(path: Path, external: bool = False) -> Path:
    """A linear layer and a cosine; all dims are fixed, so that no other size is looked at."""
    text = ('<ir_version: 10, opset_import: ["": 20]> g (float[4, 64] x) => (float[4, 64] y) '
            "{ [mm] h = MatMul(x, w) n = Neg(h) [c] y = Cos(n) }")  # fmt: skip
    proto = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) / 16
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    onnx.save(proto, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def plan_of(*sites: tuple[str, str], **fields: object) -> Plan:
    return Plan("onnxruntime-cpu", 3, sites={s: Choice(True, "planted") for s in sites}, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("sites", [[SITE], [SITE, ("int8-linear", "no-such-node")], [("int8-linear", "no-such-node")]])
def test_a_wrong_fusion_does_not_hide_behind_what_is_rounded(sites: list[tuple[str, str]], tmp_path: Path) -> None:
    settings = Settings(plan=plan_of(*sites), rules=[str(planted.cosine(tmp_path, OFF_A_LITTLE))], measure=False)
    made = compile(model(tmp_path / "m.onnx"), tmp_path / "out.onnx", settings)
    assert [t["rule"] for t in made.taken_back] == ["cos-of-neg"]
    assert made.applied()["int8-linear"] == (SITE in sites)
    assert made.evaluation is not None
    assert made.evaluation["within"] == (SITE not in sites), "only what is rounded may be off"
    assert Plan.loads(made.plan).kept() == {SITE} & set(sites)


def test_what_is_exact_rounds_nothing_and_says_so(tmp_path: Path) -> None:
    settings = Settings(plan=plan_of(SITE), exact=True, measure=False)
    made = compile(model(tmp_path / "m.onnx"), tmp_path / "out.onnx", settings)
    assert made.evaluation is not None
    assert made.evaluation["within"]
    assert any("--exact forbids what the plan rounds, 1 places" in n for n in made.notes)
    assert not Plan.loads(made.plan).kept()


def test_a_plan_of_another_target_or_input_is_refused_and_one_of_another_model_said(tmp_path: Path) -> None:
    source, out = model(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    with pytest.raises(BadInput, match="the plan is for 'onnxruntime-cuda'"):
        compile(source, out, plan=Plan("onnxruntime-cuda", 2))
    with pytest.raises(BadInput, match="few elements of 'nope', which is no input"):
        compile(source, out, plan=plan_of(few=Body("nope", 4)))
    known = f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}"
    for origin, said in (("sha256:0", True), (known, False)):
        made = compile(source, out, plan=Plan("onnxruntime-cpu", 2, origin), measure=False)
        assert any("made for another model" in n for n in made.notes) == said


def test_weights_that_cannot_be_rounded_as_the_plan_says_are_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.ones((4, 64), np.float32))
    plan = plan_of(("int4-block-linear", "mm"), rounded=("w@int4-block-64",))
    settings = Settings(plan=plan, data=str(tmp_path / "one.npz"), measure=False)
    with pytest.raises(BadInput, match="1 of the weights and biases that the plan learns from data cannot be: 0 samples choose"):
        compile(model(tmp_path / "m.onnx"), tmp_path / "out.onnx", settings)


@pytest.mark.parametrize(("old", "new", "words"), [
    ("level = 3", "level = 9", "level 9"), ("level = 3", "level = -3", "level -3"), ("level = 3", 'level = "3"', "level '3'"),
    ("keep = true", 'keep = "false"', "keep = 'false'"), ("notes = []", "notes = [1]", "'notes'"),
    ("rounded = []", 'rounded = "w"', "'rounded'"),
    ("rounded = []", 'rounded = ["w"]', "initializer@form"), ("arena = false", "arena = 0", "'arena' is 0"),
])  # fmt: skip
def test_what_is_no_plan(old: str, new: str, words: str) -> None:
    from olc.session import SessionOptions

    text = plan_of(SITE, session=SessionOptions(arena=False, parallel=True)).dumps()
    assert old in text
    with pytest.raises(BadInput, match=words):
        Plan.loads(text.replace(old, new, 1))


def test_no_output_takes_the_place_of_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The artifact's data file would be that of the source, which was renamed."""
    model(tmp_path / "model.onnx", external=True).rename(tmp_path / "old.onnx")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert sorted(before) == ["model.onnx.data", "old.onnx"]
    for arguments in (["compile", str(tmp_path / "old.onnx"), "-o", str(tmp_path / "model.onnx")],
                      ["plan", str(tmp_path / "old.onnx"), "-O2", "-o", str(tmp_path / "old.onnx")],
                      ["plan", str(tmp_path / "old.onnx"), "-o", str(tmp_path / "none" / "plan.toml")]):  # fmt: skip
        assert main(arguments) == 7, arguments
    with pytest.raises(OutputError, match="two of the files would be the same"):
        compile(tmp_path / "old.onnx", tmp_path / "out.onnx", others={str(tmp_path / "model.onnx.data"): lambda report: ""})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert main(["plan", str(tmp_path / "old.onnx"), "-O2", "--target", "bogus"]) == 3
    assert "no target is called 'bogus'" in capsys.readouterr().err


def test_a_file_whose_name_is_no_text_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "m\udcff.onnx"
    try:
        model(tmp_path / "m.onnx").rename(path)
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system has no such names")
    assert main(["compile", str(path), "--no-evaluate", "-q"]) == 0
    (report,) = tmp_path.glob("*.json")
    assert json.loads(report.read_text())["source"]["path"].startswith("m")
