"""Compiling several models: one after the other, or in processes side by side that take turns to measure."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cache
from .driver import compile
from .errors import OlcError
from .evaluation import turns
from .files import temporary_files_as_watched
from .report import Report
from .settings import Settings

Say = Callable[[str], None]
Found = tuple[int, Report | OlcError]


@dataclass(frozen=True)
class Unit:
    """One compile as a plain value that another process, or another machine, can carry out."""

    source: str
    output: str
    settings: Settings


def run(units: Sequence[Unit], workers: int = 1, say: Say = lambda text: None) -> Iterator[Found]:
    """The number of each unit with its report or what went wrong, as they are done: one that fails stops no other."""
    # To read an answer from the cache takes less time than a process to begin.
    here = [n for n, unit in enumerate(units) if workers == 1 or len(units) == 1 or _is_kept(unit)]
    for n in here:
        yield n, _one(units[n], lambda text, n=n: say(_said(units, n, text)))  # type: ignore[misc]
    numbers = [n for n in range(len(units)) if n not in here]
    if not numbers:
        return
    done = set()
    for n, found in _side_by_side(units, numbers, workers, say):
        done.add(n)
        yield n, found
    # One of them took its process with it, and the pool: the rest again, each in a process of its own, to see which.
    for n in [n for n in numbers if n not in done]:
        lost = OlcError("the process that compiled it was killed or crashed", where=units[n].source,
                        hint="it may have run out of memory: try fewer --workers")  # fmt: skip
        yield next(iter(_side_by_side(units, [n], 1, say)), (n, lost))


def _is_kept(unit: Unit) -> bool:
    entry = cache.entry(unit.source, Path(unit.output), unit.settings) if unit.settings.cache == "on" else None
    return entry is not None and entry.path.is_file()


def _said(units: Sequence[Unit], number: int, text: str) -> str:
    return f"[{number + 1}/{len(units)}] {units[number].source}: {text}" if len(units) > 1 else text


def _one(unit: Unit, say: Say) -> Report | OlcError:
    try:
        return compile(unit.source, unit.output, unit.settings, say=say)
    except OlcError as e:
        return e
    except Exception as e:  # a fault in olc, which is said as such; the other models are none the worse for it
        return OlcError(f"{type(e).__name__}: {e}", where=unit.source,
                        hint="this is a fault in olc: run olc compile --debug on the model and report that")  # fmt: skip


# ------------------------------------------------------------------------------------------------------- processes


def _side_by_side(units: Sequence[Unit], numbers: Sequence[int], workers: int, say: Say) -> Iterator[Found]:
    """Those units in ``workers`` processes; ends early where a process dies."""
    context = multiprocessing.get_context("spawn")  # the runtime's threads do not survive a fork
    said = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(said, units, say), daemon=True)
    listener.start()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(numbers)), context, _enter, (turns.Turns(context, workers), said))
    try:
        futures = {pool.submit(_work, n, units[n]): n for n in numbers}
        for future in as_completed(futures):
            try:
                found = future.result()
            except BrokenProcessPool:
                break
            yield futures[future], found
    except BaseException:  # interrupted: the workers clean up behind themselves before this process goes on
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        said.put(None)
        listener.join()


def _listen(said: Any, units: Sequence[Unit], say: Say) -> None:
    while (item := said.get()) is not None:
        say(_said(units, *item))


_place: turns.Turns
_queue: Any
_ending = False


def _enter(place: turns.Turns, said: Any) -> None:
    """A worker begins. The terminal's interrupt is for the parent, which then ends its workers."""
    global _place, _queue
    _place, _queue = place, said
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    temporary_files_as_watched()
    turns.join(place)


AGAIN_S = 10.0
"""Seconds after which a worker that was told to end and goes on is told again; to clean up takes less."""


def _leave(number: int, frame: Any) -> None:
    global _ending
    _ending = True
    # Where the interpreter is within a callback of its own (a weak reference's, say) what a handler raises is lost.
    sys.unraisablehook = lambda lost: None
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _leave)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    raise SystemExit(130)


def _work(number: int, unit: Unit) -> Report | OlcError:
    if _ending:  # the pool goes on to what it had handed out before, which nobody can call back
        os._exit(130)
    try:
        with _place.working():
            return _one(unit, lambda text: _queue.put((number, text)))
    except SystemExit:
        # Everything below has cleaned up. The pool would take this for a result and wait for the next unit, and from Python
        # 3.12 on, where a broken pool sends its workers nothing more, for ever.
        os._exit(130)
