"""Break one thing after the other around a real server, and see who notices.

Each fault has a server process of its own, one thread, on a text model. Well-behaved clients, the
witness, send small requests at a steady rate before, during and after the fault; latency counts
from when a request was due. The exit code is 1 if a request of theirs was not answered with the
right vector, if the server died, or if another promise of docs/reliability.md was not kept.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import report
from bench.faults import checkpoint, clock, database, disk, engine, idle, large, slow
from bench.faults.arena import AbsentError, Arena, Row
from bench.peers.process import ServerError
from models.checkpoint import read_manifest

FAULTS: Mapping[str, Callable[[Arena], Iterator[Row]]] = {
    "database": database.run,
    "disk": disk.run,
    "checkpoint": checkpoint.run,
    "clock": clock.run,
    "slow": slow.run,
    "idle": idle.run,
    "large": large.run,
    "engine": engine.run,
}


def main() -> None:
    """Make the faults and print what they did."""
    options = report.parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}")
    options.add_argument("--model", type=Path, default=report.ZOO_TEXT, metavar="DIR")
    chosen = options.parse_args()
    if unknown := set(chosen.names) - set(FAULTS):
        options.error(f"no fault is called {', '.join(sorted(unknown))}; there are {list(FAULTS)}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # of ours and, inherited, the servers'
    checkpoint_folder = chosen.model.resolve()
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    model = read_manifest(checkpoint_folder).name
    with (
        tempfile.TemporaryDirectory() as scratch,
        Arena(checkpoint_folder, model, Path(scratch), chosen.quick) as arena,
    ):
        for name in chosen.names or FAULTS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                rows.extend(FAULTS[name](arena))
            except AbsentError as error:
                skipped[name] = str(error)
            except ServerError as error:
                rows.append(Row(name, broken=[str(error)]))
    show(rows, skipped)
    figures = {row.fault: row.record for row in rows}
    report.finish({"faults": figures, "skipped": skipped}, chosen.json)
    if any(row.failures for row in rows):
        sys.exit("not everything that was promised was kept")


def show(rows: list[Row], skipped: Mapping[str, str]) -> None:
    """Print what the witness saw, and in words what the faulty side got."""
    columns = ("fault", "sent", "answered", "other", "p50 ms", "during", "p99 ms", "during")
    report.show(
        "the witness: all requests, latency before and during the fault; the server's memory",
        (*columns, "RSS MB", "most", "alive"),
        [_cells(row) for row in rows],
    )
    for row in rows:
        print(f"{row.fault}: {row.faulty}")
        for failure in row.failures:
            print(f"{row.fault}: NOT KEPT: {failure}")
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}")


def _cells(row: Row) -> list[Any]:
    sent = sum(seen.num_sent for seen in row.seen.values())
    answered = sum(len(seen.latencies_ms) for seen in row.seen.values())
    times = [
        f"{row.seen[phase].percentile_ms(percent):.1f}"
        for percent in (50, 99)
        for phase in ("before", "during")
    ]
    memory = [f"{row.before_mb:.0f}", f"{row.most_mb:.0f}"]
    return [row.fault, sent, answered, sent - answered, *times, *memory, row.is_alive]


if __name__ == "__main__":
    main()
