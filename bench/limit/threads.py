"""CPU time of a server's threads, and the cores they may use. Linux only."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of a server, by what its threads do.

    Attributes:
        loop: Of the event loop: HTTP, JSON, checks, search.
        engine: Of the thread that runs the model.
        decoding: Of all others, which tokenise and decode.
    """

    loop: float
    engine: float
    decoding: float


def pin(pid: int, cores: Collection[int]) -> None:
    """Let every thread of a process run on these cores only; threads started later inherit it."""
    for task in _tasks(pid):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cores)


def cpu_s(pid: int) -> dict[int, float]:
    """Return what each thread of a process has used so far, in seconds."""
    found = {}
    for task in _tasks(pid):
        with suppress(OSError):  # it has ended meanwhile
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def spent(pid: int, before: Mapping[int, float], after: Mapping[int, float]) -> Spent:
    """Return what was used in between; the event loop runs on the process's first thread.

    Of the others the busiest is taken for the engine.
    """
    used = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    loop = used.pop(pid)
    engine = max(used.values(), default=0.0)
    return Spent(loop, engine, sum(used.values()) - engine)


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())
