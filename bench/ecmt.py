"""Control of the shipped model by budget and preference: the paper's claims, on the test split.

Subnets are chosen on the checkpoint's table (validation split) and reported on CIFAR-100's test
split, which chooses nothing. Needs RHEOSTAT_DATA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from bench import report
from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import Subnet
from models.families.slimmable import Slimmable, axis_of_stage, axis_of_task
from models.train import cifar100
from search.budget import Budget, InfeasibleBudgetError
from search.ecmt import find_by_rule
from search.find import Finder, Selection
from search.measure import measure
from search.table import TABLE, FloatArray, Table
from server.settings import data_folder
from server.training import by_task

BUDGETS = (0.08, 0.12, 0.18, 0.25, 0.35, 0.45, 0.55, 0.7, 0.85, 1.0)
GRID_BUDGETS = (0.1, 0.2, 0.35, 0.6, 0.9)
PREFERENCES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
CONTROL_BUDGET = 0.25
CHANCE = 0.2  # five-way tasks; the reference point of the hypervolume

Find = Callable[[Mapping[str, float], Budget], Subnet | None]


class TestSplit:
    """Accuracy on the test split of any subnet, looked up in a table measured once."""

    def __init__(self, model: Slimmable, per_class: int) -> None:
        images = cifar100.load(data_folder() / "cifar100").test
        keep = np.arange(len(images)) % 100 < per_class  # 100 images of each class in a row
        images = cifar100.Images(images.pixels[keep], images.task[keep], images.label[keep])
        backend = TorchBackend()
        backend.prepare(model)
        self.table = measure(model, backend, by_task(model, images))
        self.n = per_class * 5
        self._rows = {row: i for i, row in enumerate(self.table.rows)}
        self._stages = list(self.table.rows[0])

    def accuracy(self, subnet: Subnet) -> dict[str, float]:
        """Return the accuracy of each task."""
        row = self._rows[Subnet((axis, subnet[axis]) for axis in self._stages)]
        found = {}
        for task, cells in self.table.cells.items():
            axis = axis_of_task(task)
            column = [choice[axis] for choice in cells.columns].index(subnet[axis])
            found[task] = float(cells.value[row, column])
        return found


def methods(model: Slimmable, table: Table) -> dict[str, Find]:
    """Return the ways to turn preferences and a budget into a subnet; None where none fits."""
    everything = Finder(model, model.input.shape, table)
    cells = table.cells.items()
    last_row = Table(
        table.rows[-1:],
        {
            task: replace(
                c, value=c.value[-1:], n=c.n[-1:], stderr=c.stderr[-1:], measured=c.measured[-1:]
            )
            for task, c in cells
        },
    )
    last_column = Table(
        table.rows,
        {
            task: replace(
                c,
                columns=c.columns[-1:],
                value=c.value[:, -1:],
                n=c.n[:, -1:],
                stderr=c.stderr[:, -1:],
                measured=c.measured[:, -1:],
            )
            for task, c in cells
        },
    )
    full_encoder = Finder(model, model.input.shape, last_row)
    full_decoders = Finder(model, model.input.shape, last_column)
    return {
        "exact search": _or_none(lambda p, b: everything.find(None, p, b, 0.0)),
        "ECMT rule": _or_none(lambda p, b: find_by_rule(everything, None, p, b)),
        "encoder full": _or_none(lambda p, b: full_encoder.find(None, p, b, 0.0)),
        "decoders full": _or_none(lambda p, b: full_decoders.find(None, p, b, 0.0)),
        "one global width": _global_width(model, everything),
    }


def _or_none(find: Callable[[Mapping[str, float], Budget], Selection]) -> Find:
    def answer(preferences: Mapping[str, float], budget: Budget) -> Subnet | None:
        try:
            return find(preferences, budget).subnet
        except InfeasibleBudgetError:
            return None

    return answer


def _global_width(model: Slimmable, finder: Finder) -> Find:
    """Return the widest uniform subnet that fits, whatever the preferences."""
    grid, tasks = finder.grid, np.arange(len(finder.tasks))
    largest = finder.request(None, None).largest_macs
    uniform = []
    for i, width in enumerate(model.config.widths):
        row = Subnet((axis_of_stage(s + 1), width) for s in range(len(model.config.channels)))
        if row in grid.rows:
            macs = grid.macs(grid.rows.index(row), np.full(len(tasks), i), tasks)
            uniform.append((macs / largest, Subnet(dict.fromkeys(model.space.largest, width))))

    def answer(_: Mapping[str, float], budget: Budget) -> Subnet | None:
        assert budget.fraction is not None
        fitting = [subnet for fraction, subnet in uniform if fraction <= budget.fraction]
        return fitting[-1] if fitting else None

    return answer


def hypervolume(points: list[tuple[float, float]], reference: float) -> float:
    """Return the area that the points dominate above (reference, reference)."""
    area, best = 0.0, reference
    for x, y in sorted(points, reverse=True):
        if y > best and x > reference:
            area += (x - reference) * (y - best)
            best = y
    return area


def spearman(x: list[float], y: list[float]) -> float:
    """Return the rank correlation; tied values share their mean rank."""

    def ranks(values: list[float]) -> FloatArray:
        array = np.asarray(values)
        below = (array[None, :] < array[:, None]).sum(axis=1)
        equal = (array[None, :] == array[:, None]).sum(axis=1)
        ranked: FloatArray = below + (equal - 1) / 2
        return ranked

    a, b = ranks(x), ranks(y)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def by_budget(find: Find, test: TestSplit) -> list[dict[str, Any]]:
    """Return the accuracy at ten budgets for equal preferences."""
    rows: list[dict[str, Any]] = []
    equal = dict.fromkeys(test.table.cells, 1.0)
    for fraction in BUDGETS:
        subnet = find(equal, Budget(fraction=fraction))
        if subnet is not None:
            accuracy = test.accuracy(subnet)
            mean = sum(accuracy.values()) / len(accuracy)
            rows.append({"fraction": fraction, "mean": mean, "per task": accuracy})
    return rows


def control(find: Find, test: TestSplit) -> dict[str, list[float]]:
    """Return each task's accuracy as its preference grows and the others share the rest."""
    tasks = list(test.table.cells)
    found: dict[str, list[float]] = {task: [] for task in tasks}
    for task in tasks:
        for preference in PREFERENCES:
            weights = dict.fromkeys(tasks, (1 - preference) / (len(tasks) - 1))
            subnet = find({**weights, task: preference}, Budget(fraction=CONTROL_BUDGET))
            assert subnet is not None
            found[task].append(test.accuracy(subnet)[task])
    return found


