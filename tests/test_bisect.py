"""olc bisect, and what olc compile does by itself about a rewrite that makes its own check fail.

The planted rules are right in their cases and wrong where the last dim is 5.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import bisect as bisecting
from olc import ir
from olc.bisect import bisect
from olc.cli import main
from olc.culprits import GOOD, Limits, Trials, Verdict, find
from olc.driver import compile
from olc.errors import BadInput, OlcError, OutputError
from olc.evaluation import process
from olc.evaluation.latency import Paired, Side
from olc.passes import Context, cse
from olc.pipeline import Options, Result, optimize
from olc.session import run, session
from olc.settings import Settings
from olc.strategy.plan import Body, Choice, Plan

from tests import planted

BLOCKS = 12
ODD = 7
"""The block in which the last dim is 5."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates run in this process: a child for each would be most of the tests' time."""

    def outputs(path: Any, feeds: Sequence[Any], *, threads: int | None = None, options: Any = None) -> list[dict[str, Any]]:
        opened = session(path, threads, options=options)
        return [run(opened, feed, where=str(path)) for feed in feeds]

    monkeypatch.setattr(process, "outputs", outputs)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is faster than anything: no decision rests on the clock."""
    side = Side(1.0, 1.0, 1.0, 1.0)
    same = Paired(1.0, 1.0, 1.0, 1.0, "no difference shown", 8, 1, side, side, 0.0, 0)
    monkeypatch.setattr("olc.strategy.search.Search.pair", lambda *_, **__: same)
    monkeypatch.setattr("olc.evaluation.evaluate.timed", lambda *_, **__: same)


FIVE = "shapes.dims(m.x) is not None and shapes.dims(m.x)[-1] == 5"


def rules(folder: Path, wrong: str, where: str = FIVE) -> str:
    return str(planted.cosine(folder, f"return {wrong} if {where} else op.Cos(m.x)"))


def chain(folder: Path, odd: Sequence[int] = (ODD,), names: str = "m{}") -> Path:
    """Blocks of Neg, Cos, Sin and Identity; the odd ones on five columns of six."""
    body, x = [], "x"
    for i in range(BLOCKS):
        if i in odd:
            body.append(f"h{i} = Slice({x}, zero, five, one)")
            x = f"h{i}"
        body += [f"n{i} = Neg({x})", f"m{i} = Cos(n{i})", f"s{i} = Sin(m{i})", f"t{i} = Identity(s{i})"]
        x = f"t{i}"
        if i in odd:
            body.append(f"p{i} = Concat<axis = 1>({x}, z)")
            x = f"p{i}"
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N, 6] x, float[N, 1] z) => (float[N, 6] y) '
        f"<int64[1] zero = {{0}}, int64[1] five = {{5}}, int64[1] one = {{1}}> {{ {' '.join(body)} y = Sin({x}) }}"
    )
    for n in proto.graph.node:
        n.name = names.format(n.output[0][1:]) if n.op_type == "Cos" else n.output[0]
    path = folder / "chain.onnx"
    onnx.save(proto, path)
    return path


def report(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".olc.json").read_text())  # type: ignore[no-any-return]


SIN = "op.Sin(m.x)"
REFUSED = "op.Add(op.Cos(m.x), op.Gather(op.constant(np.ones(3, np.float32)), op.constant(np.array(9))))"


def test_wrong_at_one_site_is_found_and_shown_in_two_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, planted = chain(tmp_path), rules(tmp_path, SIN)
    assert main(["bisect", str(model), "--rules", planted, "--json", "--dim", "N=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    culprit = found["culprit"]
    assert (culprit["by"], culprit["node"], culprit["skip"], culprit["alone"]) == ("cos-of-neg", "m7", "cos-of-neg@m7", True)
    assert culprit["kind"] == "differs"
    assert found["rewrites"] == 2 * BLOCKS
    assert found["compiles"] <= math.ceil(math.log2(2 * BLOCKS)) + 4
    small = tmp_path / "chain.bisect"
    assert sorted(p.name for p in small.iterdir()) == ["bisect.json", "inputs.npz", "model.onnx"]
    assert [n.op_type for n in onnx.load(small / "model.onnx").graph.node] == ["Neg", "Cos"]
    assert not found["whole"]
    with np.load(small / "inputs.npz") as held:
        assert {k: v.shape for k, v in held.items()} == {"h7": (3, 5)}
    again = ["bisect", str(small / "model.onnx"), "--data", str(small / "inputs.npz"), "--rules", planted]
    assert main([*again, "--json", "--output", str(tmp_path / "again")]) == 0
    assert json.loads(capsys.readouterr().out)["culprit"]["skip"] == "cos-of-neg@m7"
    assert main([*again, "--skip", "cos-of-neg@m7"]) == 3
    assert "nothing to bisect" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_compile_takes_the_one_site_back_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert main(["compile", str(chain(tmp_path)), "--rules", rules(tmp_path, SIN), "-o", str(out), "-q"]) == 0
    made = report(out)
    assert [(t["rule"], t["node"]) for t in made["taken_back"]] == [("cos-of-neg", "m7")]
    assert "relative error" in made["taken_back"][0]["why"]
    assert any("taken back at 'm7': cos-of-neg" in n for n in made["notes"])
    assert sum(r["rule"] == "cos-of-neg" for r in made["rewrites"]) == BLOCKS - 1


@pytest.mark.usefixtures("here")
def test_wrong_everywhere_goes_everywhere_at_its_second_site(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    made = compile(chain(tmp_path), out, Settings(rules=[rules(tmp_path, SIN, "True")], measure=False))
    assert [(t["rule"], t["node"] is None) for t in made.taken_back] == [("cos-of-neg", False), ("cos-of-neg", True)]
    assert not made.applied()["cos-of-neg"]


@pytest.mark.usefixtures("here")
def test_several_sites_go_one_after_another_and_the_rule_at_the_second(tmp_path: Path) -> None:
    made = compile(chain(tmp_path, (9, 11)), tmp_path / "out.onnx", Settings(rules=[rules(tmp_path, SIN)], measure=False))
    assert [(t["rule"], t["node"]) for t in made.taken_back] == [("cos-of-neg", "m9"), ("cos-of-neg", None)]
    assert made.evaluation is not None
    assert made.evaluation["within"]


@pytest.mark.usefixtures("here", "still")
@pytest.mark.parametrize("level", [2, 3])
def test_what_the_runtime_refuses_is_taken_back_alone(level: int, tmp_path: Path) -> None:
    """At -O3 it is a candidate of the search that cannot be run."""
    settings = Settings(level=level, rules=[rules(tmp_path, REFUSED)], measure=False, seconds=1)
    made = compile(chain(tmp_path), tmp_path / "out.onnx", settings)
    assert [(t["rule"], t["node"]) for t in made.taken_back] == [("cos-of-neg", "m7")]
    assert made.applied()["cos-of-neg"] == BLOCKS - 1


@pytest.mark.usefixtures("here", "still")
def test_a_wrong_rule_does_not_mislead_the_search_of_level_3(tmp_path: Path) -> None:
    """Were the fused model wrong while layers are chosen, none could be rounded."""
    made = compile(chain(tmp_path, (11,)), tmp_path / "out.onnx", Settings(
        level=3, rules=[rules(tmp_path, "op.Neg(op.Cos(m.x))")], measure=False, seconds=1))  # fmt: skip
    assert [(t["rule"], t["node"]) for t in made.taken_back] == [("cos-of-neg", "m11")]
    assert "taken back at 'm11'" in made.plan, "the plan does not say it"


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows no signal ends a process")
def test_a_crash_of_the_runtime_ends_a_child_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime is one that crashes on Asinh."""
    real = subprocess.run

    def crashing(command: list[str], **options: Any) -> Any:
        model = onnx.load(json.loads(Path(command[-1]).read_text())["path"])
        code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
        crashes = any(n.op_type == "Asinh" for n in model.graph.node)
        return real([command[0], "-c", code] if crashes else command, **options)

    monkeypatch.setattr(process.subprocess, "run", crashing)
    found = bisect(chain(tmp_path), Settings(rules=[rules(tmp_path, "op.Cos(op.Asinh(op.Sinh(m.x)))")], samples=1))
    assert (found.culprit.skip, found.culprit.kind) == ("cos-of-neg@m7", "fails")
    assert "killed by SIGSEGV" in found.culprit.why
    assert [n.op_type for n in onnx.load(found.model).graph.node] == ["Neg", "Cos"]


