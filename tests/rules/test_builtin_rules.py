"""Every rule that an installation has holds: its cases, refusals, soundness, idempotence, termination."""

from __future__ import annotations

import pytest
from olc.rules import Rule, registry
from olc.soundness import check_rule

RULES = list(registry())
ROUNDS = 2
"""Fewer than `olc rules test` draws, for CI's time; `make fuzz` draws 200."""


@pytest.mark.parametrize("r", RULES, ids=lambda r: r.name)
def test_rule_holds(r: Rule) -> None:
    errors = [f for f in check_rule(r, RULES, rounds=ROUNDS) if f.severity == "error"]
    assert not errors, "\n\n".join(map(str, errors))


def test_there_are_rules() -> None:
    assert len(RULES) > 50
