"""Control of the shipped model by budget and preference: the paper's claims, on the test split.

Subnets are chosen on the checkpoint's table (validation split) and reported on CIFAR-100's test
split, which chooses nothing. Needs RHEOSTAT_DATA.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np

from bench import report
from bench.curves import hypervolume, spearman
from models.backends.torch import TorchBackend
from models.families.slimmable import Slimmable, axis_of_stage, axis_of_task
from models.space import Subnet
from models.train.cifar100 import Images
from models.variants import loaded
from search.budget import Budget, InfeasibleBudgetError
from search.ecmt import find_by_rule
from search.find import Finder, Selection
from search.finders import Finders
from search.knapsack.solve import Solution
from search.offline.training import by_task
from search.quality.table import Table
from server import catalog

BUDGETS = (0.08, 0.12, 0.18, 0.25, 0.35, 0.45, 0.55, 0.7, 0.85, 1.0)
GRID_BUDGETS = (0.1, 0.2, 0.35, 0.6, 0.9)
PREFERENCES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
CONTROL_BUDGET = 0.25
CONTROLLED = ("exact search", "ECMT rule")  # what is compared beyond the hypervolume
CHANCE = 0.2  # five-way tasks; the reference point of the hypervolume

Weights = Mapping[str, float]
Find = Callable[[Weights, Budget], Subnet | None]


class TestSplit:
    """Accuracy on the test split of the subnets that were chosen, each path run once."""

    def __init__(self, model: Slimmable, images: Images, subnets: Collection[Subnet]) -> None:
        self.n = len(images) // len(model.tasks)
        self._space = model.space
        self._accuracy: dict[tuple[str, Subnet], float] = {}
        backend = TorchBackend()
        backend.prepare(model)
        for task, (inputs, labels) in by_task(model, images).items():
            paths = {self._path(task, subnet) for subnet in subnets}
            plans = {
                path: model.plan(path, {"image": model.config.input.shape}, [task])
                for path in paths
            }
            answers = backend.run_all(list(plans.values()), {"image": inputs})
            for path, answer in zip(plans, answers, strict=True):
                right = answer[task].argmax(1) == labels
                self._accuracy[task, path] = float(right.float().mean())

    def _path(self, task: str, subnet: Subnet) -> Subnet:
        """Return the choices that one task's answer depends on."""
        own = self._space.select({None, task})
        return Subnet((axis.name, subnet[axis.name]) for axis in own.axes)

    def accuracy(self, subnet: Subnet, task: str) -> float:
        """Return the accuracy of one task."""
        return self._accuracy[task, self._path(task, subnet)]


def methods(model: Slimmable, table: Table, everything: Finder) -> dict[str, Find]:
    """Return the ways to turn preferences and a budget into a subnet; None where none fits."""
    last = slice(-1, None)
    full_encoder = Finders(model, table.part(rows=last)).at()
    full_decoders = Finders(model, table.part(columns=last)).at()
    return {
        "exact search": _or_none(lambda p, b: everything.find(None, p, b, 0.0)),
        "ECMT rule": _or_none(lambda p, b: find_by_rule(everything, None, p, b)),
        "encoder full": _or_none(lambda p, b: full_encoder.find(None, p, b, 0.0)),
        "decoders full": _or_none(lambda p, b: full_decoders.find(None, p, b, 0.0)),
        "one global width": _global_width(model, everything),
    }


def _or_none(find: Callable[[Weights, Budget], Selection]) -> Find:
    """Return None where nothing fits, and remember the answers: each is wanted twice."""

    @lru_cache(None)
    def remembered(weights: tuple[tuple[str, float], ...], budget: Budget) -> Subnet | None:
        try:
            return find(dict(weights), budget).subnet
        except InfeasibleBudgetError:
            return None

    return lambda weights, budget: remembered(tuple(weights.items()), budget)


def _global_width(model: Slimmable, finder: Finder) -> Find:
    """Return the widest uniform subnet that fits, whatever the preferences."""
    grid, tasks = finder.grid, finder.tasks
    request = finder.request(None, None)
    uniform = []
    for i, width in enumerate(model.config.widths):
        stages = range(1, len(model.config.channels) + 1)
        row = Subnet({**dict.fromkeys(map(axis_of_stage, stages), width), **loaded(model.space)})
        row = model.space.select({None}).check(row)
        if row in grid.rows:
            found = Solution(grid.rows.index(row), np.full(len(tasks), i), 0.0, 0.0)
            fraction = finder.selection(request, found).fraction
            uniform.append((fraction, row | dict.fromkeys(map(axis_of_task, tasks), width)))

    def answer(_: Mapping[str, float], budget: Budget) -> Subnet | None:
        assert budget.fraction is not None
        fitting = [subnet for fraction, subnet in uniform if fraction <= budget.fraction]
        return fitting[-1] if fitting else None

    return answer


