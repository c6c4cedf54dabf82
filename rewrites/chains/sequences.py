"""Sequences of tensors that are put together and taken apart again at once, as PyTorch's lists are exported."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, any_type, array, attr, dims, f32, i64, rule


@rule(group="chains", safety=EXACT, since=13)
class ConcatOfSequence:
    """Tensors that are put into a sequence and joined from there are joined.

    Sound because that is what joining a sequence does; along a new axis, each gets that axis first.
    """

    def pattern(op, parts: Many, axis, new):
        return op.ConcatFromSequence(op.shared(op.SequenceConstruct(*parts)), axis=axis, new_axis=new)

    def rewrite(op, m):
        parts = [op.Unsqueeze(p, np.array([m.axis])) for p in m.parts] if m.new else m.parts
        return op.Concat(*parts, axis=m.axis)

    cases = [
        Case("torch.cat", parts=[f32["N", 2], f32["N", 3]], axis=1, new=0),
        Case("torch.stack", parts=[f32["N", 2], f32["N", 2]], axis=-1, new=1),
        Case("one", parts=[i64["N"]], axis=0, new=0),
    ]


@rule(group="chains", safety=EXACT, since=11, keeps_shape=True)
class EntryOfSequence:
    """A tensor that is put into a sequence and taken out is that tensor. Sound because the place is a constant."""

    def pattern(op, parts: Many, i: Const):
        return op.SequenceAt(op.shared(op.SequenceConstruct(*parts)), i)

    def unless(m):
        m.place = int(array(m.i).reshape(-1)[0]) if array(m.i).size == 1 else len(m.parts)
        return None if -len(m.parts) <= m.place < len(m.parts) else "the sequence has no such entry"

    def rewrite(op, m):
        return m.parts[m.place]

    cases = [
        Case("second", parts=[f32["N"], f32["N", 2]], i=np.array(1)),
        Case("last", parts=[f32["N"], f32["N", 2]], i=np.array(-1)),
        Refused("beyond", parts=[f32["N"]], i=np.array(1), because="no such entry"),
    ]


@rule(group="chains", safety=EXACT, since=13)
class EntryOfSplit:
    """One of the parts that a tensor is split into is a Slice of it, or a Gather where the axis goes.

    Sound because parts of one size begin at multiples of it, and others where those before end; the last part ends with the
    tensor, as a Slice does. Where there is no such part the run would have failed.
    """

    def pattern(op, x: any_type, split: Const | None, i: Const, attrs: Attrs):
        return op.SequenceAt(op.shared(op.SplitToSequence(x, split, **attrs)), i)

    def unless(m):
        shape, node = dims(m.x), m.find("SplitToSequence")
        if shape is None or array(m.i).size != 1:
            return "the rank is not known"
        m.axis, place = attr(node, "axis", 0) % len(shape), int(array(m.i).reshape(-1)[0])
        held = None if m.split is None else array(m.split)
        sizes = [int(n) for n in held] if held is not None and held.ndim == 1 else None
        if sizes is not None and place < 0:
            place += len(sizes)
        if place < 0 or (sizes is not None and place >= len(sizes)):
            return "which part it is is not known"
        whole = attr(node, "keepdims", 1)
        if held is not None and held.ndim == 0 and not whole:
            return "runtimes do not agree on whether the axis goes"
        m.gone = held is None and not whole
        size = 1 if held is None else int(held.reshape(-1)[0]) if sizes is None else sizes[place]
        m.start = sum(sizes[:place]) if sizes is not None else place * size
        m.end = m.start + size
        return None

    def rewrite(op, m):
        if m.gone:
            return op.Gather(m.x, np.array(m.start), axis=m.axis)
        return op.Slice(m.x, np.array([m.start]), np.array([m.end]), np.array([m.axis]))

    cases = [
        Case("torch.unbind", x=f32["N", 3, 2], split=None, i=np.array(2), attrs={"axis": 1, "keepdims": 0}),
        Case("one each", x=f32["N", 3, 2], split=None, i=np.array(1), attrs={"axis": -2}),
        Case("torch.chunk", x=f32["N", 8], split=np.array(4), i=np.array(1), attrs={"axis": 1}),
        Case("the rest", x=f32["N", 7], split=np.array(4), i=np.array(1), attrs={"axis": 1}),
        Case("torch.split", x=f32["N", 7], split=np.array([2, 4, 1]), i=np.array(1), attrs={"axis": 1}),
        Case("from the end", x=f32["N", 7], split=np.array([2, 4, 1]), i=np.array(-1), attrs={"axis": 1}),
        Case("of sizes, whatever is said of the axis", x=f32["N", 7], split=np.array([2, 4, 1]), i=np.array(1),
             attrs={"axis": 1, "keepdims": 0}),
        Refused("one each, without the axis", x=f32[7, 2], split=np.array(1), i=np.array(0), attrs={"keepdims": 0},
                because="do not agree"),
        Refused("from the end of how many", x=f32[7, 2], split=np.array(4), i=np.array(-1), attrs={}, because="which part"),
    ]  # fmt: skip
