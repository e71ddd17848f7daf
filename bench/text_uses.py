"""What a text model is worth for each use, on test sets that chose nothing, beside its table.

The whole model is compared with a control (by default the public all-MiniLM-L6-v2), and what each
point of the front keeps of the whole with its table: what receipts expect, whether `min_quality`
keeps its word with the confidence asked for, and whether preferences between uses at the same
budget change what runs in the right direction. Of a search both are measured: queries by a subnet
and documents by the whole model, and both by the subnet. SciFact's corpus is the abstracts that a
claim cites and --documents others.

With --quick, a few pairs, queries with the beginnings of their own documents, and texts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from bench import report
from bench.curves import spearman
from bench.minilm import minilm
from bench.text_sets import Embed, HeldOut, Judge, Kept, sets_of
from models.space import Subnet
from models.variants import choices_of
from search.budget import Budget, InfeasibleBudgetError
from search.find import Finder, Selection
from search.floors import Floors
from search.offline.static_check import Embedder
from search.terms import Terms
from server import catalog
from server.settings import data_folder

_QUICK = 20  # queries, with their own documents
_QUICK_POINTS, _POINTS = 5, 24  # of a task's front
_LENGTH = 256  # tokens at which the control cuts texts, as it is published
_LEVELS = (0.99, 0.98, 0.95, 0.9)
_FLOORS = (0.95, 0.9)
_USES = ("similarity", "retrieval:query")
_BUDGETS = (0.2, 0.3, 0.45, 0.65, 0.85)  # fractions
_ASKED_FLOORS = (0.98, 0.95, 0.92, 0.9, 0.85)
_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the first use

Measured = Mapping[tuple[str, str], Mapping[Subnet, Kept]]
"""By task and set, what each point of the front keeps."""


def main() -> None:
    """Measure, print and write."""
    options = report.parser(__doc__)
    options.add_argument("--model", type=Path, default=report.ZOO_USES, metavar="DIR")
    options.add_argument("--queries", action="store_true", help="no search with both sides cut")
    options.add_argument("--documents", type=int, default=1000, help="that no claim cites")
    options.add_argument("--confidence", type=float, default=0.9, help="of min_quality")
    chosen = options.parse_args()
    most = _QUICK if chosen.quick else None
    try:
        sets = sets_of(data_folder(), chosen.documents, most)
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs the text data sets: {error}", file=sys.stderr)
        sys.exit(2)
    served = catalog.load_one(chosen.model)
    control = minilm(_LENGTH)
    space = served.elastic.space
    whole = space.largest
    finder = served.finders.at(fixed=served.whole_outputs)
    known = [one for one in sets if set(one.tasks) <= set(finder.tasks)]
    told = {one.name: one.tasks[:1] if chosen.queries else one.tasks for one in known}
    most_points = _QUICK_POINTS if chosen.quick else _POINTS
    fronts = {
        task: finder.front([task], most=most_points) for one in known for task in told[one.name]
    }
    as_loaded = Terms(resident=frozenset({choices_of(space, whole)}))
    floors = _floors(finder, list(fronts), chosen.confidence, as_loaded)
    wishes = _wishes(finder, as_loaded) if set(_USES) <= set(fronts) else {}
    selections = [*fronts.values(), floors.values(), *wishes.values()]
    points = {point.subnet: point for own in selections for point in own}
    by_cost = sorted(points, key=lambda subnet: points[subnet].cost.macs)
    compared: list[dict[str, Any]] = []
    measured: dict[tuple[str, str], dict[Subnet, Kept]] = {}
    for one in sets:
        judge = Judge(one, _embed(served.model, whole))
        compared.append(_beside(one, judge, _embed(control, control.space.largest)))
        for subnet in by_cost if one in known else ():
            for task, kept in judge.of(_embed(served.model, subnet), chosen.queries).items():
                measured.setdefault((task, one.name), {})[subnet] = kept
        print(f"measured {one.name}", file=sys.stderr, flush=True)
    fractions = {subnet: points[subnet].fraction for subnet in by_cost}
    figures = {
        "whole": compared,
        "front": _front(fractions, measured),
        "least": least_fractions(fractions, measured),
        "receipts": _receipts(fronts, measured, chosen.confidence),
        "floors": _words_kept(floors, measured),
        "preferences": _preferences(wishes, measured),
    }
    _show(figures)
    report.finish(figures, chosen.json)


def _embed(model: Any, subnet: Subnet) -> Embed:
    embedder = Embedder(model)
    return lambda texts: embedder.vectors(embedder.batches(texts), subnet).astype(np.float64)


def _beside(one: HeldOut, judge: Judge, control: Embed) -> dict[str, Any]:
    """Return the whole model's score beside the control's, documents by the control too."""
    whole, other = judge.whole, judge.of(control)[one.tasks[-1]]
    return {
        "set": one.name,
        "n": whole.n,
        "control": other.value,
        "whole": whole.value,
        "standard error": whole.error,
        "difference": whole.value - other.value,
        "of the difference": other.stderr * whole.value,
    }


def _front(fractions: Mapping[Subnet, float], measured: Measured) -> list[dict[str, Any]]:
    """Return a row a point: its cost, and what it keeps of the whole on each set."""
    return [
        {"subnet": _told(subnet), "fraction": fraction}
        | {
            f"{name}, {task}": f"{own[subnet].share:.3f} ± {own[subnet].stderr:.3f}"
            for (task, name), own in measured.items()
        }
        for subnet, fraction in fractions.items()
    ]


def _told(subnet: Subnet) -> str:
    return " ".join(f"{axis}={value}" for axis, value in subnet.items())


def _share(measured: Measured, use: str, subnet: Subnet) -> float:
    """Return the mean of what is kept over the sets of a use."""
    return fmean(own[subnet].share for (task, _), own in measured.items() if task == use)


def least_fractions(fractions: Mapping[Subnet, float], measured: Measured) -> list[dict[str, Any]]:
    """Return the least fraction of a point that keeps a level, by use, mean over its sets."""
    rows = []
    for use in dict.fromkeys(task for task, _ in measured):
        row: dict[str, Any] = {"use": use}
        for level in _LEVELS:
            able = [f for s, f in fractions.items() if _share(measured, use, s) >= level]
            row[f"{level:.0%}"] = min(able, default=1.0)
        rows.append(row)
    return rows


def _receipts(
    fronts: Mapping[str, Sequence[Selection]], measured: Measured, confidence: float
) -> list[dict[str, Any]]:
    """Compare what receipts expect with what is kept, over all cut points of a task's front."""
    errors = NormalDist().inv_cdf(confidence)
    rows = []
    for task, front in fronts.items():
        found = []
        for point in front[:-1]:
            score = point.scores[task]
            for (other, name), own in measured.items():
                if other == task:
                    over = score.retention - own[point.subnet].share
                    found.append((over, name, point, own[point.subnet].stderr, score))
        if not found:  # the whole model alone
            continue
        worst = max(found, key=lambda one: one[0])
        rows.append(
            {
                "task": task,
                "points x sets": len(found),
                "bias": fmean(one[0] for one in found),
                "largest over-promise": worst[0],
                "standard error": float(np.hypot(worst[3], worst[4].error)),
                "where": f"{worst[1]} at {worst[2].fraction:.2f}",
                "floors kept": fmean(one[0] <= errors * one[4].error for one in found),
            }
        )
    return rows


