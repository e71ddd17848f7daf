"""A text of 15 MB to every path that tokenises, and how long `/healthz` takes meanwhile.

Each answer is what it should be: a vector, a score or tokens where the text may be cut, else an
error that names the limit. Nobody else waits: `/healthz` is asked all the time, on a connection of
its own.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench import report
from bench.peers.process import HOST, Launch, Running, running

MOST_S = 0.2  # for `/healthz`
_BYTES = 15_000_000
_QUICK_BYTES = 3_000_000
_PAUSE_S = 0.005
_TIMEOUT_S = 60
_MODEL = report.ZOO_TEXT.name
TEXTS: Mapping[str, str] = {
    "words": "the quick brown fox jumps over it ",
    "one word": "x",
    "blanks": " ",
    "Han": "\u6f22\u5b57",
    "emoji": "\U0001f469\u200d\U0001f467",
}
"""What texts are repetitions of."""


def bodies(text: str, model: str) -> Iterator[tuple[str, Any]]:
    """Yield every path that tokenises with bodies that send a text: as it is, and to be cut."""
    for cut in ({}, {"truncate": "right"}, {"truncate": "left"}):
        yield "/v1/embeddings", {"input": text, **cut}
        yield "/v1/infer", {"inputs": {"text": {"text": text, **cut}}}
    for path in ("/embed", "/"):
        yield path, {"inputs": text}
    yield "/embeddings", {"input": ["a", text], "truncate": "right"}
    yield "/v1/similarity", {"source": text, "texts": ["a"], "truncate": "right"}
    yield "/similarity", {"inputs": {"source_sentence": "a", "sentences": [text]}}
    yield "/v1/rerank", {"query": "a", "documents": [text], "truncate": "right"}
    yield "/v2/rerank", {"model": model, "query": "a", "documents": [text]}
    yield "/rerank", {"query": text, "texts": ["a", "b"]}
    yield "/predict", {"inputs": text}
    yield "/tokenize", {"inputs": text}
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}
    yield f"/v2/models/{model}/infer", {"inputs": [tensor], "parameters": {"truncate": "right"}}


@contextmanager
def watching(server: Running) -> Iterator[list[float]]:
    """Ask `/healthz` while the block runs; yields the seconds that each answer took."""
    taken: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        with closing(http.client.HTTPConnection(HOST, server.port, timeout=_TIMEOUT_S)) as asking:
            while True:
                start = time.perf_counter()
                asking.request("GET", "/healthz")
                asking.getresponse().read()
                taken.append(time.perf_counter() - start)
                if is_over.wait(_PAUSE_S):
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        is_over.set()
        thread.join()


def post(server: Running, path: str, body: bytes) -> int:
    """Return the status of an answer."""
    with closing(http.client.HTTPConnection(HOST, server.port, timeout=_TIMEOUT_S)) as asking:
        asking.request("POST", path, body, {"content-type": "application/json"})
        answer = asking.getresponse()
        answer.read()
        return answer.status


def measure(
    server: Running, num_bytes: int, model: str = _MODEL
) -> list[tuple[str, str, int, float, float]]:
    """Send every text to every path, one after the other.

    Args:
        server: Of one model, which takes texts.
        num_bytes: Of a text.
        model: Its name.

    Returns:
        Of each: text, path, status, seconds, and the longest that `/healthz` took meanwhile.
    """
    found = []
    for name, unit in TEXTS.items():
        text = unit * (num_bytes // len(unit.encode()))
        for path, body in bodies(text, model):
            data = json.dumps(body, ensure_ascii=False).encode()
            with watching(server) as health_s:
                start = time.perf_counter()
                status = post(server, path, data)
                taken_s = time.perf_counter() - start
            found.append((name, path, status, taken_s, max(health_s)))
    return found


def main() -> None:
    """Start a server, measure, print; end with code 1 if anybody waited too long."""
    options = report.parser(__doc__).parse_args()
    num_bytes = _QUICK_BYTES if options.quick else _BYTES
    serve = (sys.executable, "-m", "server", "serve", "--port", "{port}", "--log-level", "warning")
    with tempfile.TemporaryDirectory() as scratch:
        kept = ("--profiles", f"{scratch}/profiles", "--database", f"sqlite:///{scratch}/db")
        launch = Launch(
            (*serve, "--models", str(report.ZOO_TEXT.resolve()), *kept),
            {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        first = json.dumps({"model": _MODEL, "input": "a"}).encode()
        with running(launch, 1, first) as server:
            found = measure(server, num_bytes)
    rows = [
        [text, path, status, f"{1000 * taken_s:.0f}", f"{1000 * health_s:.0f}"]
        for text, path, status, taken_s, health_s in found
    ]
    columns = ["text", "path", "status", "ms", "/healthz at most, ms"]
    report.show(f"texts of {num_bytes / 1e6:g} MB", columns, rows)
    worst_s = max(health_s for *_, health_s in found)
    print(f"/healthz took at most {1000 * worst_s:.0f} ms; {1000 * MOST_S:.0f} are allowed")
    names = ("text", "path", "status", "seconds", "health_s")
    figures = [dict(zip(names, one, strict=True)) for one in found]
    report.finish({"long_texts": figures}, options.json)
    if worst_s > MOST_S or any(status >= 500 for _, _, status, *_ in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
