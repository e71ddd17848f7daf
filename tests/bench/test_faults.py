from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from bench.faults import __main__ as faults
from bench.faults import checkpoint
from bench.faults.arena import AbsentError, Arena, Row
from bench.faults.slow import drip
from bench.faults.witness import PHASES, Seen, witness
from bench.peers.process import PATH, ServerError
from server.http.forms import Forms
from server.http.middleware import BodyTimeout, RequestId
from server.http.serving import configured
from server.settings import Settings
from tests.server.listening import listening
from tests.tiny_text import write_text_checkpoint

LIMIT_S = 0.3
WAIT_S = 30


def calm(**others: int) -> dict[str, Seen]:
    """Return what a witness saw to whom only this happened, during the fault."""
    return {phase: Seen([1.0], Counter(others if phase == "during" else {})) for phase in PHASES}


def test_a_row_fails_by_a_lost_request_a_broken_promise_or_a_dead_server() -> None:
    assert Row("f", seen=calm(), is_alive=True).failures == []
    assert Row("f", seen=calm(), is_alive=False).failures == ["the server died"]
    lost = Row("f", seen=calm(gone=2), is_alive=True)
    assert lost.failures == ["witness, during: 2 x gone"]
    lost.expect(True, "kept")
    lost.expect(False, "not kept")
    assert lost.failures[0] == "not kept"


def test_requests_that_were_not_answered_count_as_sent_and_have_no_latency() -> None:
    seen = Seen([1.0, 2.0, 3.0], Counter({"refused": 2}))
    assert seen.num_sent == 5
    assert seen.percentile_ms(50) == 2
    assert Seen().percentile_ms(50) != Seen().percentile_ms(50)  # nothing was measured


@pytest.mark.parametrize("failing", [False, True])
def test_the_exit_code_says_whether_promises_were_kept(
    failing: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(arena: Arena) -> Iterator[Row]:
        assert arena.is_quick
        assert arena.scratch.is_dir()
        yield Row("a", "got nothing", seen=calm(), is_alive=not failing)

    def absent(arena: Arena) -> Iterator[Row]:
        raise AbsentError("no such thing here")

    def broken(arena: Arena) -> Iterator[Row]:
        raise ServerError("did not start")

    found = {"a": run, "b": absent} | ({"c": broken} if failing else {})
    monkeypatch.setattr(faults, "FAULTS", found)
    write_text_checkpoint(tmp_path / "tiny")
    figures = tmp_path / "figures.json"
    options = ["--quick", "--model", str(tmp_path / "tiny"), "--json", str(figures)]
    monkeypatch.setattr(sys, "argv", ["faults", *options])
    if failing:
        with pytest.raises(SystemExit, match="not everything that was promised was kept"):
            faults.main()
    else:
        faults.main()
    printed = capsys.readouterr().out
    assert "a: got nothing" in printed
    assert "b: skipped: no such thing here" in printed
    assert ("a: NOT KEPT: the server died" in printed) == failing
    assert ("c: NOT KEPT: did not start" in printed) == failing
    kept = json.loads(figures.read_text())
    assert kept["faults"]["a"]["witness"]["before"]["latencies_ms"] == [1.0]
    assert kept["skipped"] == {"b": "no such thing here"}


def test_a_fault_that_nobody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["faults", "fire"])
    with pytest.raises(SystemExit):
        faults.main()
    assert "no fault is called fire" in capsys.readouterr().err


def test_the_witness_notes_other_vectors_and_other_statuses_in_the_phase_they_came_in() -> None:
    app, vector, status = FastAPI(), [1.0, 2.0], 200

    @app.post(PATH)
    async def embed() -> JSONResponse:
        return JSONResponse({"data": [{"embedding": vector}]}, status)

    def until(number: int) -> None:
        give_up = time.monotonic() + WAIT_S
        while len(requests) < number:
            assert time.monotonic() < give_up

    requests: list[Scope] = []

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        if scope["type"] == "http":
            requests.append(scope)

    with listening(counted) as address, witness(int(address.split(":")[1]), "m", "key") as good:
        until(8)
        good.begin("during")
        until(16)
        vector = [1.0, 2.1]
        until(24)
        status = 503
        until(32)
        good.end()
    assert good.seen["before"].latencies_ms
    assert not good.seen["before"].others
    kinds = {what[:24] for what in good.seen["during"].others}
    assert kinds == {"another vector", "the server answered b'HT"}
    assert not good.seen["after"].num_sent
    assert (b"x-api-key", b"key") in requests[-1]["headers"]


def test_slow_connections_that_a_server_ends_and_one_that_it_does_not_are_told_apart() -> None:
    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    def found(app: RequestId) -> Counter[tuple[str, str, bool]]:
        config = configured(app, Settings(read_timeout_s=LIMIT_S))
        config.port, config.lifespan = 0, "off"
        with listening(app, config) as address:
            ended = asyncio.run(drip(int(address.split(":")[1]), 3, 4 * LIMIT_S))
        return Counter((one.part, one.status, one.seconds < 3 * LIMIT_S) for one in ended)

    limited = RequestId(BodyTimeout(read, LIMIT_S), Forms({}))
    assert found(limited) == {("head", "408", True): 3, ("body", "408", True): 3}
    unlimited = RequestId(read, Forms({}))
    assert found(unlimited) == {("head", "408", True): 3, ("body", "", False): 3}


@pytest.mark.slow
def test_a_real_server_refuses_damaged_checkpoints_and_its_clients_do_not_notice(
    tmp_path: Path,
) -> None:
    folder = write_text_checkpoint(tmp_path / "tiny-text")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Arena(folder, "tiny-text", scratch, is_quick=True) as arena:
        (row,) = checkpoint.run(arena)
    assert row.failures == []
    assert row.faulty.endswith("wrong manifest: 422; put right: 200")
    assert set(row.figures) == set(checkpoint.DAMAGES)
    assert all(seen.latencies_ms for seen in row.seen.values())
    assert row.most_mb >= row.before_mb > 50
