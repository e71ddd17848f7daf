"""What waits in the engine, and how a batch of it becomes jobs of a back end."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.core import KeyPath
from models.run.jobs import Job
from server.engine.cache import Key
from server.engine.flows import Room
from server.engine.predict import Share
from server.engine.work import Result, Work


@dataclass(frozen=True, eq=False, slots=True)
class Waiting:
    """A work and who waits for it.

    Attributes:
        work: To be done.
        since: When it was submitted, on the engine's clock.
        future: Of its result.
        key: What its answer is kept by; None if it is not.
        room: That its request holds.
        seconds: Of that, for this work.
    """

    work: Work
    since: float
    future: asyncio.Future[Result]
    key: Key | None
    room: Room
    seconds: float

    def release(self) -> None:
        """Hold no room any more; it has been done, or will not be."""
        self.room.release(self.seconds)

    @property
    def share(self) -> Share:
        """Predicted seconds."""
        return self.work.share

    @property
    def deadline(self) -> float:
        """When an answer is of no use any more."""
        return self.work.deadline


def jobs_of(works: Sequence[Work]) -> tuple[list[Job], list[Any]]:
    """Return the jobs of a batch and its inputs, equal ones once."""
    row_of: dict[Hashable, int] = {}
    items: list[Any] = []
    jobs: list[Job] = []
    for i, work in enumerate(works):
        row = row_of.setdefault(_content(work.item, i), len(items))
        if row == len(items):
            items.append(work.item)
        jobs.append(Job(work.prepared.plan, row, work.prepared.resume, work.prepared.keep))
    return jobs, items


def by_task(work: Work, outputs: Mapping[KeyPath, Tensor]) -> dict[str, Tensor]:
    """Return what a work's plan answered, by task."""
    return {task: outputs[path] for task, path in work.prepared.leaves.items()}


def _content(item: Any, position: int) -> Hashable:
    """Return what is equal for equal inputs; what an earlier run kept is like no other."""
    if not isinstance(item, Tensor):
        return position
    return (item.dtype, item.shape, item.numpy().tobytes())
