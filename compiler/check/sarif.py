"""The check as SARIF 2.1.0: budgets that failed, parts without a kernel, fusions that were missed, each at its node."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..errors import Unsupported
from .gate import Outcome, Result

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_RULES = {
    "latency": "The artifact takes longer than its budget",
    "size": "The artifact is larger than its budget",
    "memory": "The artifact needs more memory than its budget",
    "load": "The artifact takes longer to load than its budget",
    "accuracy": "The artifact's outputs lie farther from the source's than its budget",
    "unsupported": "The target has no kernel for a part of the model",
    "fusions": "Fewer blocks fused than expected",
    "operators": "The artifact holds an operator or a domain that is not allowed",
    "opset": "The artifact's opset is outside the allowed range",
    "missed-fusion": "A block that looks like a known one was not fused",
    "not-judged": "A budget could not be judged",
    "failed": "The model could not be compiled",
}
_IDS = tuple(_RULES)
MOST = 20_000
"""Results that are written: code scanning refuses a run of more than 25,000. The JSON holds them all."""


def sarif(result: Result) -> str:
    """The log as JSON."""
    found = list(islice((r for o in result.outcomes for r in _results(o)), MOST))
    failed = any(o.error is not None and not isinstance(o.error, Unsupported) for o in result.outcomes)
    driver = {
        "name": "olc", "version": __version__, "rules": [{"id": i, "shortDescription": {"text": t}} for i, t in _RULES.items()],
    }  # fmt: skip
    run = {
        "tool": {"driver": driver}, "results": found,
        "invocations": [{"executionSuccessful": not failed, "exitCode": result.code}],
    }  # fmt: skip
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _results(o: Outcome) -> Iterator[dict[str, Any]]:
    if o.error is not None and not isinstance(o.error, Unsupported):
        yield _result(o, "failed", "error", str(o.error))
    said = set()
    for v in o.failed:
        for s in v.sites:
            yield _result(o, v.kind, "error", s.text, s.node, v.limit)
            said.add(s.node)
        if not v.sites:
            yield _result(o, v.kind, "error", v.text, about=v.limit)
    for v in o.unjudged:
        yield _result(o, "not-judged", "warning", v.text, about=f"{v.kind}: {v.limit}")
    for f in o.report.fusions if o.report is not None else ():
        for m in f["missed"]:
            if m["site"] not in said:
                rule = f"{m['rule']}: " if m["rule"] else ""
                yield _result(o, "missed-fusion", "note", f"{f['kind']}: {rule}{m['reason']}", m["site"])


def _result(o: Outcome, rule: str, level: str, text: str, node: str = "", about: str = "") -> dict[str, Any]:
    # From the current folder, which CI has at the repository's root; olc.toml may lie deeper.
    path = {"uri": quote(os.fsencode(os.path.relpath(o.job.path).replace(os.sep, "/"))), "uriBaseId": "%SRCROOT%"}
    where: dict[str, Any] = {"physicalLocation": {"artifactLocation": path}}
    if node:
        where["logicalLocations"] = [{"name": node, "fullyQualifiedName": f"{o.job.model}::{node}", "kind": "element"}]
    head = f"{o.job.name}, {node}: " if node else f"{o.job.name}: "
    same = sha256(json.dumps([rule, o.job.name, node, about]).encode()).hexdigest()
    return {
        "ruleId": rule, "ruleIndex": _IDS.index(rule), "level": level, "message": {"text": head + text}, "locations": [where],
        "partialFingerprints": {"olc/v1": same},
    }  # fmt: skip
