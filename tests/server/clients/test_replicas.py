"""Two real servers on one PostgreSQL; run with ``--log-cli-level=INFO`` to see the figures."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.listening import DEADLINE_S, ROOT, free_port, unread
from tests.server.samples import image, text_of

log = logging.getLogger(__name__)

pytestmark = pytest.mark.system

IMAGE = {"image": text_of(image())}
SECONDS = 20.0
OFFERED = 12.0  # requests a second, at each replica


@contextmanager
def server(folder: Path, url: str) -> Iterator[str]:
    """Run a server and yield its address once it answers."""
    port = free_port()
    arguments = ["serve", "--models", str(folder), "--port", str(port), "--database", url]
    # A quota in FLOPs is then a number of requests, and nothing else refuses any.
    arguments += ["--policy", "fixed", "--max-wait-ms", "60000"]
    with unread([sys.executable, "-m", "server", *arguments]):
        yield f"http://127.0.0.1:{port}"


def make_key(url: str, *options: str) -> dict[str, str]:
    """Make a key at the command line and return the header that carries it."""
    command = [sys.executable, "-m", "server", "keys", "create", "--database", url, *options]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {"authorization": f"Bearer {made.stdout.strip()}"}


class Pair:
    """Two replicas and an administrator's key."""

    def __init__(self, url: str, addresses: list[str]) -> None:
        self.admin = make_key(url, "--scope", "admin")
        self.clients = [httpx.Client(base_url=address, timeout=DEADLINE_S) for address in addresses]
        self.addresses = addresses

    def put(self, client: str, profile: dict[str, Any]) -> None:
        answer = self.clients[0].put(f"/v1/clients/{client}", json=profile, headers=self.admin)
        assert answer.is_success, answer.text

    def key(self, client: str) -> dict[str, str]:
        body = {"client": client, "scopes": ["infer"]}
        answer = self.clients[0].post("/v1/keys", json=body, headers=self.admin)
        return {"x-api-key": answer.json()["key"]}


@pytest.fixture(scope="module")
def pair(folder: Path, postgres: Any) -> Iterator[Pair]:
    url = postgres.create("replicas")
    with ExitStack() as stack:
        addresses = [stack.enter_context(server(folder, url)) for _ in range(2)]
        yield (pair := Pair(url, addresses))
        for client in pair.clients:
            client.close()


def until(condition: Any) -> float:
    """Ask again and again until something is so; return the seconds that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < 5
    return time.monotonic() - start


def test_a_change_made_on_one_replica_acts_on_the_other_within_a_second(pair: Pair) -> None:
    pair.put("shop", {"preferences": {"tiny": {"fish": 1, "people": 1}}})
    key, other = pair.key("shop"), pair.clients[1]

    def preferences() -> object:
        answer = other.post("/v1/plan", json={}, headers=key)
        return answer.json()["receipt"]["preferences"] if answer.is_success else answer.status_code

    times = [until(lambda: preferences() == {"fish": 0.5, "flowers": 0.0, "people": 0.5})]
    for weight in (1, 3, 7):
        pair.put("shop", {"preferences": {"tiny": {"flowers": 1, "people": weight}}})
        share = weight / (1 + weight)
        times.append(
            until(lambda: preferences() == {"fish": 0, "flowers": 1 - share, "people": share})  # noqa: B023
        )
    shown = ", ".join(f"{1000 * seconds:.0f}" for seconds in times)
    log.info("a key and changes of preferences reach the other replica after %s ms", shown)
    assert max(times) < 1

    pair.clients[0].delete("/v1/clients/shop", headers=pair.admin)
    seconds = until(lambda: preferences() == 401)
    log.info("a client's end reaches it after %.0f ms", 1000 * seconds)
    assert seconds < 1


@pytest.mark.parametrize("quota", ["requests", "flops"])
def test_a_quota_holds_across_replicas(pair: Pair, quota: str) -> None:
    pair.put(quota, {})
    key = pair.key(quota)
    plan = pair.clients[0].post("/v1/plan", json={}, headers=key).json()
    each = plan["receipt"]["flops"]
    rate, burst = 10.0, 30.0  # a burst that outlasts a pause of a busy machine
    stored = (
        {"requests_per_s": rate, "request_burst": burst}
        if quota == "requests"
        else {"flops_per_s": rate * each, "flops_burst": burst * each}
    )
    pair.put(quota, {"quota": stored})
    until(lambda: pair.clients[1].post("/v1/plan", json={}, headers=key).is_success)

    sent = 0.0

    async def offer(address: str) -> list[httpx.Response]:
        nonlocal sent
        async with httpx.AsyncClient(base_url=address, timeout=DEADLINE_S, headers=key) as client:
            tasks = []
            for number in range(round(SECONDS * OFFERED)):
                await asyncio.sleep(start + number / OFFERED - time.monotonic())
                tasks.append(asyncio.create_task(client.post("/v1/infer", json=IMAGE)))
            sent = time.monotonic() - start
            return await asyncio.gather(*tasks)

    async def offer_both() -> list[list[httpx.Response]]:
        return list(await asyncio.gather(*map(offer, pair.addresses)))

    start = time.monotonic()
    by_replica = asyncio.run(offer_both())
    answered = time.monotonic() - start
    answers = [answer for one in by_replica for answer in one]
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert 0 < int(answer.headers["retry-after-ms"]) < 1000
    served = sum(answer.status_code == 200 for answer in answers)
    allowed = burst + rate * sent
    log.info(
        "%s: offered %d in %.2f s, allowed %.1f, served %d (%s), %+.1f %%",
        quota,
        len(answers),
        sent,
        allowed,
        served,
        "+".join(str(sum(one.status_code == 200 for one in half)) for half in by_replica),
        100 * (served / allowed - 1),
    )
    # The last are admitted between the end of sending and the last answer.
    assert 0.95 * allowed < served < 1.05 * (burst + rate * answered)
