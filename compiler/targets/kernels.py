"""What was measured of a runtime's fused operators: how many times faster than their parts, by size."""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import BadInput
from . import features

PAYS = 0.97
"""A fused operator below this fraction of its parts' speed does not pay; between it and 1 it is even, and one node less."""


@dataclass(frozen=True)
class Row:
    """One comparison: time of the parts over time of the operator, with its 95 % interval."""

    operator: str
    size: Mapping[str, int]
    ratio: float
    low: float
    high: float

    @property
    def where(self) -> str:
        """The size in words."""
        return where(self.size)


def where(size: Mapping[str, int]) -> str:
    """A size in words: ``rows 1, width 384``."""
    return ", ".join(f"{name} {value}" for name, value in size.items())


@dataclass(frozen=True)
class Kernels:
    """The table of one runtime on one machine.

    Attributes:
        cpu: features of the machine that it was measured on.
    """

    runtime: str
    version: str
    cpu: Mapping[str, Any]
    rows: tuple[Row, ...]

    def ratio(self, operator: str) -> float | None:
        """The worst ratio of all sizes measured; None where the operator was not measured."""
        return min((r.ratio for r in self.rows if r.operator == operator), default=None)

    def near(self, operator: str, size: Mapping[str, int]) -> float | None:
        """The ratio at the size measured that is nearest in the sum of the logarithms' distances; None for none."""
        rows = [r for r in self.rows if r.operator == operator]

        def distance(r: Row) -> float:
            return sum(abs(math.log(max(1, size[name]) / max(1, value))) for name, value in r.size.items() if name in size)

        return min(rows, key=distance).ratio if rows else None

    def pays(self, operator: str) -> bool:
        """Is the operator at least even with its parts? Yes where nothing is known."""
        found = self.ratio(operator)
        return found is None or found >= PAYS

    def dumps(self) -> str:
        rows = ",\n  ".join(json.dumps(asdict(r)) for r in self.rows)
        head = json.dumps({"runtime": self.runtime, "version": self.version, "cpu": dict(self.cpu)}, indent=1)
        return f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'


def loads(text: str) -> Kernels:
    """Read what ``dumps`` wrote."""
    data = json.loads(text)
    return Kernels(data["runtime"], data["version"], data["cpu"], tuple(Row(**r) for r in data["rows"]))


def read(path: str | Path) -> Kernels:
    """The table in a file.

    Raises:
        BadInput: there is none.
    """
    try:
        found = loads(Path(path).read_text(encoding="utf-8"))
        features.Features.from_dict(found.cpu)
        for row in found.rows:
            if not all(0 < float(r) < math.inf for r in (row.ratio, row.low, row.high)) or not isinstance(row.operator, str):
                raise ValueError(f"a ratio of {row.operator!r} is no number above 0")
            if not all(isinstance(size, int) and not isinstance(size, bool) for size in row.size.values()):
                raise ValueError(f"a size of {row.operator!r} is no whole number")
        return found
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as e:
        hint = "on the machine that it is to be of: olc targets measure -o FILE"
        raise BadInput(f"is no table of kernels: {e}", where=str(path), hint=hint) from e


def own_path(runtime: str, version: str) -> Path:
    """Where ``olc targets measure`` keeps the table of this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "olc" / f"kernels-{runtime}-{version}.json"


@lru_cache(maxsize=4)
def load(packaged: Path, runtime: str, version: str) -> Kernels:
    """This machine's own table where it was measured with that runtime, else of the packaged ones that of the nearest CPU.

    Args:
        packaged: ``NAME.kernels.json``; those of other CPUs lie beside it as ``NAME.CPU.kernels.json``. Near is by the number of
            features that one of the two has and the other has not; where several are as near, or none shares one, this one is it.
    """
    own = own_path(runtime, version)
    if own.is_file():
        return loads(own.read_text(encoding="utf-8"))
    name = packaged.name.removesuffix(".kernels.json")
    beside = sorted(packaged.parent.glob(f"{glob.escape(name)}.*.kernels.json"))
    here = set(features.detect().flags)
    tables = [loads(path.read_text(encoding="utf-8")) for path in (packaged, *beside)]
    near = [t for t in tables if here.intersection(t.cpu.get("flags", ()))] or tables[:1]
    return min(near, key=lambda t: len(here.symmetric_difference(t.cpu.get("flags", ()))))
