"""The client and the child processes of `python -m bench.peers`, on a small server."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.contenders import Way
from bench.peers.load import closed_loop, collect, open_loop
from bench.peers.process import Launch, Running, ServerError, running

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
