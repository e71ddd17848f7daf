"""Waiting until a server of ours has all the ONNX Runtime sessions that some requests need."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.request import urlopen

from bench.peers.process import HOST, Running

ASKING_S = 0.7  # of lone requests: a path has a session of its own after 50 calls
_TIMEOUT_S = 60
_BUILT = re.compile(r"^rheostat_backend_(waiting|builds_total|slower|refused) (\S+)", re.MULTILINE)


def settle(server: Running, ask: Callable[[], object]) -> None:
    """Ask until nothing is being built and another time builds nothing more.

    Args:
        server: Of Rheostat; with torch it has settled at once.
        ask: Sends the requests for `ASKING_S`, one after the other.
    """
    before = None
    while (now := _built(server)) != before or now.get("waiting"):
        before = now
        ask()


def _built(server: Running) -> dict[str, float]:
    with urlopen(f"http://{HOST}:{server.port}/metrics", timeout=_TIMEOUT_S) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in _BUILT.findall(text)}