def hypervolumes(find: Find, test: TestSplit, splits: int, steps: int) -> list[float]:
    """Return, per budget, the mean hypervolume of two groups of tasks over a preference grid.

    The tasks are split at random into halves; the weight of one half runs from 0 to 1, and the
    mean accuracies of both halves are the two objectives.
    """
    tasks = list(test.table.cells)
    volumes = []
    for fraction in GRID_BUDGETS:
        areas = []
        for seed in range(splits):
            left = set(Random(seed).sample(tasks, len(tasks) // 2))
            points = []
            for weight in np.linspace(0, 1, steps).tolist():
                weights = {task: weight if task in left else 1 - weight for task in tasks}
                subnet = find(weights, Budget(fraction=fraction))
                if subnet is not None:
                    accuracy = test.accuracy(subnet)
                    halves = [
                        [accuracy[t] for t in tasks if (t in left) == side] for side in (1, 0)
                    ]
                    points.append((float(np.mean(halves[0])), float(np.mean(halves[1]))))
            areas.append(hypervolume(points, CHANCE))
        volumes.append(float(np.mean(areas)))
    return volumes


def main() -> None:
    """Print the three tables."""
    options = report.parser(__doc__).parse_args()
    model = checkpoint.load(report.ZOO).model
    table = Table.load(report.ZOO / TABLE, model.space, list(model.tasks))
    test = TestSplit(model, per_class=2 if options.quick else 100)
    ways = methods(model, table)
    exact = ways["exact search"]

    rows = by_budget(exact, test)
    columns = [row["per task"] for row in rows]
    means = [row["mean"] for row in rows]
    report.show(
        f"Equal preferences: test accuracy ({test.n} images a task) by budget as a fraction",
        ["task", *(f"{row['fraction']:g}" for row in rows)],
        [*([task, *(c[task] for c in columns)] for task in model.tasks), ["mean", *means]],
    )

    figures: dict[str, object] = {"by_budget": rows}
    for name in ("exact search", "ECMT rule"):
        found = control(ways[name], test)
        correlations = {task: spearman(list(PREFERENCES), y) for task, y in found.items()}
        gain = [found[task][-1] - found[task][0] for task in found]
        report.show(
            f"{name}: a task's accuracy by its preference, at fraction {CONTROL_BUDGET}",
            ["task", *map(str, PREFERENCES), "Spearman"],
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

    splits, steps = (2, 5) if options.quick else (10, 11)
    volumes = {name: hypervolumes(find, test, splits, steps) for name, find in ways.items()}
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
