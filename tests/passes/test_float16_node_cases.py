"""ONNX's own test cases in float16: what the CPU makes of each, standing in for CUDA, is near what float32 gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.errors import OlcError
from olc.passes import Context, float16
from olc.session import run, session
from onnx.backend.test.case.node import collect_testcases

CUDA = targets.get("onnxruntime-cuda")
#: Cases whose numbers float16 does not hold, or holds apart no more: the sums of masks, 1e4 and more beside 1, products of 10!.
BEYOND = {
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal", "test_logsoftmax_large_number",
    "test_reduce_prod_default_axes_keepdims_example", "test_softmax_large_number",
}  # fmt: skip


def far(a: np.ndarray, b: np.ndarray) -> bool:
    """11 bits are a 2,000th; kernels sum some dozens of such."""
    if a.dtype != b.dtype or a.shape != b.shape or a.dtype.kind != "f":
        return a.dtype != b.dtype or a.shape != b.shape or not np.array_equal(a, b)
    ok = np.isfinite(a)
    if not np.array_equal(ok, np.isfinite(b)):
        return True
    largest = max(1e-3, float(np.abs(a[ok], dtype=np.float64).max(initial=0)))
    return float(np.abs(a[ok].astype(np.float64) - b[ok]).max(initial=0)) > 0.02 * largest


@pytest.mark.long
def test_cases_are_near(tmp_path: Path) -> None:
    wrong, near = set(), 0
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets:
            continue
        onnx.save(case.model, tmp_path / "source.onnx")
        try:
            m = storage.load(tmp_path / "source.onnx")
            source = session(tmp_path / "source.onnx")
            feed = {v.name: np.asarray(a) for v, a in zip(source.get_inputs(), case.data_sets[0][0], strict=False)}
            if not any(n.dtype == ir.DataType.FLOAT for n in m.graph.inputs):
                continue
            before = run(source, feed)
        except (OlcError, ValueError):  # what the reader refuses, the CPU does not run, or is no array
            continue
        if not float16.run(m, Context(target=CUDA), list(m.graph), CUDA):
            continue
        storage.save(m, tmp_path / "half.onnx")
        after = run(session(tmp_path / "half.onnx", providers=CUDA.providers), feed)
        if any(far(np.asarray(before[name]), np.asarray(after[name])) for name in before):
            wrong.add(case.name)
        near += 1
    assert wrong == BEYOND
    assert near > 400
