"""One value that holds everything a compile did and measured. JSON first; the terminal's text is made from it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import BadInput

SCHEMA = 1
"""Version of the JSON layout."""


@dataclass
class Report:
    """What ``model.olc.json`` holds. Every field is JSON-able as it stands.

    Attributes:
        source, artifact: path, sha256, bytes of the two files.
        versions: olc and the packages that the result depends on.
        target: name and hardware features.
        options: level and what else the user set.
        plan: text of the plan (TOML) at -O3, else "".
        trials: the comparisons that the plan rests on.
        layers: what LOSSY rules could round: rule, node, whether it was, why, its own error, its share of outliers.
        front: of the rounded models tried, those that no other is as good as in speed, error and size.
        rewrites: number, rule, site and detail of each rewrite in order; ``passes``: changes by other passes, counted.
        fusions: for each kind of block how many there are by structure, how many fused, and why each other did not.
        assumed: what rewrites took for granted, by name: how many did, and what it is.
        refused: how often each rule's pattern matched but it declined, with the reason.
        quarantined: rules that were taken out, and why.
        taken_back: what made the compile fail its own check and was left out: rule (or pass), node (None: everywhere), why.
        changes: the ``Diff`` between source and artifact.
        evaluation: numbers from running both, or None where the user asked for none.
        metrics: of each metric its name, whether more is better, the value of source and artifact, the drop and what of it
            was allowed.
        executed: operators that the runtime runs of ``source`` and ``artifact``, most time first, and those that it made
            itself of the artifact's (``by_runtime``).
        inputs: how the inputs that were run were made.
        session_options: how to open the artifact; ``olc.session`` reads them.
        notes: what a reader should know, a sentence each.
        seconds: where the compile's time went, by pass.
        cached: the report and its artifact were taken from the cache; no part of the JSON, which is that of the compile.
    """

    source: dict[str, Any]
    artifact: dict[str, Any]
    versions: dict[str, str]
    target: dict[str, Any]
    options: dict[str, Any]
    plan: str = ""
    trials: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    front: list[dict[str, Any]] = field(default_factory=list)
    rewrites: list[dict[str, Any]] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)
    fusions: list[dict[str, Any]] = field(default_factory=list)
    assumed: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    taken_back: list[dict[str, Any]] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    executed: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    session_options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    cached: bool = False

    def dumps(self) -> str:
        """The report as JSON, keys in a fixed order."""
        data = {"schema": SCHEMA, **asdict(self)}
        del data["cached"]
        data["seconds"] = {k: round(v, 4) for k, v in self.seconds.items()}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str) -> Report:
        """Read what ``dumps`` wrote.

        Raises:
            BadInput: it is not JSON, or no report, or one of another version.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise BadInput(f"the report is not JSON: {e}", hint="give the .olc.json that olc compile wrote") from e
        if not isinstance(data, dict) or "artifact" not in data:
            raise BadInput("this JSON is not a report", hint="give the .olc.json that olc compile wrote")
        if (schema := data.pop("schema", SCHEMA)) != SCHEMA:
            raise BadInput(f"the report has layout {schema!r}, this olc reads {SCHEMA}", hint="compile again")
        try:
            return cls(**data)
        except TypeError as e:
            raise BadInput(f"the report does not fit: {e}", hint="compile again with this version") from e

    def applied(self) -> Counter[str]:
        """How often each rule fired."""
        return Counter(r["rule"] for r in self.rewrites)
