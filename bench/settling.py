"""Waiting until all ONNX Runtime sessions are there that some requests, or runs, need."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from urllib.request import urlopen

from bench.peers.process import HOST, Running
from models.run.backend import Backend

ASKING_S = 0.7  # of lone requests: a path has a session of its own after 50 calls
_TIMEOUT_S = 60
_LEVELS = ("waiting", "builds", "slower", "refused")
_BUILT = re.compile(rf"^rheostat_backend_({'|'.join(_LEVELS)})(?:_total)? (\S+)", re.MULTILINE)


def settle_server(server: Running, ask: Callable[[], object]) -> None:
    """Ask a server of ours until nothing is being built and another time builds nothing more.

    Args:
        server: With torch it is asked once.
        ask: Sends requests for `ASKING_S`, one after the other.
    """
    _settle(partial(_told_by, server), ask)


def settle_backend(backend: Backend, run: Callable[[], object]) -> None:
    """Run until nothing is being built and another time builds nothing more."""
    _settle(partial(_levels_of, backend), run)


def _settle(levels: Callable[[], Mapping[str, float]], again: Callable[[], object]) -> None:
    before = None
    while (now := levels()) != before or now.get("waiting"):
        before = now
        again()


def _told_by(server: Running) -> dict[str, float]:
    with urlopen(f"http://{HOST}:{server.port}/metrics", timeout=_TIMEOUT_S) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in _BUILT.findall(text)}


def _levels_of(backend: Backend) -> dict[str, float]:
    stats = backend.stats
    return {} if stats is None else {name: getattr(stats, name) for name in _LEVELS}
