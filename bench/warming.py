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
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from bench import report
from bench.limit.cases import sentences
from bench.peers.load import answer_times
from bench.peers.process import Launch, running

_NUM_TEXTS = 4096
_BIN_S = 5
_SMOOTHED_S = 3  # over which a speed is averaged
_MOST = 0.9  # of full speed: the mean of the last third


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
    starts = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(chosen.starts):
            began = time.perf_counter()
            launch = _launch(Path(scratch), chosen.backend)
            with running(launch, os.cpu_count() or 1, next(bodies)) as server:
                ready_s = time.perf_counter() - began
                times = answer_times(server, bodies, chosen.connections, seconds)
            starts.append(figures(ready_s, times, seconds))
    _show(starts, what, seconds)
    report.finish({"warming": {"texts": what, "starts": starts}}, chosen.json)


def _launch(scratch: Path, backend: str) -> Launch:
    command = f"{sys.executable} -m server serve --port {{port}} --backend {backend}"
    folders = {"XDG_DATA_HOME": str(scratch), "XDG_CACHE_HOME": str(scratch)}
    return Launch((*command.split(), "--models", str(report.ZOO_TEXT.parent)), folders)


def figures(ready_s: float, times: Sequence[float], seconds: int) -> dict[str, object]:
    """Return what came of one start.

    Args:
        ready_s: From the start of the process to its first answer.
        times: When each request was answered, seconds from then on.
        seconds: For which requests were sent.
    """
    counted = Counter(map(int, times))
    per_s = [counted[second] for second in range(seconds)]
    full = fmean(per_s[-(seconds // 3) :])
    fast = (
        second
        for second in range(seconds - _SMOOTHED_S + 1)
        if fmean(per_s[second : second + _SMOOTHED_S]) >= _MOST * full
    )
    return {
        "ready_s": ready_s,
        "per_s": per_s,
        "full_per_s": full,
        "at_90_percent_s": next(fast, None),
    }


def _show(starts: Sequence[dict[str, object]], what: str, seconds: int) -> None:
    bins = range(0, seconds, _BIN_S)
    names = [f"{second} s" for second in bins]
    rows = []
    for number, start in enumerate(starts, 1):
        per_s = start["per_s"]
        assert isinstance(per_s, list)
        means = [str(round(fmean(per_s[second : second + _BIN_S]))) for second in bins]
        rows.append([number, f"{start['ready_s']:.1f}", *means, start["at_90_percent_s"]])
    report.show(
        f"minilm-2d whole, {what}: requests/s in the {_BIN_S} s from each moment after a start on",
        ["start", "ready after s", *names, "at 90 % after s"],
        rows,
    )


if __name__ == "__main__":
    main()
