from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from models import checkpoint
from models.core import plan_cost
from models.families.slimmable import Slimmable
from models.space import Subnet
from search.budget import Budget, InfeasibleBudgetError
from search.find import TOLERANCE, Finder, RequestError
from search.finders import Finders
from search.grid import Grid
from search.quality import measure
from search.quality.table import TABLE, Table
from server import catalog
from tests.search.brute import BruteForce
from tests.tiny import tiny_model, tiny_table
from tests.tiny_text import write_text_checkpoint

ZOO = Path(checkpoint.__file__).parent / "zoo" / "cifar100-mtl"


@pytest.fixture(scope="module")
def model() -> Slimmable:
    return tiny_model()


@pytest.fixture(scope="module")
def finder(model: Slimmable) -> Finder:
    return Finders(model, tiny_table(model)).at()


@pytest.fixture(scope="module")
def shipped() -> tuple[Slimmable, Finder]:
    model = checkpoint.load(ZOO).model
    table = Table.load(ZOO / TABLE, model.space, model.tasks)
    return model, Finders(model, table).at()


def random_weights(rng: Random, tasks: list[str]) -> dict[str, float]:
    """Draw anything from equal to nearly one-hot, at any scale, some tasks at zero."""
    power, scale = rng.choice([0, 1, 4, 16]), 10 ** rng.uniform(-6, 6)
    weights = {task: scale * rng.random() ** power for task in tasks}
    if rng.random() < 0.3:
        weights[rng.choice(tasks)] = 0.0
    if not any(weights.values()):
        weights[tasks[0]] = scale
    return weights


def test_each_row_has_its_fraction_of_the_most_macs(tmp_path: Path) -> None:
    served = catalog.load_one(write_text_checkpoint(tmp_path / "texts"))

    def macs(row: Subnet) -> int:
        return plan_cost(served.elastic.plan(row, served.inputs.plan_shapes())).macs

    found, largest = served.finder.fractions(), macs(served.elastic.space.largest)
    assert set(found) == set(served.table.rows)
    for row, fraction in found.items():
        assert fraction == pytest.approx(macs(row) / largest)


def limited(field: str, value: float) -> Budget:
    limits: dict[str, Any] = {field: value}
    return Budget(**limits)


def random_budget(rng: Random, low: float, largest_macs: int) -> Budget:
    ceiling = rng.uniform(0.95 * low, 1.02 * largest_macs)
    limits: dict[str, Any] = {
        "macs": ceiling if rng.random() < 0.4 else None,
        "flops": 2 * ceiling if rng.random() < 0.4 else None,
        "fraction": min(1.0, ceiling / largest_macs) if rng.random() < 0.2 else None,
        "min_quality": rng.uniform(0.7, 1.03) if rng.random() < 0.4 else None,
    }
    return Budget(**limits)


def assert_search_equals_brute_force(finder: Finder, tasks: list[str], count: int) -> None:
    rng = Random(7)
    reference = BruteForce(finder.grid, finder.request(tasks, None))
    low = float(reference.macs.min())
    found = refused = 0
    for _ in range(count):
        weights = random_weights(rng, tasks)
        budget = random_budget(rng, low, reference.largest_macs)
        expected = reference.best(finder.request(tasks, weights).weights, budget)
        try:
            exact = finder.find(tasks, weights, budget, tolerance=0)
        except InfeasibleBudgetError:
            assert expected is None, budget
            refused += 1
            continue
        assert expected is not None, budget
        quick = finder.find(tasks, weights, budget)
        quality, macs = expected
        if budget.min_quality is None:
            assert exact.quality == pytest.approx(quality, abs=1e-9)
            assert quality <= quick.quality + quick.gap + 1e-9
        else:
            assert exact.cost.macs == macs
            assert macs >= quick.cost.macs - quick.gap * reference.largest_macs - 1
        assert exact.gap == 0
        assert quick.gap <= TOLERANCE + 1e-9
        found += 1
    assert found > count / 3
    assert refused > 0


def test_search_equals_brute_force(finder: Finder) -> None:
    assert_search_equals_brute_force(finder, list(finder.tasks), 300)
    assert_search_equals_brute_force(finder, ["flowers"], 100)


