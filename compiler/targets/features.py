"""What this machine's CPU can do, as far as it decides which kernels are fast: vector and matrix extensions, cores.

Linux reads /proc/cpuinfo, macOS asks sysctl, elsewhere numpy's own detection is used. Names are those of Linux.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

#: Linux flag -> what it means to an inference kernel. Only these are reported.
MEANINGS: dict[str, str] = {
    "avx2": "256-bit vectors",
    "fma": "fused multiply-add",
    "f16c": "float16 conversion",
    "avx_vnni": "int8 dot products, 256-bit",
    "avx512f": "512-bit vectors",
    "avx512_vnni": "int8 dot products, 512-bit",
    "avx512_bf16": "bfloat16 dot products",
    "avx512_fp16": "float16 arithmetic",
    "amx_int8": "int8 matrix tiles",
    "amx_bf16": "bfloat16 matrix tiles",
    "asimd": "128-bit vectors",
    "asimdhp": "float16 arithmetic",
    "asimddp": "int8 dot products",
    "i8mm": "int8 matrix multiply",
    "bf16": "bfloat16 dot products",
    "sve": "scalable vectors",
    "sve2": "scalable vectors, second version",
}

_MAC_NAMES = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.AdvSIMD": "asimd",
}

_NUMPY_NAMES = {
    "AVX2": "avx2",
    "FMA3": "fma",
    "F16C": "f16c",
    "AVX512F": "avx512f",
    "AVX512VNNI": "avx512_vnni",
    "AVX512BF16": "avx512_bf16",
    "AVX512FP16": "avx512_fp16",
    "ASIMD": "asimd",
    "ASIMDHP": "asimdhp",
    "ASIMDDP": "asimddp",
    "SVE": "sve",
}


@dataclass(frozen=True)
class Features:
    """One machine's CPU.

    Attributes:
        machine: architecture as the system calls it (``x86_64``, ``aarch64``, ``arm64``).
        model: the processor's name, or ``"unknown"``.
        flags: those of ``MEANINGS`` that the processor has, in the order of ``MEANINGS``.
        cores: logical processors that this process may use (affinity and container quota counted in).
        physical: physical cores among all of the machine's, or None where the system does not say.
    """

    machine: str
    model: str
    flags: tuple[str, ...]
    cores: int
    physical: int | None

    def has(self, *flags: str) -> bool:
        """True where every one of the flags is there."""
        return all(flag in self.flags for flag in flags)

    @property
    def int8_dot(self) -> bool:
        """True where int8 products are accumulated in one instruction: without it int8 rarely beats float32."""
        return any(f in self.flags for f in ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"))

    @property
    def int8_saturates(self) -> bool:
        """True where kernels add two products of uint8 and int8 in 16 bits, as on x86 without dot products of 8 bits."""
        return self.machine.lower() in ("x86_64", "amd64", "i386", "i686") and not self.int8_dot

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Features:
        """Of what ``to_dict`` gave; what is not there is unknown."""
        return cls(str(data.get("machine", "unknown")), str(data.get("model", "unknown")), ordered(data.get("flags", ())),
                   int(data.get("cores", 1)), data.get("physical"))  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"flags": list(self.flags)}


@lru_cache(maxsize=1)
def detect() -> Features:
    """The features of the machine that this process runs on."""
    system = platform.system()
    model, physical = platform.processor() or "unknown", None
    if system == "Linux" and Path("/proc/cpuinfo").exists():
        found, model, physical = parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
    elif system == "Darwin":
        found, model, physical = _sysctl()
    else:
        found = _numpy_flags()
    return Features(platform.machine(), model, ordered(found), cores(), physical)


def ordered(flags: Iterable[str]) -> tuple[str, ...]:
    """The known flags among those given, in the order of ``MEANINGS``."""
    known = set(flags)
    return tuple(flag for flag in MEANINGS if flag in known)


def parse_cpuinfo(text: str) -> tuple[set[str], str, int | None]:
    """Flags, model name and number of physical cores from the text of /proc/cpuinfo (x86 and Arm)."""
    flags: set[str] = set()
    model = "unknown"
    places: set[tuple[str, str]] = set()
    package = "0"
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("flags", "Features"):
            flags.update(value.split())
        elif key in ("model name", "Model", "Hardware") and model == "unknown":
            model = value
        elif key == "physical id":
            package = value
        elif key == "core id":
            places.add((package, value))
    return flags, model, len(places) or None


def _sysctl() -> tuple[set[str], str, int | None]:
    keys = [*_MAC_NAMES, "machdep.cpu.brand_string", "hw.physicalcpu"]
    answer = subprocess.run(["sysctl", *keys], capture_output=True, text=True, check=False, timeout=10)
    values = dict(line.split(": ", 1) for line in answer.stdout.splitlines() if ": " in line)
    flags = {flag for key, flag in _MAC_NAMES.items() if values.get(key) == "1"}
    physical = values.get("hw.physicalcpu", "")
    return flags, values.get("machdep.cpu.brand_string", "unknown"), int(physical) if physical.isdigit() else None


def _numpy_flags() -> set[str]:
    import importlib

    # Private, but the only portable detection at hand; without it no flag is reported.
    private = importlib.import_module("numpy._core._multiarray_umath")
    detected: dict[str, bool] = getattr(private, "__cpu_features__", {})
    return {flag for name, flag in _NUMPY_NAMES.items() if detected.get(name)}


def cores() -> int:
    """Logical processors that this process may use: affinity, and on Linux the container's CPU quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = parse_quota(_read("/sys/fs/cgroup/cpu.max"))
    return max(1, usable if quota is None else min(usable, quota))


def parse_quota(text: str | None) -> int | None:
    """Whole processors that a cgroup's ``cpu.max`` ("200000 100000") grants, rounded up; None without a limit."""
    parts = (text or "").split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or int(parts[1]) == 0:
        return None
    return max(1, -(-int(parts[0]) // int(parts[1])))


def _read(path: str) -> str | None:
    file = Path(path)
    return file.read_text() if file.is_file() and os.access(file, os.R_OK) else None
