"""CPU time of the event loop's thread by stage of a request: functions are timed from around them.

A stage is a few functions. Time counts for the innermost one that is entered, and a coroutine is
out of its stage while it waits. Reading the clock is left out of every stage.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from operator import attrgetter
from pkgutil import resolve_name
from types import coroutine
from typing import Any

OTHER = "sockets and event loop"
STAGES: Mapping[str, Sequence[str]] = {
    "parse HTTP": ("server.http.connection:Connection._parse",),
    "middleware and route": (
        "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.run_asgi",
    ),
    "key": ("server.http.auth:Authenticator.authenticate",),
    "body": (
        "server.api.openai.routes:read_json",
        "server.api.rheostat.infer:read_infer",
    ),
    "admit and follow": ("server.service:Service.infer",),
    "decode": ("server.inputs.decoder:Decoder.decode",),
    "choose": ("server.loading:Loading.choose",),
    "submit": ("server.engine.reservation:Reservation.submit",),
    "wake": ("server.engine.engine:Engine.answered",),
    "receipt": (
        "server.api.openai.routes:receipt_of",
        "server.api.rheostat.infer:receipt_of",
    ),
    "metrics": ("server.observe.metrics:Metrics.answered",),
    "write HTTP": ("uvicorn.protocols.http.httptools_impl:RequestResponseCycle.send",),
    "log": ("server.observe.logs:note_access",),
}
"""By stage, the functions that it is; each as module, colon and what is found there."""


class StageClock:
    """Adds up the CPU time of the thread that it is made on.

    Attributes:
        nanoseconds: By stage, so far.
        own_ns: What reading the clock took.
    """

    def __init__(self, clock: Callable[[], int] = time.thread_time_ns) -> None:
        """Begin in no stage.

        Args:
            clock: CPU time of the thread at hand, nanoseconds.
        """
        self.nanoseconds = Counter[str]()
        self.own_ns = 0
        self._clock = clock
        self._thread = threading.get_ident()
        self._inside: list[str] = []
        self._since = 0

    def enter(self, stage: str) -> None:
        """Begin a stage, inside the one at hand if there is one."""
        now = self._count()
        self._inside.append(stage)
        self._since = self._clock()
        self.own_ns += self._since - now

    def leave(self) -> None:
        """Go back to the stage around."""
        now = self._count()
        self._inside.pop()
        self._since = self._clock()
        self.own_ns += self._since - now

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """Return a function that does the same within a stage; on other threads it is untimed."""
        if iscoroutinefunction(function):

            @wraps(function)
            async def follow(*given: Any, **named: Any) -> Any:
                return await self._followed(function(*given, **named), stage)

            return follow

        @wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*given, **named)
            self.enter(stage)
            try:
                return function(*given, **named)
            finally:
                self.leave()

        return call

    @coroutine
    def _followed(self, work: Coroutine[Any, Any, Any], stage: str) -> Generator[Any, Any, Any]:
        """Run a coroutine, in its stage whenever it does not wait."""
        resume: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
        while True:
            self.enter(stage)
            try:
                awaited = resume()
            except StopIteration as end:
                return end.value
            finally:
                self.leave()
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001  # it is the coroutine's
                resume = lambda error=error: work.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                resume = lambda: work.send(None)  # noqa: E731

    def _count(self) -> int:
        now = self._clock()
        if self._inside:
            self.nanoseconds[self._inside[-1]] += now - self._since
        return now


@contextmanager
def watching(clock: StageClock, stages: Mapping[str, Sequence[str]] = STAGES) -> Iterator[None]:
    """Time all functions of the stages while the block runs.

    Raises:
        AttributeError: If a function is no longer where the table says.
        ModuleNotFoundError: Likewise.
    """
    before = []
    try:
        for stage, places in stages.items():
            for place in places:
                module, _, path = place.partition(":")
                *outer, name = path.split(".")
                owner = resolve_name(f"{module}:{'.'.join(outer)}" if outer else module)
                function = attrgetter(name)(owner)
                before.append((owner, name, function))
                setattr(owner, name, clock.timed(function, stage))
        yield
    finally:
        for owner, name, function in reversed(before):
            setattr(owner, name, function)
