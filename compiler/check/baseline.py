"""The baseline: what each model cost when it was recorded, as text in the user's repository.

Costs are ratios to the source, measured on one machine, so that another machine's can be set beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..files import write_text
from ..report import Report
from .budgets import costs

SCHEMA = 1


def record(report: Report) -> dict[str, Any]:
    """What is kept of a compile. Ratios that were not measured are left out."""
    found = costs(report)
    kept: dict[str, Any] = {"bytes": found.bytes}
    if found.latency is not None:
        kept["latency"] = [_short(x) for x in found.latency]
    for name in ("load", "memory"):
        ratio = getattr(found, name)
        if ratio is not None:
            kept[name] = _short(ratio)
    target, versions = report.target, report.versions
    kept["machine"] = f"{target['model']}, {target['cores']} cores, onnxruntime {versions['onnxruntime']}, olc {versions['olc']}"
    return kept


def _short(x: float) -> float:
    return float(f"{x:.4g}")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The records by name; none where there is no file.

    Raises:
        BadInput: the file is not a baseline.
    """
    hint = "restore it, or write it anew with olc check --update-baseline after deleting it"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"the baseline cannot be read: {e}", where=str(path), hint=hint) from e
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadInput(f"the baseline is not JSON: {e}", where=str(path), hint=hint) from e
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("models"), dict):
        raise BadInput(f"is not a baseline of schema {SCHEMA}", where=str(path), hint=hint)
    for name, kept in data["models"].items():
        if not isinstance(kept, dict) or not all(_sound(k, v) for k, v in kept.items()):
            raise BadInput(f"the record of {name!r} is malformed", where=str(path), hint=hint)
    models: dict[str, dict[str, Any]] = data["models"]
    return models


def _sound(key: str, value: Any) -> bool:
    if key == "machine":
        return isinstance(value, str)
    numbers = value if key == "latency" and isinstance(value, list) and len(value) == 3 else [value]
    return all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e300 for v in numbers) and (
        key != "latency" or len(numbers) == 3
    )


def write(path: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the records, sorted, a line each.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [f"  {json.dumps(name)}: {json.dumps(dict(models[name]), sort_keys=True)}" for name in sorted(models)]
    body = ",\n".join(rows)
    write_text(path, f'{{\n "schema": {SCHEMA},\n "models": {{\n{body}\n }}\n}}\n')
