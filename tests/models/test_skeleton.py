"""Packing takes weights out and filling puts them back, byte for byte; what cannot be restored is refused by name."""

from __future__ import annotations

import json
import lzma

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import ModelsError, skeleton
from models.exporters import pack

random = np.random.default_rng(7)
SOURCE = {
    "linear": random.standard_normal((32, 48)).astype(np.float32),
    "half": random.standard_normal((40, 24)).astype(np.float16),
    "stacked": random.standard_normal((96, 16)).astype(np.float32),
}
STACKED = SOURCE["stacked"][32:64].T


def thirds(source):
    yield from pack.plain_candidates(source)
    for part in range(3):
        origin = {"from": ["stacked"], "steps": [["rows", 32 * part, 32 * part + 32]]}
        yield from pack.with_transposes(origin, (32, 16))


def tensor(name, array):
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def sample() -> onnx.ModelProto:
    """Weights as initializers, in a Constant node, in an If branch and in a function; one twice; one small."""

    def branch(name, array):
        constant = helper.make_node("Constant", [], [f"{name}_out"], value=tensor(f"{name}_value", array))
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([constant], name, [], [output])

    constant = helper.make_node("Constant", [], ["c"], value=tensor("", STACKED))
    nodes = [
        constant,
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node(
            "If", ["flag"], ["z"], then_branch=branch("t", SOURCE["linear"]), else_branch=branch("e", [1.5])
        ),
        helper.make_node("Local", [], ["l"], domain="here"),
    ]
    body = [helper.make_node("Constant", [], ["o"], value=tensor("", SOURCE["half"].astype(np.float32)))]
    function = helper.make_function("here", "Local", [], ["o"], body, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        nodes,
        "sample",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [tensor("w", SOURCE["linear"].T), tensor("again", SOURCE["linear"].T), tensor("small", np.arange(5.0))],
    )
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("here", 1)],
    )
    model.metadata_props.add(key="kept", value="yes")
    return model


def test_round_trip_is_exact_everywhere(tmp_path):
    model = sample()
    path = tmp_path / "sample.onnx.xz"
    pack.pack_and_prove(path, model, SOURCE, thirds)
    bare, index = skeleton.read(path)
    empty = [t.name for t in skeleton.walk(bare) if not t.raw_data]
    assert len(empty) == len(index["origins"]) == 5
    assert [p.key for p in bare.metadata_props] == ["kept"]
    assert skeleton.fill(path, SOURCE).SerializeToString() == model.SerializeToString()
    assert path.stat().st_size < 1500


def test_same_model_gives_the_same_skeleton_bytes(tmp_path):
    for name in ("a", "b"):
        pack.write(tmp_path / name, pack.pack(sample(), SOURCE, thirds))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weight_without_an_origin_is_refused_by_name():
    model = sample()
    model.graph.initializer.append(tensor("stranger", random.standard_normal((99, 99)).astype(np.float32)))
    with pytest.raises(SystemExit, match=r"stranger \[99, 99\]"):
        pack.pack(model, SOURCE, thirds)


def test_compressible_weight_without_an_origin_stays_inside():
    model = sample()
    model.graph.initializer.append(tensor("positions", np.arange(512)[None]))
    slim = pack.pack(model, SOURCE, thirds)
    (kept,) = [t for t in slim.graph.initializer if t.name == "positions"]
    assert kept.raw_data == model.graph.initializer[-1].raw_data


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "sample.onnx.xz"
    pack.pack_and_prove(path, sample(), SOURCE, thirds)
    return path


def test_changed_weights_are_noticed(packed):
    with pytest.raises(ModelsError, match="differ from those exported"):
        skeleton.fill(packed, {**SOURCE, "linear": SOURCE["linear"] + 1})


def test_missing_weight_is_named(packed):
    with pytest.raises(ModelsError, match="holds no tensor 'stacked'"):
        skeleton.fill(packed, {name: array for name, array in SOURCE.items() if name != "stacked"})


def test_weight_of_another_size_is_named(packed):
    with pytest.raises(ModelsError, match=r"'w'.*float32\[48, 31\].*\[48, 32\]"):
        skeleton.fill(packed, {**SOURCE, "linear": SOURCE["linear"][:31]})


@pytest.mark.parametrize("damage", ["empty", "truncated", "no-index", "newer"])
def test_damaged_skeleton_is_refused(packed, damage):
    whole = packed.read_bytes()
    model = onnx.ModelProto.FromString(lzma.decompress(whole))
    if damage == "no-index":
        del model.metadata_props[:]
    (entry,) = [p for p in model.metadata_props if p.key == skeleton.KEY] or [None]
    if damage == "newer":
        entry.value = json.dumps({**json.loads(entry.value), "format": 99})
    changed = lzma.compress(model.SerializeToString())
    packed.write_bytes({"empty": b"", "truncated": whole[:-50]}.get(damage, changed))
    with pytest.raises(ModelsError, match=str(packed.name)):
        skeleton.fill(packed, SOURCE)


def test_absent_skeleton_says_how_to_make_it(tmp_path):
    with pytest.raises(ModelsError, match="models export"):
        skeleton.fill(tmp_path / "none.onnx.xz", SOURCE)


def test_unpair_undoes_interleaving():
    heads, size, width = 3, 8, 5
    halves = random.standard_normal((heads * size, width)).astype(np.float32)
    pairs = halves.reshape(heads, 2, size // 2, width).swapaxes(1, 2).reshape(halves.shape)
    origin = {"from": ["w"], "steps": [["unpair", heads]]}
    np.testing.assert_array_equal(skeleton.evaluate(origin, {"w": pairs}), halves)


def test_batchnorm_steps_fold_the_normalization():
    weight = random.standard_normal((4, 3, 1, 1)).astype(np.float32)
    gamma, beta, mean = (random.standard_normal(4).astype(np.float32) for _ in range(3))
    var = random.random(4).astype(np.float32)
    source = {"w": weight, "g": gamma, "b": beta, "m": mean, "v": var}

    def fold(step, ulps):
        return skeleton.evaluate({"from": list("wgbmv"), "steps": [[step, 1e-3, ulps]]}, source)

    x = random.standard_normal((10, 3)).astype(np.float32)
    wanted = (x @ weight[:, :, 0, 0].T - mean) / np.sqrt(var + 1e-3) * gamma + beta
    found = x @ fold("batchnorm_weight", "====")[:, :, 0, 0].T + fold("batchnorm_bias", "====")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    exact, nudged = fold("batchnorm_bias", "===="), fold("batchnorm_bias", "=+-=")
    assert (exact == nudged).tolist()[0] is True
    assert exact.dtype == nudged.dtype == np.float32
    np.testing.assert_allclose(exact, nudged, rtol=1e-5)
