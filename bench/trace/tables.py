"""The tables of `python -m bench.trace`."""

from __future__ import annotations

from bench import report
from bench.trace.results import Results, verdicts

_COLUMNS = (
    "load",
    "policy",
    "in time",
    "quality",
    "goodput",
    "bound",
    "late",
    "429",
    "504",
    "other",
    "lost",
    "p50 ms",
    "p99 ms",
)


def show(results: Results) -> None:
    """Print what was found."""
    print(
        f"\nFull model, {results.num_tokens} tokens: {results.alone_ms:.1f} ms alone; load 1 "
        f"is {results.capacity:.1f} requests/s. In time: within {1000 * results.slo_s:.0f} ms."
    )
    report.show(
        "Subnets as the bound takes them",
        ("subnet", "MACs", "ms a text", "quality"),
        [
            (one["subnet"], f"{one['fraction']:.3f}", f"{one['ms']:.3f}", f"{one['quality']:.4f}")
            for one in results.service
        ],
    )
    for pattern in results.patterns.values():
        title = f"{pattern.name}: {pattern.origin} (CV^2 {pattern.cv2:.1f})"
        report.show(title, _COLUMNS, _rows(results, pattern.name))
    for verdict in verdicts(results.cells):
        print(verdict.line)
    for cell in results.above_bound():
        print(
            f"{cell.arrivals}, load {cell.load:g}, {cell.policy}: above the bound, so the service "
            "times were taken while the machine was slow"
        )
    for example in dict.fromkeys(cell.tally.example for cell in results.cells):
        if example is not None:
            print(f"another answer: {example}")
    lost = sum(cell.tally.lost for cell in results.cells)
    print(f"lost requests: {lost or 'none'}")


def _rows(results: Results, name: str) -> list[tuple[str, ...]]:
    rows = []
    for cell in results.cells:
        if cell.arrivals != name:
            continue
        found = cell.tally
        rows.append(
            (
                f"{cell.load:g}",
                cell.policy,
                f"{100 * found.attainment:.1f} %",
                _shown(found.quality, 4),
                f"{found.goodput:.4f}",
                f"{results.limit(cell).goodput:.4f}",
                *map(str, (found.late, found.refused, found.expired, found.other, found.lost)),
                _shown(found.p50_ms, 1),
                _shown(found.p99_ms, 1),
            )
        )
    return rows


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
