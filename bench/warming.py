"""How fast a server is from the moment it is ready: requests/s, second by second, start by start.

The first start finds neither measured times nor exported graphs; each later one finds those of the
starts before it.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bench import report
from bench.limit.cases import sentences
from bench.peers.load import answer_times
from bench.peers.process import Launch, running

_NUM_TEXTS = 4096
_BIN_S = 5
_SMOOTHED_S = 3  # over which a speed is averaged
_MOST = 0.9  # of full speed: that of the fastest start in the last third of its time


def main() -> None:
    """Start a server some times, each time saturate it at once, and print what it did."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped on the way out
    options = report.parser(__doc__)
    options.add_argument("--backend", default="auto", choices=("auto", "torch", "onnx"))
    options.add_argument("--starts", type=int, default=2)
    options.add_argument("--seconds", type=int, help="after each start; default 60")
    options.add_argument("--connections", type=int, default=16)
    chosen = options.parse_args()
    for name, least, most in (("starts", 1, 9), ("seconds", 9, 100), ("connections", 1, 256)):
        value = getattr(chosen, name)
        if value is not None and not least <= value <= most:
            options.error(f"argument --{name}: {value} must be {least} to {most}")
    seconds = chosen.seconds or (9 if chosen.quick else 60)
    texts, what = sentences(report.ZOO_TEXT, _NUM_TEXTS // 2 if chosen.quick else _NUM_TEXTS)
    # Never the same text twice, so that nothing is answered from a cache of whatever kind.
    bodies = (
        json.dumps(
            {"model": "minilm-2d", "input": f"{text} {number}", "encoding_format": "base64"}
        ).encode()
        for number, text in enumerate(itertools.cycle(texts))
    )
    starts: list[tuple[float, list[int]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(chosen.starts):
            began = time.perf_counter()
            launch = _launch(Path(scratch), chosen.backend)
            with running(launch, os.cpu_count() or 1, next(bodies)) as server:
                ready_s = time.perf_counter() - began
                times = answer_times(server, bodies, chosen.connections, seconds)
            starts.append((ready_s, per_second(times, seconds)))
    full = max(full_speed(per_s) for _, per_s in starts)
    found = [
        {"ready_s": ready_s, "per_s": per_s, "at_90_percent_s": reached_after(per_s, full)}
        for ready_s, per_s in starts
    ]
    _show(found, what, seconds)
    report.finish({"warming": {"texts": what, "full_per_s": full, "starts": found}}, chosen.json)


def _launch(scratch: Path, backend: str) -> Launch:
    # Nobody is refused for having to wait.
    options = f"--port {{port}} --backend {backend} --max-wait-ms 1e9"
    command = (sys.executable, "-m", "server", "serve", *options.split())
    folders = {"XDG_DATA_HOME": str(scratch), "XDG_CACHE_HOME": str(scratch)}
    return Launch((*command, "--models", str(report.ZOO_TEXT.parent)), folders)


def per_second(times: Sequence[float], seconds: int) -> list[int]:
    """Return how many requests were answered in each second.

    Args:
        times: When each was answered, seconds from the start.
        seconds: That count.
    """
    counted = Counter(map(int, times))
    return [counted[second] for second in range(seconds)]


def full_speed(per_s: Sequence[int]) -> float:
    """Return the mean of the last third."""
    return fmean(per_s[-(len(per_s) // 3) :])


def reached_after(per_s: Sequence[int], full: float) -> int | None:
    """Return the first second from which on some seconds are near full speed on average."""
    for second in range(len(per_s) - _SMOOTHED_S + 1):
        if fmean(per_s[second : second + _SMOOTHED_S]) >= _MOST * full:
            return second
    return None


def _show(starts: Sequence[Mapping[str, Any]], what: str, seconds: int) -> None:
    bins = range(0, seconds, _BIN_S)
    names = [f"{second} s" for second in bins]
    rows = []
    for number, start in enumerate(starts, 1):
        means = [str(round(fmean(start["per_s"][second : second + _BIN_S]))) for second in bins]
        rows.append([number, f"{start['ready_s']:.1f}", *means, str(start["at_90_percent_s"])])
    report.show(
        f"minilm-2d whole, {what}: requests/s in the {_BIN_S} s from each moment after a start on",
        ["start", "ready after s", *names, "at 90 % after s"],
        rows,
    )


if __name__ == "__main__":
    main()
