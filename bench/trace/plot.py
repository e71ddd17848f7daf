"""Attainment against quality, one panel for each pattern of arrivals."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.trace.bound import Bound, Point
from bench.trace.results import Results

_MARKERS = "osD^vP*X"
_STEPS = 50  # of a bound: between its corners it bends
NEEDS = "--plot needs matplotlib, which Rheostat does not bring: pip install matplotlib"


def is_possible() -> bool:
    """Return whether matplotlib is installed; importing it takes a second, so it comes late."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: Results, path: Path) -> None:
    """Write a picture.

    Args:
        results: At least one cell.
        path: Of the file; its ending says which format.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")  # no window, and no display needed
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    names = list(dict.fromkeys(name for name, _ in results.patterns))
    cv2 = {name: one.cv2 for (name, _), one in results.patterns.items()}
    num_columns = min(2, len(names))
    num_rows = -(-len(names) // num_columns)
    figure, grid = pyplot.subplots(
        num_rows, num_columns, figsize=(7 * num_columns, 5 * num_rows), squeeze=False
    )
    panels = list(grid.flat)
    for panel, name in zip(panels, names, strict=False):
        _draw_bounds(panel, results, name)
        _draw_policies(panel, results, name)
        panel.set_title(f"{name} (CV² {cv2[name]:.1f})")
        panel.set_xlabel(f"share answered within {1000 * results.slo_s:.0f} ms")
        panel.set_ylabel("mean quality of those")
        panel.grid(alpha=0.3)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    panels[0].legend(fontsize="small", loc="lower left")
    figure.suptitle(
        f"Points are labelled with the load, by {results.capacity:.0f} requests/s at the full "
        "model; up and to the right is better"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_bounds(panel: Any, results: Results, name: str) -> None:
    limits = {load: limit for (own, _, load), limit in results.limits.items() if own == name}
    for i, (load, limit) in enumerate(limits.items()):
        shares, qualities = zip(*_curve(limit), strict=True)
        label = "bound of each load" if i == 0 else None
        panel.plot(shares, qualities, color="0.6", linewidth=1, label=label)
        panel.annotate(f"{load:g}", (shares[-1], qualities[-1]), color="0.5", fontsize=7)


def _draw_policies(panel: Any, results: Results, name: str) -> None:
    policies = list(dict.fromkeys(cell.policy for cell in results.cells))
    for i, policy in enumerate(policies):
        points = [
            (cell.load, cell.tally.attainment, cell.tally.quality)
            for cell in results.cells
            if (cell.arrivals, cell.policy) == (name, policy) and cell.tally.quality is not None
        ]
        if not points:
            continue
        _, shares, qualities = zip(*points, strict=True)
        marker = _MARKERS[i % len(_MARKERS)]
        panel.plot(shares, qualities, f"{marker}-", color=f"C{i}", label=policy, markersize=5)
        for place, label in _labels(points):
            panel.annotate(
                label, place, textcoords="offset points", xytext=(-3, 4), ha="right", fontsize=7
            )


def _labels(points: Sequence[tuple[float, float, float]]) -> list[tuple[Point, str]]:
    """Return where to write which load; points that nearly coincide share a label.

    Args:
        points: Load, share and quality of each.
    """
    labels: list[tuple[Point, str]] = []
    for load, share, quality in points:
        if labels:
            (other_share, other_quality), text = labels[-1]
            if abs(share - other_share) < 0.02 and abs(quality - other_quality) < 0.002:
                labels[-1] = (labels[-1][0], f"{text}, {load:g}")
                continue
        labels.append(((share, quality), f"{load:g}"))
    return labels


def _curve(limit: Bound) -> list[Point]:
    """Return the trade-off as (share in time, best mean quality), the share ascending."""
    steps = {limit.attainment * i / _STEPS for i in range(1, _STEPS)}
    shares = sorted(steps | {share for share, _ in limit.corners})
    return [(share, quality) for share in shares if (quality := limit.quality(share)) is not None]
