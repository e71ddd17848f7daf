"""The wall clock is set a day ahead, and then two days back, while the server runs.

The interpreter's own `time.time` is replaced before the server is imported; timers go on, as they
do where a machine's time is set. libfaketime would do it below Python, but breaks Python's waits by
the monotonic clock (0.9.10 under Python 3.11: `time.sleep` raises EINVAL). Three clients spend a
quota each until they are refused, on each day.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from bench.faults.arena import Arena, Row, Server
from bench.faults.database import made
from bench.peers.process import PATH

_VARIABLE = "WALL_CLOCK_SET_BY"  # a file of seconds
_SITE = f"""
import os, time
from pathlib import Path

real, set_by = time.time, Path(os.environ["{_VARIABLE}"])
time.time = lambda: real() + float(set_by.read_text())
"""
_DAY_S = 86_400
_SETTINGS = {"today": 0, "a day ahead": _DAY_S, "a day behind": -_DAY_S}
_SHORT_S = _DAY_S / 2  # that a key is good for
_MOST = 100  # requests, of which every quota allows fewer
_SLACK_S = 0.2
_LONG_S = 1.0  # to wait for one request of ten a second
_PATIENCE_S = 30.0


def run(arena: Arena) -> Iterator[Row]:
    """Set the clock and see who gets in, and who is told to wait for how long."""
    folder = arena.folder()
    (folder / "sitecustomize.py").write_text(_SITE)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, _VARIABLE: str(folder / "clock")}
    _set(folder / "clock", 0)
    with arena.server(environment=environment) as server, server.client() as admin:
        admin.headers["x-api-key"] = made(admin, scopes=["admin"])
        steady = made(admin, scopes=["infer"])
        short = made(admin, scopes=["infer"], expires_in_s=_SHORT_S)
        with server.client(steady) as http:
            flops = float(_ask(http, server).headers["x-rheostat-flops"])
        quotas = {
            "requests_per_s": {"requests_per_s": 10, "request_burst": 2},
            "flops_per_s": {"flops_per_s": 10 * flops, "flops_burst": 2 * flops},
            "flops_per_day": {"flops_per_day": 3 * flops},
        }
        keys = {}
        for name, quota in quotas.items():
            admin.put(f"/v1/clients/{name}", json={"quota": quota}).raise_for_status()
            keys[name] = made(admin, client=name, scopes=["infer"])
        with server.watched("clock", steady) as row:
            statuses = []
            for day, set_by in _SETTINGS.items():
                _set(folder / "clock", set_by)
                row.expect(_is_set(admin, set_by), f"{day}: the server's clock is set")
                with server.client(short) as http:
                    statuses.append(_ask(http, server).status_code)
                for name, key in keys.items():
                    with server.client(key) as http:
                        _spend(row, http, server, f"{day}, {name}")
        row.expect(statuses == [200, 401, 200], "keys expire by the wall clock, and only by it")
        waits = row.figures
        row.faulty = f"a key of 12 hours: {statuses}; refused clients are told to wait at most " + (
            ", ".join(
                f"{max(wait for day, wait in waits.items() if day.endswith(name)):.1f} s ({name})"
                for name in quotas
            )
        )
    yield row


def _set(clock: Path, seconds: int) -> None:
    """Set the clock; the server may be reading it."""
    new = clock.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(clock)


def _is_set(http: httpx.Client, set_by: int) -> bool:
    """Wait until the server's answers carry the new date."""
    give_up = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up:
        date = parsedate_to_datetime(http.get("/healthz").headers["date"]).timestamp()
        if abs(date - time.time() - set_by) < _DAY_S / 24:
            return True
        time.sleep(_SLACK_S)
    return False


def _spend(row: Row, http: httpx.Client, server: Server, what: str) -> None:
    """Ask until the quota refuses; what it says must be a time to wait for, and come true."""
    answer = first = _ask(http, server)
    for _ in range(_MOST):
        if answer.status_code != 200:
            break
        answer = _ask(http, server)
    row.expect(answer.status_code == 429, f"{what}: the quota holds, not {answer.status_code}")
    wait_s = float(answer.headers.get("retry-after-ms", "nan")) / 1000
    row.figures[what] = wait_s
    is_daily = what.endswith("day")
    row.expect(0 < wait_s <= (_DAY_S if is_daily else _LONG_S), f"{what}: no wait of {wait_s:g} s")
    if is_daily:
        is_new_day = not what.startswith("a day behind")
        row.expect(first.status_code == 200 or not is_new_day, f"{what}: a new day has a new quota")
    elif wait_s <= _LONG_S:
        time.sleep(wait_s + _SLACK_S)
        again = _ask(http, server).status_code
        row.expect(again == 200, f"{what}: served after the wait, not {again}")


def _ask(http: httpx.Client, server: Server) -> httpx.Response:
    body = {"model": server.model, "input": "a", "budget": {"strict": True}}
    return http.post(PATH, json=body)
