"""The life of a request, in the server's own types: no wire format, no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from torch import Tensor

from models.core import Shape, Value
from search.budget import Budget
from search.find import Selection
from server.catalog import Catalog, Served
from server.decode import Decoder, Source
from server.engine.engine import Engine, Reservation
from server.engine.work import Result, Work
from server.metrics import Metrics, Stage


@dataclass(frozen=True, slots=True)
class Question:
    """What a client wants to know and spend.

    Attributes:
        tasks: None for all of the model's.
        preferences: Weight per task on any scale; None for equal weights.
        budget: For each input.
        fixed: Values that the client has chosen itself, by axis.
    """

    tasks: Sequence[str] | None
    preferences: Mapping[str, float] | None
    budget: Budget
    fixed: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is told.

    Attributes:
        selection: The subnet that ran and what is known about it.
        outputs: Per input and task: logits, or a unit vector.
        num_tokens: Of each input; 0 where inputs have no length.
        backend: What ran it.
        batch_sizes: Of the batch each input was in.
        seconds: Per stage; queue and run are those of the input that took longest.
    """

    selection: Selection
    outputs: list[dict[str, Tensor]]
    num_tokens: list[int]
    backend: str
    batch_sizes: list[int]
    seconds: Mapping[Stage, float]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that has room, its inputs and its subnet.

    Attributes:
        room: For its works.
        items: The decoded inputs.
        selection: The subnet chosen.
        seconds: Per stage so far; ``run`` adds to it.
    """

    room: Reservation
    items: list[Tensor]
    selection: Selection
    seconds: dict[Stage, float]

    async def run(self, works: Sequence[Work]) -> list[Result]:
        """Run works and add the times of the one that took longest."""
        results = await self.room.submit(works)
        slowest = max(results, key=lambda result: result.queue_s + result.run_s)
        self.seconds[Stage.QUEUE] += slowest.queue_s
        self.seconds[Stage.RUN] += slowest.run_s
        return results


class Service:
    """Answers requests."""

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine,
        decoder: Decoder,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.catalog = catalog
        self.metrics = metrics
        self._engine = engine
        self._decoder = decoder
        self._clock = clock
        self._is_warm = False

    @property
    def is_ready(self) -> bool:
        """Whether every model has run once and the worker is alive."""
        return self._is_warm and self._engine.is_alive

    async def warm_up(self) -> None:
        """Run the cheapest and the largest subnet of every model on zeros.

        Raises:
            InferenceError: If one fails.
        """
        for served in self.catalog.values():
            _ = served.front  # computed now, not while somebody waits
            space = served.elastic.space
            for subnet in (space.smallest, space.largest):
                prepared = served.prepare(subnet, served.elastic.tasks)
                with self._engine.reserve(1) as room:
                    await room.submit([Work(prepared, served.input.example())])
        self._is_warm = True

    def select(self, served: Served, question: Question, shape: Shape) -> Selection:
        """Choose a subnet for inputs of a shape, without running it.

        Raises:
            RequestError: If tasks, preferences or fixed values make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
        """
        finder = served.finder_for(shape, question.fixed)
        return finder.find(question.tasks, question.preferences, question.budget)

    async def infer(self, served: Served, question: Question, sources: Sequence[Source]) -> Answer:
        """Choose one subnet for all inputs, run it on each, and say what was done.

        The budget is for each input; the longest decides.

        Raises:
            RheostatError: As `admit`; InferenceError if the model failed.
        """
        async with self.admit(served, question, sources) as admitted:
            selection = admitted.selection
            prepared = served.prepare(selection.subnet, selection.scores)
            results = await admitted.run([Work(prepared, item) for item in admitted.items])
        return Answer(
            selection=selection,
            outputs=[result.outputs for result in results],
            num_tokens=[served.input.num_tokens(item) for item in admitted.items],
            backend=self._engine.backend.name,
            batch_sizes=[result.batch_size for result in results],
            seconds=admitted.seconds,
        )

    @asynccontextmanager
    async def admit(
        self, served: Served, question: Question, sources: Sequence[Source], num_more: int = 0
    ) -> AsyncIterator[Admitted]:
        """Reserve room, decode the inputs and choose a subnet; record the request at the end.

        Args:
            served: The model.
            question: What is wanted of it.
            sources: Its inputs.
            num_more: Works to have room for beyond one per input.

        Raises:
            OverloadedError: If there is no room for all works.
            InvalidRequestError: If an input is none.
            RequestError: If tasks, preferences or fixed values make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
            ModelNotReadyError: If the engine is not running.
        """
        start = self._clock()
        with self._engine.reserve(len(sources) + num_more) as room:
            items = await self._decoder.decode(sources, served.input)
            decoded = self._clock()
            shape = max(served.input.shape_of(item) for item in items)
            selection = self.select(served, question, shape)
            seconds = {
                Stage.DECODE: decoded - start,
                Stage.SEARCH: self._clock() - decoded,
                Stage.QUEUE: 0.0,
                Stage.RUN: 0.0,
            }
            admitted = Admitted(room, items, selection, seconds)
            yield admitted
        seconds[Stage.TOTAL] = self._clock() - start
        self.metrics.answered(served.name, selection, len(items))
        for stage, value in seconds.items():
            self.metrics.stage(stage, value)