@pytest.mark.slow
def test_search_on_the_shipped_model_equals_brute_force_over_five_tasks(
    shipped: tuple[Slimmable, Finder],
) -> None:
    _, finder = shipped
    assert_search_equals_brute_force(finder, list(finder.tasks[::4]), 500)


def assert_no_answer_exceeds_its_budget(model: Slimmable, finder: Finder, count: int) -> None:
    rng = Random(11)
    answered = 0
    for _ in range(count):
        tasks = rng.sample(list(finder.tasks), rng.randint(1, len(finder.tasks)))
        request = finder.request(tasks, None)
        budget = random_budget(rng, 0.05 * request.largest_macs, request.largest_macs)
        try:
            selection = finder.find(tasks, random_weights(rng, tasks), budget)
        except InfeasibleBudgetError:
            continue
        plan = model.plan(selection.subnet, model.inputs.plan_shapes(), tasks)
        assert plan.cost == selection.cost
        assert selection.cost.macs <= budget.max_macs(request.largest_macs)[0]
        if budget.min_quality is not None:
            assert selection.quality >= budget.min_quality - 1e-8
        answered += 1
    assert answered > count / 4


def test_no_answer_exceeds_its_budget_and_costs_are_those_of_the_plan(
    model: Slimmable, finder: Finder
) -> None:
    assert_no_answer_exceeds_its_budget(model, finder, 400)


@pytest.mark.slow
def test_no_answer_of_the_shipped_model_exceeds_its_budget(
    shipped: tuple[Slimmable, Finder],
) -> None:
    assert_no_answer_exceeds_its_budget(*shipped, 2000)


def test_a_task_without_axes_of_its_own_is_searched_by_row_alone(model: Slimmable) -> None:
    table = tiny_table(model)
    finder = Finders(model, table.part(columns=slice(-1, None))).at()
    assert_search_equals_brute_force(finder, list(finder.tasks), 60)
    assert_search_equals_brute_force(finder, ["people"], 60)


