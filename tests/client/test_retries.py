"""When requests are sent again, against answers made up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from rheostat import (
    APIError,
    AsyncClient,
    AuthenticationError,
    Client,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    Retries,
    ServerError,
)

Answer = tuple[int, dict[str, str]]
FULL = {"error": {"type": "overloaded", "message": "full"}}


class Script:
    """A transport that gives its answers one after the other, and what the client waited."""

    def __init__(self, *answers: Answer | httpx.TransportError) -> None:
        self._answers = iter(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, httpx.TransportError):
            raise answer
        status, headers = answer
        body = {"object": "list", "data": []} if status == 200 else FULL
        return httpx.Response(status, headers=headers, json=body)

    def models(self, retries: Retries | None = None) -> list[Any]:
        transport = httpx.MockTransport(self)
        with Client(
            "http://x",
            "secret",
            retries=retries,
            transport=transport,
            sleep=self.waits.append,
            rng=lambda: 0.5,
        ) as client:
            return client.models()

    async def models_async(self) -> list[Any]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        transport = httpx.MockTransport(self)
        async with AsyncClient(
            "http://x", transport=transport, sleep=sleep, rng=lambda: 0.5
        ) as client:
            return await client.models()


OK: Answer = (200, {})


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after-ms": "120", "retry-after": "7"}, 0.12),
        ({"retry-after": "7"}, 7.0),
        (
            {
                "retry-after": "Wed, 25 Nov 2026 10:00:09 GMT",
                "date": "Wed, 25 Nov 2026 10:00:00 GMT",
            },
            9.0,
        ),
        ({"retry-after": "later"}, 0.375),  # not intelligible: half a second less a quarter
        ({"retry-after": "Wed, 25 Nov 2026 10:00:09 GMT"}, 0.375),  # by no clock
        ({}, 0.375),
    ],
)
def test_the_wait_is_what_the_server_asks_for(headers: dict[str, str], wait_s: float) -> None:
    script = Script((429, headers), OK)
    assert script.models() == []
    assert script.waits == [pytest.approx(wait_s)]
    other = Script((429, headers), OK)
    assert asyncio.run(other.models_async()) == []
    assert other.waits == script.waits


def test_waits_that_nobody_names_double_up_to_a_limit() -> None:
    script = Script(*[(503, {})] * 6, OK)
    script.models(Retries(most=6, longest_s=2))
    assert script.waits == pytest.approx([0.375, 0.75, 1.5, 1.5, 1.5, 1.5])


def test_the_number_of_retries_is_bounded() -> None:
    script = Script(*[(429, {"retry-after": "1"})] * 9)
    with pytest.raises(OverloadedError, match="full") as caught:
        script.models()
    assert (len(script.requests), script.waits) == (3, [1, 1])
    assert caught.value.retry_after_s == 1
    once = Script((429, {}))
    with pytest.raises(OverloadedError):
        once.models(Retries(most=0))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((429, {"retry-after": "61"}), OverloadedError),  # longer than anybody wants to wait
        ((429, {"x-should-retry": "false"}), OverloadedError),
        ((500, {}), ServerError),
        ((504, {}), DeadlineError),
        ((401, {}), AuthenticationError),
        ((403, {}), AuthenticationError),
        ((422, {}), InvalidRequestError),
    ],
)
def test_what_would_fail_again_is_not_sent_again(answer: Answer, kind: type[APIError]) -> None:
    script = Script(answer)
    with pytest.raises(kind):
        script.models()
    assert not script.waits


def test_a_server_that_says_try_again_is_asked_again() -> None:
    script = Script((500, {"x-should-retry": "true"}), OK)
    assert script.models() == []


def test_a_lost_connection_is_tried_again_and_a_late_answer_is_not() -> None:
    lost: Sequence[httpx.TransportError] = [httpx.ConnectError("x"), httpx.ReadError("x")]
    assert Script(*lost, OK).models() == []
    with pytest.raises(httpx.ReadError):
        Script(*lost, httpx.ReadError("x")).models()
    late = Script(httpx.ReadTimeout("x"))
    with pytest.raises(httpx.ReadTimeout):
        late.models()


def test_the_key_is_sent_as_a_bearer_token_and_the_version_beside_it() -> None:
    script = Script(OK)
    script.models()
    assert script.requests[0].headers["authorization"] == "Bearer secret"
