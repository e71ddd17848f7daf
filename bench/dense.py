"""Control of a dense model by budget and preference, on scenes that no training and no table had.

The argument is a checkpoint of the family dense, from `rheostat train vision` on the data set
`scenes`; or, with --data, on another folder, whose test split is used. Subnets are chosen on the
checkpoint's table (validation split), and every figure is of images that chose nothing.

Preferences are all whole numbers of steps that sum to 1. The volume is what the chosen subnets
dominate, each task from the smallest subnet's score to the largest one's, as retention: score over
the largest subnet's, of errors that over the error. 1 would be the largest subnet's scores for
every preference. A volume multiplies the ranges of all tasks, so that small differences in each
are large ones in it; the mean of what is kept, weighted by the preferences, stands beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench import report
from bench.curves import hypervolume, spearman
from bench.dense_data import scenes
from bench.dense_times import times
from bench.dense_ways import JOINT, RULE, Configurations, Way, Weights, leaning, simplex, ways_of
from models.backends.torch import TorchBackend
from models.families.dense import Dense
from models.space import Subnet
from models.train.maps import score_of
from models.train.vision import Pictures
from search.offline.vision_data import read_vision
from search.offline.vision_training import image_scores
from server import catalog

BUDGETS = (0.2, 0.3, 0.45, 0.65, 0.85)
CONTROL_BUDGET = 0.3
PREFERENCES = (0.02, 0.1, 0.25, 0.4, 0.6, 0.8, 0.94)
SEED = 20_231_001  # of scenes that nothing else draws
VOLUME, RETENTION = "Volume over preferences", "Mean retention by preference"
_LEAST = 1e-6  # of a volume that another is compared with
_QUICK_BUDGETS, _QUICK_PREFERENCES = (0.3, 0.65), (0.02, 0.4, 0.94)


class Tested:
    """Scores on the test split of the subnets that were chosen."""

    def __init__(self, model: Dense, subnets: Sequence[Subnet], pictures: Pictures) -> None:
        self.model = model
        backend = TorchBackend()
        backend.prepare(model)
        ends = [model.space.smallest, model.space.largest]
        every = list(dict.fromkeys([*ends, *subnets]))
        found = image_scores(model, every, pictures, backend)
        self._parts = dict(zip(every, found, strict=True))
        self.least, self.most = (
            {task: self.score(end, task) for task in model.tasks} for end in ends
        )

    def parts(self, subnet: Subnet, task: str) -> Tensor:
        """Return what each image adds to a score."""
        return self._parts[subnet][task]

    def score(self, subnet: Subnet, task: str) -> float:
        """Return a score in the task's metric."""
        return float(score_of(self.model.tasks[task], self.parts(subnet, task)))

    def kept(self, subnet: Subnet) -> list[float]:
        """Return of each task the score over the largest subnet's."""
        return [self._retention(task, self.score(subnet, task)) for task in self.model.tasks]

    @property
    def floor(self) -> list[float]:
        """What the smallest subnet keeps of each task."""
        return [self._retention(task, self.least[task]) for task in self.model.tasks]

    def _retention(self, task: str, score: float) -> float:
        whole = self.most[task]
        return whole / score if self.model.tasks[task].lower_is_better else score / whole


def volume_above(kept: Sequence[Sequence[float]], floor: Sequence[float]) -> float:
    """Return the volume between a floor and 1 in each dimension."""
    scaled = [
        tuple((x - low) / (1 - low) for x, low in zip(one, floor, strict=True)) for one in kept
    ]
    return hypervolume(scaled, 0.0)


def answers(
    ways: dict[str, Way], grid: Sequence[Weights], budgets: Sequence[float], tested: Tested
) -> dict[str, dict[str, list[float | None]]]:
    """Return by measure and way what is kept at each budget; None where nothing fits.

    The measures are the volume, and the mean over preferences of the preference-weighted retention.
    """
    found: dict[str, dict[str, list[float | None]]] = {VOLUME: {}, RETENTION: {}}
    for name, find in ways.items():
        for own in found.values():
            own[name] = []
        for budget in budgets:
            asked = [(weights, find(weights, budget)) for weights in grid]
            kept = [(weights, tested.kept(one)) for weights, one in asked if one is not None]
            each = [float(np.dot(weights, one)) for weights, one in kept]
            volume = volume_above([one for _, one in kept], tested.floor)
            found[VOLUME][name].append(volume if kept else None)
            found[RETENTION][name].append(float(np.mean(each)) if kept else None)
    return found


