"""``load`` finds the frontend for a source by asking, and says whom it asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import olc.frontends
import onnx
import pytest
from olc import frontend, ir
from olc.errors import BadInput
from olc.frontend import frontends, load

from tests.proto_tools import relu_chain


def test_the_built_in_ones_are_found_and_keep_the_protocol() -> None:
    assert [f.NAME for f in frontends()] == ["onnx-graphsurgeon graph", "ONNX file", "ONNX text"]
    for f in frontends():
        for source in (None, 3, "x", "a\nb", b"", [], relu_chain(1), Path("nowhere")):
            answer = f.accepts(source)
            assert answer is True or (isinstance(answer, str) and answer)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("model.onnx", "ONNX file"),
        ("MODEL.ONNX", "ONNX file"),
        ("model.pb", "ONNX file"),
        (Path("model"), "ONNX file"),
        (b"", "ONNX file"),
        (relu_chain(1), "ONNX file"),
        ("model.onnxtxt", "ONNX text"),
        (Path("model.txt"), "ONNX text"),
        ('<ir_version: 8, opset_import: ["": 17]> g () => () {}', "ONNX text"),
        ("# a comment\n  <ir_version: 8>", "ONNX text"),
        ("a typo", None),
        (3, None),
    ],
)
def test_who_takes_what(source: Any, name: str | None) -> None:
    takers = [f.NAME for f in frontends() if f.accepts(source) is True]
    assert takers == ([name] if name else [])


def test_nobody_takes_it() -> None:
    with pytest.raises(BadInput) as caught:
        load("mdoel")
    assert caught.value.where == "mdoel"
    assert (caught.value.hint or "").startswith(
        "tried onnx-graphsurgeon graph: not a gs.Graph; ONNX file: no such file;"
    )


def test_a_new_file_is_a_new_frontend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answer.py").write_text(
        "from olc.frontend import load as again\nNAME = 'answer'\n"
        "def accepts(source):\n    return source == 42 or 'not 42'\n"
        "def load(source):\n"
        "    return again('<ir_version: 8, opset_import: [\"\": 17]> g (float[2] x) => (float[2] x) {}')\n"
    )
    (tmp_path / "_helper.py").write_text("raise RuntimeError('helpers are not frontends')\n")
    monkeypatch.setattr(olc.frontends, "__path__", [*olc.frontends.__path__, str(tmp_path)])
    frontends.cache_clear()
    try:
        assert load(42).graph.outputs[0].name == "x"
        with pytest.raises(BadInput, match="answer: not 42"):
            load(43)
    finally:
        frontends.cache_clear()
        sys.modules.pop("olc.frontends.answer", None)


def test_sources_of_one_model_give_the_same_graph(tmp_path: Path) -> None:
    from olc.printer import digest

    proto = relu_chain(3)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    (tmp_path / "m.onnxtxt").write_text(onnx.printer.to_text(proto))
    sources = [
        str(path),
        path,
        path.read_bytes(),
        proto,
        load(proto),
        tmp_path / "m.onnxtxt",
        onnx.printer.to_text(proto),
    ]
    assert len({digest(load(s)) for s in sources}) == 1


def test_a_model_of_ours_is_checked_and_not_copied() -> None:
    from olc.errors import VerificationFailed

    model = load(relu_chain(2))
    assert load(model) is model
    model.graph[0].op_type = "Nope"
    with pytest.raises(VerificationFailed):
        load(model)


def test_nothing_heavy_is_imported_to_find_out() -> None:
    code = (
        "import sys\nfrom olc.frontend import frontends\n[f.accepts('x') for f in frontends()]\n"
        "print([m for m in ('onnxruntime', 'onnx_graphsurgeon', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_descriptions_are_short() -> None:
    assert frontend.describe("a" * 100 + "\nb") == repr("a" * 60) + "…"
    assert frontend.describe(b"12345") == "5 bytes"
    assert frontend.describe("") == ""
    assert frontend.describe(ir) == "a builtins.module"
