"""The life of a request, in the server's own types: no wire format, no HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, TypeVar

from models.core import Shapes
from models.inputs import num_tokens
from models.variants import loaded
from search.find import Selection
from server.admitted import Admitted, Answer
from server.ahead import make_ready
from server.audit.audit import Audit
from server.catalog import Catalog
from server.choose import Chooser, Question, RequestProgress
from server.clients.caller import ANYONE, Caller
from server.clients.inherit import inherited
from server.clients.quotas import Quotas
from server.engine.engine import Engine
from server.engine.flows import Flow
from server.engine.item import QueueItem
from server.engine.load import Fixed, LoadPolicy
from server.errors import DeadlineError
from server.inputs.decoder import Decoder
from server.inputs.sources import Source, Sources
from server.items import check_inputs, estimate_s, flops_of, for_inputs
from server.loading import Loading
from server.observe.arrival import arrived, behind
from server.observe.logs import note_model
from server.observe.metrics import Metrics, Stage
from server.served import Served
from server.sound import blaming, check_answers, examples
from server.uses import Uses
from server.variants import Variants

if TYPE_CHECKING:
    from server.observe.tracing import Tracing  # needs an extra

log = logging.getLogger(__name__)

_UNDONE = 1.5  # times what a request took that was given up, it would have taken
_OWN = Flow(priority=-1)  # of the server's own runs: a reload does not wait behind requests

S = TypeVar("S", bound=Source)
R = TypeVar("R")


class Service:
    """Answers requests."""

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine,
        decoder: Decoder,
        metrics: Metrics,
        clock: Callable[[], float],
        policy: LoadPolicy | None = None,
        quotas: Quotas | None = None,
        tracing: Tracing | None = None,
        late_s: Callable[[], float] = lambda: 0.0,
        slims_all: bool = False,
        max_variant_bytes: int = 0,
        audit: Audit | None = None,
    ) -> None:
        """Wire what answers.

        Args:
            catalog: The models.
            engine: Runs them.
            decoder: Reads inputs.
            metrics: Told of every request.
            clock: Returns seconds.
            policy: Of load; None to slim nothing.
            quotas: Of clients; None for none.
            tracing: None for no traces.
            late_s: Returns how long the event loop now lets requests, and answers, wait.
            slims_all: Whether load may also make subnets smaller for requests without a budget.
            max_variant_bytes: What the weights of variants may hold that requests have built.
            audit: Keeps some of what is answered, to compare it; None for none.
        """
        self._quotas = quotas
        self._late_s = late_s
        self._slims_all = slims_all
        self._tracing = tracing
        self.catalog = catalog
        self.audit = audit or Audit.off(catalog)
        self._chooser = Chooser(engine, policy or Fixed(), self.audit.floors)
        self.variants = Variants(engine, max_variant_bytes, clock)
        self._loading = Loading(self._chooser, self.variants, clock)
        self.metrics = metrics
        self._engine = engine
        self._decoder = decoder
        self._clock = clock
        self._is_warm = False
        self._is_draining = False
        self.uses = Uses()

    def models_of(self, caller: Caller) -> Catalog:
        """Return the models that there are for a caller: it is told of no other."""
        return self.catalog.within(caller.models)

    @property
    def is_ready(self) -> bool:
        """Whether every model has run once, the worker is alive and nobody said to end."""
        return self._is_warm and self._engine.is_alive and not self._is_draining

    def drain(self) -> None:
        """Be no longer ready, so that requests go elsewhere; those that come are answered."""
        self._is_draining = True

    @property
    def backend_name(self) -> str:
        """What runs models."""
        return self._engine.core.backend_name

    @property
    def num_decode_threads(self) -> int:
        """Threads that decode images and tokenise text."""
        return self._decoder.num_threads

    async def read(
        self, function: Callable[[S], R], sources: Sequence[S], caller: Caller = ANYONE
    ) -> list[R]:
        """Do what needs no model on the threads that decode, within what the engine admits.

        Args:
            function: Called on each source.
            sources: Of a request.
            caller: Who sends it.

        Raises:
            OverloadedError: If there is no room.
            ModelNotReadyError: If the engine is not running.
            Exception: Whatever the function raises.
        """
        with self._engine.reserve(len(sources)):
            return await self._decoder.map(function, sources, caller.client, caller.weight)

    async def warm_up(self) -> None:
        """Run the cheapest and the largest subnet of every model; errors as for `warm`."""
        for number, served in enumerate(list(self.catalog.values()), 1):
            log.info("warming up model %d of %d: %s", number, len(self.catalog), served.name)
            if not self._engine.core.holds_weights:
                served = served.timed(await self._engine.core.prepare(served))
                self.catalog.put(served)
            await self.warm(served)
        self._is_warm = True

    async def warm(self, served: Served) -> None:
        """Run the cheapest and the largest subnet of a model, on a short and a long input.

        Raises:
            ModelLoadError: If one fails, or gives what is no answer.
        """
        space = served.elastic.space
        for subnet in (space.smallest | loaded(space), space.largest):
            prepared = served.prepare(subnet, served.elastic.tasks)
            for item in examples(served.inputs, served.names(subnet)):
                with self._engine.reserve(1, flow=_OWN) as room, blaming(served, subnet, item):
                    (result,) = await room.submit(
                        [QueueItem(prepared, item, priority=_OWN.priority)]
                    )
                    check_answers(served.elastic.tasks, result.outputs)
        await make_ready(served, self._engine, self.variants)
        self.metrics.watch_model(served)  # with its front, which takes a moment

    def select(self, served: Served, question: Question, shapes: Shapes) -> Selection:
        """Choose a subnet for one item of some shapes, as if nobody waited, without running it.

        Raises:
            InvalidRequestError: If there is no subnet for these inputs.
            RequestError: If tasks, preferences or fixed values make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
            ClientError: If the caller may not ask this.
        """
        note_model(served.name)
        question = for_inputs(inherited(question, served, self._slims_all), served, shapes)
        return self._chooser.wanted(served, question, shapes)

    async def infer(self, served: Served, question: Question, items: Sequence[Sources]) -> Answer:
        """Choose one subnet for all items, run it on each, and say what was done.

        The budget is for each item; the longest decides.

        Raises:
            RheostatError: As `admit`; InferenceError if the model failed.
        """
        async with self.admit(served, question, items) as admitted:
            selection = admitted.selection
            subnet, tasks = selection.subnet, selection.scores
            prepared = self.variants.prepare(served, subnet, tasks, question.raw)
            results = await admitted.run(prepared)
        self.audit.note(admitted, served, results)
        return Answer(
            selection=selection,
            outputs=[result.outputs for result in results],
            num_tokens=[num_tokens(item) for item in admitted.items],
            backend=self.backend_name,
            batch_sizes=[result.batch_size for result in results],
            seconds=admitted.seconds,
            choice=admitted.choice,
            flops=admitted.flops,
            shared=admitted.shared,
        )

    def admit(
        self, served: Served, question: Question, items: Sequence[Sources], num_more: int = 0
    ) -> AbstractAsyncContextManager[Admitted]:
        """Reserve room, decode the inputs and choose a subnet; record the request at the end.

        Args:
            served: The model.
            question: What is wanted of it.
            items: Of the request.
            num_more: Items to have room for beyond one per item.

        Raises:
            OverloadedError: If there is no room for all items.
            InvalidRequestError: If an input is none.
            RequestError: If tasks, preferences or fixed values make no sense.
            InfeasibleBudgetError: If no subnet meets the budget, even if nobody waited.
            ModelNotReadyError: If the engine is not running.
            ClientError: If the caller may not ask this.
            QuotaExceededError: If one of the caller's quotas is used up.
        """
        note_model(served.name)
        admission = self._admit(served, question, items, num_more)
        if self._tracing is None:
            return admission
        return self._tracing.follow(admission, served, self.backend_name)

    @asynccontextmanager
    async def _admit(
        self, served: Served, question: Question, asked: Sequence[Sources], num_more: int
    ) -> AsyncIterator[Admitted]:
        check_inputs(served, asked)
        question = inherited(question, served, self._slims_all)
        late_s = self._late_s()
        begun = self._clock()
        start = arrived(begun - late_s)  # its answer may wait as long as the loop is late
        budget, num_items = question.budget, len(asked) + num_more
        latency_s = inf if budget.latency_ms is None else budget.latency_ms / 1000
        timeout_s = inf if question.timeout_s is None else question.timeout_s
        deadline = start + min(latency_s, timeout_s) - late_s
        is_timed = budget.latency_ms is not None
        expected_s, caller = estimate_s(served, question, asked), question.caller
        sources = [source for item in asked for source in item.values()]
        wait_s = self._decoder.wait_s(sources, caller.client, caller.weight)
        with (
            self.uses.hold(served),
            self._engine.reserve(num_items, expected_s, _flow(question), is_timed, wait_s) as room,
        ):
            if self._quotas is not None:
                await self._quotas.charge_request(caller)
            items = await self._decoder.decode(asked, served.inputs, caller.client, caller.weight)
            decoded = self._clock()
            shapes = served.inputs.upper(items)
            question = for_inputs(question, served, shapes)
            spent_s = decoded - start + late_s
            waited_s = begun - start + late_s + min(wait_s, decoded - begun)
            progress = RequestProgress(
                num_items, spent_s, waited_s, room.room, deadline, decoded, behind()
            )
            choice = await self._loading.choose(served, question, shapes, progress)
            flops = flops_of(served, choice.selection, shapes, items)
            if self._quotas is not None:
                await self._quotas.charge_flops(question.caller, flops)
            seconds = {
                Stage.DECODE: decoded - start,
                Stage.SEARCH: self._clock() - decoded,
                Stage.QUEUE: 0.0,
                Stage.RUN: 0.0,
            }
            admitted = Admitted(room, question, items, choice, flops, deadline, seconds)
            try:
                yield admitted
            except DeadlineError:
                # It took at least so long, and would have taken longer.
                self._chooser.note_total(served, choice, _UNDONE * (self._clock() - start))
                if budget.latency_ms is not None:
                    self.metrics.given_up(served)
                raise
        seconds[Stage.TOTAL] = self._clock() - start
        self._chooser.note_total(served, choice, seconds[Stage.TOTAL])
        self.metrics.answered(served, choice, flops, admitted.shared, seconds, budget.latency_ms)


def _flow(question: Question) -> Flow:
    """Return whose turn a request waits for; it may step back behind its caller's class."""
    caller = question.caller
    return Flow(caller.client, caller.weight, max(caller.priority, question.priority or 0))
