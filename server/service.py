"""The life of a request, in the server's own types: no wire format, no HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

from models.core import Shapes
from models.inputs import num_tokens
from models.variants import loaded
from search.budget import Budget
from search.find import Selection
from server.admitted import Admitted, Answer
from server.admitting import Admitting
from server.ahead import make_ready
from server.audit.audit import Audit
from server.catalog import Catalog
from server.choose import Chooser, Question
from server.clients.caller import ANYONE, Caller
from server.clients.inherit import inherited
from server.clients.quotas import Quotas
from server.engine.engine import Engine
from server.engine.flows import Flow
from server.engine.item import QueueItem
from server.engine.load import Fixed, LoadPolicy
from server.indexes.store import Indexes
from server.inputs.decoder import Decoder
from server.inputs.sources import Source, Sources
from server.items import for_inputs, with_adapter_shape
from server.loading import Loading
from server.observe.logs import note_model
from server.observe.metrics import Metrics
from server.pacing import Pacing
from server.served import Served
from server.sound import blaming, check_answers, examples
from server.uses import Uses
from server.variants import Variants

if TYPE_CHECKING:
    from server.observe.tracing import Tracing  # needs an extra

log = logging.getLogger(__name__)

_BEST = Question(None, None, Budget(strict=True))
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
        indexes: Indexes | None = None,
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
            indexes: Documents that clients keep here; None for no room for any.
        """
        self._slims_all = slims_all
        self._tracing = tracing
        self.catalog = catalog
        self.audit = audit or Audit.off(catalog)
        self._chooser = Chooser(engine, policy or Fixed(), self.audit.floors)
        self.variants = Variants(engine, max_variant_bytes, clock)
        loading = Loading(self._chooser, self.variants, clock)
        self.metrics = metrics
        self._engine = engine
        self._decoder = decoder
        self.clock = clock
        self._is_warm = False
        self._is_draining = False
        self.uses = Uses()
        self.pacing = Pacing()
        self.indexes = indexes or Indexes(None, 0, 0)
        known = engine, decoder, metrics, clock, self._chooser, loading, self.uses
        self._admitting = Admitting(*known, quotas, late_s, slims_all)

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
        self._make_rungs(served)
        self.metrics.watch_model(served)  # with its front, which takes a moment

    def _make_rungs(self, served: Served) -> None:
        """Find the subnets of rankings in stages, which takes a moment, before one is asked for."""
        tasks = served.elastic.tasks
        ranking = [one for one in served.default_tasks if tasks[one].kind in ("embedding", "score")]
        if served.profile is not None and ranking:
            best = self.select(served, _BEST, served.inputs.plan_shapes())
            self.pacing.ladder(
                served, best, ranking[0], self.variants.resident(served), by_time=True
            )

    def select(self, served: Served, question: Question, shapes: Shapes) -> Selection:
        """Choose a subnet for one item of some shapes, as if nobody waited, without running it.

        Raises:
            InvalidRequestError: If there is no subnet for these inputs.
            RequestError: If tasks, preferences or fixed values make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
            ClientError: If the caller may not ask this.
        """
        note_model(served.name)
        question = inherited(question, served, self._slims_all)
        shapes = with_adapter_shape(served, question, shapes)
        question = for_inputs(question, served, shapes)
        return self._chooser.wanted(served, question, shapes)

    def adapters(self, served: Served, question: Question) -> tuple[str, ...]:
        """Return the adapter of a question's items, if any, where the items name none."""
        adapter = inherited(question, served, self._slims_all).adapter
        return (adapter,) if adapter else ()

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
            adapters=admitted.adapters,
        )

    def admit(
        self,
        served: Served,
        question: Question,
        items: Sequence[Sources],
        num_more: int = 0,
        spare_s: float | None = None,
    ) -> AbstractAsyncContextManager[Admitted]:
        """Reserve room, decode the inputs and choose a subnet; record the request at the end.

        Args:
            served: The model.
            question: What is wanted of it.
            items: Of the request.
            num_more: Items to have room for beyond one per item.
            spare_s: Where the caller spends the budget itself, stage by stage, what it needs of the
                time to answer; else None. Then the best subnet is chosen, nothing is refused for
                its time and no FLOPs are charged.

        Raises:
            DeadlineError: In stages, if the inputs could not be read in time.
            OverloadedError: If there is no room for all items.
            InvalidRequestError: If an input is none.
            RequestError: If tasks, preferences or fixed values make no sense.
            InfeasibleBudgetError: If no subnet meets the budget, even if nobody waited.
            ModelNotReadyError: If the engine is not running.
            ClientError: If the caller may not ask this.
            QuotaExceededError: If one of the caller's quotas is used up.
        """
        note_model(served.name)
        admission = self._admitting.admit(served, question, items, num_more, spare_s)
        if self._tracing is None:
            return admission
        return self._tracing.follow(admission, served, self.backend_name)