def _floors(
    finder: Finder, tasks: Sequence[str], confidence: float, as_loaded: Terms
) -> dict[tuple[str, float], Selection]:
    """Return what is chosen for a floor in each task."""
    terms = as_loaded._replace(floors=Floors(NormalDist().inv_cdf(confidence)))
    return {
        (task, floor): finder.find([task], budget=Budget(min_quality=floor), terms=terms)
        for task in tasks
        for floor in _FLOORS
    }


def _words_kept(
    floors: Mapping[tuple[str, float], Selection], measured: Measured
) -> list[dict[str, Any]]:
    """Return whether each set of a task keeps what was asked for, two standard errors allowed."""
    rows = []
    for (task, floor), found in floors.items():
        for (other, name), own in measured.items():
            if other == task:
                kept = own[found.subnet]
                row = {"task": task, "min_quality": floor, "fraction": found.fraction}
                row |= {"expected": found.quality, "set": name, "kept": kept.share}
                row["standard error"] = kept.stderr
                rows.append({**row, "holds": kept.share + 2 * kept.stderr >= floor})
    return rows


def _wishes(finder: Finder, as_loaded: Terms) -> dict[str, list[Selection]]:
    """Return what is chosen by preferences from one use to the other, by budget."""
    asked = {f"fraction {value:.2f}": Budget(fraction=value) for value in _BUDGETS}
    asked |= {f"min_quality {value:.2f}": Budget(min_quality=value) for value in _ASKED_FLOORS}
    found: dict[str, list[Selection]] = {}
    for name, budget in asked.items() if set(_USES) <= set(finder.tasks) else ():
        try:
            found[name] = [
                finder.find(
                    _USES,
                    dict(zip(_USES, (weight, 1 - weight), strict=True)),
                    budget,
                    terms=as_loaded,
                )
                for weight in _WEIGHTS
            ]
        except InfeasibleBudgetError:
            continue
    return found


def _preferences(
    wishes: Mapping[str, Sequence[Selection]], measured: Measured
) -> list[dict[str, Any]]:
    """Return whether what is chosen gains on the use that is wished for."""
    rows = []
    for budget, found in wishes.items():
        first, second = ([_share(measured, use, one.subnet) for one in found] for use in _USES)
        names = [_told(one.subnet) for one in found]
        gains = [one - other for one, other in zip(first, second, strict=True)]
        rows.append(
            {
                "budget": budget,
                "subnets": len(set(names)),
                "from": names[0],
                "to": names[-1],
                "rank correlation": spearman(list(_WEIGHTS), gains) if len(set(names)) > 1 else "-",
            }
        )
    return rows


def _show(figures: Mapping[str, list[dict[str, Any]]]) -> None:
    titles = {
        "whole": "The whole model and the control",
        "front": "Share of the whole model's score",
        "least": "Least fraction of the MACs that keeps a level, mean over the sets of a use",
        "receipts": "What receipts expect less what is kept; floors kept at the confidence",
        "floors": "min_quality",
        "preferences": f"Preferences from {_USES[1]} to {_USES[0]} at equal budgets",
    }
    for name, rows in figures.items():
        if rows and name == "front":  # one line a set, as there are more sets than points
            points = [f"{row['fraction']:.3f}" for row in rows]
            sets = [key for key in rows[0] if key not in ("subnet", "fraction")]
            lines = [[key, *(row[key] for row in rows)] for key in sets]
            report.show(titles[name], ["set", *points], lines)
        elif rows:
            report.show(titles[name], list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