def by_operator(operator: str, kind: str = "slower") -> Callable[..., Any]:
    """A judge for whom the operator is what is bad."""
    def judge(path: Path) -> Verdict:
        bad = any(n.op_type == operator for n in onnx.load(path).graph.node)
        return Verdict(False, kind, f"{operator} is in it") if bad else GOOD

    return lambda job, feeds, plan: judge


@pytest.mark.usefixtures("here")
def test_what_makes_it_slower(tmp_path: Path) -> None:
    planted = rules(tmp_path, "op.Cos(op.Asinh(op.Sinh(m.x)))")
    found = bisect(chain(tmp_path), Settings(rules=[planted]), judging=by_operator("Asinh"))
    assert (found.culprit.skip, found.culprit.alone, found.whole) == ("cos-of-neg@m7", True, False)


@pytest.mark.usefixtures("here")
def test_slower_is_what_the_paired_measurement_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from olc.culprits import judges

    class Paired:
        def __init__(self, slower: bool) -> None:
            self.verdict, self.text = ("slower", "slower: 0.50 times") if slower else ("no difference shown", "")

    def timed(opened: Sequence[Any], feeds: Any, seconds: float, seed: int, limit: float | None = None) -> Paired:
        return Paired(opened[1].get_modelmeta().description == "slow")

    monkeypatch.setattr(judges, "timed", timed)
    model = chain(tmp_path)
    slow = onnx.load(model)
    slow.doc_string = "slow"
    onnx.save(slow, tmp_path / "slow.onnx")
    judge = judges.Slower(model, [{"x": np.ones((1, 6), np.float32), "z": np.ones((1, 1), np.float32)}])
    assert judge(model) == GOOD
    assert judge(tmp_path / "slow.onnx") == Verdict(False, "slower", "slower: 0.50 times")


