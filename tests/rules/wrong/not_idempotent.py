"""Wraps its result once more on every run."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT)
class NotIdempotent:
    """Relu of a value is the larger of it and Relu of it, once in a run."""

    def pattern(op, x):
        return op.Relu(x)

    def unless(m):
        return "it was done" if "olc.rule" in m.root.metadata_props and m.root.graph.name == "done" else None

    def rewrite(op, m):
        graph = m.root.graph
        graph.name = "done"
        return op.Relu(op.Identity(m.x))

    cases = [Case("a vector", x=f32["N"])]
