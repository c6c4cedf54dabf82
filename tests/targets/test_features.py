"""CPU features and processor counts, read from the texts that systems give."""

from __future__ import annotations

import pytest
from olc.targets import features

X86 = """processor\t: 0
model name\t: Some CPU
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 avx512f avx512_vnni made_up

processor\t: 1
model name\t: Some CPU
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 avx512f avx512_vnni made_up

processor\t: 2
physical id\t: 1
core id\t\t: 0
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\nCPU part\t: 0xd40\n"


def test_x86() -> None:
    flags, model, physical = features.parse_cpuinfo(X86)
    assert features.ordered(flags) == ("avx2", "avx512f", "avx512_vnni")
    assert model == "Some CPU"
    # Threads 0 and 1 share a core; thread 2 is on the other socket.
    assert physical == 2


def test_arm() -> None:
    flags, model, physical = features.parse_cpuinfo(ARM)
    assert features.ordered(flags) == ("asimd", "asimddp", "i8mm", "bf16")
    assert (model, physical) == ("unknown", None)


@pytest.mark.parametrize(
    ("flags", "dot"),
    [(("avx2",), False), (("avx2", "avx_vnni"), True), (("asimd",), False), (("asimd", "asimddp"), True)],
)
def test_int8_dot(flags: tuple[str, ...], dot: bool) -> None:
    found = features.Features("any", "any", flags, 1, 1)
    assert found.int8_dot is dot
    assert found.has(*flags)
    assert not found.has("amx_bf16")


@pytest.mark.parametrize(
    ("text", "granted"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", None), (None, None), ("", None)],
)
def test_container_quota(text: str | None, granted: int | None) -> None:
    assert features.parse_quota(text) == granted


def test_this_machine() -> None:
    found = features.detect()
    assert found.cores >= 1
    assert set(found.flags) <= set(features.MEANINGS)
    assert found.to_dict()["flags"] == list(found.flags)
