"""A layer of both branches has one name in both, and nothing else has a name twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage
from olc.passes import Context, shared_layers
from olc.rewriter import origins
from olc.session import run, session

from tests.merged import by_hand, feeds, merged, nodes_of


def test_one_layer_is_one_name_however_exporters_count() -> None:
    m = merged()
    assert len(nodes_of(m, "w1")) == 2
    assert shared_layers.run(m, Context()) == 3
    for weight in ("w0", "w1", "w3"):
        first, second = nodes_of(m, weight)
        assert first.name == second.name, weight
        if weight != "w3":  # both of these read m, which lies around them
            assert first.inputs[0] is not second.inputs[0]
            assert first.inputs[0].name == second.inputs[0].name, weight
    names = {weight: nodes_of(m, weight)[0].name for weight in ("w0", "w1", "w2", "w3")}
    assert len(set(names.values())) == 4
    assert {origin for n in nodes_of(m, "w1") for origin in origins(n)} == {"h2", "h3"}


def test_nothing_else_shares_a_name() -> None:
    m = merged()
    shared_layers.run(m, Context())
    layers = {n.name for w in ("w0", "w1", "w3") for n in nodes_of(m, w)}
    read = {nodes_of(m, w)[0].inputs[0].name for w in ("w0", "w1")}
    nodes = Counter(n.name for graph in ir.all_graphs(m) for n in graph)
    values = Counter(v.name for graph in ir.all_graphs(m) for n in graph for v in n.outputs)
    assert {name for name, n in nodes.items() if n > 1} == layers
    assert {name for name, n in values.items() if n > 1} == read
    assert not {None, ""} & nodes.keys()


def test_names_mean_nothing(tmp_path: Path) -> None:
    m = merged()
    shared_layers.run(m, Context())
    storage.save(m, tmp_path / "m.onnx")
    opened = session(tmp_path / "m.onnx", threads=1)
    for feed in feeds():
        np.testing.assert_allclose(run(opened, feed)["y"], by_hand(feed)["y"], rtol=1e-4, atol=1e-4)


ASIDE = {
    "twice here, once there": ("[a] p = MatMul(x, w) [b] q = MatMul(p, w) r = Neg(q)", "[a] p = MatMul(x, w) r = Neg(p)", 3),
    "twice in both": ("[a] p = MatMul(x, w) [b] q = MatMul(p, w) r = Neg(q)",
                      "[a] p = MatMul(x, w) [b] q = MatMul(p, w) r = Abs(q)", 2),
    "the other way round": ("[a] p = Gemm<transB = 1>(x, w) r = Neg(p)", "[a] p = Gemm(x, w) r = Neg(p)", 2),
    "other operators": ("[a] p = MatMul(x, w) r = Neg(p)", "[a] p = Add(x, w) r = Neg(p)", 2),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other", "names"), ASIDE.values(), ids=ASIDE)
def test_the_first_of_one_is_the_first_of_the_other_where_there_are_as_many(one: str, other: str, names: int) -> None:
    text = (f'<ir_version: 10, opset_import: ["" : 18]> g (float[4, 4] x, bool c) => (float[4, 4] y) <float[4, 4] w = {{'
            f"{', '.join('1' * 16)}}}> {{ y = If (c) < then_branch = t () => (float[4, 4] r) {{ {one} }}, "
            f"else_branch = e () => (float[4, 4] r) {{ {other} }} > }}")  # fmt: skip
    m = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    shared_layers.run(m, Context())
    assert len({n.name for n in nodes_of(m, "w")}) == names


def test_two_ifs_that_read_one_weight_are_two_layers() -> None:
    """Both run: what one gives is not what the other gives."""
    def choice(name: str, x: str) -> str:
        return (f"{name} = If (c) < then_branch = t{name} () => (float[4, 4] p{name}) {{ p{name} = MatMul({x}, w) }}, "
                f"else_branch = e{name} () => (float[4, 4] q{name}) {{ q{name} = MatMul({x}, w) }} >")  # fmt: skip

    text = (f'<ir_version: 10, opset_import: ["" : 18]> g (float[4, 4] x, bool c) => (float[4, 4] y) <float[4, 4] w = {{'
            f"{', '.join('1' * 16)}}}> {{ {choice('a', 'x')} {choice('y', 'a')} }}")  # fmt: skip
    m = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    assert shared_layers.run(m, Context()) == 2
    assert [*Counter(n.name for n in nodes_of(m, "w")).values()] == [2, 2]


def test_a_model_without_bodies_stays() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[4] x) => (float[4] y) { [n] a = Neg(x) [n] y = Neg(a) }'
    m = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    ctx = Context()
    assert shared_layers.run(m, ctx) == 0
    assert [n.name for n in m.graph] == ["n", "n"]
    assert not ctx.events
