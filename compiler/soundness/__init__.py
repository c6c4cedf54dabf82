"""The harness that every rule passes: its cases fire, its refusals refuse, and what it writes is right.

``check_rule(rule)`` builds each case from the rule's own pattern, perturbs it in ways that its author may not have
thought of, rewrites it, and compares results with an oracle that is not the runtime under test. See ``checks.py`` for
what is checked, ``draws.py`` and ``mutants.py`` for on what.
"""

from __future__ import annotations

from .checks import Finding, check_rule

__all__ = ["Finding", "check_rule"]
