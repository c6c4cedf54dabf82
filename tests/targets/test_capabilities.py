"""The capability table as data: which kernel covers which opset and dtypes, and its JSON."""

from __future__ import annotations

import itertools

import pytest
from olc.targets.capabilities import (
    CAST,
    NO,
    YES,
    Kernel,
    Parameter,
    Signature,
    Table,
    from_json,
    merge,
    to_json,
)

T = Parameter("X", "T")


def table() -> Table:
    forms = (Signature(1, (T,), (T,)), Signature(6, (T,), (T,)), Signature(13, (T,), (T,)), Signature(20, (T,), (T,)))
    kernels = (Kernel(6, 12, {"T": frozenset({"float"})}), Kernel(13, None, {"T": frozenset({"float", "double"})}))
    gone = (Signature(1, (T,), (T,)), Signature(10, (T,), (T,), deprecated=True))
    return Table(
        "runtime", "1.0", "CPU", 10,
        {("", "Op"): forms, ("", "Gone"): gone, ("own", "Extra"): (
            Signature(1, (T, Parameter("Y", "tensor", "optional"), Parameter("Z", "T", "many")), (T,),
                      {"axis": ("INT", False, -1), "mode": ("STRING", True, None)}),)},
        {("", "Op"): kernels, ("", "Gone"): (Kernel(1, None, {"T": frozenset({"float"})}),)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "how"),
    [
        (5, NO),  # the form of opset 1 has no kernel
        (6, YES),
        (12, YES),  # still the form of 6
        (13, YES),
        (19, YES),  # still the form of 13
        (20, NO),  # a new form: the open-ended kernel of 13 does not claim to know it
    ],
)
def test_opset_ranges(version: int, how: str) -> None:
    assert table().supports("Op", "", version, {"T": "float"}).how == how


def test_dtypes() -> None:
    t = table()
    assert t.supports("Op", "", 13, {"T": "double"}).how == YES
    refused = t.supports("Op", "", 12, {"T": "double"})
    assert refused.how == NO
    assert "double for T" in refused.reason
    assert "it has float" in refused.reason
    assert t.supports("Op", "", 13, {}).how == YES  # an unknown dtype is not held against it
    assert t.supports("Op", "", 13, {"T": "float16"}).how == CAST
    assert t.supports("Op", "", 13, {"T": "bfloat16"}).how == NO


@pytest.mark.parametrize(
    ("op", "domain", "version", "reason"),
    [
        ("Op", "elsewhere", 1, "knows no domain 'elsewhere'"),
        ("Nonsense", "", 13, "knows no operator Nonsense"),
        ("Gone", "", 12, "withdrawn since opset 10"),
        ("Extra", "own", 1, "has no kernel of own.Extra"),
        ("Op", "", 20, "as of opset 20 (it has versions 6 to 12, 13)"),
    ],
)
def test_reasons(op: str, domain: str, version: int, reason: str) -> None:
    found = table().supports(op, domain, version)
    assert not found
    assert reason in found.reason


def test_json_keeps_everything() -> None:
    t = table()
    text = to_json(t)
    back = from_json(text)
    assert back == t
    assert to_json(back) == text


def test_merging_changes_no_answer() -> None:
    kernels = [
        Kernel(1, 5, {"T": frozenset({a}), "I": frozenset({b})})
        for a, b in [
            ("float", "int32"),
            ("float", "int64"),
            ("double", "int32"),
            ("double", "int64"),
            ("half", "int32"),
        ]
    ]
    merged = merge(kernels)
    assert len(merged) == 2
    for a, b in itertools.product(("float", "double", "half", "bool"), ("int32", "int64", "bool")):
        dtypes = {"T": a, "I": b}
        before = any(k.refuses(dtypes) is None for k in kernels)
        assert any(k.refuses(dtypes) is None for k in merged) is before, dtypes
