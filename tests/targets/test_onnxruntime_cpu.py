"""The target onnxruntime-cpu: its table is that of the installed runtime, what it says is so, and lowering works."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from olc import ir, targets
from olc.errors import BadInput, Unsupported
from olc.evaluation import numerics
from olc.passes import Context
from olc.session import CPU, SessionOptions, run, session
from olc.targets import capabilities, decompose, onnxruntime_cpu, registry
from olc.targets.capabilities import CAST, DECOMPOSED, NO, YES
from olc.targets.onnxruntime_cpu import TARGET

PLAIN = SessionOptions(threads=1, optimization="none")


def model(text: str) -> ir.Model:
    return onnx_ir.from_proto(onnx.parser.parse_model(text))


def proto(m: ir.Model) -> bytes:
    return onnx_ir.to_proto(m).SerializeToString()


def test_discovery() -> None:
    assert "onnxruntime-cpu" in targets.names()
    assert targets.get("onnxruntime-cpu") is TARGET
    assert isinstance(TARGET, targets.Target)
    with pytest.raises(BadInput, match="no target is called 'nonsense'") as caught:
        targets.get("nonsense")
    assert "onnxruntime-cpu" in (caught.value.hint or "")


STORED = Path(onnxruntime_cpu.__file__).with_suffix(".json")


def test_stored_table_is_that_of_the_runtime() -> None:
    stored = STORED.read_text(encoding="utf-8")
    version = capabilities.from_json(stored).version
    if version != onnxruntime.__version__:
        assert "generated" in TARGET.table.origin
        return
    assert capabilities.to_json(registry.generate(CPU)) == stored, "run: python -m olc.targets.onnxruntime_cpu --write"


def test_another_runtime_gets_its_own_table(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(STORED.read_text(encoding="utf-8").replace(onnxruntime.__version__, "0.1.0"))
    table = registry.load(file, CPU)
    assert table.version == onnxruntime.__version__
    assert "0.1.0" in table.origin
    assert registry.load(file, "NoExecutionProvider").version == "0.1.0", "of what is not there nothing else is known"


@pytest.mark.parametrize(
    ("op", "domain", "version", "dtypes", "how"),
    [
        ("MatMul", "", 13, {"T": "float"}, YES),
        ("MatMul", "", 13, {"T": "float16"}, CAST),
        ("MatMul", "", 13, {"T": "bfloat16"}, NO),
        ("DynamicQuantizeMatMul", "com.microsoft", 1, {"T1": "float", "T2": "int8"}, YES),
        ("HardSwish", "", 14, {"T": "float"}, DECOMPOSED),
        ("Nonsense", "", 14, {}, NO),
        ("FusedThing", "com.example", 1, {}, NO),
    ],
)
def test_supports(op: str, domain: str, version: int, dtypes: dict[str, str], how: str) -> None:
    assert TARGET.supports(op, domain, version, dtypes).how == how


def test_preferred_opset_loses_no_kernel_but_random_ones() -> None:
    table, lost = TARGET.table, set()
    for domain, op in table.kernels:
        if domain == "" and table.supports(op, "", 21) and not table.supports(op, "", TARGET.opset):
            lost.add(op)
    assert lost == {"GlobalLpPool", "MaxRoiPool", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                    "RandomUniformLike", "RoiAlign"}  # fmt: skip
    assert all(table.supports(op, "", TARGET.opset) for op in ("Attention", "RotaryEmbedding", "RMSNormalization"))


def test_opset_for_a_model_keeps_its_kernels() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> g (float[2] x) => (float y) {{ y = {} (x) }}'
    assert TARGET.opset_for(model(text.format("Relu"))) == TARGET.opset
    assert TARGET.opset_for(model(text.format("RandomUniformLike"))) == 21
    newer = model(text.replace("17", "25").format("Relu"))
    assert TARGET.opset_for(newer) == 25


def test_opset_for_a_model_knows_what_is_written_in_place_of_what_is_withdrawn() -> None:
    old = '<ir_version: 4, opset_import: ["": 9]> g (float[1, 2, 4] x, float[3] s) => (float y) { y = Upsample (x, s) }'
    assert TARGET.opset_for(model(old)) == TARGET.opset


def test_problems_name_the_node_and_what_to_do() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 20, "com.example": 1]>
        g (bfloat16[2, 2] x, float[2, 2] w) => (bfloat16 y, float z) {
            [first] y = MatMul (x, x)
            [second] z = com.example.Fast (w)
        }""")
    problems = TARGET.check(m)
    assert len(problems) == 2
    assert "'first' (MatMul)" in problems[0]
    assert "bfloat16" in problems[0]
    assert "'second' (com.example.Fast)" in problems[1]
    assert "custom-operator library" in problems[1]
    nodes = list(m.graph)
    assert "bfloat16" in (TARGET.why_not(nodes[0], m) or "")
    with pytest.raises(Unsupported, match="first") as caught:
        TARGET.lower(m, Context())
    assert "second" in caught.value.what


