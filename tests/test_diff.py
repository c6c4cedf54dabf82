"""What changed between two models, said in words and counts that can be checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from olc import ir, storage
from olc.diff import diff
from olc.frontend import load

from tests.proto_tools import everything

TEXT = """
<ir_version: 10, opset_import: ["": 20]>
main (float[N, 4] x, float[N, 4] z) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}, float[2] spare = {1, 2}>
{
    a = Identity (x)
    b = Mul (a, w)
    c = Sigmoid (b)
    d = Mul (b, c)
    y = Add (d, z)
}
"""


@pytest.fixture
def before() -> ir.Model:
    return load(TEXT)


@pytest.fixture
def after() -> ir.Model:
    """As a compiler leaves it: Identity gone, a fused node, a narrower weight, a spare weight gone, a later opset."""
    m = load(TEXT)
    a, b, c, d, _y = m.graph
    b.replace_input_with(0, m.graph.inputs[0])
    m.graph.remove(a, safe=True)
    swish = ir.make_node("Swish", [b.outputs[0]], name="fused")
    swish.metadata_props.update({"olc.rule": "silu#7", "olc.from": "sig, mul"})
    d.append(swish)
    result = d.outputs[0]
    result.replace_all_uses_with(swish.outputs[0])
    m.graph.remove([c, d], safe=True)
    result.name = None
    swish.outputs[0].name = "d"
    del m.graph.initializers["spare"]
    m.graph.initializers["w"].const_value = ir.Tensor(np.zeros(4, np.float16))
    m.opset_imports[""] = 24
    return m


def test_counts_and_names(before: ir.Model, after: ir.Model) -> None:
    found = diff(before, after)
    assert found.nodes == (5, 3)
    assert found.operators == {"Identity": (1, 0), "Mul": (2, 1), "Sigmoid": (1, 0), "Swish": (0, 1)}
    assert [(n.op, n.name) for n in found.removed] == [("Identity", "a"), ("Sigmoid", "c"), ("Mul", "d")]
    assert [(n.op, n.name, n.rule, n.was) for n in found.added] == [("Swish", "fused", "silu#7", "sig, mul")]
    assert found.rules == {"silu": 1}
    assert found.initializers == (2, 1)
    assert found.parameters == (6, 4)
    assert found.bytes == (24, 8)
    assert found.dtypes == {"f16": (0, 8), "f32": (24, 0)}
    assert found.retyped == [("w", "f32[4]", "f16[4]")]
    assert found.opsets == {"ai.onnx": (20, 24)}
    assert found.interface == []
    assert not found.empty


def test_lines(before: ir.Model, after: ir.Model) -> None:
    assert diff(before, after).lines() == [
        "nodes        5 -> 3  (-2, -40.0%)",
        "  Identity                       1 ->       0  (-1)",
        "  Mul                            2 ->       1  (-1)",
        "  Sigmoid                        1 ->       0  (-1)",
        "  Swish                          0 ->       1  (+1)",
        "rules        silu ×1",
        "removed      3 nodes",
        "  Identity a",
        "  Sigmoid c",
        "  Mul d",
        "added        1 nodes",
        "  Swish fused, from sig, mul  [silu#7]",
        "initializers 2 -> 1  (-1, -50.0%)",
        "parameters   6 -> 4  (-2, -33.3%)",
        "bytes        24 -> 8  (-16, -66.7%)",
        "  f16                                  0 ->             8",
        "  f32                                 24 ->             0",
        "  w: f32[4] -> f16[4]",
        "opset        ai.onnx 20 -> 24",
    ]


def test_plain_data(before: ir.Model, after: ir.Model) -> None:
    found = diff(before, after).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["added"] == [{"name": "fused", "op": "Swish", "rule": "silu#7", "was": "sig, mul"}]
    assert set(found) == set(vars(diff(before, after)))


def test_no_difference(before: ir.Model) -> None:
    assert diff(before, before).lines() == ["no difference"]
    assert diff(before, load(TEXT)).empty
    model = storage.load_proto(everything())
    assert diff(model, storage.load_bytes(storage.to_bytes(model))).empty


def test_renamed_nodes_are_no_change(before: ir.Model) -> None:
    renamed = load(TEXT)
    for n in list(renamed.graph)[:-1]:
        n.outputs[0].name = f"new_{n.outputs[0].name}"
    assert diff(before, renamed).empty


def test_another_operator_for_a_result_is_said(before: ir.Model) -> None:
    found = diff(before, load(TEXT.replace("c = Sigmoid", "c = Tanh")))
    assert [(n.op, n.was) for n in found.added] == [("Tanh", "Sigmoid")]
    assert found.operators == {"Sigmoid": (1, 0), "Tanh": (0, 1)}
    assert "  Tanh c, was Sigmoid" in found.lines()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("float[N, 4] x", "float[2, 4] x", "input x: f32[N,4] -> f32[2,4]"),
        (", float[N, 4] z", ", float[N, 4] z, int64 k", "input k is new (i64[])"),
        ("(float[N, 4] x, float[N, 4] z)", "(float[N, 4] z, float[N, 4] x)", "inputs are in another order"),
        ("=> (float[N, 4] y)", "=> (float[N, 4] y, float[N, 4] d)", "output d is new (f32[N,4])"),
    ],
)
def test_interface(before: ir.Model, old: str, new: str, said: str) -> None:
    assert diff(before, load(TEXT.replace(old, new))).interface == [said]
    gone = said.replace(" is new ", " is gone ")
    if gone != said:
        assert diff(load(TEXT.replace(old, new)), before).interface == [gone]


def test_nodes_of_bodies_and_functions_count() -> None:
    model = storage.load_proto(everything())
    less = storage.load_proto(everything())
    branch = next(ir.subgraphs(less.graph[0]))
    branch.append(ir.make_node("Neg", [branch.outputs[0]], name="deep"))
    less.functions.pop(("local", "Scaled", ""))
    found = diff(model, less)
    assert found.functions == (2, 1)
    assert "functions    2 -> 1  (-1, -50.0%)" in found.lines()
    assert ("Neg", "deep") in [(n.op, n.name) for n in found.added]
    assert found.operators == {"Constant": (2, 1), "Mul": (3, 2), "Neg": (0, 1)}


def test_long_lists_are_cut_and_interface_is_shown() -> None:
    def chain(op: str, dtype: str, out: str) -> str:
        weights = ", ".join(f"{dtype}[1] w{i} = {{1}}" for i in range(12))
        nodes = " ".join(f"{op}{i} = {op} (w{i})" for i in range(12))
        return f'<ir_version: 10, opset_import: ["": 20]> g ({dtype}[N] x) => ({dtype}[N] {out}) <{weights}> ' + (
            f"{{ {nodes} {out} = {op} (x) }}"
        )

    found = diff(load(chain("Neg", "float", "y")), load(chain("Abs", "double", "z")))
    assert len(found.added) == len(found.removed) == 13
    lines = found.lines()
    assert lines[0] == "nodes        13, unchanged"
    assert lines.count("  and 5 more") == 2
    assert lines.count("  and 4 more") == 1
    assert [line for line in lines if line.startswith("  w")] == [f"  w{i}: f32[1] -> f64[1]" for i in range(8)]
    assert "interface    output y is gone (f32[N])" in lines
    assert len(found.to_dict()["retyped"]) == 12


def test_weights_are_not_read(before: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(ir.TensorProtoTensor, "numpy", fail)
    monkeypatch.setattr(ir.TensorProtoTensor, "tobytes", fail)
    diff(before, before)
