from __future__ import annotations

import numpy as np
import pytest

from bench.curves import hypervolume
from bench.dense import volume_above
from bench.dense_ways import GLOBAL, JOINT, RULE, Configurations, leaning, simplex, ways_of
from models.families.dense import Dense, axis_of_stage, axis_of_task
from search.finders import Finders
from search.quality.table import Cells, Table
from tests.tiny_dense import tiny_dense

BUDGETS = (0.6, 0.8, 0.95)


def made_up(model: Dense) -> Table:
    """Scores that grow with the widths, and errors that fall."""
    rows = tuple(model.space.select({None}))
    cells = {}
    for t, (name, task) in enumerate(model.tasks.items()):
        columns = tuple(model.space.select({name}))
        encoder = np.array([np.mean([float(width) for width in row.values()]) for row in rows])
        decoder = np.array([float(column[axis_of_task(name)]) for column in columns])
        good = 0.4 + 0.1 * encoder[:, None] + 0.1 * t * decoder
        value = 1 / good if task.lower_is_better else good
        cells[name] = Cells(
            columns,
            value,
            np.full(value.shape, 100),
            np.full(value.shape, 0.01),
            np.ones(value.shape, dtype=np.bool_),
            lower_is_better=task.lower_is_better,
        )
    return Table(rows, cells)


def test_volumes_of_more_dimensions_are_unions_of_boxes() -> None:
    assert hypervolume([(0.5, 0.5, 0.5)], 0.0) == pytest.approx(0.125)
    points = [(1.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0)]
    assert hypervolume(points, 0.0) == pytest.approx(0.125 + 3 * 0.125)
    rng = np.random.default_rng(0)
    cloud = rng.random((12, 4))
    inside = np.any(np.all(rng.random((20_000, 1, 4)) < cloud, axis=2), axis=1)
    assert hypervolume([tuple(p) for p in cloud], 0.0) == pytest.approx(inside.mean(), abs=0.02)
    assert volume_above([[0.75, 1.0]], [0.5, 0.5]) == pytest.approx(0.5)


def test_every_way_keeps_its_promise_and_the_budget() -> None:
    model = tiny_dense()
    table = made_up(model)
    configurations = Configurations(model, table)
    grid = simplex(len(model.tasks), 2)
    finder, floor = Finders(model, table).at(), [0.1] * len(model.tasks)
    ways = ways_of(configurations, finder, grid, BUDGETS, lambda kept: volume_above(kept, floor))
    shapes = model.inputs.plan_shapes()
    largest = model.plan(model.space.largest, shapes).cost.macs
    stages = [axis_of_stage(i + 1) for i in range(len(model.config.channels))]
    for budget in BUDGETS:
        for weights in grid:
            found = {name: find(weights, budget) for name, find in ways.items()}
            for name, subnet in found.items():
                if subnet is None:
                    assert "full" in name
                    continue
                assert model.plan(subnet, shapes).cost.macs <= budget * largest * (1 + 1e-9)
                of_encoder = {subnet[stage] for stage in stages}
                of_decoders = {subnet[axis_of_task(task)] for task in model.tasks}
                if name in ("encoder full", "encoder of one width", GLOBAL):
                    assert len(of_encoder) == 1
                if name in ("decoders full", "decoders of one width", GLOBAL):
                    assert len(of_decoders) == 1
            best = configurations.best(np.ones(len(configurations.rows), np.bool_), weights, budget)
            joint, rule = found[JOINT], found[RULE]
            assert best is not None
            assert joint is not None
            assert rule is not None
            worth = [_worth(configurations, one, weights) for one in (joint, rule)]
            assert worth[0] == pytest.approx(configurations.kept[best] @ np.array(weights))
            assert worth[0] >= worth[1] - 1e-9


def _worth(configurations: Configurations, subnet: object, weights: tuple[float, ...]) -> float:
    (i,) = (i for i in range(len(configurations.rows)) if configurations.subnet(i) == subnet)
    return float(configurations.kept[i] @ np.array(weights))


def test_weights_sum_to_one() -> None:
    assert len(simplex(4, 4)) == 35
    assert all(sum(one) == pytest.approx(1) for one in simplex(3, 4))
    assert leaning(1, 3, 0.5) == (0.25, 0.5, 0.25)
