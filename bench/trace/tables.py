"""The tables of `python -m bench.trace`."""

from __future__ import annotations

from collections.abc import Sequence

from bench import report
from bench.trace.results import Cell, Estimate, Results, standings

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
    for name in dict.fromkeys(name for name, _ in results.patterns):
        drawn = [one for (own, _), one in results.patterns.items() if own == name]
        title = f"{name}: {drawn[0].origin} (CV^2 {', '.join(f'{one.cv2:.1f}' for one in drawn)})"
        report.show(title, _COLUMNS, _rows(results, name))
    judged = standings(results)
    if judged:
        report.show(
            "price beside the best other policy, in goodput",
            ("arrivals", "load", "best other", "lead", "", "part of the bound"),
            [
                (one.arrivals, f"{one.load:g}", one.other, str(one.lead), word, one.of_bound)
                for one in judged
                for word in [("level", "leads", "behind")[one.lead.sign]]
            ],
        )
    for cell in results.above_bound():
        print(
            f"{cell.arrivals}, seed {cell.seed}, load {cell.load:g}, {cell.policy}: above the "
            "bound, so the service times were taken while the machine was slow"
        )
    for example in dict.fromkeys(cell.tally.example for cell in results.cells):
        if example is not None:
            print(f"another answer: {example}")
    lost = sum(cell.tally.lost for cell in results.cells)
    print(f"lost requests: {lost or 'none'}")


def _rows(results: Results, name: str) -> list[tuple[str, ...]]:
    """Return one row for each load and policy: means over the seeds, and sums of counts."""
    same: dict[tuple[float, str], list[Cell]] = {}
    for cell in results.cells:
        if cell.arrivals == name:
            same.setdefault((cell.load, cell.policy), []).append(cell)
    rows = []
    for (load, policy), cells in same.items():
        found = [cell.tally for cell in cells]
        counts = ("late", "refused", "expired", "other", "lost")
        rows.append(
            (
                f"{load:g}",
                policy,
                f"{100 * Estimate.of([one.attainment for one in found]).mean:.1f} %",
                _shown([one.quality for one in found], 4),
                str(Estimate.of([one.goodput for one in found])),
                _shown([results.limit(cell).goodput for cell in cells], 4),
                *(str(sum(getattr(one, count) for one in found)) for count in counts),
                _shown([one.p50_ms for one in found], 1),
                _shown([one.p99_ms for one in found], 1),
            )
        )
    return rows


def _shown(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.{digits}f}" if known else "-"
