"""Sends what `rheostat.calls` builds: a client that blocks, and one for asyncio.

Methods are built from the functions of `rheostat.calls`, which say once what is sent and how its
answer is read. `rheostat.errors` has what is raised, `rheostat.retries` when a request is sent
again.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from rheostat import calls, classify_calls, index_calls
from rheostat.call import Call
from rheostat.retries import Retries
from rheostat.version import __version__

P = ParamSpec("P")
T = TypeVar("T")
_TIMEOUT_S = 60.0


def _blocking(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """Make a method that sends what a function builds."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(build(*args, **kwargs))

    return _dressed(method, build)


def _awaitable(
    build: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Make a coroutine method that sends what a function builds."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._send(build(*args, **kwargs))

    return _dressed(method, build)


def _dressed(method: T, build: Callable[..., object]) -> T:
    """Give a method the name, text and arguments of the function it sends for."""
    signature = inspect.signature(build)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    for name, value in {
        "__name__": build.__name__,
        "__doc__": build.__doc__,
        "__signature__": signature.replace(parameters=[itself, *signature.parameters.values()]),
    }.items():
        setattr(method, name, value)
    return method


class Client:
    """A connection to a server.

    Methods raise `APIError`, and ``httpx.TransportError`` if the server cannot be reached.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: The server's root, without ``/v1``, such as ``http://127.0.0.1:8000``.
            key: Sent as a bearer token.
            timeout_s: To wait for each answer.
            retries: When to send a request again; None for twice.
            transport: Of httpx, instead of its own.
            sleep: Waits for seconds between attempts.
            rng: Returns numbers from 0 to 1.

        Raises:
            ValueError: If the address is none of HTTP.
        """
        self._retries = retries or Retries()
        self._sleep = sleep
        self._rng = rng
        self._http = httpx.Client(
            base_url=_checked(url), headers=_headers(key), timeout=timeout_s, transport=transport
        )

    infer = _blocking(calls.infer)
    plan = _blocking(calls.plan)
    embed = _blocking(calls.embed)
    rerank = _blocking(calls.rerank)
    similarity = _blocking(calls.similarity)
    create_index = _blocking(index_calls.create_index)
    indexes = _blocking(index_calls.indexes)
    index = _blocking(index_calls.index)
    delete_index = _blocking(index_calls.delete_index)
    rerank_stored = _blocking(index_calls.rerank_stored)
    neighbors = _blocking(index_calls.neighbors)
    classify = _blocking(classify_calls.classify)
    classify_stored = _blocking(classify_calls.classify_stored)
    models = _blocking(calls.models)
    model = _blocking(calls.model)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        outcome: httpx.Response | httpx.TransportError
        for attempt in itertools.count():
            try:
                outcome = self._http.request(call.method, call.path, **call.body)
                if outcome.is_success:
                    return call.read(outcome)
            except httpx.TransportError as error:
                outcome = error
            self._sleep(self._retries.wait_s(outcome, attempt, self._rng))
        raise AssertionError("unreachable")


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """Prepare; arguments as of `Client`."""
        self._retries = retries or Retries()
        self._sleep = sleep
        self._rng = rng
        self._http = httpx.AsyncClient(
            base_url=_checked(url), headers=_headers(key), timeout=timeout_s, transport=transport
        )

    infer = _awaitable(calls.infer)
    plan = _awaitable(calls.plan)
    embed = _awaitable(calls.embed)
    rerank = _awaitable(calls.rerank)
    similarity = _awaitable(calls.similarity)
    create_index = _awaitable(index_calls.create_index)
    indexes = _awaitable(index_calls.indexes)
    index = _awaitable(index_calls.index)
    delete_index = _awaitable(index_calls.delete_index)
    rerank_stored = _awaitable(index_calls.rerank_stored)
    neighbors = _awaitable(index_calls.neighbors)
    classify = _awaitable(classify_calls.classify)
    classify_stored = _awaitable(classify_calls.classify_stored)
    models = _awaitable(calls.models)
    model = _awaitable(calls.model)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        outcome: httpx.Response | httpx.TransportError
        for attempt in itertools.count():
            try:
                outcome = await self._http.request(call.method, call.path, **call.body)
                if outcome.is_success:
                    return call.read(outcome)
            except httpx.TransportError as error:
                outcome = error
            await self._sleep(self._retries.wait_s(outcome, attempt, self._rng))
        raise AssertionError("unreachable")


def _checked(url: str) -> str:
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"url is {url!r}; it must be like http://127.0.0.1:8000")
    return url


def _headers(key: str | None) -> dict[str, str]:
    agent = {"user-agent": f"rheostat-python/{__version__}"}
    return agent if key is None else {**agent, "authorization": f"Bearer {key}"}
