"""What a rule says of itself: why it is sound, and cases for what it does and refuses."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterator

from ..rules import Refused, Rule

_SHORTEST = 8
"""Words that a docstring needs to say what the rule does and why that is sound."""


def problems(r: Rule, reasons: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """What is missing in the declaration: aspect, message, severity.

    Args:
        reasons: those that the rule gave on its cases.
    """
    if r.safety.level != "LOSSY" and not r.safety.why and len(r.doc.split()) < _SHORTEST:
        yield "docstring", "the docstring is too short to say why the rule is sound", "error"
    if not any(c.fires for c in r.cases):
        yield "cases", "the rule has no case", "error"
    if r.unless.__name__ == "_never":
        return
    if not any(isinstance(c, Refused) for c in r.cases):
        yield "refused", "the rule has unless, but no Refused case", "error"
    idle = [text for text in _given(r) if not any(text in seen for seen in reasons)]
    if idle:
        yield "reasons", f"no case gets the reason {idle[0]!r}", "warning"


def _given(rule: Rule) -> list[str]:
    """The reasons that ``unless`` gives as plain texts, read from its source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(rule.unless)))
    except (OSError, SyntaxError):  # defined in a console: there is no source to read
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            found += [c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
    return [text for text in found if len(text) > 8]