@pytest.mark.usefixtures("here")
def test_a_command_judges_and_may_be_unable_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command cannot tell where just six Neg are left, in the middle."""
    model, planted = chain(tmp_path), rules(tmp_path, "op.Cos(op.Asinh(op.Sinh(m.x)))")
    script = tmp_path / "it's a check.py"
    script.write_text(
        "import sys, onnx\n"
        "ops = [n.op_type for n in onnx.load(sys.argv[1]).graph.node]\n"
        "sys.exit('no Asinh, please' if 'Asinh' in ops else 125 if ops.count('Neg') == 6 else 0)\n"
    )
    check = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{}}"
    assert main(["bisect", str(model), "--rules", planted, "--check", check, "--json"]) == 0
    culprit = json.loads(capsys.readouterr().out)["culprit"]
    assert (culprit["skip"], culprit["kind"], culprit["between"]) == ("cos-of-neg@m7", "check", None)
    assert culprit["why"] == "the check ended with code 1: no Asinh, please"
    assert main(["bisect", str(model), "--check", "exit 125 # {}"]) == 3
    assert "could not tell" in capsys.readouterr().err
    assert main(["bisect", str(model), "--check", "no-such-command-at-all {}"]) == 3
    assert "the command cannot be run" in capsys.readouterr().err
    assert main(["bisect", str(model), "--check", "true"]) == 2
    assert main(["bisect", str(model), "--check", "{}", "--slower"]) == 2


@pytest.mark.usefixtures("here")
def test_nothing_to_bisect_and_a_bad_source_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = chain(tmp_path)
    assert main(["bisect", str(model)]) == 3
    assert "the compiled model is good: there is nothing to bisect" in capsys.readouterr().err
    text = ('<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y) '
            "<int64 i = {9}> { z = Gather(x, i) y = Add(x, z) }")  # fmt: skip
    bad = tmp_path / "bad.onnx"
    onnx.save(onnx.parser.parse_model(text), bad)
    np.savez(tmp_path / "feed.npz", x=np.ones(2, np.float32))
    assert main(["bisect", str(bad), "--data", str(tmp_path / "feed.npz")]) == 3
    assert "the source itself does not run" in capsys.readouterr().err
    assert main(["bisect", str(model), "--check", "exit 1 # {}"]) == 3
    assert "the source is bad before anything is compiled" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx", "chain.onnx", "feed.npz"]


def wrong_pass(monkeypatch: pytest.MonkeyPatch, on: Callable[[ir.Node], bool]) -> None:
    """Sharing of equal nodes that also makes Tan of each node that it takes for ``on``."""
    real = cse.run

    def run_it(model: ir.Model, ctx: Context) -> int:
        found = [n for n in model.graph if on(n)]
        for n in found:
            n.op_type = "Tan"
            ctx.record("cse", n.name, "made wrong")
        return real(model, ctx) + len(found)

    monkeypatch.setattr(cse, "run", run_it)


@pytest.mark.usefixtures("here")
def test_a_fault_in_a_pass_is_named_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_pass(monkeypatch, lambda n: n.op_type == "Sin" and n.name == "s4")
    found = bisect(chain(tmp_path), Settings())
    assert (found.culprit.by, found.culprit.node, found.culprit.number) == ("cse", "s4", None)
    assert (found.culprit.skip, found.culprit.alone) == ("cse", True)
    made = compile(chain(tmp_path), tmp_path / "out.onnx", Settings(measure=False))
    assert [(t["rule"], t["node"]) for t in made.taken_back] == [("cse", None)]
    assert "cse" not in made.passes


@pytest.mark.usefixtures("here")
def test_a_pass_that_goes_wrong_on_what_a_rewrite_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_pass(monkeypatch, lambda n: n.op_type == "Cos" and n.name == "m11" and n.inputs[0].name in ("t10", "s10"))
    found = bisect(chain(tmp_path), Settings(rules=[rules(tmp_path, "op.Cos(m.x)")]))
    assert (found.culprit.skip, found.culprit.alone, found.culprit.through) == ("cos-of-neg@m11", True, "cse")


@pytest.mark.usefixtures("here")
def test_a_pass_that_raises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_it(model: ir.Model, ctx: Context) -> int:
        raise KeyError("nothing here")

    monkeypatch.setattr(cse, "run", run_it)
    found = bisect(chain(tmp_path), Settings())
    assert (found.culprit.by, found.culprit.kind, found.culprit.skip) == ("cse", "fails", "cse")
    assert found.culprit.why == "the compile fails: KeyError: 'nothing here'"


@pytest.mark.usefixtures("here")
def test_a_compile_gives_up_with_code_5_and_says_what_is_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("olc.job.MOST_TAKEN_BACK", 0)
    planted = rules(tmp_path, SIN)
    assert main(["compile", str(chain(tmp_path)), "--rules", planted, "-o", str(tmp_path / "out.onnx"), "-q"]) == 5
    assert "differs from the source" in capsys.readouterr().err
    monkeypatch.setattr("olc.job.MOST_TAKEN_BACK", 1)
    assert main(["compile", str(chain(tmp_path, (9, 11))), "--rules", planted, "-o", str(tmp_path / "out.onnx"), "-q"]) == 5
    assert "taken back before, and it is wrong still: cos-of-neg@m9" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chain.onnx", "planted.py"]


def model_of(rewrites: int) -> Callable[[Limits, Context], Result]:
    body = " ".join(f"v{i} = Identity({'x' if i == 0 else f'v{i - 1}'})" for i in range(rewrites))
    text = f'<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y) {{ {body} y = Sin(v{rewrites - 1}) }}'

    def build(limits: Limits, ctx: Context) -> Result:
        model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
        return optimize(model, Options(level=1, **vars(limits)), ctx)

    return build


@pytest.mark.parametrize("unknown", [range(0), range(40, 60), range(30, 36)], ids=["all told", "far", "around it"])
def test_compiles_grow_with_the_logarithm(unknown: range, tmp_path: Path) -> None:
    """64 rewrites; the model is bad where fewer than 30 Identity nodes are left."""
    def judge(path: Path) -> Verdict:
        left = sum(n.op_type == "Identity" for n in onnx.load(path).graph.node)
        if left in unknown:
            return Verdict(None, "check", "no idea")
        return Verdict(left >= 30, "check", "")

    trials = Trials(model_of(64), Context, judge, tmp_path)
    found = find(trials)
    assert found is not None
    assert found.number == 35
    assert found.between == ((28, 35) if 30 in unknown else None)
    assert trials.compiles <= (12 if not unknown else 30)
    assert not list(tmp_path.iterdir()), "candidates are left"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("names", ["layer's <{}> & \"q\"", "模块/{}"])
def test_names_of_any_kind(names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, planted = chain(tmp_path, names=names), rules(tmp_path, SIN)
    assert main(["bisect", str(model), "--rules", planted]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "without it" in x)
    words = shlex.split(line.split(": ", 1)[1])
    assert words[-1] == f"cos-of-neg@{names.format(7)}"
    out = tmp_path / "out.onnx"
    assert main(["compile", str(model), "--rules", planted, *words[-2:], "-o", str(out), "-q"]) == 0
    assert report(out)["taken_back"] == []


@pytest.mark.usefixtures("here")
def test_a_site_in_a_body_is_shown_by_the_node_that_holds_it(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (bool c, float[2, 5] x) => (float[2, 5] y) {
        a = Sinh(x) b = Tanh(a)
        d = If(c) <then_branch = t () => (float[2, 5] e) { n = Neg(b) e = Cos(n) },
                   else_branch = f () => (float[2, 5] e) { n = Neg(b) e = Sin(n) }>
        k = Tanh(d) y = Sinh(k) }"""
    proto = onnx.parser.parse_model(text)
    model = tmp_path / "body.onnx"
    onnx.save(proto, model)
    np.savez(tmp_path / "feed.npz", c=np.array(True), x=np.ones((2, 5), np.float32))
    found = bisect(model, Settings(rules=[rules(tmp_path, SIN)], data=str(tmp_path / "feed.npz")))
    assert found.culprit.by == "cos-of-neg"
    assert [n.op_type for n in onnx.load(found.model).graph.node] == ["If"]
    with np.load(found.inputs) as held:
        assert sorted(held) == ["b", "c"]


