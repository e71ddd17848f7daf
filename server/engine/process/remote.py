"""The engine's process, seen from an HTTP process: a core that runs items elsewhere.

If the connection is lost, whoever waits gets a 503 at once; the core connects again and has the
same models loaded.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from models.space import Subnet
from models.variants import Choices
from search.timing.profile import Corrections, LatencyProfile
from server.engine.batch import Waiting
from server.engine.core import Events, Stats
from server.engine.flows import Held
from server.engine.item import ItemResult, PreparedPlan
from server.engine.process.link import Link, gone
from server.engine.process.remote_models import RemoteModels
from server.engine.process.wire import (
    Hello,
    Work,
    bare,
)
from server.errors import not_running
from server.served import Served

log = logging.getLogger(__name__)

_RETRY_S = 0.05


class RemoteCore:
    """A core in another process, behind a Unix socket.

    Attributes:
        models: That the process runs for this one.
    """

    holds_weights = False

    def __init__(self, path: Path, is_shared: bool = False) -> None:
        """Connect to nothing yet.

        Args:
            path: Of the socket that the engine's process listens to.
            is_shared: Whether other HTTP processes put items in as well.
        """
        self._path, self.is_shared = path, is_shared
        self.answering: dict[str, Callable[..., Awaitable[Any]]] = {}
        self.pace = 1.0
        self._events: Events
        self._link: Link | None = None
        self._hello: Hello
        self._numbers = itertools.count()
        self._waiting: dict[int, Waiting] = {}
        self._number_of: dict[Waiting, int] = {}
        self._running: Sequence[Waiting] = ()
        self._until = 0.0
        self.models = RemoteModels(self._call)
        self._is_closing = self._is_ready = False
        self._tasks: set[asyncio.Task[None]] = set()

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
        self._events = events
        await self._connect()
        self._is_ready = True

    async def close(self) -> None:
        """Put in nothing more; wait for what was."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        claims = [one.claim for one in self._waiting.values() if not one.claim.done()]
        if claims:
            await asyncio.wait([claim for claim in claims if isinstance(claim, asyncio.Future)])
        if self._link is not None:
            self._link.close()

    def check_open(self) -> None:
        """Raise ModelNotReadyError if nobody would run what is put in."""
        if not self.is_alive:
            raise not_running()

    def put(self, waiting: Sequence[Waiting]) -> list[tuple[Waiting, ItemResult]]:
        """Send items; what the cache has of them comes as all answers do."""
        self.check_open()
        assert self._link is not None
        groups: dict[PreparedPlan, list[Waiting]] = {}
        for one in waiting:
            groups.setdefault(one.item.prepared, []).append(one)
        for prepared, own in groups.items():
            self._link.send("put", self._work(prepared, own))
        return []

    def _work(self, prepared: PreparedPlan, waiting: Sequence[Waiting]) -> Work:
        """Number items of one request and of one plan, and return what is sent of them."""
        items = []
        for one in waiting:
            number = next(self._numbers)
            self._waiting[number], self._number_of[one] = one, number
            items.append((number, bare(one.item.inputs), dict(one.item.known)))
        first = waiting[0]
        flops = [one.item.flops for one in waiting if one.item.flops is not None]
        return Work(
            self.models.recipe(prepared),
            id(first.request),
            first.since,
            first.item.deadline,
            sum(flops) / len(flops) if flops else None,
            first.item.client,
            first.item.weight,
            first.item.priority,
            first.item.longest_s,
            items,
        )

    def discard(self, waiting: Sequence[Waiting]) -> None:
        """Take items out that still wait."""
        numbers = [self._number_of.pop(one) for one in waiting if one in self._number_of]
        for number in numbers:
            del self._waiting[number]
        if numbers and self._link is not None:
            self._link.send("discard", numbers)

    async def ask_others(self, timeout_s: float, name: str, *arguments: Any) -> list[Any]:
        """As `Core.ask_others`."""
        if not self.is_shared:
            return []
        answers: list[Any] = await self._call("ask_others", timeout_s, name, *arguments)
        return answers

    def tell_held(self, held: Held) -> None:
        """As `Core.tell_held`."""
        if self.is_shared and self._link is not None:
            self._link.send("held", held)

    async def prepare(self, served: Served) -> LatencyProfile:
        """As `Core.prepare`; errors as for `RemoteModels.load`."""
        return await self.models.load(served)

    async def expect(self, served: Served, subnet: Subnet, build: bool = True) -> None:
        """As `Core.expect`."""
        await self.models.expect(served, subnet, build)

    async def build(self, served: Served, choices: Choices) -> tuple[Any, int]:
        """As `Core.build`: the model itself makes plans for all choices, which it cannot run."""
        return served.elastic, await self.models.build(served, choices)

    async def drop(self, served: Served, choices: Choices) -> None:
        """As `Core.drop`."""
        await self.models.drop(served, choices)

    async def forget_model(self, served: Served) -> None:
        """As `Core.forget_model`."""
        await self.models.forget(served)

    # What the other side says.

    def _told(self, name: str, *arguments: Any) -> None:
        getattr(self, f"_on_{name}")(*arguments)

    def _lost(self, link: Link) -> None:
        """Leave nobody waiting, and connect again."""
        if link is not self._link:
            return
        self._link, self._is_ready = None, False
        self._waiting.clear()
        self._number_of.clear()
        self._running, self._until = (), 0.0
        self._events.ended(gone)
        if not self._is_closing:
            log.warning("the engine's process has gone; waiting for the next one")
            self._begin(self._restore())

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
        self._begin(self._answer(number, name, *arguments))

    async def _answer(self, number: int, name: str, *arguments: Any) -> None:
        answer = await self.answering[name](*arguments)
        if self._link is not None:
            self._link.send("told", number, answer)

    def _on_learnt(self, number: int, corrections: Corrections, drift: float) -> None:
        self.models.learnt(number, corrections, drift)

    def _on_counted(self, stats: Stats) -> None:
        self._hello = self._hello._replace(stats=stats)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, name: str, *arguments: Any) -> Any:
        if self._link is None:
            raise gone()
        return await self._link.call(name, *arguments)

    def _pop(self, number: int) -> Waiting | None:
        one = self._waiting.pop(number, None)
        if one is not None:
            del self._number_of[one]
        return one

    async def _connect(self) -> None:
        while self._link is None or not self._link.is_open:
            link = Link(self._told, self._lost)
            try:
                self._hello = await link.connected(self._path)
            except OSError:
                await asyncio.sleep(_RETRY_S)
            else:
                self._link, self.pace = link, self._hello.pace

    async def _restore(self) -> None:
        """Connect to the next process, and have it load what this one serves."""
        await self._connect()
        link = self._link
        if await self.models.restore(lambda: self._link is link):
            self._is_ready = True
            log.info("the engine's process is back")
