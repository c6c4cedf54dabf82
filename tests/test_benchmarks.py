"""Benchmarks of memory and growth are run, small, so that they are not found broken when their numbers are wanted."""

from __future__ import annotations

import pytest

from benchmarks import calibration, chain


def test_memory_of_calibrating(capsys: pytest.CaptureFixture[str]) -> None:
    calibration.calibrate(2)
    assert float(capsys.readouterr().out) > 1


def test_growth_with_the_number_of_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    chain.one(200)
    nodes, _, left, _ = capsys.readouterr().out.split()
    assert int(nodes) >= 200 > int(left)