@dataclass(frozen=True)
class Study:
    """What is asked of every method.

    Attributes:
        tasks: All tasks.
        preferences: Weights that one task gets in turn, while the others share the rest.
        splits: Random halvings of the tasks.
        steps: Weights of one half, evenly from 0 to 1.
    """

    tasks: tuple[str, ...]
    preferences: tuple[float, ...]
    splits: int
    steps: int

    def equal(self) -> list[tuple[Weights, Budget]]:
        """Return equal weights at ten budgets."""
        return [(dict.fromkeys(self.tasks, 1.0), Budget(fraction=f)) for f in BUDGETS]

    def control(self, task: str) -> list[tuple[Weights, Budget]]:
        """Return growing weights of one task."""
        return [
            (
                {**dict.fromkeys(self.tasks, (1 - w) / (len(self.tasks) - 1)), task: w},
                Budget(fraction=CONTROL_BUDGET),
            )
            for w in self.preferences
        ]

    def half(self, seed: int) -> set[str]:
        """Return a random half of the tasks."""
        return set(Random(seed).sample(self.tasks, len(self.tasks) // 2))

    def grid(self, fraction: float, seed: int) -> list[tuple[Weights, Budget]]:
        """Return weights that move from one half of the tasks to the other."""
        half = self.half(seed)
        return [
            (
                {task: weight if task in half else 1 - weight for task in self.tasks},
                Budget(fraction=fraction),
            )
            for weight in np.linspace(0, 1, self.steps).tolist()
        ]

    def questions(self, is_controlled: bool) -> list[tuple[Weights, Budget]]:
        """Return everything that is asked of a method."""
        found = [] if not is_controlled else self.equal()
        for task in self.tasks if is_controlled else ():
            found += self.control(task)
        for fraction, seed in itertools.product(GRID_BUDGETS, range(self.splits)):
            found += self.grid(fraction, seed)
        return found


def by_budget(study: Study, find: Find, test: TestSplit) -> list[dict[str, Any]]:
    """Return the accuracy at ten budgets for equal preferences."""
    rows: list[dict[str, Any]] = []
    for weights, budget in study.equal():
        if subnet := find(weights, budget):
            accuracy = {task: test.accuracy(subnet, task) for task in study.tasks}
            mean = sum(accuracy.values()) / len(accuracy)
            rows.append({"fraction": budget.fraction, "mean": mean, "per task": accuracy})
    return rows


def control(study: Study, find: Find, test: TestSplit) -> dict[str, list[float]]:
    """Return each task's accuracy as its preference grows and the others share the rest."""
    found: dict[str, list[float]] = {}
    for task in study.tasks:
        subnets = [find(*question) for question in study.control(task)]
        found[task] = [test.accuracy(subnet, task) for subnet in subnets if subnet]
    return found


def hypervolumes(study: Study, find: Find, test: TestSplit) -> list[float]:
    """Return, per budget, the mean hypervolume of two groups of tasks over a preference grid.

    The tasks are split at random into halves; the weight of one half runs from 0 to 1, and the
    mean accuracies of both halves are the two objectives.
    """
    volumes = []
    for fraction in GRID_BUDGETS:
        areas = []
        for seed in range(study.splits):
            half, points = study.half(seed), []
            for subnet in filter(None, (find(*q) for q in study.grid(fraction, seed))):
                sides: tuple[list[float], list[float]] = ([], [])
                for task in study.tasks:
                    sides[task in half].append(test.accuracy(subnet, task))
                points.append((float(np.mean(sides[1])), float(np.mean(sides[0]))))
            areas.append(hypervolume(points, CHANCE))
        volumes.append(float(np.mean(areas)))
    return volumes


def main() -> None:
    """Print the three tables."""
    options = report.parser(__doc__).parse_args()
    images = report.cifar100_splits().test
    served = catalog.load(report.ZOO).choose(None)
    model = served.model
    ways = methods(model, served.table, served.finder)
    study = Study(tuple(model.tasks), PREFERENCES, splits=10, steps=11)
    if options.quick:
        study = replace(study, preferences=PREFERENCES[1::2], splits=2, steps=5)
        keep = np.arange(len(images)) % 100 < 2  # 100 images of each class in a row
        images = Images(images.pixels[keep], images.task[keep], images.label[keep])
    answers = (
        find(*question)
        for name, find in ways.items()
        for question in study.questions(name in CONTROLLED)
    )
    test = TestSplit(model, images, set(filter(None, answers)))

    rows = by_budget(study, ways["exact search"], test)
    columns = [row["per task"] for row in rows]
    means = [row["mean"] for row in rows]
    report.show(
        f"Equal preferences: test accuracy ({test.n} images a task) by budget as a fraction",
        ["task", *(f"{row['fraction']:g}" for row in rows)],
        [*([task, *(c[task] for c in columns)] for task in model.tasks), ["mean", *means]],
    )

    figures: dict[str, object] = {"by_budget": rows}
    for name in CONTROLLED:
        found = control(study, ways[name], test)
        correlations = {task: spearman(list(study.preferences), y) for task, y in found.items()}
        gain = [found[task][-1] - found[task][0] for task in found]
        report.show(
            f"{name}: a task's accuracy by its preference, at fraction {CONTROL_BUDGET}",
            ["task", *map(str, study.preferences), "Spearman"],
            [
                *([task, *y, correlations[task]] for task, y in found.items()),
                [
                    "mean",
                    *(float(np.mean(column)) for column in zip(*found.values(), strict=True)),
                    float(np.mean(list(correlations.values()))),
                ],
            ],
        )
        figures[f"control, {name}"] = {
            "accuracy": found,
            "spearman": correlations,
            "mean gain from lowest to highest preference": float(np.mean(gain)),
        }

    volumes = {name: hypervolumes(study, find, test) for name, find in ways.items()}
    report.show(
        "Hypervolume over a preference grid, two halves of the tasks (0: nothing fits)",
        ["method", *(f"at {fraction}" for fraction in GRID_BUDGETS), "mean"],
        [[name, *values, float(np.mean(values))] for name, values in volumes.items()],
    )
    best = max(volumes, key=lambda name: float(np.mean(volumes[name])))
    others = sorted((n for n in volumes if n != best), key=lambda n: -float(np.mean(volumes[n])))
    lead = float(np.mean(volumes[best]) / np.mean(volumes[others[0]]) - 1)
    print(f"{best} wins on the mean, by {100 * lead:.2f} % over {others[0]}")
    figures["hypervolume"] = {"budgets": GRID_BUDGETS, **volumes}
    report.finish(figures, options.json)


if __name__ == "__main__":
    main()