def test_dropping_rows_that_another_beats_changes_no_optimum(
    model: Slimmable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tiny_table(model)
    # As smoothing pools what falls: a second stage wider than half brings nothing.
    value = {
        row: 0.5 + 0.1 * float(row["encoder.stage1"]) + 0.1 * min(0.5, float(row["encoder.stage2"]))
        for row in table.rows
    }
    smoothed = {
        task: replace(
            cells,
            smoothed=np.array(
                [[value[row] + 0.02 * float(*c.values()) for c in cells.columns] for row in value]
            ),
        )
        for task, cells in table.cells.items()
    }
    finder = Finders(model, Table(table.rows, smoothed)).at()
    with monkeypatch.context() as patch:
        patch.setattr(Grid, "without_dominated", lambda grid, **_: grid)
        unfiltered = Finders(model, Table(table.rows, smoothed)).at()
    assert len(finder.grid.rows) < len(unfiltered.grid.rows) == len(table.rows)
    rng = Random(5)
    reference = BruteForce(unfiltered.grid, unfiltered.request(None, None))
    for _ in range(200):
        weights = random_weights(rng, list(finder.tasks))
        budget = Budget(fraction=rng.uniform(0.15, 1))
        best = reference.best(finder.request(None, weights).weights, budget)
        assert best is not None
        found = finder.find(None, weights, budget, tolerance=0)
        assert found.quality == pytest.approx(best[0], abs=1e-9)


def test_fixed_values_hold_and_fractions_stay_those_of_the_whole_model(model: Slimmable) -> None:
    table, whole = tiny_table(model), tiny_model().space.largest
    finders = Finders(model, table)
    fixed = finders.at(fixed={"encoder.stage1": 0.5})
    found = fixed.find(tolerance=0)
    assert found.subnet["encoder.stage1"] == 0.5
    largest = model.plan(whole, model.inputs.plan_shapes()).cost.macs
    assert found.fraction == found.cost.macs / largest < 1
    with pytest.raises(ValueError, match="no row has"):
        finders.at(fixed={"encoder.stage1": 0.3})


def test_the_search_counts_on_expected_scores_and_reports_the_measured_ones(
    model: Slimmable,
) -> None:
    table = tiny_table(model)
    lucky = {  # by luck the narrowest of all scored best
        task: replace(cells, value=cells.value[::-1, ::-1], smoothed=cells.value)
        for task, cells in table.cells.items()
    }
    found = Finders(model, Table(table.rows, lucky)).at().find(tolerance=0)
    assert found.subnet == Finders(model, table).at().find(tolerance=0).subnet
    for task, score in found.scores.items():
        weight = found.preferences[task]
        assert weight == pytest.approx(1 / 3)
        assert score.value < score.expected
    retentions = [score.retention for score in found.scores.values()]
    assert found.quality == pytest.approx(sum(retentions) / 3)


def test_where_the_largest_subnet_is_not_the_best_the_best_is_taken(model: Slimmable) -> None:
    """Trap: deeper and wider is not always better, so the table decides, not the size."""
    table = tiny_table(model)
    turned = {
        task: replace(cells, value=cells.value[::-1, ::-1], smoothed=cells.value[::-1, ::-1])
        for task, cells in table.cells.items()
    }
    found = Finders(model, Table(table.rows, turned)).at().find(tolerance=0)
    smallest = model.space.smallest
    assert all(found.subnet[axis] == smallest[axis] for axis in smallest if "encoder" in axis)
    assert found.quality > 1  # of the largest subnet's score


def test_without_a_budget_the_best_subnet_is_taken(finder: Finder) -> None:
    reference = BruteForce(finder.grid, finder.request(None, None))
    best = reference.best(np.full(3, 1 / 3), Budget())
    assert best is not None
    assert finder.find(tolerance=0).quality == pytest.approx(best[0], abs=1e-9)


def test_a_task_of_weight_zero_is_answered_as_cheaply_as_possible(finder: Finder) -> None:
    selection = finder.find(preferences={"fish": 1}, budget=Budget(fraction=0.9), tolerance=0)
    assert selection.subnet["decoder.flowers"] == selection.subnet["decoder.people"] == 0.25
    assert selection.preferences == {"fish": 1.0, "flowers": 0.0, "people": 0.0}


def test_scaling_all_weights_changes_nothing(finder: Finder) -> None:
    budget = Budget(fraction=0.4)
    weights = {"fish": 3.0, "flowers": 1.0, "people": 2.0}
    one = finder.find(preferences=weights, budget=budget)
    two = finder.find(preferences={k: v * 1e-300 for k, v in weights.items()}, budget=budget)
    assert one.subnet == two.subnet
    assert two.quality == pytest.approx(one.quality)


def test_weights_whose_sum_is_no_number_any_more_are_still_weighed(finder: Finder) -> None:
    huge = finder.find(["fish", "people"], {"fish": 1.5e308, "people": 0.5e308})
    assert dict(huge.preferences) == pytest.approx({"fish": 0.75, "people": 0.25})


def test_selection_reports_the_cells_of_the_table(model: Slimmable, finder: Finder) -> None:
    table = tiny_table(model)
    selection = finder.find(["people"], None, Budget(fraction=0.5))
    row = table.rows.index(
        model.space.select({None}).check(
            {k: v for k, v in selection.subnet.items() if k.startswith("encoder")}
        )
    )
    column = [c["decoder.people"] for c in table.cells["people"].columns].index(
        selection.subnet["decoder.people"]
    )
    assert selection.scores == {"people": table.at("people", row, column)}
    assert selection.quality == pytest.approx(selection.scores["people"].retention)
    assert list(selection.subnet) == ["encoder.stage1", "encoder.stage2", "decoder.people"]


def test_front_rises_in_cost_and_quality(finder: Finder) -> None:
    front = finder.front(most=12)
    assert len(front) > 3
    for one, two in itertools.pairwise(front):
        assert one.cost.macs < two.cost.macs
        assert one.quality < two.quality
    assert front[-1].quality == pytest.approx(finder.find(tolerance=0).quality)


@pytest.mark.parametrize("field", ["flops", "macs", "fraction"])
def test_a_budget_below_the_cheapest_names_a_figure_that_is_then_accepted(
    finder: Finder, field: str
) -> None:
    with pytest.raises(InfeasibleBudgetError, match=rf"budget\.{field}=.* is too small") as caught:
        finder.find(["fish"], None, limited(field, 1e-6))
    assert caught.value.field == field
    finder.find(["fish"], None, limited(field, caught.value.feasible))
    shown = float(str(caught.value).rsplit(" ", 1)[1].replace(",", ""))
    finder.find(["fish"], None, limited(field, shown))


def test_a_quality_nobody_reaches_names_the_best(finder: Finder) -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"min_quality=5 cannot be kept") as caught:
        finder.find(budget=Budget(min_quality=5))
    assert caught.value.feasible == pytest.approx(finder.find(tolerance=0).quality)


