"""How a model is opened: what is kept of the options that look faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import olc
import onnx
import pytest
from olc.evaluation import evaluate as evaluation
from olc.evaluation.latency import Paired, Side
from olc.strategy import search
from olc.targets import features

SIDE = Side(1.0, 1.0, 1.0, 1.0)


def paired(ratio: float) -> Paired:
    verdict = "faster" if ratio > 1 else "slower" if ratio < 1 else "no difference shown"
    return Paired(ratio, ratio, ratio, ratio, verdict, 8, 1, SIDE, SIDE, 0.0, 0)


@pytest.mark.parametrize(
    ("early", "late", "threads", "kept"),
    [(2.0, 2.0, None, 1), (0.5, 2.0, None, None), (2.0, 0.5, None, None), (1.0, 2.0, None, None), (2.0, 2.0, 4, 4)],
)
def test_fewer_threads_are_kept_where_they_gain_at_both_ends_of_the_search(
    early: float, late: float, threads: int | None, kept: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between lies what a neighbour may do with a core: one thread looked 1.07 times as fast as two, and was 0.7."""
    monkeypatch.setattr(features, "cores", lambda: 2)
    measured: list[int | None] = []
    opened = search.Search.open

    def open_it(self: search.Search, path: Path, options: search.SessionOptions) -> object:
        session = opened(self, path, options)
        made[id(session)] = options.threads
        return session

    def pair(_: object, __: object, b: object, *___: object) -> Paired:
        if made.get(id(b)) != 1 or threads is not None:
            return paired(1.0)
        measured.append(1)
        return paired(early if len(measured) == 1 else late)

    made: dict[int, int | None] = {}
    monkeypatch.setattr(search.Search, "open", open_it)
    monkeypatch.setattr(search.Search, "pair", pair)
    monkeypatch.setattr(evaluation, "timed", lambda *_: paired(1.0))
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 8] x) => (float[N, 8] y) { y = MatMul(x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    report = olc.compile(tmp_path / "m.onnx", tmp_path / "out.onnx", level=3, quantize="none", threads=threads)
    asked = [t["what"] for t in report.trials if "1 thread" in t["what"]]
    assert report.session_options["threads"] == kept
    if threads is None:
        assert asked == ["float opened with 1 thread", "opened with 1 thread"][: 1 + (early > 1)]
        again = next(t["why"] for t in report.trials if t["what"] == "float opened with 1 thread")
        assert bool(again) == (early > 1), "only what gained is asked again"
    else:
        assert asked == []
