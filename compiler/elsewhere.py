"""What a report says where a model was compiled for what this machine is not."""

from __future__ import annotations

from .settings import Settings
from .strategy.layers import ESTIMATES
from .strategy.plan import Plan
from .strategy.quantize import SMALLER, SUMMED_IN_16_BITS
from .targets import Target, features


def notes(settings: Settings, target: Target, plan: Plan | None) -> list[str]:
    """A line on who decided, and on what the comparison of outputs leaves open."""
    faster = [] if plan is None else [c for (rule, _), c in plan.sites.items() if c.keep and rule not in SMALLER]
    gains = [] if plan is None else [1.0, *(c.gain for c in faster if c.gain is not None)]
    speed = f"; what is rounded is predicted to make it {gains[-1]:.2f} times as fast" if gains else ""
    if settings.machine is None:
        peak = f", by {target.kernels().cpu['model']}" if gains else ""
        return [f"{target.name} is not on this machine: the CPU computed the outputs, and nothing was timed{speed}{peak}"]
    cpu = target.features().get("model", target.kernels().cpu.get("model", "unknown"))
    found = [f"compiled for another machine ({cpu}) by its table {settings.machine}: nothing was timed here{speed}"]
    known = {row.operator for row in target.kernels().rows}
    if plan is not None and not settings.exact and not known & ESTIMATES.keys():
        found.append("that table has nothing on rounding, so none seems to pay: run olc targets measure again there")
    saturates = features.detect().int8_saturates and not target.features()["int8_saturates"]
    if plan is not None and saturates and any(rule in SUMMED_IN_16_BITS for rule, _ in plan.kept()):
        found.append("the outputs were compared on this CPU, whose kernels saturate at 8 bits: there they are closer")
    return found
