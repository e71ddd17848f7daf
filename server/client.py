"""A Python client for Rheostat, blocking and asynchronous, in the server's own words.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.infer(photo, budget=Budget(flops=2e7), preferences={"fish": 1})
        print(answer.outputs[0]["fish"].label, answer.receipt.flops)

`server.client_calls` says once what each method sends and how its answer is read, and
`server.client_errors` what is raised and when a request is sent again; here it is only sent.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from server import client_calls
from server.api.rheostat.schema import BudgetBody as Budget
from server.api.rheostat.text_schema import CascadeBody as Cascade
from server.client_calls import Call, Embeddings
from server.client_errors import (
    APIError,
    AuthenticationError,
    DeadlineError,
    InfeasibleBudgetError,
    InvalidRequestError,
    OverloadedError,
    Retries,
    ServerError,
    UnknownModelError,
)

__all__ = [
    "APIError",
    "AsyncClient",
    "AuthenticationError",
    "Budget",
    "Cascade",
    "Client",
    "DeadlineError",
    "Embeddings",
    "InfeasibleBudgetError",
    "InvalidRequestError",
    "OverloadedError",
    "Retries",
    "ServerError",
    "UnknownModelError",
]

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
            url: The server's root, without ``/v1``.
            key: Sent as a bearer token.
            timeout_s: To wait for each answer.
            retries: When to send a request again; None for twice.
            transport: Of httpx, instead of its own.
            sleep: Waits for seconds between attempts.
            rng: Returns numbers from 0 to 1.
        """
        self._retries = retries or Retries()
        self._sleep = sleep
        self._rng = rng
        self._http = httpx.Client(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport
        )

    infer = _blocking(client_calls.infer)
    plan = _blocking(client_calls.plan)
    embed = _blocking(client_calls.embed)
    rerank = _blocking(client_calls.rerank)
    similarity = _blocking(client_calls.similarity)
    models = _blocking(client_calls.models)
    model = _blocking(client_calls.model)

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
                    return call.parse(outcome)
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
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport
        )

    infer = _awaitable(client_calls.infer)
    plan = _awaitable(client_calls.plan)
    embed = _awaitable(client_calls.embed)
    rerank = _awaitable(client_calls.rerank)
    similarity = _awaitable(client_calls.similarity)
    models = _awaitable(client_calls.models)
    model = _awaitable(client_calls.model)

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
                    return call.parse(outcome)
            except httpx.TransportError as error:
                outcome = error
            await self._sleep(self._retries.wait_s(outcome, attempt, self._rng))
        raise AssertionError("unreachable")


def _headers(key: str | None) -> dict[str, str]:
    agent = {"user-agent": f"rheostat-python/{version('rheostat')}"}
    return agent if key is None else {**agent, "authorization": f"Bearer {key}"}
