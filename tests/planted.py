"""Rules that are wrong, slow or otherwise planted, as files that ``--rules`` takes."""

from __future__ import annotations

from pathlib import Path

_TEXT = '''
import numpy as np
from olc import ir
from olc.analysis import shapes
from olc.patterns import Const
from olc.rules import CLOSE, LOSSY, Case, f32, rule

@rule(group="{group}", safety={safety}("planted"), since=13)
class {name}:
    """Planted."""

    def pattern({parameters}):
        return {pattern}

    def rewrite(op, m):
        {body}

    cases = [Case("plain", {case})]
'''


def cosine(folder: Path, body: str) -> Path:
    """``cos-of-neg``, a CLOSE rule from Cos(Neg(x)); ``body`` is that of its rewrite, right where it returns ``op.Cos(m.x)``."""
    return _write(folder, group="planted", safety="CLOSE", name="CosOfNeg", parameters="op, x", pattern="op.Cos(op.Neg(x))",
                  body=body, case='x=f32["N", 4]')  # fmt: skip


def times(alpha: float) -> str:
    """A linear layer's product so many times, as one FusedMatMul: an expression for ``linear``."""
    return f'op.domain("com.microsoft").FusedMatMul(m.x, m.w, alpha={alpha})'


def linear(folder: Path, made: str, safety: str = "LOSSY", group: str = "planted") -> Path:
    """``planted-linear``, which makes the expression of a linear layer."""
    return _write(folder, group=group, safety=safety, name="PlantedLinear", parameters="op, x, w: Const",
                  pattern="op.MatMul(x, w)", body=f"return {made}", case='x=f32["N", 4], w=f32[4, 4]')  # fmt: skip


def _write(folder: Path, **parts: str) -> Path:
    file = folder / "planted.py"
    file.write_text(_TEXT.format(**parts))
    return file
