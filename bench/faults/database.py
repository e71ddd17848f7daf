"""PostgreSQL is killed, stays away for some seconds, and comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import httpx

from bench import postgres
from bench.faults.arena import AbsentError, Arena, Row, Server
from bench.peers.process import PATH
from search.budget import Budget
from server.clients.database import Database
from server.clients.keys import Scope, new_key
from server.clients.profile import ClientProfile
from server.clients.store import Store

_NOTICE_S = 1.0  # in which the server finds out
_PATIENCE_S = 20.0
_CLIENTS = {
    "steady": {"quota": {"requests_per_s": 1000}},  # the witness, who leases its quota
    "shop": {"budget": {"fraction": 1}},
}


def run(arena: Arena) -> Iterator[Row]:
    """Serve known and unknown keys meanwhile; then change a client elsewhere."""
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(postgres.cluster())
        except postgres.MissingError as error:
            raise AbsentError(str(error)) from None
        url = cluster.create("faults")
        server = stack.enter_context(arena.server("--database", url))
        admin = stack.enter_context(server.client())
        admin.headers["x-api-key"] = made(admin, scopes=["admin"])
        for client, profile in _CLIENTS.items():
            admin.put(f"/v1/clients/{client}", json=profile).raise_for_status()
        keys = {client: made(admin, client=client, scopes=["infer"]) for client in _CLIENTS}
        shop = stack.enter_context(server.client(keys["shop"]))
        yield _outage(arena, server, cluster, url, admin, shop, keys["steady"])


def _outage(
    arena: Arena,
    server: Server,
    cluster: postgres.Cluster,
    url: str,
    admin: httpx.Client,
    shop: httpx.Client,
    steady: str,
) -> Row:
    away_s = 1.5 if arena.is_quick else 15.0
    with server.watched("database", steady) as row:
        before = _flops(shop, server)
        cluster.stop()
        unknown, change = _while_away(server, admin, away_s)
        cluster.start()
        start = time.monotonic()
        asyncio.run(_change_elsewhere(url))
        while _flops(shop, server) == before and time.monotonic() < start + _PATIENCE_S:
            pass
        acts_ms = 1000 * (time.monotonic() - start)
    said = ", ".join(f"{times} x {status}" for status, times in unknown.items())
    row.faulty = (
        f"away for {away_s:g} s; unknown keys: {said}; PUT of a client: {change}; "
        f"once back, a change made elsewhere acts after {acts_ms:.0f} ms"
    )
    row.figures = {"unknown": dict(unknown), "change": change, "acts_ms": acts_ms}
    row.expect(set(unknown) == {503}, "keys that are not known here get 503")
    row.expect(change == 503, "changes get 503")
    row.expect(acts_ms < 2000, "changes act again within two seconds")
    return row


def made(admin: httpx.Client, **body: object) -> str:
    """Make a key and return its text."""
    answer = admin.post("/v1/keys", json=body)
    answer.raise_for_status()
    key: str = answer.json()["key"]
    return key


def _while_away(server: Server, admin: httpx.Client, away_s: float) -> tuple[Counter[int], int]:
    """Return what unknown keys get, by status, and what a change does."""
    until = time.monotonic() + away_s
    time.sleep(_NOTICE_S)
    statuses: Counter[int] = Counter()
    while time.monotonic() < until:
        key, _ = new_key({Scope.INFER}, "shop", "", time.time(), None)
        with server.client(key) as stranger:
            statuses[stranger.post(PATH, json={"input": "a"}).status_code] += 1
        time.sleep(0.1)
    return statuses, admin.put("/v1/clients/new", json={}).status_code


def _flops(http: httpx.Client, server: Server) -> str:
    answer = http.post(PATH, json={"model": server.model, "input": "a"})
    answer.raise_for_status()
    flops: str = answer.headers["x-rheostat-flops"]
    return flops


async def _change_elsewhere(url: str) -> None:
    """Change the client as another replica would."""
    database = Database(url)
    try:
        profile = ClientProfile(budget=Budget(fraction=0.3))
        await Store(database, max_clients=10).put_client("shop", profile)
    finally:
        await database.close()
