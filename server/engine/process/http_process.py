"""One HTTP process, seen from the engine's.

A thread reads what the process says and does it. The worker's thread writes answers, and is never
held up: what the other side does not take at once is written by a further thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from socket import MSG_DONTWAIT, SHUT_RDWR, socket
from typing import Any, Protocol

from server.catalog import CatalogError
from server.engine.batch import Waiting
from server.engine.item import ItemResult, QueueItem
from server.engine.process.models import Models
from server.engine.process.wire import Frames, Message, Work, dressed, frame
from server.engine.worker import FAILED, Worker
from server.errors import ModelNotReadyError

log = logging.getLogger(__name__)

_READ_BYTES = 2**18
_OPERATIONS = frozenset({"load", "expect", "build", "drop", "forget"})


class Hosting(Protocol):
    """What an HTTP process is served by: `server.engine.process.host.Host`."""

    @property
    def models(self) -> Models: ...  # noqa: D102

    @property
    def worker(self) -> Worker: ...  # noqa: D102

    def greet(self, connection: HttpProcess) -> None: ...  # noqa: D102

    def leave(self, connection: HttpProcess) -> None: ...  # noqa: D102

    def relay(self, sender: HttpProcess, message: Message) -> None: ...  # noqa: D102

    def ask_others(  # noqa: D102
        self, asker: HttpProcess, timeout_s: float, name: str, *arguments: Any
    ) -> list[Any]: ...

    def put(self, waiting: Sequence[Waiting]) -> list[tuple[Waiting, ItemResult]]: ...  # noqa: D102

    def deliver(self, results: Sequence[tuple[Waiting, ItemResult]]) -> None: ...  # noqa: D102


class HttpClaim:
    """An HTTP process's claim on the result of one item.

    Attributes:
        connection: Of the process.
        number: Of the item there.
    """

    __slots__ = ("_is_over", "connection", "number")

    def __init__(self, connection: HttpProcess, number: int) -> None:
        self.connection, self.number, self._is_over = connection, number, False

    def done(self) -> bool:
        """Whether it has been told, or nobody waits any more."""
        return self._is_over

    def end(self) -> bool:
        """Let nobody wait any more; return whether somebody did."""
        was_open, self._is_over = not self._is_over, True
        self.connection.forget(self.number)
        return was_open


class HttpProcess:
    """What one HTTP process asks, and what it is told."""

    def __init__(self, host: Hosting, endpoint: socket) -> None:
        """Take over a socket; `run` reads from it."""
        self._host = host
        self._socket = endpoint
        self._waiting: dict[int, Waiting] = {}
        self._sending = threading.Lock()
        self._is_open = True
        self._asked: dict[int, Future[Any]] = {}
        self._unsent: SimpleQueue[bytes | None] = SimpleQueue()
        self._num_unsent = 0
        self._writer = threading.Thread(target=self._write, name="engine-write", daemon=True)

    def run(self) -> None:
        """Do what the other side says until it is gone."""
        self._writer.start()
        self._host.greet(self)
        frames = Frames()
        try:
            while data := self._socket.recv(_READ_BYTES):
                for name, *arguments in frames.feed(data):
                    self._do(name, arguments)
        except OSError as error:
            log.info("an HTTP process is gone: %s", error)
        finally:
            self.close()
            self._discard(list(self._waiting))
            for future in list(self._asked.values()):
                future.cancel()
            self._host.leave(self)
            self._socket.close()

    def close(self) -> None:
        """End the connection; `run` then returns."""
        with self._sending:
            self._is_open = False
        self._unsent.put(None)
        with suppress(OSError):
            self._socket.shutdown(SHUT_RDWR)

    def send(self, messages: Sequence[Message]) -> None:
        """Tell something; never waits. Bounded, as each item is told once."""
        data = b"".join(map(frame, messages))
        with self._sending:
            if not self._is_open:
                return
            if not self._num_unsent:
                sent = 0
                with suppress(OSError):  # it would wait; or it is gone, which `run` sees
                    sent = self._socket.send(data, MSG_DONTWAIT)
                if sent == len(data):
                    return
                data = data[sent:]
            self._num_unsent += 1
            self._unsent.put(data)

    def forget(self, number: int) -> None:
        """Take in that nobody waits for an item any more."""
        self._waiting.pop(number, None)

    def _write(self) -> None:
        while (data := self._unsent.get()) is not None:
            try:
                self._socket.sendall(data)
            except OSError:
                return
            with self._sending:
                self._num_unsent -= 1

    def _do(self, name: str, arguments: Sequence[Any]) -> None:
        if name == "put":
            self._put(*arguments)
        elif name == "discard":
            self._discard(*arguments)
        elif name == "held":
            self._host.relay(self, ("others_hold", id(self), *arguments))
        elif name == "told":
            self._told(*arguments)
        elif name in _OPERATIONS or name == "ask_others":
            # A thread for each: they are rare, take seconds and must not hold up items.
            args = (name, *arguments)
            threading.Thread(target=self._operate, args=args, name=name, daemon=True).start()
        else:
            raise ValueError(f"{name!r} is nothing that can be asked")

    def ask(self, name: str, arguments: Sequence[Any]) -> Future[Any]:
        """Ask the process something; cancelled if it goes away."""
        future: Future[Any] = Future()
        self._asked[id(future)] = future
        self.send([("asked", id(future), name, *arguments)])
        return future

    def _told(self, number: int, answer: Any) -> None:
        if (future := self._asked.pop(number, None)) is not None:
            future.set_result(answer)

    def _put(self, work: Work) -> None:
        claims = [HttpClaim(self, number) for number, _, _ in work.items]
        try:
            prepared = self._host.models.plan_of(work.recipe)
            waiting = [
                Waiting(
                    QueueItem(
                        prepared,
                        dressed(inputs),
                        known,
                        work.deadline,
                        work.flops,
                        work.client,
                        work.weight,
                        work.priority,
                        work.longest_s,
                    ),
                    work.since,
                    claim,
                    (id(self), work.request),
                )
                for claim, (_, inputs, known) in zip(claims, work.items, strict=True)
            ]
            self._waiting |= {claim.number: one for claim, one in zip(claims, waiting, strict=True)}
            cached = self._host.put(waiting)
        except ModelNotReadyError as error:
            for claim in claims:
                claim.end()
            self.send([("refused", [claim.number for claim in claims], error.message)])
        except Exception:  # of this request alone: others of the process go on
            log.exception("items could not be put in")
            self.send([("failed", [(claim.number, FAILED) for claim in claims if claim.end()])])
        else:
            if cached:
                self._host.deliver(cached)

    def _discard(self, numbers: Sequence[int]) -> None:
        left = [one for number in numbers if (one := self._waiting.get(number)) is not None]
        for one in left:
            assert isinstance(one.claim, HttpClaim)
            one.claim.end()
        self._host.worker.discard(left)

    def _operate(self, name: str, call: int, *arguments: Any) -> None:
        try:
            if name == "ask_others":
                result = self._host.ask_others(self, *arguments)
            else:
                result = getattr(self._host.models, name)(self, *arguments)
        except (CatalogError, ModelNotReadyError) as error:
            self.send([("raised", call, error)])
        except Exception as error:
            log.exception("%s failed", name)
            self.send([("raised", call, RuntimeError(f"{type(error).__name__}: {error}"))])
        else:
            self.send([("returned", call, result)])
