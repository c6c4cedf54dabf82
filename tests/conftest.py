"""What holds for every test."""

from __future__ import annotations

import gc
import os

os.environ["OLC_CACHE"] = "off"  # no test answers, or is answered, from the cache of whoever runs it

import pytest
from olc import job
from olc.evaluation import evaluate
from olc.strategy import search

# Times are taken in tests, but none rests on how exact they are: what is to follow from a time is tested on given ones.
job.TIMED_S, evaluate.SWEEP_S, evaluate.LONG_LOAD_S = 0.1, 0.1, 0.0
search.PAIR_SECONDS, search.PAIR_LIMIT = 0.5, 4.0


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was collected and imported stays: no collection of garbage need look at it again."""
    gc.collect()
    gc.freeze()
