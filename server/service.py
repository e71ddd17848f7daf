"""The life of a request, in the server's own types: no wire format, no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from search.budget import Budget
from search.find import Selection
from server.catalog import Catalog, Served
from server.decode import Decoder, Upload
from server.engine.engine import Engine
from server.engine.work import Work
from server.metrics import Metrics, Stage


@dataclass(frozen=True, slots=True)
class Question:
    """What a client wants to know and spend.

    Attributes:
        tasks: None for all of the model's.
        preferences: Weight per task on any scale; None for equal weights.
        budget: For each image.
    """

    tasks: Sequence[str] | None
    preferences: Mapping[str, float] | None
    budget: Budget


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is told.

    Attributes:
        selection: The subnet that ran and what is known about it.
        probabilities: Per image and task, in the order of the task's labels.
        backend: What ran it.
        batch_sizes: Of the batch each image was in.
        seconds: Per stage; queue and run are those of the image that took longest.
    """

    selection: Selection
    probabilities: list[dict[str, list[float]]]
    backend: str
    batch_sizes: list[int]
    seconds: Mapping[Stage, float]


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
                    zeros = torch.zeros(served.input.shape)
                    await room.submit([Work(prepared, {"image": zeros})])
        self._is_warm = True

    def select(self, served: Served, question: Question) -> Selection:
        """Choose a subnet without running it.

        Raises:
            RequestError: If tasks or preferences make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
        """
        return served.finder.find(question.tasks, question.preferences, question.budget)

    async def infer(self, served: Served, question: Question, uploads: Sequence[Upload]) -> Answer:
        """Choose a subnet, run it on every image, and say what was done.

        Raises:
            RequestError: If tasks or preferences make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
            InvalidRequestError: If an image is none.
            OverloadedError: If there is no room for all images.
            InferenceError: If the model failed.
            ModelNotReadyError: If the engine is not running.
        """
        start = self._clock()
        with self._engine.reserve(len(uploads)) as room:
            selection = self.select(served, question)
            searched = self._clock()
            images = await self._decoder.decode(uploads, served.input)
            decoded = self._clock()
            prepared = served.prepare(selection.subnet, selection.scores)
            results = await room.submit([Work(prepared, {"image": image}) for image in images])
        probabilities = [
            {task: logits.float().softmax(-1).tolist() for task, logits in result.outputs.items()}
            for result in results
        ]
        slowest = max(results, key=lambda result: result.queue_s + result.run_s)
        seconds = {
            Stage.DECODE: decoded - searched,
            Stage.SEARCH: searched - start,
            Stage.QUEUE: slowest.queue_s,
            Stage.RUN: slowest.run_s,
            Stage.TOTAL: self._clock() - start,
        }
        self._record(served, selection, len(uploads), seconds)
        sizes = [result.batch_size for result in results]
        return Answer(selection, probabilities, self._engine.backend.name, sizes, seconds)

    def _record(
        self, served: Served, selection: Selection, num_images: int, seconds: Mapping[Stage, float]
    ) -> None:
        self.metrics.answered(served.name, selection, num_images)
        for stage, value in seconds.items():
            self.metrics.stage(stage, value)
