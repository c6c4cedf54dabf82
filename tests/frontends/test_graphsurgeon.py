"""``gs.Graph`` objects, in and out, for users who have scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from olc import ir, storage
from olc.errors import BadInput, Unsupported
from olc.frontend import load
from olc.frontends.graphsurgeon import accepts, to_graphsurgeon
from olc.printer import print_graph
from onnx import TensorProto as T
from onnx import helper

from tests.proto_tools import everything, opset, tensor_input

TEXT = """
<ir_version: 10, opset_import: ["": 21, "com.example": 3]>
main (float[N, 4] x, bool c) => (float[N, 4] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, int64[2] shape = {-1, 4}>
{
    h = MatMul (x, w)
    r = Reshape (h, shape)
    b = If (c) <
        then_branch = yes () => (float[N, 4] t) { t = Neg (r) },
        else_branch = no () => (float[N, 4] e) { e = Softmax <axis = 1> (r) }
    >
    d = com.example.Odd <k = "v", f = [0.5, 1.5]> (b)
    y = Clip (d, , )
}
"""


def test_a_graph_built_by_hand() -> None:
    x = gs.Variable("x", np.float32, ("N", 3))
    y = gs.Variable("y", np.float32, ("N", 2))
    graph = gs.Graph(
        nodes=[gs.Node("MatMul", "mm", inputs=[x, gs.Constant("w", np.ones((3, 2), np.float32))], outputs=[y])],
        inputs=[x], outputs=[y], opset=17, name="hand",
    )  # fmt: skip
    model = load(graph)
    assert print_graph(model) == (
        "opset ai.onnx 17\ngraph hand (%x: f32[N,3]) -> (%y: f32[N,2]) {\n"
        "  %y = MatMul(%x, <f32[3,2] 1.0, 1.0, 1.0, 1.0, 1.0, 1.0>)\n}\n"
    )
    assert model.graph[0].name == "mm"


def test_out_and_in_again_keeps_the_graph() -> None:
    model = load(TEXT)
    again = load(to_graphsurgeon(model))
    assert print_graph(again) == print_graph(model)


def test_a_users_edit_arrives() -> None:
    graph = to_graphsurgeon(load(TEXT))
    clip = graph.nodes[-1]
    assert clip.op == "Clip"
    clip.op, clip.inputs = "Relu", [clip.inputs[0]]
    before = graph.nodes[-1]
    edited = load(graph)
    assert edited.graph[-1].op_type == "Relu"
    assert graph.nodes[-1] is before


def test_external_weights_are_read(tmp_path: Path) -> None:
    w = np.arange(4096, dtype=np.float32)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])], "g", [tensor_input("x", [4096])], [tensor_input("y", [4096])],
            [onnx.numpy_helper.from_array(w, "w")],
        ),
        opset_imports=opset(("", 21)), ir_version=10,
    )  # fmt: skip
    storage.save(storage.load_proto(proto), tmp_path / "m.onnx", external=True)
    graph = to_graphsurgeon(storage.load(tmp_path / "m.onnx"))
    assert np.array_equal(graph.tensors()["w"].values, w)
    assert np.array_equal(ir.array(load(graph).graph.initializers["w"]), w)


@pytest.mark.parametrize("dtype", [T.INT4, T.UINT4, T.FLOAT4E2M1])
def test_weights_that_gs_would_break_are_refused(dtype: int) -> None:
    t = onnx.TensorProto(name="w", data_type=dtype, dims=[4], raw_data=b"\x12\x34")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [], [tensor_input("y", [4], dtype)], [t]
    )
    model = storage.load_proto(helper.make_model(graph, opset_imports=opset(("", 23)), ir_version=11))
    with pytest.raises(Unsupported, match="weight 'w' is") as caught:
        to_graphsurgeon(model)
    assert caught.value.hint


def test_what_gs_loses_is_what_the_documentation_says() -> None:
    """If a later graphsurgeon keeps more, the text of the module is to be changed."""
    model = load(TEXT)
    model.metadata_props["m"] = model.graph.metadata_props["g"] = model.graph[0].metadata_props["n"] = "1"
    model.graph[0].doc_string = "words"
    model.graph.inputs[0].metadata_props["v"] = "1"
    again = load(to_graphsurgeon(model))
    kept: list[Any] = [
        dict(again.metadata_props), dict(again.graph.metadata_props), dict(again.graph[0].metadata_props),
        again.graph[0].doc_string, dict(again.graph.inputs[0].metadata_props),
    ]  # fmt: skip
    assert not any(kept), kept


def test_a_broken_graph_is_bad_input() -> None:
    y = gs.Variable("y", np.float32, (2,))
    ghost = gs.Variable("ghost", np.float32, (2,))
    graph = gs.Graph(nodes=[gs.Node("Relu", inputs=[ghost], outputs=[y])], inputs=[], outputs=[y], opset=17)
    with pytest.raises(BadInput, match="reads 'ghost', which nothing defines") as caught:
        load(graph)
    assert str(caught.value.where).startswith("gs.Graph 'onnx_graphsurgeon_graph'")
    graph.nodes[0].attrs["odd"] = object()
    with pytest.raises(BadInput, match="onnx-graphsurgeon cannot export it"):
        load(graph)


def test_only_graphs_are_taken() -> None:
    assert accepts(gs.Graph()) is True

    class Mine(gs.Graph):  # type: ignore[misc]
        """Users do subclass it."""

    assert accepts(Mine()) is True
    assert accepts("x") == "not a gs.Graph"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("binary", "attribute 'binary' of custom.Holder 'of held' is not UTF-8 text"),
        ("binaries", "attribute 'binaries' of custom.Holder 'of held' is not UTF-8 text"),
        ("graphs", "attribute 'graphs' of custom.Holder 'of held' is of type GRAPHS, which gs drops"),
        ("type", "attribute 'type' of custom.Holder 'of held' is of type TYPE_PROTO, which gs drops"),
        (None, "weight 'sp' is sparse"),
    ],
)
def test_what_gs_would_drop_without_a_word_is_refused(name: str | None, what: str) -> None:
    model = storage.load_proto(everything())
    holder = model.graph[2]
    for other in list(holder.attributes):
        if other != name:
            del holder.attributes[other]
    if name:
        sparse = model.graph.initializers["sp"]
        sparse.const_value = ir.Tensor(np.zeros(4, np.float32))
    with pytest.raises(Unsupported) as caught:
        to_graphsurgeon(model)
    assert what in caught.value.what
    assert caught.value.hint


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    load(to_graphsurgeon(load(TEXT)))
    assert capfd.readouterr() == ("", "")
