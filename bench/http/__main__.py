"""What one request costs the event loop: CPU time by stage, and calls of functions.

The server runs in this process, wired and served as `rheostat serve` does it, its log included; the
client is a process of its own. The model computes on another thread or in another process, and only
the time of the event loop's thread is counted, without what it takes each second anyway. Totals are
measured without the clocks of stages.

Calls are those that the interpreter's profiler counts, of Python's functions and of C's. They do
not depend on the machine, nor on what else runs there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
import uvloop

from bench import report
from bench.http.measure import MANY, Cost, Effort, run
from bench.http.stages import OTHER, STAGES
from bench.limit.cases import Content, image_cases, random_texts
from bench.peers.process import HOST
from server import process
from server.app import create_app
from server.observe import logs
from server.settings import Settings

_NUM_CONTENTS = 256


def main() -> None:
    """Measure and print."""
    options = _options()
    effort = Effort(3, 200) if options.quick else Effort(9, 400)
    process.tune()
    torch.set_num_threads(1)
    # The log is written as usual, to where nobody reads it.
    with tempfile.TemporaryDirectory() as scratch, Path(os.devnull).open("w") as nowhere:
        folder = Path(scratch) / "models"
        folder.mkdir()
        for model in (options.text, options.image):
            (folder / model.name).symlink_to(model.resolve())
        settings = Settings.of(
            models=folder,
            host=HOST,
            backend="torch",
            num_threads=1,
            max_wait_ms=60_000,  # nothing is refused while other work holds the machine up
            profiles=options.profiles,
            database=f"sqlite:///{scratch}/clients.db",
        )
        app = create_app(settings)
        logs.configure(settings.log_format, settings.log_level, nowhere)
        kinds = requests_of(options.text, options.image)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(run(app, settings, effort, kinds))
    _show(found, options.functions)
    figures = {
        kind: {
            "alone_us": cost.alone,
            "many_us": cost.many,
            "calls": cost.calls,
            "stages_us": {name: cost.stage(name) for name in (*STAGES, OTHER)},
        }
        for kind, cost in found.items()
    }
    report.finish({"http": figures}, options.json)


def _show(found: Mapping[str, Cost], functions: int) -> None:
    rows: list[list[object]] = [
        [name, *(f"{cost.stage(name):.0f}" for cost in found.values())] for name in (*STAGES, OTHER)
    ]
    for name, values in (
        ("total, one connection", [cost.alone for cost in found.values()]),
        (f"total, {MANY} connections", [cost.many for cost in found.values()]),
    ):
        spread = (f"{median(one):.0f} ({min(one):.0f} to {max(one):.0f})" for one in values)
        rows.append([name, *spread])
    rows.append(["calls of functions", *(f"{cost.calls:.0f}" for cost in found.values())])
    report.show("CPU time of the event loop, us a request", ["stage", *found], rows)
    for kind, cost in found.items():
        if functions:
            report.show(
                f"{kind}: functions by their own time under the profiler",
                ["function", "calls", "us"],
                [[n, f"{c:.2f}", f"{us:.1f}"] for n, c, us in cost.functions[:functions]],
            )


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    for name, folder in (("text", report.ZOO_TEXT), ("image", report.ZOO)):
        options.add_argument(
            f"--{name}",
            type=Path,
            default=folder,
            metavar="DIR",
            help="checkpoint to serve (default: the one shipped)",
        )
    options.add_argument(
        "--profiles",
        type=Path,
        default=Path.home() / ".cache" / "rheostat" / "http",
        metavar="DIR",
        help="the server's measured times (default: %(default)s)",
    )
    options.add_argument(
        "--functions", type=int, default=0, metavar="N", help="also show the N dearest functions"
    )
    return options.parse_args()


def requests_of(text: Path, image: Path) -> dict[str, list[bytes]]:
    """Return requests by kind: one short text, and one image for one task."""
    model = json.loads((text / "manifest.json").read_text())["name"]
    texts = random_texts(text, _NUM_CONTENTS)
    case = image_cases(image, _NUM_CONTENTS)[1]
    embeddings = [{"model": model, "input": one, "encoding_format": "base64"} for one in texts]
    return {
        "/v1/embeddings": [_request("/v1/embeddings", json.dumps(b).encode()) for b in embeddings],
        "/v1/infer": [_request("/v1/infer", case.body(one)) for one in _encoded(case.contents)],
    }


def _encoded(contents: Sequence[Content]) -> list[Content]:
    return [one for one in contents if isinstance(one, bytes)]


def _request(path: str, body: bytes) -> bytes:
    """Return a request with the header fields that most clients send."""
    fields = {
        "Host": HOST,
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "User-Agent": "python-httpx/0.28.1",
        "Content-Length": str(len(body)),
        "Content-Type": "application/json",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


if __name__ == "__main__":
    main()
