"""Letting a request in: room, inputs and a subnet for it, and a record of how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf

from models.inputs import Item
from server.admitted import Admitted
from server.choose import Chooser, Question, RequestProgress
from server.clients.caller import Caller
from server.clients.inherit import inherited
from server.clients.quotas import Quotas
from server.engine.engine import Engine
from server.engine.flows import Flow
from server.errors import DeadlineError
from server.inputs.decoder import Decoder
from server.inputs.sources import Sources
from server.items import (
    adapters_of,
    check_inputs,
    estimate_s,
    flops_of,
    for_inputs,
    with_adapter,
)
from server.loading import Loading
from server.observe.arrival import arrived, behind
from server.observe.metrics import Metrics, Stage
from server.served import Served
from server.uses import Uses

_LEAST_READING = 0.5  # of the time, where not all can be read and scored
_UNDONE = 1.5  # times what a request took that was given up, it would have taken


class Admitting:
    """Lets requests in."""

    def __init__(
        self,
        engine: Engine,
        decoder: Decoder,
        metrics: Metrics,
        clock: Callable[[], float],
        chooser: Chooser,
        loading: Loading,
        uses: Uses,
        quotas: Quotas | None,
        late_s: Callable[[], float],
        slims_all: bool,
    ) -> None:
        """Take what a request needs; see `server.service.Service`."""
        self._engine = engine
        self._decoder = decoder
        self._metrics = metrics
        self._clock = clock
        self._chooser = chooser
        self._loading = loading
        self._uses = uses
        self._quotas = quotas
        self._late_s = late_s
        self._slims_all = slims_all

    @asynccontextmanager
    async def admit(
        self,
        served: Served,
        question: Question,
        asked: Sequence[Sources],
        num_more: int,
        spare_s: float | None,
    ) -> AsyncIterator[Admitted]:
        """As `server.service.Service.admit`."""
        in_stages = spare_s is not None
        question = inherited(question, served, self._slims_all)
        asked = with_adapter(served, question, asked)
        check_inputs(served, asked)
        late_s = self._late_s()
        begun = self._clock()
        start = arrived(begun - late_s)  # its answer may wait as long as the loop is late
        is_timed, num_items = question.budget.latency_ms is not None, len(asked) + num_more
        deadline = start + _limit_s(question) - late_s
        expected_s, caller = estimate_s(served, question, asked), question.caller
        sources = [source for item in asked for source in item.values()]
        wait_s = self._decoder.wait_s(sources, caller.client, caller.weight)
        timing = expected_s, _flow(question), is_timed, wait_s, in_stages and is_timed
        with (
            self._uses.hold(served),
            self._engine.reserve(num_items, *timing) as room,
        ):
            if self._quotas is not None:
                await self._quotas.charge_request(caller)
            until = _reading_until(begun, deadline, spare_s)
            items, read = await self._read(served, asked, caller, deadline, until)
            decoded = self._clock()
            shapes = served.inputs.upper(items)
            question = for_inputs(question, served, shapes)
            spent_s = decoded - start + late_s
            waited_s = begun - start + late_s + min(wait_s, decoded - begun)
            progress = RequestProgress(
                num_items, spent_s, waited_s, room.room, deadline, decoded, behind()
            )
            to_choose = question.of_the_best() if in_stages else question
            choice = await self._loading.choose(served, to_choose, shapes, progress)
            flops = 0 if in_stages else flops_of(served, choice.selection, shapes, items)
            charge = partial(self._charge, caller)
            await charge(flops)
            seconds = {Stage.DECODE: decoded - start, Stage.SEARCH: self._clock() - decoded}
            seconds |= dict.fromkeys((Stage.QUEUE, Stage.RUN), 0.0)
            admitted = Admitted(room, question, items, choice, flops, deadline, seconds, read)
            admitted.charge, admitted.adapters = charge, adapters_of(served, items)
            try:
                yield admitted
            except DeadlineError:
                took_s = _UNDONE * (self._clock() - start)  # it would have
                self._chooser.note_total(served, question, choice, took_s)
                if is_timed:
                    self._metrics.given_up(served)
                raise
        seconds[Stage.TOTAL] = self._clock() - start
        if not in_stages:
            self._chooser.note_total(served, question, choice, seconds[Stage.TOTAL])
        counted = admitted.flops, admitted.shared, seconds, question.budget.latency_ms
        self._metrics.answered(served, choice, *counted, admitted.adapters)

    async def _read(
        self,
        served: Served,
        asked: Sequence[Sources],
        caller: Caller,
        deadline: float,
        until: float | None,
    ) -> tuple[list[Item], Sequence[int]]:
        """Return the items of a request, and which they are; all, or those read in time.

        Raises:
            DeadlineError: If the first two were not.
        """
        whose = served.inputs, caller.client, caller.weight
        if until is None:
            return await self._decoder.decode(asked, *whose, deadline), range(len(asked))
        found = await self._decoder.decode_until(asked, *whose, until)
        items = {i: one for i, one in enumerate(found) if one is not None}
        if [*items][:2] != [*range(len(asked))][:2]:
            raise DeadlineError("the inputs could not be read before the deadline")
        return list(items.values()), list(items)

    async def _charge(self, caller: Caller, flops: float) -> None:
        if self._quotas is not None and flops:
            await self._quotas.charge_flops(caller, flops)


def _reading_until(begun: float, deadline: float, spare_s: float | None) -> float | None:
    """Return when what was read has to do; None if all has to be read."""
    if spare_s is None or deadline == inf:
        return None
    return max(deadline - spare_s, begun + _LEAST_READING * (deadline - begun))


def _limit_s(question: Question) -> float:
    """Return after how long an answer is of no use any more; infinity if it always is."""
    latency_ms, timeout_s = question.budget.latency_ms, question.timeout_s
    latency_s = inf if latency_ms is None else latency_ms / 1000
    return min(latency_s, inf if timeout_s is None else timeout_s)


def _flow(question: Question) -> Flow:
    """Return whose turn a request waits for; it may step back behind its caller's class."""
    caller = question.caller
    return Flow(caller.client, caller.weight, max(caller.priority, question.priority or 0))
