"""``olc rules`` and ``olc why``: what they print, and their exit codes."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import onnx
import pytest
from olc import rules
from olc.cli import main

HERE = Path(__file__).parent
WRONG = HERE / "wrong" / "reciprocal.py"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "list"]) == 0
    text = capsys.readouterr().out
    assert "erf-gelu" in text
    assert "CLOSE" in text
    assert main(["rules", "list", "--group", "gelu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {r["group"] for r in found} == {"gelu"}
    gelu = next(r for r in found if r["name"] == "erf-gelu")
    assert gelu["since"] == 20
    assert gelu["cases"]
    assert gelu["refused"]


def test_list_of_a_group_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "list", "--group", "nope"]) == 3
    assert "gelu" in capsys.readouterr().err, "names those that there are"


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "show", "gelu", "--file", str(HERE / "sound.py")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# gelu\n")
    assert "Erf(" in text
    assert "= Gelu(x)" in text
    assert "## Why it is sound" in text
    assert main(["rules", "show", "div-to-mul", "--file", str(HERE / "sound.py")]) == 0
    text = capsys.readouterr().out
    assert "## Leaves alone" in text
    assert "because “may overflow”" in text


def test_show_suggests_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "show", "erf-gleu"]) == 8
    assert "did you mean erf-gelu" in capsys.readouterr().err


def test_test_passes_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rules", "test", "erf-gelu"]) == 0
    assert "ok   erf-gelu" in capsys.readouterr().out
    assert main(["rules", "test", "--file", str(WRONG), "--seed", "3", "--rounds", "2"]) == 8
    seen = capsys.readouterr()
    assert "FAIL reciprocal" in seen.out
    assert "error, numerics: y" in seen.out
    assert "x = float32[" in seen.out, "the smallest input"
    assert f"again: olc rules test reciprocal --file {WRONG} --seed 3 --rounds 2" in seen.out
    assert "1 of 1 rules fail: reciprocal" in seen.err


def test_test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "test", "--file", str(WRONG), "--json"]) == 8
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["rule"], found["check"], found["severity"]) == ("reciprocal", "numerics", "error")


def test_a_file_of_the_built_in_rules_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    source = next(r.source for r in rules.registry() if r.name == "erf-gelu")
    assert main(["rules", "test", "--file", source]) == 0
    assert "ok   erf-gelu" in capsys.readouterr().out


def test_a_missing_or_broken_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rules", "test", "--file", str(tmp_path / "no.py")]) == 8
    assert "no such rule file" in capsys.readouterr().err
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    assert main(["rules", "list", "--file", str(broken)]) == 8
    assert "ZeroDivisionError" in capsys.readouterr().err
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    assert main(["rules", "list", "--file", str(empty)]) == 8
    assert "declares no rule" in capsys.readouterr().err


def test_new_writes_a_file_that_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "my_rule.py"
    assert main(["rules", "new", "merge-two-scales", "--output", str(path)]) == 0
    assert f"olc rules test --file {path}" in capsys.readouterr().out
    assert main(["rules", "test", "--file", str(path)]) == 0
    out = capsys.readouterr().out
    assert "ok   merge-two-scales" in out
    assert "warning" not in out
    assert main(["rules", "show", "merge-two-scales", "--file", str(path)]) == 0
    capsys.readouterr()
    assert main(["rules", "new", "merge-two-scales", "--output", str(path)]) == 7, "nothing is overwritten"
    assert main(["rules", "new", "Two Words", "--output", str(tmp_path / "x.py")]) == 3
    assert main(["rules", "new", "a-rule", "--output", str(tmp_path / "no" / "x.py")]) == 7


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with an entry point of the group olc.rules."""
    shutil.copy(HERE / "sound.py", tmp_path / "rule_pack_of_test.py")
    info = tmp_path / "rule_pack_of_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rule-pack-of-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[olc.rules]\npack = rule_pack_of_test\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(rules, "_builtin", None)
    # A second load of the built-in modules declares nothing: they are in sys.modules.
    known = list(rules._found)
    monkeypatch.setattr(rules, "_load_builtin", _again(known))
    return tmp_path


def _again(known: list[rules.Rule]):  # type: ignore[no-untyped-def]
    built_in = {r.name: r for r in known if "/rewrites/" in r.source}

    def load() -> None:
        rules._found.extend(built_in.values())
        for entry in importlib.metadata.entry_points(group="olc.rules"):
            entry.load()

    return load


def test_a_rule_pack_has_the_same_rights(pack: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rules", "list", "--group", "sound", "--json"]) == 0
    assert "times-one" in {r["name"] for r in json.loads(capsys.readouterr().out)}
    assert main(["rules", "test", "times-one"]) == 0
    capsys.readouterr()
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) <float one = {1}> '
            "{ t = Mul(x, one) y = Relu(t) }"
        ),
        path,
    )
    assert main(["why", str(path), "--rule", "times-one"]) == 0
    assert "1 match" in capsys.readouterr().out


# --- why ------------------------------------------------------------------------------------------------------------

RULES = HERE / "sound.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "casts.onnx"
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (float16[N] x, float[N] z) => (double[N] y, float16[N] w, float[N] v) {
      [wide] a = Cast<to = 1>(x)
      [root] y = Cast<to = 11>(a)
      [narrow] b = Cast<to = 10>(z)
      [other] c = Cast<to = 1>(b)
      [last] w = Cast<to = 10>(c)
      [far] v = Cast<to = 1>(x)
    }"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_why(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(model), "--rule", "collapse-casts", "--rules", str(RULES)]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith("match    Cast 'root'")
    assert any(line.startswith("refused  Cast 'other': the middle type rounds the input") for line in lines)
    assert any(line.startswith("miss     Cast 'wide'") for line in lines)
    assert any("match" in line and "refused" in line and "miss" in line for line in lines), "the counts"


def test_why_at_a_node_and_in_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["why", str(model), "--rule", "div-to-mul", "--rules", str(RULES)]
    assert main([*arguments, "--at", "root", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["places"][0]["reason"] == "it is Cast, not Div"
    assert main([*arguments]) == 0
    assert "the model has no Div" in capsys.readouterr().out
    assert main([*arguments, "--at", "nowhere"]) == 3
    assert "no node is called 'nowhere'" in capsys.readouterr().err


def test_why_says_that_a_rule_is_not_for_this_opset(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(model), "--rule", "erf-gelu"]) == 0
    assert "the model has opset 18; erf-gelu acts at opset 20 and later" in capsys.readouterr().out


def test_why_after_a_level(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(model), "--rule", "erf-gelu", "-O", "1"]) == 0
    assert "erf-gelu" in capsys.readouterr().out


def test_limit(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(model), "--rule", "times-one", "--rules", str(RULES), "--limit", "1"]) == 0
    capsys.readouterr()
    assert main(["rules", "list", "--file", str(RULES), "--json"]) == 0
