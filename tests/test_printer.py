"""One text and one hash of a graph: readable, stable, and blind to what does not matter."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage
from olc.frontend import load
from olc.printer import digest, print_graph, print_node, type_text
from onnx import TensorProto as T
from onnx import helper

from tests.proto_tools import everything, opset, tensor_input

TEXT = """
<ir_version: 10, opset_import: ["local": 1, "": 21]>
main (float[N, 4] x, bool c, float[2] d) => (float[N, 4] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float half = {0.1}, int64[2] shape = {-1, 4},
 float[2] d = {1, 2}>
{
    h = MatMul (x, w)
    r = Reshape <allowzero = 1> (h, shape)
    b = If (c) <
        then_branch = yes () => (float[N, 4] t) { u = Neg (r) t = Mul (u, half) },
        else_branch = no () => (float[N, 4] e) { e = Softmax <axis = 1> (r) }
    >
    q, z = local.Twice <k = 0.1> (b)
    y = Clip (q, , half)
}
<domain: "local", opset_import: ["": 21]>
Twice <k> (p) => (q, r) { kk = Constant <value_float: float = @k> () q = Add (p, kk) r = Neg (p) }
"""

GOLDEN = """\
opset ai.onnx 21, local 1
graph main (%x: f32[N,4], %c: bool[], %d: f32[2] = <f32[2] 1.0, 2.0>) -> (%y: f32[N,4]) {
  %h = MatMul(%x, f32[4,3] w)
  %r = Reshape(%h, <i64[2] -1, 4>) {allowzero=1}
  %b = If(%c) {
    then_branch: graph yes () -> (%t: f32[N,4]) {
      %u = Neg(%r)
      %t = Mul(%u, <0.1>)
    }
    else_branch: graph no () -> (%e: f32[N,4]) {
      %e = Softmax(%r) {axis=1}
    }
  }
  %q, %z = local.Twice(%b) {k=0.1}
  %y = Clip(%q, _, <0.1>)
}

function local::Twice <k> (%p) -> (%q, %r) opset ai.onnx 21 {
  %kk = Constant() {value_float=@k}
  %q = Add(%p, %kk)
  %r = Neg(%p)
}
"""


@pytest.fixture
def model() -> ir.Model:
    return load(TEXT)


def test_the_text_of_a_model(model: ir.Model) -> None:
    assert print_graph(model) == GOLDEN


def test_the_text_of_a_part(model: ir.Model) -> None:
    body = next(ir.subgraphs(model.graph[2]))
    assert print_graph(body) == "graph yes () -> (%t: f32[N,4]) {\n  %u = Neg(%r)\n  %t = Mul(%u, <0.1>)\n}\n"
    assert print_graph(model.functions["local", "Twice", ""]).startswith("function local::Twice <k> (%p)")
    assert print_node(model.graph[1]) == "%r = Reshape(%h, <i64[2] -1, 4>) {allowzero=1}"


def test_values_show_types_and_contents(model: ir.Model) -> None:
    text = print_graph(model, values=True)
    assert re.search(r"%h = MatMul\(%x, f32\[4,3\] w #[0-9a-f]{8}\)  -> \?\n", text)
    assert "%y = Clip(%q, _, <0.1>)  -> f32[N,4]\n" in text
    other = load(TEXT.replace("10, 11, 12", "10, 11, 13"))
    assert print_graph(other) == print_graph(model)
    assert print_graph(other, values=True) != text


def test_every_field_has_a_text_without_addresses() -> None:
    text = print_graph(storage.load_proto(everything()), values=True)
    assert text == print_graph(storage.load_proto(everything()), values=True)
    assert "0x7f" not in text
    assert " object at " not in text
    for part in (
        "%cond: bool[]", "%items: seq(f32[N,4])", "%maybe: optional(seq(f32[N,4]))", "%sparse_in: sparse(f32[3,3])",
        "%scale: f32[4] = <f32[4] 1.0, 1.0, 1.0, 1.0>",
        'text="é"', 'texts=["a", "b"]', "numbers=[1, 2]", "reals=[0.1, inf]", "tensor=<i8[2] 1, -1>",
        "tensors=[<bool[1] true>]", "type=f32[N,4]", "binary=0xfffe00", "no_numbers=[]",
        "%held, _, %spare = custom.Holder", "%table: map", "types=[map, ?]",
        "local.Scaled:v2(%chosen)", "function local::Scaled:v2 <bias=1.0, factor>",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(0.1), "<0.1>"),
        (np.float32(-0.0), "<-0.0>"),
        (np.float32(np.nan), "<nan>"),
        (np.float64(0.1), "<f64 0.1>"),
        (np.float16(0.1), "<f16 0.1>"),
        (np.int64(-1), "<i64 -1>"),
        (np.array([True, False]), "<bool[2] true, false>"),
        (np.zeros((0, 3), np.int32), "<i32[0,3]>"),
        (np.array([1 + 2j], np.complex64), "<c64[1] 1+2j>"),
        (np.arange(9, dtype=np.uint8), "u8[9] k"),
    ],
)
def test_constants(array: np.ndarray, text: str) -> None:
    value = ir.make_constant(np.asarray(array), "k")
    graph = ir.Graph([], [], nodes=[ir.make_node("Neg", [value])], initializers=[value])
    assert f"Neg({text})" in print_graph(graph)


def test_odd_names_are_quoted() -> None:
    node = ir.make_node("Neg", [ir.Value(name="a b")], name="n")
    node.outputs[0].name = "c%"
    assert print_node(node) == '%"c%" = Neg(%"a b")'
    nameless = ir.make_node("Add", [v := ir.Value(), v])
    follower = ir.make_node("Neg", [nameless.outputs[0]])
    assert print_node(nameless) == "%?0 = Add(%?1, %?1)"
    assert follower.inputs[0] is nameless.outputs[0]


def test_strings_missing_data_and_outputs_left_out() -> None:
    words = ir.Value(name="k", const_value=ir.StringTensor([b"a b", b"\xff"], shape=ir.Shape([2])))
    empty = ir.Value(name="e")
    node = ir.make_node("Mix", [words, empty], outputs=4, domain="d")
    for v, name in zip(node.outputs, ("a", "", "b", ""), strict=True):
        v.name = name
    graph = ir.Graph([], [], nodes=[node], initializers=[words, empty])
    assert '%a, _, %b = d.Mix(<str[2] "a b", 0xff>, no data)' in print_graph(graph)


def test_unused_initializers_are_shown() -> None:
    unused = ir.make_constant(np.arange(9, dtype=np.float32), "left")
    graph = ir.Graph([], [], nodes=[], initializers=[unused])
    assert "  %left = f32[9] left\n" in print_graph(graph)


def test_type_text() -> None:
    assert type_text(None, None) == "?"
    assert type_text(None, ir.Shape([2, "n"])) == "?[2,n]"
    assert type_text(ir.TensorType(ir.DataType.FLOAT8E4M3FN), ir.Shape([None])) == "f8e4m3fn[?]"


# digest


def reorder(m: onnx.ModelProto) -> None:
    """Swap two nodes that do not depend on one another, and two initializers."""
    function = m.functions[0]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in function.node]
    del function.node[:]
    function.node.extend([nodes[2], nodes[0], nodes[1]])
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in m.graph.initializer]
    del m.graph.initializer[:]
    m.graph.initializer.extend(tensors[::-1])


def store_raw(m: onnx.ModelProto) -> None:
    for t in m.graph.initializer:
        array = onnx.numpy_helper.to_array(t)
        for field in ("float_data", "int64_data"):
            t.ClearField(field)
        t.raw_data = array.tobytes()


def document(m: onnx.ModelProto) -> None:
    m.doc_string = m.graph.doc_string = m.graph.node[0].doc_string = "words"
    m.producer_name = "someone"
    m.graph.node[0].metadata_props.add(key="olc.rule", value="r#1")


SAME: list[Callable[[onnx.ModelProto], None]] = [reorder, store_raw, document]


@pytest.mark.parametrize("change", SAME, ids=lambda f: f.__name__)
def test_the_digest_is_blind_to(change: Callable[[onnx.ModelProto], None]) -> None:
    m = onnx.parser.parse_model(TEXT)
    before = storage.load_proto(m)
    change(m)
    after = storage.load_proto(m)
    assert storage.to_bytes(before) != storage.to_bytes(after)
    assert digest(before) == digest(after)
    assert re.fullmatch(r"[0-9a-f]{32}", digest(before))


def test_the_digest_is_blind_to_names() -> None:
    text = TEXT
    for old, new in (("h", "hh"), ("w", "ww"), ("x", "xx"), ("N", "M"), ("q", "qq"), ("u", "uu")):
        text = re.sub(rf"\b{old}\b", new, text)
    a, b = load(TEXT), load(text)
    assert print_graph(a) != print_graph(b)
    assert digest(a) == digest(b)


def test_the_digest_is_blind_to_where_weights_lie(tmp_path: Path) -> None:
    w = np.arange(4096, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [tensor_input("x", [4096])], [tensor_input("y", [4096])],
        [onnx.numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    inside = storage.load_proto(helper.make_model(graph, opset_imports=opset(("", 21)), ir_version=10))
    storage.save(inside, tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").exists()
    assert digest(storage.load(tmp_path / "m.onnx")) == digest(inside)


DIFFERENT = {
    "operator": ("Neg (r)", "Abs (r)"),
    "attribute": ("axis = 1", "axis = 0"),
    "attribute float": ("k = 0.1", "k = 0.2"),
    "constant": ("{0.1}", "{0.2}"),
    "constant sign of zero": ("{-1, 4}", "{0, 4}"),
    "last weight": ("11, 12}", "11, 13}"),
    "weight dtype": ("float[4, 3] w", "double[4, 3] w"),
    "wiring": ("MatMul (x, w)", "MatMul (w, x)"),
    "body wiring": ("Mul (u, half)", "Mul (r, half)"),
    "input shape": ("float[N, 4] x", "float[N, 5] x"),
    "dims tied": ("=> (float[N, 4] y)", "=> (float[K, 4] y)"),
    "default of an input": ("d = {1, 2}", "d = {1, 3}"),
    "opset": ('"": 21]>\nmain', '"": 20]>\nmain'),
    "function body": ("Add (p, kk)", "Sub (p, kk)"),
    "output left out": ("Clip (q, , half)", "Clip (q, half, )"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_digest_sees(name: str) -> None:
    old, new = DIFFERENT[name]
    assert old in TEXT
    one = storage.from_proto(onnx.parser.parse_model(TEXT))[0]
    other = storage.from_proto(onnx.parser.parse_model(TEXT.replace(old, new)))[0]
    assert digest(one) != digest(other)


def test_the_digest_tells_a_shared_node_from_two_equal_ones() -> None:
    def text(body: str) -> str:
        return f'<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) {{ {body} }}'

    shared = load(text("a = Neg (x) b = Neg (x) y = Add (a, a)"))
    apart = load(text("a = Neg (x) b = Neg (x) y = Add (a, b)"))
    assert digest(shared) != digest(apart)
    dead = load(text("a = Neg (x) y = Add (a, a)"))
    assert digest(dead) != digest(shared)


def test_the_digest_of_strings() -> None:
    def strings(*texts: bytes) -> ir.Model:
        t = onnx.TensorProto(name="s", data_type=T.STRING, dims=[len(texts)], string_data=texts)
        graph = helper.make_graph(
            [helper.make_node("Identity", ["s"], ["y"])], "g", [], [tensor_input("y", [len(texts)], T.STRING)], [t]
        )
        return storage.load_proto(helper.make_model(graph, opset_imports=opset(("", 21)), ir_version=10))

    assert digest(strings(b"ab", b"c")) != digest(strings(b"a", b"bc"))
    assert digest(strings(b"a\0", b"c")) != digest(strings(b"a", b"c"))
