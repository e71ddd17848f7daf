"""Runs what audits have kept when nobody waits, and compares it.

An item at a time, in a class behind all others. Whoever comes stops it: between two items, and
within one between the steps that are run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from math import nan

import numpy as np
import torch
from torch import Tensor

from models.space import Subnet
from search.quality.alike import agreement
from search.quality.audit import AgreementSample
from search.quality.cells import FloatArray
from server.audit.audit import Audit
from server.audit.kept import KeptRequest
from server.engine.engine import Engine
from server.engine.flows import BACKGROUND, Flow
from server.engine.item import QueueItem
from server.errors import RheostatError
from server.served import Served
from server.uses import Uses
from server.variants import Variants

log = logging.getLogger(__name__)

_FLOW = Flow("(audit)", priority=BACKGROUND)
_QUIET_S = 0.02  # without a request, after which nobody is taken to wait
_TRIES = 5  # to compare a request, of which others stop all but the last
_TELL_S = 1.0  # for the server's other processes to take in what was seen


class Rerun:
    """Compares what is kept, in idle moments. For one event loop."""

    def __init__(
        self,
        audit: Audit,
        engine: Engine,
        variants: Variants,
        uses: Uses,
        clock: Callable[[], float],
    ) -> None:
        """Listen to the engine.

        Args:
            audit: Keeps requests, and is told what was seen.
            engine: Runs them.
            variants: Whose weights they need.
            uses: Told which models are in use.
            clock: Returns seconds.
        """
        self._audit, self._engine, self._variants, self._uses = audit, engine, variants, uses
        self._clock = clock
        self._last = clock()
        self._running: asyncio.Task[None] | None = None
        engine.on_work = self._yield
        engine.core.answering["audited"] = self._told

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compare what is kept until the end of the block."""
        task = asyncio.create_task(self.work())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def work(self) -> None:
        """Go on until cancelled."""
        while True:
            await self._audit.queue.filled()
            await self._until_idle()
            if not len(self._audit.queue):
                continue  # its model has gone meanwhile
            kept = self._audit.queue.take()
            self._running = asyncio.create_task(self._compare(kept))
            try:
                await asyncio.wait({self._running})
            finally:
                running, self._running = self._running, None
                running.cancel()
            self._ended(kept, running)

    def _ended(self, kept: KeptRequest, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._audit.count(stopped=1)
            again = replace(kept, tries=kept.tries + 1)
            if again.tries >= _TRIES or not self._audit.queue.put(again, first=True):
                self._audit.give_up(kept)
        elif error := task.exception():
            self._audit.count(failed=1)
            expected = isinstance(error, RheostatError)
            log.warning("an audit failed: %s", error, exc_info=None if expected else error)
        else:
            self._audit.count(compared=1)

    def _yield(self) -> None:
        """Make room: somebody has come who waits for an answer."""
        self._last = self._clock()
        if self._running is not None:
            self._running.cancel()

    async def _until_idle(self) -> None:
        while self._engine.depth or self._clock() - self._last < _QUIET_S:
            await asyncio.sleep(_QUIET_S)

    async def _told(self, name: str, samples: Sequence[AgreementSample]) -> None:
        self._audit.add_named(name, samples)

    async def _compare(self, kept: KeptRequest) -> None:
        with self._uses.hold(kept.served):
            answers: dict[Subnet, list[Mapping[str, Tensor]]] = {
                kept.runs[0].subnet: list(kept.outputs)
            }
            for subnet in kept.reruns:
                answers[subnet] = await self._run(kept, subnet)
        samples = [
            self._sample(kept, run.subnet, run.fraction, answers)
            for run in kept.runs
            if run.subnet != kept.whole
        ]
        found = [sample for sample in samples if sample is not None]
        self._audit.add(kept.served, found)
        await self._engine.core.ask_others(_TELL_S, "audited", kept.served.name, found)

    async def _run(self, kept: KeptRequest, subnet: Subnet) -> list[Mapping[str, Tensor]]:
        prepared = self._variants.prepare(kept.served, subnet, kept.tasks)
        found: list[Mapping[str, Tensor]] = []
        with self._engine.reserve(len(kept.items), flow=_FLOW) as room:
            for item in kept.items:
                one = QueueItem(prepared, item, client=_FLOW.client, priority=_FLOW.priority)
                self._audit.count(flops=kept.reruns[subnet])
                (result,) = await room.submit([one])
                found.append(result.outputs)
        return found

    def _sample(
        self,
        kept: KeptRequest,
        subnet: Subnet,
        fraction: float,
        answers: Mapping[Subnet, Sequence[Mapping[str, Tensor]]],
    ) -> AgreementSample | None:
        agreed, expected = [], []
        for task in kept.tasks:
            kind = kept.served.elastic.tasks[task].kind
            found, whole = (_rows(answers[one], task) for one in (subnet, kept.whole))
            if kind == "embedding":  # of the size of the shorter
                size = min(found.shape[1], whole.shape[1])
                found, whole = found[:, :size], whole[:, :size]
            each = agreement(kind, found, whole)
            if each is not None and len(each):
                agreed.append(float(each.mean()))
                expected.append(expected_agreement(kept.served, subnet, task))
        if not agreed:
            return None
        mean = float(np.mean(expected))
        known = None if np.isnan(mean) else mean
        point = self._audit.point_of(kept.served, subnet, fraction)
        ranks = _ranks(kept, subnet, answers)
        return AgreementSample(point, float(np.mean(agreed)), known, ranks)


def expected_agreement(served: Served, subnet: Subnet, task: str) -> float:
    """Return a subnet's agreement on the data of a task's table; NaN where it is not known."""
    cell = served.table.locate(task, subnet)
    return nan if cell is None else float(served.table.cells[task].known_agreement[cell])


def _rows(answers: Sequence[Mapping[str, Tensor]], task: str) -> FloatArray:
    rows: FloatArray = torch.stack([answer[task] for answer in answers]).double().numpy(force=True)
    return rows


def _ranks(
    kept: KeptRequest, subnet: Subnet, answers: Mapping[Subnet, Sequence[Mapping[str, Tensor]]]
) -> float | None:
    """Return the rank correlation of a list's scores with the whole model's; None if it is none."""
    if not kept.is_list:
        return None
    task = kept.tasks[0]
    lists = []
    for answered in (answers[subnet], answers[kept.whole]):
        rows = _rows(answered, task)
        is_score = kept.served.elastic.tasks[task].kind == "score"
        lists.append(rows.ravel() if is_score else rows[1:] @ rows[0])
    found = agreement("score", lists[0], lists[1])
    return float(found[0]) if found is not None and len(found) else None