def test_a_floor_that_the_ceiling_does_not_allow_names_its_price(finder: Finder) -> None:
    floor = 0.97
    price = finder.find(budget=Budget(min_quality=floor), tolerance=0).cost.macs
    with pytest.raises(InfeasibleBudgetError, match=r"that keeps 0\.97 needs") as caught:
        finder.find(budget=Budget(min_quality=floor, macs=price / 2), tolerance=0)
    assert caught.value.feasible == price


@pytest.mark.parametrize(
    ("tasks", "preferences", "field", "message"),
    [
        (["birds"], None, "tasks", "unknown task 'birds'; one of"),
        ([], None, "tasks", "at least one"),
        (["fish", "fish"], None, "tasks", "each once"),
        (None, {"birds": 1.0}, "preferences.birds", "not asked for"),
        (["fish"], {"people": 1.0}, "preferences.people", "not asked for"),
        (None, {"fish": -1.0}, "preferences.fish", "at least 0"),
        (None, {"fish": math.nan}, "preferences.fish", "must be finite"),
        (None, {"fish": math.inf}, "preferences.fish", "must be finite"),
        (None, {"fish": 0.0}, "preferences", "a weight above 0"),
        (None, {}, "preferences", "a weight above 0"),
    ],
    ids=[
        "task",
        "none",
        "twice",
        "weight-of-no-task",
        "not-asked",
        "negative",
        "nan",
        "inf",
        "all-zero",
        "empty",
    ],
)
def test_requests_that_make_no_sense_name_the_field(
    finder: Finder,
    tasks: list[str] | None,
    preferences: dict[str, float] | None,
    field: str,
    message: str,
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        finder.find(tasks, preferences)
    assert caught.value.field == field


def test_measured_table_scores_each_cell_as_a_separate_run_does(model: Slimmable) -> None:
    import torch

    from models.backends.torch import TorchBackend

    generator = torch.Generator().manual_seed(0)
    examples = {
        name: (
            torch.randn(40, *model.config.input.shape, generator=generator),
            torch.randint(0, len(task.labels), (40,), generator=generator),
        )
        for name, task in model.tasks.items()
    }
    backend = TorchBackend()
    table = measure.measure(model, backend, examples)
    for task, (images, labels) in examples.items():
        cells = table.cells[task]
        for row, column in ((0, 0), (5, 2), (15, 3)):
            subnet = table.rows[row] | cells.columns[column]
            plan = model.plan(subnet, model.inputs.plan_shapes(), [task])
            logits = backend.run(plan, {"image": images})[task]
            accuracy = float((logits.argmax(1) == labels).float().mean())
            assert cells.value[row, column] == pytest.approx(accuracy, abs=0.026)
            p = cells.value[row, column]
            assert cells.stderr[row, column] == pytest.approx(math.sqrt(p * (1 - p) / 40))
        assert cells.value.shape == cells.expected.shape == (16, 4)
        assert cells.smoothed is not None
        # These labels are random: nothing but noise tells the cells apart.
        assert cells.expected.std() < cells.value.std()


def test_the_front_has_every_point_that_no_other_beats(tmp_path: Path) -> None:
    loaded = catalog.load_one(write_text_checkpoint(tmp_path / "tiny-text"))
    text_finder = loaded.finder
    budgets = np.linspace(1, text_finder.find().cost.macs * 1.01, 4000)
    found = set()
    for macs in budgets:
        try:
            best = text_finder.find(budget=Budget(macs=float(macs)), tolerance=0)
        except InfeasibleBudgetError:
            continue
        found.add(round(best.quality, 9))
    front = text_finder.front()
    assert {round(point.quality, 9) for point in front} == found
    assert len(text_finder.front(most=3)) <= 3