@pytest.mark.usefixtures("here")
def test_what_a_part_does_not_show_the_whole_does(tmp_path: Path) -> None:
    def judging(job: Any, feeds: Any, plan: Any) -> Any:
        def judge(path: Path) -> Verdict:
            ops = [n.op_type for n in onnx.load(path).graph.node]
            return Verdict(False, "check", "") if "Asinh" in ops and ops.count("Sin") > BLOCKS else GOOD

        return judge

    planted = rules(tmp_path, "op.Cos(op.Asinh(op.Sinh(m.x)))")
    model = chain(tmp_path)
    found = bisect(model, Settings(rules=[planted]), judging=judging)
    assert found.whole
    assert found.model == model
    assert sorted(p.name for p in found.inputs.parent.iterdir()) == ["bisect.json", "inputs.npz"]


def test_where_the_result_goes(tmp_path: Path) -> None:
    model = chain(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file is in the way"):
        bisect(model, output=tmp_path / "file")
    with pytest.raises(OutputError, match="does not exist"):
        bisect(model, output=tmp_path / "no" / "folder")
    with pytest.raises(BadInput, match="has no place"):
        bisect(onnx.load(model))


def test_a_sample_keeps_what_npz_does_not_hold(tmp_path: Path) -> None:
    import ml_dtypes
    from olc.evaluation import data

    feed = {"file": np.array([0.5, 3], ml_dtypes.bfloat16), "a/b": np.array(["x", "yy"], object), "n": np.arange(3)}
    bisecting._save_feed(tmp_path / "feed.npz", feed)
    back = next(iter(data.load(tmp_path / "feed.npz")))
    assert {k: v.dtype.name for k, v in back.items()} == {"file": "float32", "a/b": "str64", "n": "int64"}
    assert back["file"].tolist() == [0.5, 3]


@pytest.mark.usefixtures("here")
def test_a_source_that_the_child_cannot_take_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs(*_: Any, **__: Any) -> Any:
        raise OlcError("'s' is a sequence")

    model = chain(tmp_path)
    np.savez(tmp_path / "feed.npz", x=np.ones((1, 6), np.float32), z=np.ones((1, 1), np.float32))
    monkeypatch.setattr(process, "outputs", outputs)
    with pytest.raises(BadInput, match="the source itself does not run: 's' is a sequence"):
        bisect(model, Settings(data=str(tmp_path / "feed.npz")))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("raised", ["Unsupported('no kernel')", "VerificationFailed('wrong')", "BadInput('bad')"])
def test_a_rule_that_raises_an_error_of_ours_is_taken_out_as_any_other(raised: str, tmp_path: Path) -> None:
    planted = Path(rules(tmp_path, "raise_it()"))
    name = raised.partition("(")[0]
    planted.write_text(planted.read_text() + f"\ndef raise_it():\n    from olc.errors import {name}\n    raise {raised}\n")
    made = compile(chain(tmp_path), tmp_path / "out.onnx", Settings(rules=[str(planted)], measure=False))
    assert [*made.quarantined] == ["cos-of-neg"]
    assert made.taken_back == []
    with pytest.raises(BadInput, match="nothing to bisect"):
        bisect(chain(tmp_path), Settings(rules=[str(planted)]))


@pytest.mark.usefixtures("here")
def test_a_part_may_read_what_a_caller_may_override(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[N, 5] x, float[5] k) => (float[N, 5] y)
        <float[5] k = {1, 2, 3, 4, 5}> { a = Sinh(x) n = Neg(k) c = Cos(n) b = Mul(a, c) y = Tanh(b) }"""
    model = tmp_path / "overridable.onnx"
    onnx.save(onnx.parser.parse_model(text), model)
    np.savez(tmp_path / "feed.npz", x=np.ones((2, 5), np.float32))
    found = bisect(model, Settings(rules=[rules(tmp_path, SIN)], data=str(tmp_path / "feed.npz")))
    assert found.culprit.by == "cos-of-neg"


@pytest.mark.usefixtures("here")
def test_the_command_that_is_printed_shows_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, planted = chain(tmp_path, (7, 9)), rules(tmp_path, SIN)
    options = ["--rules", planted, "--dim", "N=3", "--samples", "2", "--skip", "cos-of-neg@m7", "-O2", "--strict", "all"]
    assert main(["bisect", str(model), *options, "--output", str(tmp_path / "first")]) == 0
    out = capsys.readouterr().out
    assert "at 'm9'" in out
    again = shlex.split(next(x for x in out.splitlines() if "shown again by" in x).partition(": ")[2])
    assert {"--samples", "--strict", "--skip", "--rules", "--dim"} <= set(again)
    assert "--output" not in again
    assert main([*again[1:], "--output", str(tmp_path / "second")]) == 0
    assert "at 'm9'" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_the_folder_holds_this_result_only_and_nothing_that_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = chain(tmp_path).rename(tmp_path / "model.onnx")
    before, planted = model.read_bytes(), rules(tmp_path, SIN)
    assert main(["bisect", str(model), "--rules", planted, "--output", str(tmp_path)]) == 7
    assert "would overwrite" in capsys.readouterr().err
    assert model.read_bytes() == before
    (tmp_path / "out").mkdir()
    for name in ("plan.toml", "notes.txt", "bisect.json"):
        (tmp_path / "out" / name).write_text("of another run")
    assert main(["bisect", str(model), "--rules", planted, "--output", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bisect.json", "inputs.npz", "model.onnx", "notes.txt"]
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / "plan.toml"
    mine.write_text("# mine\n" + Plan("onnxruntime-cpu", 2).dumps())
    assert main(["bisect", str(model), "--rules", planted, "--plan", str(mine), "--output", str(mine.parent)]) == 7
    assert main(["bisect", str(model), "--rules", planted, "--output", str(mine.parent)]) == 0
    assert mine.read_text().startswith("# mine"), "a folder that holds no result of ours"


@pytest.mark.usefixtures("here")
def test_a_layer_of_the_second_body_is_at_fault_not_the_pass_that_joins_them(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[N, 4] x) => (float[N, 4] y)
        <float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> { [mm] h = MatMul(x, w) y = Tanh(h) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    site = ("planted-linear", "mm")
    plan = Plan("onnxruntime-cpu", 3, few=Body("x", 4, {site: Choice(True, "planted")}))
    settings = Settings(rules=[str(planted.linear(tmp_path, planted.times(-1.0)))], plan=plan, dims={"N": 1}, measure=False)
    found = bisect(tmp_path / "m.onnx", settings)
    assert (found.culprit.by, found.culprit.node, found.culprit.through) == ("planted-linear", "mm", None)
