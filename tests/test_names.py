"""Names of new nodes: ONNX Runtime refuses a model in which two nodes are called the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import olc
import onnx
import onnx.parser
from olc.session import session

TANH_GELU = """<ir_version: 10, opset_import: ["": 20]> g (float[B, 8] x) => (float[B, 8] z)
<float r = {1.4142135}, float one = {1.0}, float h = {0.5}> {
  [Gelu_1] t = Tanh(x)
  d = Div(t, r) e = Erf(d) o = Add(e, one) m = Mul(t, o) y = Mul(m, h)
  d2 = Div(y, r) e2 = Erf(d2) o2 = Add(e2, one) m2 = Mul(y, o2) z = Mul(m2, h)
}"""


def names(path: Path) -> Counter[str]:
    return Counter(n.name for n in onnx.load(path).graph.node if n.name)


def test_new_nodes_take_no_name_that_is_taken(tmp_path: Path) -> None:
    source, once, twice = (tmp_path / f"{n}.onnx" for n in ("source", "once", "twice"))
    onnx.save(onnx.parser.parse_model(TANH_GELU), source)
    olc.compile(source, once, level=2, measure=False)
    olc.compile(once, twice, level=2, measure=False)  # numbers begin again
    for path in (once, twice):
        assert max(names(path).values()) == 1
        session(path)
