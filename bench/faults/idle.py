"""Connections that do nothing: ten thousand of them, and more than there are file descriptors."""

from __future__ import annotations

import errno
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

from bench.faults.arena import Arena, Row, Server
from bench.peers.process import HOST

_REQUEST = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
_TIMEOUT_S = 10.0
_SOURCES = 4  # addresses of ours: one has fewer than 30,000 ports
_SPARE = 100  # descriptors of this process
_FEW = 256
_SPARE_CORES = 0.3  # more than before, without descriptors; a loop that spins takes a whole one


def run(arena: Arena) -> Iterator[Row]:
    """Hold idle connections; then leave the server no descriptors, and give them back."""
    yield _hold(arena.shared, arena.is_quick)
    process, kind = arena.shared.process.session, resource.RLIMIT_NOFILE
    allowed = resource.prlimit(process, kind)
    resource.prlimit(process, kind, (_FEW, allowed[1]))
    yield _exhaust(arena.shared, arena.is_quick)
    resource.prlimit(process, kind, allowed)


def _hold(server: Server, is_quick: bool) -> Row:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted, hold_s = (500, 0.5) if is_quick else (10_000, 10.0)
    with server.watched("idle") as row, ExitStack() as held:
        idle = []
        for number in range(min(wanted, allowed - _SPARE)):
            try:
                idle.append(held.enter_context(_asked(server.port, number)))
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.EADDRNOTAVAIL):
                    raise
                break
        time.sleep(hold_s)
        num_open = sum(_is_open(one) for one in idle)
    kb = 1000 * (row.most_mb - row.before_mb) / max(1, len(idle))
    row.faulty = f"{num_open} of {wanted} connections held, {kb:.1f} kB each"
    row.figures = {"wanted": wanted, "opened": len(idle), "held": num_open, "kb_each": kb}
    row.expect(num_open == len(idle), "idle connections stay open")
    return row


def _exhaust(server: Server, is_quick: bool) -> Row:
    hold_s = 0.5 if is_quick else 4.0  # slow ones are ended after that
    with server.watched(f"{_FEW} descriptors") as row:
        calm_cores = _cores(server, hold_s)
        with ExitStack() as held:
            opened = [held.enter_context(_connected(server.port)) for _ in range(2 * _FEW)]
            cores = _cores(server, hold_s)
            num_held = sum(_is_open(one) for one in opened)
        recovered_s = _recovered_s(server)
    row.faulty = (
        f"{len(opened)} connections: {num_held} still open after {hold_s:g} s, at {cores:.2f} "
        f"cores, {calm_cores:.2f} before; a new one is answered {1000 * recovered_s:.0f} ms "
        "after they are closed"
    )
    row.figures = {"held": num_held, "cores": cores, "recovered_s": recovered_s}
    row.expect(cores < calm_cores + _SPARE_CORES, "without descriptors the server does not spin")
    row.expect(recovered_s < 1, "new connections are answered once there are descriptors")
    return row


def _connected(port: int, number: int = 0) -> socket.socket:
    source = f"127.0.0.{1 + number % _SOURCES}"
    return socket.create_connection((HOST, port), _TIMEOUT_S, source_address=(source, 0))


def _asked(port: int, number: int) -> socket.socket:
    """Return a connection on which one request was answered."""
    connection = _connected(port, number)
    connection.sendall(_REQUEST)
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        raise ConnectionError("a connection was not answered before it was idle")
    return connection


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(4096))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def _cores(server: Server, seconds: float) -> float:
    """Return how many cores the server uses."""
    cpu_s, start = server.process.cpu_s(), time.monotonic()
    time.sleep(seconds)
    return (server.process.cpu_s() - cpu_s) / (time.monotonic() - start)


def _recovered_s(server: Server) -> float:
    """Return how long it takes until a new connection is answered."""
    start = time.monotonic()
    while time.monotonic() < start + _TIMEOUT_S:
        try:
            with _asked(server.port, 0):
                return time.monotonic() - start
        except OSError:
            time.sleep(0.01)
    return float("inf")
