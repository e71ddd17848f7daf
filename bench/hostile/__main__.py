"""Send hostile requests to a running server, and fail if it breaks any promise.

Heads, chunks, trailers, compressed bodies, forms, images, texts and bodies by schema, each case on
a connection of its own and made from the seed and its number alone. It fails on an error of the
server's own (5xx but overload), on an answer that is owed and does not come, on a case in order
that is not understood, on `/healthz` above 200 ms and on memory that is not given back.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.hostile import bodies, forms, heads, images, texts
from bench.hostile.case import Case, Maker, Target
from bench.hostile.watch import Watcher, resident_bytes
from bench.hostile.wire import Reply, send

_GROUPS: dict[str, tuple[int, tuple[Maker, ...]]] = {  # how often, of all
    "heads": (24, heads.MAKERS),
    "bodies": (24, bodies.MAKERS),
    "forms": (14, forms.MAKERS),
    "images": (14, images.MAKERS),
    "texts": (24, texts.MAKERS),
}
_HUGE_EVERY = 400  # cases; a huge text takes as long as many others
_WARM_UP = 0.15  # of the cases, before memory is read for the first time
_QUICK_CASES = 1200
_HEALTH_S = 0.2
_MEMORY = 1.10
_SHOWN = 20
_BESIDE = 4


class Outcome(NamedTuple):
    """A case that was sent."""

    number: int
    group: str
    what: str
    at: float
    took: float
    reply: Reply


def make(number: int, seed: int, target: Target) -> tuple[str, Case]:
    """Return the case of a number, and its group."""
    random = Random(f"{seed}/{number}")
    if number % _HUGE_EVERY == _HUGE_EVERY - 1:
        return "huge", texts.huge(random, target)
    weights = [weight for weight, _ in _GROUPS.values()]
    (group,) = random.choices(list(_GROUPS), weights)
    return group, random.choice(_GROUPS[group][1])(random, target)


def look_at(address: tuple[str, int], key: str | None) -> Target:
    """Return what is known of a server."""

    def get(path: str) -> Any:
        connection = http.client.HTTPConnection(*address, timeout=60)
        connection.request("GET", path, headers={} if key is None else {"x-api-key": key})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            raise ValueError(f"GET {path}: {answer.status} {found}")
        return found

    models: dict[str, str] = {}
    for model in get("/v1/models")["data"]:
        for taken in get(f"/v1/models/{model['id']}")["inputs"].values():
            models.setdefault(taken["kind"], model["id"])
    operations = [
        (method.upper(), path, operation["requestBody"]["content"]["application/json"]["schema"])
        for path, methods in get("/openapi.json")["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation and not path.startswith(("/v1/clients", "/v1/keys"))
    ]
    host = "{}:{}".format(*address)
    return Target(host, key, models.get("text"), models.get("image"), operations)


def run(
    address: tuple[str, int], target: Target, seed: int, numbers: range, threads: int, end: float
) -> list[Outcome]:
    """Send cases; those that are due after the end are left out."""

    def one(number: int) -> Outcome | None:
        if time.monotonic() > end:
            return None
        group, case = make(number, seed, target)
        at = time.monotonic()
        reply = send(address, case)
        return Outcome(number, group, case.what, at, time.monotonic() - at, reply)

    with ThreadPoolExecutor(threads) as pool:
        return [outcome for outcome in pool.map(one, numbers) if outcome is not None]


def faults(outcomes: list[Outcome], watcher: Watcher, before: float, after: float) -> list[str]:
    """Return what was promised and not kept, one line each."""
    found = [
        f"case {one.number} ({one.group}: {one.what}): {one.reply.fault}"
        for one in outcomes
        if one.reply.fault
    ]
    for at, took in watcher.waits.above(_HEALTH_S):
        beside = [one for one in outcomes if one.at < at + took and one.at + one.took > at]
        longest = sorted(beside, key=lambda one: -one.took)[:_BESIDE]
        listed = [f"{one.number} {one.what[:50]} ({1000 * one.took:.0f} ms)" for one in longest]
        found.append(f"/healthz took {1000 * took:.0f} ms; longest beside it: {listed}")
    if after > _MEMORY * before:
        found.append(
            f"memory: {before / 1e6:.0f} MB after warm-up, {after / 1e6:.0f} MB at the end"
        )
    return found


def show(outcomes: list[Outcome], found: list[str]) -> None:
    """Print the statuses by group, and the first faults."""
    by_group: dict[str, Counter[str]] = defaultdict(Counter)
    for one in outcomes:
        by_group[one.group][str(one.reply.status or "none")] += 1
    table = Table("group", "cases", "answers by status")
    for group, statuses in sorted(by_group.items()):
        listed = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        table.add_row(group, str(sum(statuses.values())), listed)
    Console(width=120).print(table)
    for line in found[:_SHOWN]:
        print(f"FAULT {line}")
    print(f"{len(outcomes)} cases, {len(found)} faults")


def main() -> None:
    """Run; the exit code is 1 if there was a fault."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", default="http://127.0.0.1:8000")
    options.add_argument("--key", help="with the scopes infer and metrics, where keys are needed")
    options.add_argument("--cases", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=8, help="connections at once")
    options.add_argument("--only", type=int, metavar="NUMBER", help="send this case alone")
    options.add_argument("--quick", action="store_true", help="under 45 s")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write all of it here")
    given = options.parse_args()
    parts = urlsplit(given.url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    target = look_at(address, given.key)
    if given.only is not None:
        group, case = make(given.only, given.seed, target)
        print(group, case.what, [piece[:500] for piece in case.pieces], sep="\n")
        print(send(address, case))
        return
    start = time.monotonic()
    count = min(given.cases, _QUICK_CASES) if given.quick else given.cases
    warm_s, cases_s, settle_s = (10, 20, 4) if given.quick else (3600, 3600, 10)
    warm = round(_WARM_UP * count)
    with Watcher(address) as watcher:
        outcomes = run(address, target, given.seed, range(warm), given.threads, start + warm_s)
        before = resident_bytes(address, given.key, settle_s)
        end = time.monotonic() + cases_s
        outcomes += run(address, target, given.seed, range(warm, count), given.threads, end)
        after = resident_bytes(address, given.key, settle_s)
    found = faults(outcomes, watcher, before, after)
    show(outcomes, found)
    waits = sorted(watcher.waits.seconds)
    figures = {
        "seconds": round(time.monotonic() - start, 1),
        "seed": given.seed,
        "cases": len(outcomes),
        "healthz_asked": len(waits),
        "healthz_p99_ms": round(1000 * waits[int(0.99 * len(waits))], 1),
        "healthz_max_ms": round(1000 * waits[-1], 1),
        "resident_mb": [round(before / 1e6), round(after / 1e6)],
        "faults": len(found),
    }
    print(figures)
    if given.json:
        given.json.write_text(json.dumps({**figures, "fault_lines": found}, indent=1))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
