"""A core whose worker is a thread of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from models.space import Subnet
from models.variants import Choices, added_bytes, choices_of
from search.timing.profile import LatencyProfile
from server.engine.batch import Waiting
from server.engine.core import Events
from server.engine.flows import Held
from server.engine.item import ItemResult, PreparedPlan
from server.engine.worker_core import WorkerCore, built
from server.errors import InferenceError, RheostatError
from server.served import Served

T = TypeVar("T")


@dataclass(eq=False)
class LocalCore(WorkerCore):
    """A core whose worker is a thread of this process; it closes the back end with itself.

    Attributes:
        answering: As for `Core`.
    """

    holds_weights = True
    pid = None
    is_shared = False
    answering: dict[str, Callable[..., Awaitable[Any]]] = field(default_factory=dict, init=False)
    _variants: dict[tuple[int, Choices], nn.Module] = field(default_factory=dict, init=False)
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _ended: asyncio.Event = field(init=False)
    _events: Events = field(init=False)

    @property
    def pace(self) -> float:
        """Seconds that batches lately took for each predicted one."""
        return self.worker.pace.value

    @property
    def running(self) -> Sequence[Waiting]:
        """What runs now."""
        return self.worker.running

    @property
    def running_until(self) -> float:
        """When that is predicted to end, on the clock; 0 if nobody waits for it any more."""
        is_over = all(one.claim.done() for one in self.worker.running)
        return 0.0 if is_over else self.worker.running_until

    @property
    def is_alive(self) -> bool:
        """Whether items are accepted and the worker is there to run them."""
        return self.worker.is_alive

    @property
    def backend_name(self) -> str:
        """What receipts call the back end."""
        return self.backend.name

    @property
    def levels(self) -> frozenset[str]:
        """Fields of the back end's stats that may fall."""
        return self.backend.levels

    async def start(self, events: Events) -> None:
        """Start the worker. Call once, on the event loop that will put items in."""
        self._loop, self._ended, self._events = asyncio.get_running_loop(), asyncio.Event(), events
        self.worker.start()

    async def close(self) -> None:
        """Refuse new items, finish those accepted, stop the worker and close the back end."""
        if self.worker.close():
            await self._ended.wait()
            self.worker.join()
        self.backend.close()

    def check_open(self) -> None:
        """Raise ModelNotReadyError if nobody would run what is put in."""
        self.worker.check_open()

    def discard(self, waiting: Sequence[Waiting]) -> None:
        """Take items out that still wait."""
        self.worker.discard(waiting)

    def tell_held(self, held: Held) -> None:
        """Do nothing: there is no other process."""

    async def ask_others(self, timeout_s: float, name: str, *arguments: Any) -> list[Any]:
        """Return nothing: there is no other process."""
        return []

    async def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns on the worker's thread, between two batches.

        Raises:
            ModelNotReadyError: If the worker is not running.
            InferenceError: If it ends first.
            Exception: Whatever the function raises.
        """
        return await asyncio.wrap_future(self.worker.call(function))

    async def prepare(self, served: Served) -> LatencyProfile:
        """As `Core.prepare`; errors as for `call`."""
        return await self.call(lambda: self.load(served))

    async def expect(self, served: Served, subnet: Subnet, build: bool = True) -> None:
        """As `Core.expect`; errors as for `call`."""
        choices = choices_of(served.elastic.space, subnet)
        model: Any = self._variants.get((id(served.model), choices), served.model)
        await self.call(lambda: self.expect_plan(served, model, subnet, build))

    async def build(self, served: Served, choices: Choices) -> tuple[Any, int]:
        """As `Core.build`."""
        model = await asyncio.to_thread(built, served, choices)
        await self.call(lambda: self.backend.prepare(model))
        self._variants[id(served.model), choices] = model
        return model, added_bytes(model, served.model)

    async def drop(self, served: Served, choices: Choices) -> None:
        """As `Core.drop`."""
        model = self._variants.pop((id(served.model), choices))
        await self.call(lambda: self.forget(model, beside=served.model))

    async def forget_model(self, served: Served) -> None:
        """As `Core.forget_model`."""
        await self.call(lambda: self.forget(served.model))

    def taken(self, batch: Sequence[Waiting], until: float) -> None:
        """Tell who counts batches."""
        self._post(self._events.taken, batch, len(batch))

    def deliver(self, results: Sequence[tuple[Waiting, ItemResult]]) -> None:
        """Tell who waits."""
        self._post(self._events.answered, results)

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None:
        """Tell who waits."""
        self._post(self._events.failed, batch, texts)

    def expired(self, items: Sequence[Waiting]) -> None:
        """Tell who waits."""
        self._post(self._events.expired, items)

    def learnt(self, prepared: PreparedPlan) -> None:
        """Do nothing: whoever predicts in this process reads the same profile."""

    def ended(self) -> None:
        """Tell who waits, then whoever closes this."""
        self._post(self._events.ended, _stopped)
        self._post(self._ended.set)

    def _post(self, call: Callable[..., None], *args: object) -> None:
        # A loop that is gone took everybody who waited with it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)


def _stopped() -> RheostatError:
    return InferenceError("the worker stopped before it could answer")
