"""The engine's process, seen from an HTTP process: a core that runs items elsewhere.

What is put in within one turn of the event loop goes out as one frame. If the connection is lost,
whoever waits gets a 503 at once; the core connects again and has the same models loaded.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from models.variants import Choices
from search.timing.profile import Corrections, LatencyProfile
from server.engine.batch import Waiting
from server.engine.core import Events, Stats
from server.engine.flows import Held
from server.engine.item import ItemResult, PreparedPlan
from server.engine.process.wire import (
    Frames,
    Hello,
    Loaded,
    PlanRecipe,
    Work,
    bare,
    frame,
    packed_recipe,
)
from server.errors import ModelNotReadyError, RheostatError
from server.served import Served

log = logging.getLogger(__name__)

_RETRY_S = 0.05


class RemoteCore(asyncio.Protocol):
    """A core in another process, behind a Unix socket."""

    holds_weights = False

    def __init__(self, path: Path, is_shared: bool = False) -> None:
        """Connect to nothing yet.

        Args:
            path: Of the socket that the engine's process listens to.
            is_shared: Whether other HTTP processes put items in as well.
        """
        self._path, self.is_shared = path, is_shared
        self.answering: dict[str, Callable[..., Awaitable[Any]]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self.pace = 1.0
        self._events: Events
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.WriteTransport | None = None
        self._frames = Frames()
        self._outbox: list[bytes] = []
        self._numbers = itertools.count()
        self._waiting: dict[int, Waiting] = {}
        self._number_of: dict[Waiting, int] = {}
        self._running: Sequence[Waiting] = ()
        self._until = 0.0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._models: dict[int, tuple[Served, int]] = {}  # by identity of the weights
        self._profiles: dict[int, LatencyProfile] = {}
        self._hello: Hello
        self._greeted: asyncio.Future[None]
        self._is_closing = self._is_ready = False
        self._restoring: asyncio.Task[None] | None = None

    @property
    def running(self) -> Sequence[Waiting]:
        """What runs now and is of this process."""
        return self._running

    @property
    def running_until(self) -> float:
        """When the batch that runs now is predicted to end; 0 if nobody waits for it any more."""
        if self._running and all(one.claim.done() for one in self._running):
            return 0.0
        return self._until

    @property
    def is_alive(self) -> bool:
        """Whether the engine's process is there and has the models."""
        return self._is_ready and not self._is_closing

    @property
    def backend_name(self) -> str:
        """What receipts call the back end."""
        return self._hello.backend_name

    @property
    def stats(self) -> Stats:
        """Levels and counters, as last told."""
        return self._hello.stats

    @property
    def levels(self) -> frozenset[str]:
        """Fields of the back end's stats that may fall."""
        return self._hello.levels

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._hello.pid

    async def start(self, events: Events) -> None:
        """Connect, and wait until the other side has greeted."""
        self._events, self._loop = events, asyncio.get_running_loop()
        await self._connect()
        self._is_ready = True

    async def close(self) -> None:
        """Put in nothing more; wait for what was."""
        self._is_closing = True
        if self._restoring is not None:
            self._restoring.cancel()
        waiting = [one.claim for one in self._waiting.values() if not one.claim.done()]
        if waiting:
            await asyncio.wait([claim for claim in waiting if isinstance(claim, asyncio.Future)])
        if self._transport is not None:
            self._transport.close()

    def check_open(self) -> None:
        """Raise ModelNotReadyError if nobody would run what is put in."""
        if not self.is_alive:
            raise ModelNotReadyError(
                "the engine is not running: the server is starting or stopping"
            )

    def put(self, waiting: Sequence[Waiting]) -> list[tuple[Waiting, ItemResult]]:
        """Send items; what the cache has of them comes as all answers do."""
        self.check_open()
        items = []
        for one in waiting:
            number = next(self._numbers)
            self._waiting[number], self._number_of[one] = one, number
            items.append((number, bare(one.item.inputs), dict(one.item.known)))
        first = waiting[0]
        item = first.item
        self._send(
            "put",
            Work(
                self._recipe(item.prepared),
                id(first.request),
                first.since,
                item.deadline,
                item.flops,
                item.client,
                item.weight,
                item.priority,
                items,
            ),
        )
        return []

    def discard(self, waiting: Sequence[Waiting]) -> None:
        """Take items out that still wait."""
        numbers = [self._number_of.pop(one) for one in waiting if one in self._number_of]
        for number in numbers:
            del self._waiting[number]
        if numbers and self._transport is not None:
            self._send("discard", numbers)

    async def ask_others(self, timeout_s: float, name: str, *arguments: Any) -> list[Any]:
        """As `Core.ask_others`."""
        if not self.is_shared:
            return []
        answers: list[Any] = await self._call("ask_others", timeout_s, name, *arguments)
        return answers

    def tell_held(self, held: Held) -> None:
        """As `Core.tell_held`."""
        if self.is_shared and self._transport is not None:
            self._send("held", held)

    async def prepare(self, served: Served) -> LatencyProfile:
        """As `Core.prepare`.

        Raises:
            CatalogError: If the other process cannot read the model.
            ModelNotReadyError: If it has gone, or the checkpoint has changed since it was read.
        """
        found: Loaded = await self._call("load", served.folder, served.manifest.digest)
        profile = LatencyProfile(**found.profile)
        profile.adopt(found.corrections, 1.0)
        self._models[id(served.model)] = (served, found.number)
        self._profiles[found.number] = profile
        return profile

    async def expect_whole(self, served: Served) -> None:
        """As `Core.expect_whole`."""
        await self._call("expect_whole", self._number(served))

    async def build(self, served: Served, choices: Choices) -> tuple[Any, int]:
        """As `Core.build`: the model itself makes plans for all choices, which it cannot run."""
        return served.elastic, await self._call("build", self._number(served), choices)

    async def drop(self, served: Served, choices: Choices) -> None:
        """As `Core.drop`."""
        await self._call("drop", self._number(served), choices)

    async def forget_model(self, served: Served) -> None:
        """As `Core.forget_model`."""
        _, number = self._models.pop(id(served.model), (served, None))
        if number is not None:
            self._profiles.pop(number, None)
            await self._call("forget", number)

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin anew."""
        # No check by `isinstance`: uvloop's transports are not asyncio's.
        self._transport, self._frames = cast("asyncio.WriteTransport", transport), Frames()

    def data_received(self, data: bytes) -> None:
        """Do what the other side says."""
        for name, *arguments in self._frames.feed(data):
            getattr(self, f"_on_{name}")(*arguments)

    def connection_lost(self, error: Exception | None) -> None:
        """Leave nobody waiting, and connect again."""
        self._transport, self._is_ready, self._outbox = None, False, []
        self._waiting.clear()
        self._number_of.clear()
        self._running, self._until = (), 0.0
        for future in self._calls.values():
            if not future.done():
                future.set_exception(_gone())
        self._calls.clear()
        self._events.ended(_gone)
        if not self._greeted.done():
            self._greeted.set_exception(ConnectionResetError("the engine's process has gone"))
        elif not self._is_closing:
            log.warning("the engine's process has gone; waiting for the next one")
            self._restoring = self._loop.create_task(self._restore())

    def _on_hello(self, hello: Hello) -> None:
        self._hello, self.pace = hello, hello.pace
        if not self._greeted.done():
            self._greeted.set_result(None)

    def _on_taken(self, numbers: Sequence[int], size: int, until: float, pace: float) -> None:
        mine = [self._waiting[number] for number in numbers if number in self._waiting]
        self._running, self._until, self.pace = mine, until, pace
        self._events.taken(mine, size)

    def _on_answered(self, answered: Sequence[tuple[int, Sequence[Any]]]) -> None:
        found = [(one, ItemResult(*values)) for n, values in answered if (one := self._pop(n))]
        self._events.answered(found)

    def _on_failed(self, failed: Sequence[tuple[int, str]]) -> None:
        found = [(one, text) for number, text in failed if (one := self._pop(number))]
        self._events.failed([one for one, _ in found], [text for _, text in found])

    def _on_expired(self, numbers: Sequence[int]) -> None:
        self._events.expired([one for number in numbers if (one := self._pop(number))])

    def _on_refused(self, numbers: Sequence[int], text: str) -> None:
        self._events.refused([one for number in numbers if (one := self._pop(number))], text)

    def _on_others_hold(self, process: int, held: Held) -> None:
        self._events.others_hold(process, held)

    def _on_asked(self, number: int, name: str, *arguments: Any) -> None:
        task = self._loop.create_task(self._answer(number, name, *arguments))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, number: int, name: str, *arguments: Any) -> None:
        self._send("told", number, await self.answering[name](*arguments))

    def _on_learnt(self, number: int, corrections: Corrections, drift: float) -> None:
        if (profile := self._profiles.get(number)) is not None:
            profile.adopt(corrections, drift)

    def _on_counted(self, stats: Stats) -> None:
        self._hello = self._hello._replace(stats=stats)

    def _on_returned(self, call: int, result: Any) -> None:
        future = self._calls.pop(call)
        if not future.done():
            future.set_result(result)

    def _on_raised(self, call: int, error: Exception) -> None:
        future = self._calls.pop(call)
        if not future.done():
            future.set_exception(error)

    async def _call(self, name: str, *arguments: Any) -> Any:
        if self._transport is None:
            raise _gone()
        call, future = next(self._numbers), self._loop.create_future()
        self._calls[call] = future
        self._send(name, call, *arguments)
        return await future

    def _send(self, name: str, *arguments: Any) -> None:
        data = frame((name, *arguments))
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(data)

    def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        if data and self._transport is not None:
            self._transport.write(data)

    def _pop(self, number: int) -> Waiting | None:
        one = self._waiting.pop(number, None)
        if one is not None:
            del self._number_of[one]
        return one

    def _number(self, served: Served) -> int:
        return self._models[id(served.model)][1]

    def _recipe(self, prepared: PreparedPlan) -> bytes:
        assert prepared.subnet is not None
        model = self._models.get(id(prepared.owner))
        if model is None:
            raise ModelNotReadyError("the model has gone")
        return packed_recipe(
            PlanRecipe(
                model[1],
                tuple(prepared.subnet.items()),
                tuple(prepared.plan.answers),
                prepared.is_raw,
                prepared.keep,
                prepared.known,
            )
        )

    async def _connect(self) -> None:
        while True:
            self._greeted = self._loop.create_future()
            with suppress(OSError):
                await self._loop.create_unix_connection(lambda: self, str(self._path))
                await self._greeted
                return
            await asyncio.sleep(_RETRY_S)

    async def _restore(self) -> None:
        """Connect to the next process, and have it load what this one serves."""
        while not self._is_ready:
            await self._connect()
            try:
                for served, number in list(self._models.values()):
                    profile = self._profiles.pop(number)
                    found: Loaded = await self._call("load", served.folder, served.manifest.digest)
                    profile.adopt(found.corrections, 1.0)
                    self._models[id(served.model)] = (served, found.number)
                    self._profiles[found.number] = profile
                    await self._call("expect_whole", found.number)
            except RheostatError as error:
                log.warning("not restored: %s", error.message)
                continue
            self._is_ready = True
            log.info("the engine's process is back")


def _gone() -> RheostatError:
    return ModelNotReadyError("the engine's process has gone; it is being started again")
