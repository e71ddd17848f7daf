"""The client and the child processes of `python -m bench.peers`, on a small server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import report
from bench.peers.contenders import Contender, Way
from bench.peers.load import Figures, closed_loop, collect, open_loop, undisturbed
from bench.peers.process import Launch, Running, ServerError, running
from bench.peers.results import Check, Load, OtherRunError, Results
from bench.peers.sameness import least_cosine
from bench.peers.tables import group_of, spread

_SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(400 if b"bad" in body else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:5])
        self.wfile.flush()
        time.sleep(0.002)  # so that an answer comes in pieces
        self.wfile.write(body[5:])

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""
_LAUNCH = Launch((sys.executable, "-c", _SERVER, "{port}"))
_WAY = Way("echo", {"model": "m"})
_PEER = Contender("echo", "a server", (_WAY,), lambda: _LAUNCH)
_FIGURES = Figures(100.0, 110.0, 5.0, 9.0, 4.0, 0.1, 400, 0.01)
_LOAD = Load("closed", 32)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(_LAUNCH, 1, _WAY.body("hello")) as started:
        yield started


def test_answers_come_back_in_order(server: Running) -> None:
    bodies = [_WAY.body(f"text {i}") for i in range(20)]
    assert collect(server, bodies, 3) == bodies


def test_an_error_status_ends_the_load(server: Running) -> None:
    with pytest.raises(ServerError, match="400"):
        collect(server, [_WAY.body("good"), _WAY.body("bad")], 2)


def test_a_closed_loop_counts_what_was_answered(server: Running) -> None:
    figures = closed_loop(server, [_WAY.body("text")], 2, 0.2)
    assert figures.num_requests > 2
    assert 2 <= figures.p50_ms <= figures.p99_ms
    assert figures.requests_per_s < figures.corrected_per_s


def test_an_open_loop_sends_at_its_own_rate(server: Running) -> None:
    figures = open_loop(server, [_WAY.body("text")], 100, 0.5, seed=0)
    assert 25 < figures.num_requests < 80


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_server_is_stopped_with_whatever_it_started() -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    launch = Launch((sys.executable, "-c", parent, "-c", _SERVER, "{port}"))
    with running(launch, 1, _WAY.body("hello")) as started:
        assert len(_session(started.session)) == 2
        assert started.cpu_s() > 0
    give_up = time.monotonic() + 5  # the kernel takes a moment to end what it has killed
    while _session(started.session) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not _session(started.session)


def test_a_server_that_ends_says_why() -> None:
    launch = Launch((sys.executable, "-c", "raise ValueError('no such model')"))
    with (
        pytest.raises(ServerError, match="code 1: ValueError: no such model"),
        running(launch, 1, b""),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_load_tells_what_others_used_of_the_machine(server: Running) -> None:
    assert 0 <= closed_loop(server, [_WAY.body("text")], 1, 0.2).others < 1.5  # ticks are coarse


def test_a_disturbed_load_is_measured_again_and_the_quietest_counts() -> None:
    shares = iter([0.5, 0.02, 0.9])
    assert undisturbed(lambda: replace(_FIGURES, others=next(shares))).others == 0.02
    assert next(shares) == 0.9  # a quiet one ends it
    shares = iter([0.5, 0.3, 0.4])
    assert undisturbed(lambda: replace(_FIGURES, others=next(shares))).others == 0.3
    assert not list(shares)


def test_a_run_goes_on_with_what_its_file_holds(tmp_path: Path) -> None:
    results = Results([_PEER])
    results.checks["echo"] = Check(0.98, {"STS-B": 0.8}, {"STS-B": 0.81})
    results.add(_WAY, _LOAD, 1, _FIGURES)
    report.write({"peers": results.figures()}, tmp_path / "run.json")
    found = Results([_PEER])
    found.read(tmp_path / "run.json")
    assert found.checks == results.checks
    assert found.runs == results.runs
    assert found.has_run(_PEER, 1, [_LOAD])
    assert not found.has_run(_PEER, 2, [_LOAD])
    assert not found.has_run(_PEER, 1, [_LOAD, Load("open", 0.8)])


def test_a_run_goes_on_with_no_file_of_another_machine_or_kind(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    report.write({"peers": Results([_PEER]).figures()}, path)
    content = json.loads(path.read_text())
    content["machine"]["cores"] = 1000
    path.write_text(json.dumps(content))
    with pytest.raises(OtherRunError, match="cores 1000"):
        Results([_PEER]).read(path)
    path.write_text("[]")
    with pytest.raises(OtherRunError, match="no figures"):
        Results([_PEER]).read(path)


def test_what_keeps_too_little_of_any_score_is_in_a_table_of_its_own() -> None:
    full = {"STS-B": 0.82, "SciFact": 0.64}
    equal = group_of(Check(1.0), is_reduced=False)
    kept = group_of(Check(0.98, {"STS-B": 0.815, "SciFact": 0.637}, full), is_reduced=True)
    lost = group_of(Check(0.98, {"STS-B": 0.82, "SciFact": 0.62}, full), is_reduced=True)
    assert len({equal, kept, lost}) == 3
    assert lost == group_of(Check(0.98), is_reduced=True) == group_of(None, is_reduced=False)


def test_rounds_are_told_by_smallest_median_and_largest() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0], 1) == "1.0 / 2.5 / 10.0"
    assert spread([3.0], 0) == "3"


def test_the_least_cosine_is_that_of_the_worst_text() -> None:
    one, other = np.eye(2, dtype=np.float32), np.array([[1, 0], [0.6, 0.8]], np.float32)
    assert least_cosine(one, other) == pytest.approx(0.8)


def _session(session: int) -> list[str]:
    """Return the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == session and state != "Z":
            found.append(path.parent.name)
    return found
