"""Every model that ships in onnx's own backend tests says the same after load and save."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
from olc import storage

from tests.proto_tools import difference, normal


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    from onnx.backend.test.case import model as model_cases
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases compute infinities on purpose
        found = list(collect_testcases(None))
        for module in pkgutil.iter_modules(model_cases.__path__):
            importlib.import_module(f"{model_cases.__name__}.{module.name}")
        found += model_cases.collect_testcases()
    return [c for c in found if c.model is not None]


def test_all_cases_are_there(cases: list[Any]) -> None:
    assert len(cases) > 1_850
    assert {c.kind for c in cases} >= {"node", "simple"}


def test_every_case_round_trips(cases: list[Any]) -> None:
    wrong = {}
    for case in cases:
        before = case.model.SerializeToString(deterministic=True)
        saved = storage.to_bytes(storage.load_proto(case.model))
        assert case.model.SerializeToString(deterministic=True) == before, f"{case.name}: the caller's proto changed"
        said = difference(normal(case.model), normal(onnx.ModelProto.FromString(saved)))
        if said:
            wrong[case.name] = said
        elif storage.to_bytes(storage.load_bytes(saved)) != saved:
            wrong[case.name] = "saving twice gives other bytes"
    assert not wrong, "\n".join(f"{name}\n{said}" for name, said in list(wrong.items())[:5])


def test_every_file_round_trips() -> None:
    """The models that onnx ships as files: classifiers without weights, and what PyTorch and Caffe2 once exported."""
    files = sorted((Path(onnx.__file__).parent / "backend").rglob("*.onnx"))
    assert len(files) > 100
    wrong = {}
    for path in files:
        saved = storage.to_bytes(storage.load(path))
        said = difference(normal(onnx.load(path)), normal(onnx.ModelProto.FromString(saved)))
        if said:
            wrong[path.name] = said
    assert not wrong, "\n".join(f"{name}\n{said}" for name, said in list(wrong.items())[:5])
