"""A small report with something in every part, for tests of the forms that it is shown in."""

from __future__ import annotations

from typing import Any

from olc.report import Report

PLAN = """target = "onnxruntime-cpu"
level = 3
[groups.gelu]
keep = false
why = "slower"
gain = 0.9
"""


def report(hostile: str = "", **changes: Any) -> Report:
    """A report of a model with four blocks, of which the last was rewritten otherwise. ``hostile`` is put into every text
    that comes from a model or a rule."""
    x = hostile
    modules = [f"encoder.layer.{i}.attention{x}" for i in range(4)]
    side = {"median": 0.004, "low": 0.003, "high": 0.006, "cpu": 0.008}
    facts = {"path": "m.onnx", "bytes": 1000, "external_bytes": 0, "load_s": 0.1, "peak_bytes": 5000}
    output = {
        "name": f"y{x}", "dtype": "float32", "shape": [2, 3], "elements": 6, "mismatches": 6, "misplaced": 0, "max_abs": 0.1,
        "max_rel": 0.2, "cosine": 0.999, "cosine_min": 0.9985, "sqnr_db": 30.0, "top1": 0.5, "tolerance": 1e-3, "problem": None,
        "equal": False, "within": False,
    }  # fmt: skip
    values: dict[str, Any] = {
        "source": {"path": f"source{x}.onnx", "sha256": "ab" * 32, "bytes": 2_000_000},
        "artifact": {"path": f"made{x}.onnx", "sha256": "cd" * 32, "bytes": 1_000_000},
        "versions": {"olc": "0.1.0", "python": "3.11.0", "onnxruntime": "1.23.0"},
        "target": {"name": "onnxruntime-cpu", "model": f"a processor{x}", "flags": ["avx2", x]},
        "options": {"level": 3, "seed": 0, "data": None, "rules": [], "ranges": None, "skip": [x],
                    "accuracy": {"cosine": 0.99, "top1": 0.99}},
        "plan": PLAN,
        "trials": [
            _trial("group gelu", 0.9, None, False), _trial(f"all int8{x}", 2.5, 0.02, False, f"output 'y{x}' is off"),
            _trial("some int8", 2.0, 0.001, True), _trial("all int4", 1.5, 0.002, False),
        ],
        "layers": [
            {"rule": rule, "node": f"node{i}{x}", "module": m, "kept": rule == "int8-linear" and i != 3, "why": f"why{x}",
             "error": 0.001 * (i + 1), "outliers": 4.0 * (i + 1), "microseconds": [100.0, 40.0]}
            for rule in ("int8-linear", "int4-block-linear") for i, m in enumerate(modules)
        ],
        "front": [{"what": f"some int8{x}", "speed": 2.0, "error": 0.001}, {"what": "all int8", "speed": 2.5, "error": 0.02}],
        "rewrites": [
            {"number": i + 1, "rule": f"attention{x}", "site": f"node{i}{x}", "detail": f"MatMul{x} -> Attention", "module": m}
            for i, m in enumerate(modules)
        ] + [{"number": 5, "rule": "erf-gelu", "site": "g", "detail": "Erf -> Gelu", "module": ""}],
        "passes": {f"dce{x}": 3},
        "fusions": [{"kind": f"attention{x}", "expected": 5, "fused": 4,
                     "missed": [{"site": f"softmax{x}", "rule": f"attention{x}", "reason": f"its mask is odd{x}"}]}],
        "assumed": {f"finite-scores{x}": {"rewrites": 4, "what": f"scores are finite{x}"}},
        "refused": [{"rule": f"gelu{x}", "safety": "CLOSE", "operators": 3, "reason": f"not a constant{x}", "count": 2}],
        "quarantined": {f"bad-rule{x}": f"it raised{x}"},
        "changes": {
            "nodes": [40, 9], "parameters": [100, 90], "operators": {f"MatMul{x}": [9, 1]},
            "removed": [{"name": f"n{x}", "op": f"MatMul{x}", "module": m} for m in modules]
            + [{"name": "a", "op": "Add", "module": modules[3]}],
            "added": [{"name": "n", "op": "com.microsoft.Attention", "module": m} for m in modules],
        },
        "evaluation": {
            "a": facts, "b": {**facts, "bytes": 500, "peak_bytes": 4000}, "inputs": {}, "samples": 8,
            "within": False, "equal": False, "threads": None, "seed": 1, "verdict": "",
            "problems": [f"memory was not measured{x}"],
            "outputs": [output, {**output, "name": "broken", "problem": f"another shape{x}", "cosine_min": None}],
            "paired": {"ratio": 2.0, "low": 1.8, "high": 2.2, "cpu_ratio": 1.9, "verdict": "faster", "pairs": 50, "runs": 1,
                       "a": side, "b": {**side, "median": 0.002}, "seconds": 2.0, "seed": 1,
                       "text": "faster: 2.00 times the speed"},
        },
        "executed": {
            "source": [{"operator": f"MatMul{x}", "count": 9, "microseconds": 900.0}],
            "artifact": [{"operator": "Attention", "count": 4, "microseconds": 200.0}], "by_runtime": {f"BiasGelu{x}": 1},
        },
        "inputs": {"synthesised": False, "data": f"feeds{x}", "choosing": 4, "judging": 4},
        "session_options": {"optimization": "all", "threads": None},
        "notes": [f"a note{x}"],
        "seconds": {"rules": 0.5},
    }  # fmt: skip
    return Report(**{**values, **changes})


def _trial(what: str, ratio: float, error: float | None, kept: bool, why: str = "") -> dict[str, Any]:
    return {"what": what, "ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.1, "verdict": "faster", "kept": kept,
            "error": error, "why": why, "against": ""}  # fmt: skip
