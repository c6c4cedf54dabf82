"""Whose turn it is to measure. Processes that compile side by side share the cores: one that times something runs alone,
while the others, which would take its cores, stand still.

A process on its own has nobody to wait for: then ``alone`` does nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from multiprocessing.context import BaseContext


class Turns:
    """Shared by the processes of one batch.

    Args:
        workers: how many processes may work at the same time.
    """

    def __init__(self, context: BaseContext, workers: int) -> None:
        self.workers = workers
        self._measuring = context.Lock()
        self._places = context.Semaphore(workers)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Hold one of the places: there is work to do that is not measured."""
        with self._places:
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within ``working``: hold all places. The own one is given up meanwhile, so that two who want all cannot block."""
        global _waited
        begin, taken = time.perf_counter(), 0
        self._places.release()
        try:
            with self._measuring:
                while taken < self.workers:
                    self._places.acquire()
                    taken += 1
                _waited += time.perf_counter() - begin
                yield
        finally:
            for _ in range(taken):
                self._places.release()
            begin = time.perf_counter()
            self._places.acquire()
            _waited += time.perf_counter() - begin


_turns: Turns | None = None
_waited = 0.0


def join(turns: Turns | None) -> None:
    """From now on this process takes turns with the others that joined; with None it is on its own again."""
    global _turns
    _turns = turns


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Run what is measured. Not to be nested."""
    if _turns is None:
        yield
        return
    with _turns.alone():
        yield


def clock() -> float:
    """Seconds like ``time.perf_counter``, without those spent waiting for a turn: for budgets of time."""
    return time.perf_counter() - _waited