def show_answers(
    title: str, found: dict[str, list[float | None]], budgets: Sequence[float]
) -> dict[str, Any]:
    """Print a measure with two means: what does not fit as 0, and over budgets where all fit."""
    fits = [all(own[i] is not None for own in found.values()) for i in range(len(budgets))]
    means: dict[str, tuple[float, float]] = {}
    for name, own in found.items():
        values = np.array([x or 0.0 for x in own])
        fitting = float(values[fits].mean()) if any(fits) else float("nan")
        means[name] = (float(values.mean()), fitting)
    leads = {
        name: [100 * (joint / other - 1) if other > _LEAST else float("inf") for joint, other in
               zip(means[JOINT], own, strict=True)]
        for name, own in means.items()
    }  # fmt: skip
    report.show(
        f"{title}, by budget as a fraction (-: nothing fits)",
        ["way", *(f"{b:g}" for b in budgets), "mean, - is 0", "joint, %", "all fit", "joint, %"],
        [
            [
                name,
                *("-" if x is None else x for x in own),
                means[name][0],
                f"{leads[name][0]:+.1f}",
                means[name][1],
                f"{leads[name][1]:+.1f}",
            ]
            for name, own in found.items()
        ],
    )
    return {"budgets": budgets, "values": found, "means": means, "leads of joint": leads}


def control(way: Way, name: str, preferences: Sequence[float], tested: Tested) -> dict[str, Any]:
    """Print each task's score as its preference grows, at one budget."""
    rows, found = [], {}
    tasks = list(tested.model.tasks)
    for t, task in enumerate(tasks):
        subnets = [way(leaning(t, len(tasks), w), CONTROL_BUDGET) for w in preferences]
        chosen = [one for one in subnets if one is not None]
        scores = [tested.score(one, task) for one in chosen]
        gains = [-x if tested.model.tasks[task].lower_is_better else x for x in scores]
        first, last = (tested.parts(one, task) for one in (chosen[0], chosen[-1]))
        change = (last - first).double()
        stderr = float(change.std() / len(change) ** 0.5)
        if tested.model.tasks[task].metric == "rmse":
            stderr /= scores[0] + scores[-1]  # of a difference of roots
        kept = [tested.kept(one)[t] for one in chosen]
        correlation = spearman(list(preferences), gains)
        found[task] = {"scores": scores, "spearman": correlation, "range stderr": stderr}
        found[task]["range of retention"] = kept[-1] - kept[0]
        rows.append(
            [task, *scores, scores[-1] - scores[0], stderr, kept[-1] - kept[0], correlation]
        )
    report.show(
        f"{name}: a task's score by its preference, at fraction {CONTROL_BUDGET}",
        ["task", *map(str, preferences), "change", "its error", "retention", "Spearman"],
        rows,
    )
    return found


def spread(configurations: Configurations, count: int) -> list[Subnet]:
    """Return subnets from the cheapest to the dearest, evenly by rank."""
    order = np.argsort(configurations.fraction, kind="stable")
    places = np.linspace(0, len(order) - 1, count).astype(int)
    return [configurations.subnet(int(i)) for i in order[places]]


def main() -> None:
    """Print the tables."""
    options = report.parser(__doc__)
    options.add_argument("model", type=Path, metavar="DIR")
    options.add_argument("--data", type=Path, help="folder with dataset.toml; default: scenes")
    options.add_argument("--images", type=int, help="of the test split; default 300, quick 24")
    chosen = options.parse_args()
    served = catalog.load(chosen.model).choose(None)
    model = served.model
    if not isinstance(model, Dense):
        sys.exit(f"{chosen.model} is of another family than dense")
    count = chosen.images or (24 if chosen.quick else 300)
    image = model.config.input
    test = (
        read_vision(chosen.data).test
        if chosen.data
        else scenes(SEED, count, image.height, image.width)
    )
    test = test.part(slice(count))
    budgets = _QUICK_BUDGETS if chosen.quick else BUDGETS
    preferences = _QUICK_PREFERENCES if chosen.quick else PREFERENCES
    tasks = list(model.tasks)
    grid = simplex(len(tasks), 2 if chosen.quick else 4)
    configurations = Configurations(model, served.table)
    floor = configurations.kept[0].tolist()
    ways = ways_of(
        configurations, served.finder, grid, budgets, lambda kept: volume_above(kept, floor)
    )
    asked = [(find, w, b) for find in ways.values() for w in grid for b in budgets]
    asked += [
        (ways[name], leaning(t, len(tasks), w), CONTROL_BUDGET)
        for name in (JOINT, RULE)
        for t in range(len(tasks))
        for w in preferences
    ]
    subnets = list(dict.fromkeys(filter(None, (find(w, b) for find, w, b in asked))))
    tested = Tested(model, subnets, test)
    report.show(
        f"Ends, on {len(test)} images",
        ["subnet", *(f"{task}: {own.metric}" for task, own in model.tasks.items())],
        [["smallest", *tested.least.values()], ["largest", *tested.most.values()]],
    )
    figures: dict[str, Any] = {"images": len(test), "ends": [tested.least, tested.most]}
    for title, found in answers(ways, grid, budgets, tested).items():
        figures[title] = show_answers(title, found, budgets)
    for name in (JOINT, RULE):
        figures[f"control, {name}"] = control(ways[name], name, preferences, tested)
    some = spread(configurations, 8 if chosen.quick else 24)
    graphs = spread(configurations, 0 if chosen.quick else 6)
    figures["time"] = times(model, some, graphs, 3 if chosen.quick else 8)
    report.finish(figures, chosen.json)


if __name__ == "__main__":
    main()
