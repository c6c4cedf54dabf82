"""Damaged models, by the hundred: only BadInput comes out, and what loads means the same when saved."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from olc import frontend, storage
from olc.errors import BadInput
from onnx import TensorProto as T
from onnx import helper

from tests.bad_models import ADD_W, body, branchy, model_of, node, typed_weight, weight
from tests.proto_tools import everything, relu_chain


def attempt(raw: bytes, folder: str | None = None) -> tuple[Any, BadInput | None]:
    """The model, or the one kind of exception that may come out."""
    try:
        return storage.load_bytes(raw, where="fuzzed", folder=folder), None
    except BadInput as error:
        return None, error


MARK = b"\x7fQQ\x7f"


def test_text_that_is_not_utf8_is_refused_or_kept_as_it_is() -> None:
    """Every string field of every message in turn: protobuf hands such text out as bytes, which breaks naive code."""
    model = everything()
    places: list[tuple[Any, Any, int | None]] = []

    def collect(message: Any) -> None:
        for f, value in message.ListFields():
            if f.type == f.TYPE_STRING:
                places.extend((message, f, i) for i in (range(len(value)) if f.is_repeated else [None]))
            elif f.type == f.TYPE_MESSAGE:
                for part in value if f.is_repeated else [value]:
                    collect(part)

    collect(model)
    assert len(places) > 150
    kept = set()
    for message, field, index in places:
        if index is None:
            old = getattr(message, field.name)
            setattr(message, field.name, MARK.decode())
        else:
            old = getattr(message, field.name)[index]
            getattr(message, field.name)[index] = MARK.decode()
        raw = model.SerializeToString()
        broken = raw.replace(MARK, b"\xff\xfe\xfd\xfc")
        assert broken != raw
        loaded, error = attempt(broken)
        if loaded is None:
            assert error is not None
            assert error.where
        else:
            assert b"\xff\xfe\xfd\xfc" in storage.to_bytes(loaded)
            kept.add(message.DESCRIPTOR.name)
        if index is None:
            setattr(message, field.name, old)
        else:
            getattr(message, field.name)[index] = old
    # whole messages that are kept as protos: training info, value_info for names that nothing defines
    assert kept <= {"GraphProto", "StringStringEntryProto", "TypeProto", "Dimension", "TensorProto", "ValueInfoProto"}


def fuzzed(raw: bytes, rng: random.Random) -> bytes:
    data = bytearray(raw)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data))
        if kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 3:
            del data[at : at + rng.randrange(1, 9)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        if not data:
            break
    return bytes(data)


def fuzz_seeds() -> dict[str, bytes]:
    sparse = helper.make_sparse_tensor(weight(dims=[1], count=1), helper.make_tensor("", T.INT64, [1], [0]), [2])
    with_sparse = model_of(ADD_W)
    with_sparse.graph.sparse_initializer.append(sparse)
    return {
        "everything": everything().SerializeToString(),
        "if": branchy(body([node("Neg", ["x"], ["t"])], ["t"])).SerializeToString(),
        "raw weight": model_of(ADD_W, [typed_weight(data_type=1, dims=[2], raw_data=bytes(8))]).SerializeToString(),
        "sparse": with_sparse.SerializeToString(),
        "chain": relu_chain(3).SerializeToString(),
    }


@pytest.mark.parametrize("name", list(fuzz_seeds()))
def test_fuzzed_models_are_refused_or_loaded(name: str, tmp_path: Path) -> None:
    """Only OlcError comes out; what loads can be saved, and loads again as the same."""
    raw = fuzz_seeds()[name]
    rng = random.Random(name)
    outcome = {"refused": 0, "loaded": 0}
    for _ in range(3000):
        data = fuzzed(raw, rng)
        loaded, error = attempt(data, str(tmp_path))
        if loaded is None:
            assert len(str(error)) < 2000
            outcome["refused"] += 1
        else:
            outcome["loaded"] += 1
            saved = storage.to_bytes(loaded)
            assert storage.to_bytes(storage.load_bytes(saved)) == saved
    assert min(outcome.values()) > 20, outcome


def test_fuzzed_text_is_refused_or_loaded() -> None:
    text = onnx.printer.to_text(branchy(body([node("Neg", ["x"], ["t"])], ["t"])))
    rng = random.Random(3)
    for _ in range(300):
        data = fuzzed(text.encode(), rng).decode(errors="replace")
        try:
            frontend.load(data)
        except BadInput:
            continue
