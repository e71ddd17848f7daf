"""A back end without a model, and an engine around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf

import torch
from torch import Tensor, nn

from models.core import Plan, Step
from models.inputs import Inputs
from models.inputs.image import ImageInput
from models.nn.ragged import Value
from models.run.backend import Backend
from models.run.chain import Chain
from models.run.execution import never
from server.engine.engine import Engine
from server.engine.item import ItemResult, PreparedPlan, QueueItem
from server.engine.local import LocalCore

WAIT_S = 20
INPUTS = Inputs.of("image", ImageInput(1, 1, (0, 0, 0), (1, 1, 1)))


class FakeBackend(Backend):
    """Doubles its input; holds, fails or miscounts its rows when told to.

    Attributes:
        calls: Key and inputs of each call, such as ``a 1 2``.
        errors: Raised for plans of that key.
        seconds: What each call takes on its own clock.
        num_extra: Rows too many in each answer, or below 0 too few.
    """

    @property
    def name(self) -> str:
        return "fake"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.now = self.seconds = 0.0
        self.num_extra = 0
        self._is_holding = False
        self._entered = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)

    def clock(self) -> float:
        return self.now

    def prepare(self, model: nn.Module) -> None:
        raise NotImplementedError

    def place(self, value: Value) -> Value:
        return value

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        (step,), (images,) = chain.steps, inputs
        assert isinstance(images, Tensor)
        self.calls.append(" ".join([str(step.key), *(f"{x:g}" for x in images[:, 0].tolist())]))
        if self._is_holding:
            self._entered.release()
            assert self._permits.acquire(timeout=WAIT_S), "held for too long"
        self.now += self.seconds
        if error := self.errors.get(str(step.key)):
            raise error
        return torch.cat([2 * images, images])[: len(images) + self.num_extra]

    def hold(self) -> None:
        """Let every further call wait for `let_one` or `release`."""
        self._is_holding = True

    def let_one(self) -> None:
        """End one call's wait."""
        self._permits.release()

    def release(self) -> None:
        """End holding."""
        self._is_holding = False
        self.let_one()

    async def until_held(self) -> None:
        """Wait until a call has begun to wait."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=WAIT_S), "never called"


def work(name: str, deadline: float = inf) -> QueueItem:
    """Make the work ``a7``: input 7 for plan a. Each has a plan object of its own."""
    step = Step(name[0], torch.clone, ("image",))
    item = INPUTS.item({"image": torch.tensor([float(name[1:])])})
    return QueueItem(PreparedPlan("model", Plan({"answer": step}), INPUTS), item, deadline=deadline)


def submit(engine: Engine, names: str, deadline: float = inf) -> asyncio.Task[list[ItemResult]]:
    """Submit one request of several works, such as ``a1 b2``."""
    works = [work(name, deadline) for name in names.split()]

    async def ask() -> list[ItemResult]:
        with engine.reserve(len(works)) as room:
            return await room.submit(works)

    return asyncio.create_task(ask())


def answers(results: list[ItemResult]) -> list[float]:
    return [float(result.outputs["answer"]) for result in results]


async def turn() -> None:
    """Let every task that was just made run up to its first wait."""
    await asyncio.sleep(0)


@asynccontextmanager
async def running(
    backend: FakeBackend, max_batch_size: int = 4, max_queue: int = 64
) -> AsyncIterator[Engine]:
    core = LocalCore(backend, max_batch_size, 4096, backend.clock)
    engine = Engine(core, max_queue, backend.clock)
    await engine.start()
    try:
        yield engine
    finally:
        backend.release()
        await engine.close()


@asynccontextmanager
async def held(
    backend: FakeBackend, max_batch_size: int = 4, max_queue: int = 64
) -> AsyncIterator[Engine]:
    """An engine whose worker is busy with the work ``z0`` until the back end is released."""
    async with running(backend, max_batch_size, max_queue) as engine:
        backend.hold()
        first = submit(engine, "z0")
        await backend.until_held()
        try:
            yield engine
        finally:
            backend.release()
            await asyncio.gather(first, return_exceptions=True)