def test_a_model_newer_than_the_runtime() -> None:
    m = model('<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float y) { y = Relu (x) }')
    assert TARGET.check(m) == []
    m.opset_imports[""] = TARGET.table.opset() + 1
    assert any("opset" in p for p in TARGET.check(m))
    m.opset_imports[""] = 20
    m.ir_version = TARGET.table.ir_version + 1
    assert any("IR version" in p for p in TARGET.check(m))


def test_functions_of_the_model_run() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 20, "mine": 1]>
        g (float[2] x) => (float y) { y = mine.Twice (x) }
        <domain: "mine", opset_import: ["": 20]> Twice (a) => (b) { b = Add (a, a) }""")
    assert TARGET.check(m) == []
    assert session(proto(m)).run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [2, 2]


def test_recurrent_batch_first_is_refused() -> None:
    text = """<ir_version: 10, opset_import: ["": 14]>
        g (float[1, 3, 4] x, float[1, 8, 4] w, float[1, 8, 2] r) => (float y)
        {{ y, h, c = LSTM <hidden_size = 2, layout = {}> (x, w, r) }}"""
    assert TARGET.check(model(text.format(0))) == []
    refused = model(text.format(1))
    assert "layout" in TARGET.check(refused)[0]
    with pytest.raises(Exception, match="layout"):
        session(proto(refused))


def test_lowering_in_bodies_keeps_names_and_provenance() -> None:
    m = model("""<ir_version: 10, opset_import: ["": 18]>
        g (float[3] x, bool c) => (float y) {
            [choice] y = If (c) <
                then_branch = t () => (float[3] a) { [swish] a = HardSwish (x) },
                else_branch = e () => (float[3] b) { b = Identity (x) }
            >
        }""")
    ctx = Context()
    assert TARGET.lower(m, ctx) == 1
    assert ctx.events[0].site == "swish"
    assert "HardSwish" in ctx.events[0].detail
    made = [n for g in ir.all_graphs(m) for n in g if n.metadata_props.get("olc.from") == "swish"]
    assert {n.op_type for n in made} == {"HardSigmoid", "Mul"}
    x = np.array([-4.0, 0.5, 4.0], np.float32)
    out = session(proto(m)).run(None, {"x": x, "c": np.array(True)})[0]
    assert np.allclose(out, x * np.clip(x / 6 + 0.5, 0, 1))
    assert TARGET.lower(m, Context()) == 0


def test_omitted_attributes_have_the_schemas_defaults() -> None:
    text = '<ir_version: 10, opset_import: ["": 24]> g (float[3] x) => (float y) {{ y = Swish {} (x) }}'
    x = np.array([-1.0, 0.5, 3.0], np.float32)
    for attribute, alpha in (("", 1.0), ("<alpha = 2.0>", 2.0)):
        m = model(text.format(attribute))
        assert TARGET.lower(m, Context()) >= 1
        assert "Swish" not in {n.op_type for n in m.graph}
        out = session(proto(m)).run(None, {"x": x})[0]
        assert np.allclose(out, x / (1 + np.exp(-alpha * x)), atol=1e-6)


@pytest.mark.parametrize(
    ("op", "then", "now", "same"),
    [
        ("Cast", 24, 28, True),  # more dtypes
        ("CastLike", 24, 28, True),
        ("Softmax", 11, 13, False),  # another default axis
        ("ReduceSum", 11, 13, False),  # axes became an input
        ("Squeeze", 11, 13, False),
    ],
)
def test_newer_forms_of_an_operator(op: str, then: int, now: int, same: bool) -> None:
    """A body written for one opset may stand in a model of another only where its operators mean the same there."""
    node = onnx.helper.make_node(op, ["x"], ["y"], **({"axes": [0]} if op in ("ReduceSum", "Squeeze") else {}))
    assert decompose._compatible(node, *(ir.schema_of(op, "", v) for v in (then, now))) is same


@pytest.mark.parametrize(("op", "moves"), [("Relu", True), ("Softmax", False)])
def test_a_body_moves_to_another_opset_only_with_its_meaning(op: str, moves: bool) -> None:
    text = f'<domain: "d", opset_import: ["": 11]> f (x) => (y) {{ y = {op} (x) }}'
    function = onnx.parser.parse_function(text)
    assert decompose._moved(function, 13, strict=False) is moves
    assert not decompose._moved(
        onnx.parser.parse_function(text.replace("11", "12").replace(op, "Cast <to = 1>")), 13, True
    )
    if moves:
        assert [(o.domain, o.version) for o in function.opset_import] == [("", 13)]


def _cases() -> Iterator[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases compute overflows on purpose
        yield from collect_testcases(None)


def _opens(data: bytes) -> str | None:
    try:
        session(data, options=PLAIN)
    except Exception as error:
        return str(error)
    return None


def test_forecast_and_lowering_on_every_node_test() -> None:
    """What the table says of a model is what ONNX Runtime does with it, and a lowered model gives the same numbers."""
    wrong, gained, lowered, seen = [], [], 0, 0
    for case in _cases():
        seen += 1
        typed = onnx.shape_inference.infer_shapes(case.model)
        m = onnx_ir.from_proto(typed)
        problems = TARGET.check(m)
        refusal = _opens(case.model.SerializeToString())
        if refusal is not None and "Failed to construct locale" in refusal:
            continue  # the machine lacks en_US.UTF-8: no matter of operators
        if (refusal is None) != (not problems):
            wrong.append((case.name, refusal, problems[:1]))
        m = onnx_ir.from_proto(typed)
        try:
            changes = TARGET.lower(m, Context())
        except Unsupported:
            if refusal is None:
                wrong.append((case.name, "lowering refuses what runs", []))
            continue
        if not changes:
            continue
        lowered += 1
        opened = session(proto(m), options=PLAIN)
        if refusal is not None:
            gained.append(case.name)
            continue
        if "bernoulli" in case.name or "training_dropout" in case.name:
            continue  # random
        names = [i.name for i in opened.get_inputs()]
        original = session(case.model.SerializeToString(), options=PLAIN)
        for given, _ in case.data_sets or ():
            feed = {n: v for n, v in zip(names, given, strict=False) if v is not None}
            if all(isinstance(v, np.ndarray) for v in feed.values()):
                for found in numerics.compare(run(original, feed), run(opened, feed)):
                    assert found.within(1e-5 if found.dtype == "float32" else None), (case.name, found)
    assert wrong == []
    assert seen > 1500
    assert lowered > 300
    # Bodies within bodies, which ONNX Runtime does not expand by itself.
    assert "test_swiglu" in gained
