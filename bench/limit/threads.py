"""CPU time of a server's threads, and the cores they may use. Linux only.

A server is a session of processes: one that speaks HTTP and runs the models too, or one of each.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bench.peers.process import processes_of

Thread: TypeAlias = tuple[int, int]
"""Ids of a thread's process and of the thread."""


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of a server, by what its threads do.

    Attributes:
        loop: Of the event loop: HTTP, JSON, checks, search.
        engine: Of what runs the model: a thread, or all threads of a process of its own.
        decoding: Of all others, which tokenise and decode.
    """

    loop: float
    engine: float
    decoding: float


def pin(session: int, cores: Collection[int]) -> None:
    """Let every thread of a session run on these cores only; threads started later inherit it."""
    for task in _tasks(session):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cores)


def cpu_s(session: int) -> dict[Thread, float]:
    """Return what each thread of a session has used so far, in seconds."""
    found = {}
    for task in _tasks(session):
        with suppress(OSError):  # it has ended meanwhile
            used_s = int((task / "schedstat").read_text().split()[0]) / 1e9
            found[int(task.parents[1].name), int(task.name)] = used_s
    return found


def spent(session: int, before: Mapping[Thread, float], after: Mapping[Thread, float]) -> Spent:
    """Return what was used in between.

    The event loop runs on the first thread of the session's first process. Of the other processes
    the busiest is taken for the engine; if all of them do less than a thread of the first, of that
    the busiest thread.
    """
    used = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    loop = used.pop((session, session))
    beside: dict[int, float] = {}
    for (process, _), seconds in used.items():
        if process != session:
            beside[process] = beside.get(process, 0.0) + seconds
    threads = [seconds for (process, _), seconds in used.items() if process == session]
    engine = max([*beside.values(), *threads], default=0.0)
    return Spent(loop, engine, sum(used.values()) - engine)


def _tasks(session: int) -> Iterator[Path]:
    for process in processes_of(session):
        with suppress(OSError):  # it has ended meanwhile
            yield from (process / "task").iterdir()
