"""Costs of a model whose tasks share steps in part, at any lengths, against its plans."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from models.inputs import InvalidInputError
from models.space import Space
from search import find, grid
from search.budget import Budget, InfeasibleBudgetError, TooSlowError
from search.build import build_grid
from search.find import TOLERANCE
from search.finders import Finders
from search.grid import Grid
from search.knapsack import view
from search.terms import Terms
from search.timing.profile import LatencyProfile, Workload
from search.timing.timing import Timing
from tests.search.brute import BruteForce
from tests.search.toys import MAX_LENGTH, TASKS, Necked, random_profile, random_table

SUBSETS = [list(some) for count in (1, 2, 3) for some in itertools.combinations(TASKS, count)]
LENGTHS = [(1, 1), (2, 3), (4, 4), (17, 5), (5, 17), (MAX_LENGTH, 1), (MAX_LENGTH, MAX_LENGTH)]


@pytest.fixture(scope="module")
def model() -> Necked:
    return Necked()


@pytest.fixture(scope="module")
def finders(model: Necked) -> Finders:
    return Finders(model, random_table(model))


def shapes_of(query: int, document: int) -> dict[str, tuple[int, int]]:
    return {"query": (query, 1), "document": (document, 1)}


def whole(finders: Finders, *names: str) -> Grid:
    return finders._grids[names or ("query", "document")]


def test_steps_are_grouped_by_the_tasks_that_need_them(finders: Finders) -> None:
    grid = whole(finders)
    shared = {tuple(grid.tasks[i] for i in np.flatnonzero(own)) for own in grid.sets}
    assert shared == {("title", "topic"), ("title", "topic", "distance")}


def test_more_sets_of_tasks_than_are_kept_are_answered_alike(
    model: Necked, finders: Finders, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [finders.at(shapes_of(4, 4)).find(tasks) for tasks in SUBSETS]
    for module in (find, grid, view):
        monkeypatch.setattr(module, "_MAX_TASK_SETS", 2)
    few = Finders(model, random_table(model)).at(shapes_of(4, 4))
    assert [few.find(tasks) for tasks in SUBSETS] == expected
    assert max(len(few._largest), len(few.grid._sharing), len(few.by_macs._options)) <= 2


@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
def test_costs_are_those_of_plans_to_the_last_mac_at_every_length(
    model: Necked, finders: Finders, tasks: list[str]
) -> None:
    grid = whole(finders)
    asked = np.array([i for i, task in enumerate(grid.tasks) if task in tasks])
    rng = Random(0)
    for lengths in LENGTHS:
        basis = grid.lengths.basis(dict(zip(("query", "document"), lengths, strict=True)))
        for row, choices in enumerate(grid.rows):
            columns = np.array([rng.randrange(grid.own.shape[1]) for _ in tasks])
            subnet, scores = grid.describe(row, columns, asked)
            assert choices.items() <= subnet.items()
            assert list(scores) == tasks
            plan = model.plan(subnet, shapes_of(*lengths), tasks)
            assert grid.cost(basis, row, columns, asked) == plan.cost
        largest = model.plan(model.space.largest, shapes_of(*lengths))
        assert grid.largest_macs(np.arange(3), basis) == largest.cost.macs


def test_a_length_never_seen_is_priced_without_a_plan(model: Necked, finders: Finders) -> None:
    before = model.num_plans
    found = finders.at(shapes_of(33, 29)).find(budget=Budget(fraction=0.5))
    assert model.num_plans == before
    assert found.cost == model.plan(found.subnet, shapes_of(33, 29)).cost
    assert finders.at(shapes_of(33, 29)) is finders.at(dict(reversed(shapes_of(33, 29).items())))


@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
def test_the_search_equals_brute_force_whatever_steps_tasks_share(
    finders: Finders, tasks: list[str]
) -> None:
    rng = Random(1)
    refused = 0
    for query, document in LENGTHS:
        finder = finders.at(shapes_of(query, document))
        lengths = {"query": query, "document": document}
        reference = BruteForce(whole(finders), finder.request(tasks, None), lengths=lengths)
        low = float(reference.macs.min())
        for _ in range(20):
            weights = {task: rng.random() ** rng.choice([0, 1, 4]) for task in tasks}
            budget = Budget(
                macs=rng.uniform(0.9 * low, reference.largest_macs),
                min_quality=rng.choice([None, rng.uniform(0.7, 1.05)]),
            )
            expected = reference.best(finder.request(tasks, weights).weights, budget)
            if expected is None:
                with pytest.raises(InfeasibleBudgetError):
                    finder.find(tasks, weights, budget, tolerance=0)
                refused += 1
                continue
            exact = finder.find(tasks, weights, budget, tolerance=0)
            quick = finder.find(tasks, weights, budget)
            assert exact.gap == 0
            assert quick.gap <= TOLERANCE + 1e-9
            if budget.min_quality is None:
                assert exact.quality == pytest.approx(expected[0], abs=1e-9)
                assert expected[0] <= quick.quality + quick.gap + 1e-9
            else:
                assert exact.cost.macs == expected[1]
    assert refused > 0


def test_times_are_those_of_each_step_at_the_lengths_that_it_depends_on(
    model: Necked, finders: Finders
) -> None:
    profile = random_profile(finders.functions)
    timing = Timing.of(profile, 3)
    rng = Random(2)
    for query, document in LENGTHS:
        shapes = shapes_of(query, document)
        finder = finders.at(shapes)
        tasks = rng.choice(SUBSETS)
        found = finder.find(tasks, budget=Budget(fraction=0.7), terms=Terms(timing=timing))
        plan = model.plan(found.subnet, shapes, tasks)
        workload = Workload.of(plan, 4, model.inputs.lengths(shapes))
        assert found.seconds == pytest.approx(profile.total(plan, workload))


def test_the_best_in_time_equals_brute_force_at_lengths_never_seen(finders: Finders) -> None:
    timing = Timing.of(random_profile(finders.functions), 1)
    rng = Random(3)
    for query, document in LENGTHS:
        finder = finders.at(shapes_of(query, document))
        lengths = {"query": query, "document": document}
        request = finder.request(None, None)
        reference = BruteForce(whole(finders), request, timing, lengths)
        low, high = float(reference.seconds.min()), float(reference.seconds.max())
        for _ in range(10):
            limit = rng.uniform(low, high)
            budget = Budget(latency_ms=1000 * limit)
            expected = reference.best(request.weights, budget, limit)
            found = finder.find(None, None, budget, 0.0, Terms(0.0, timing, limit))
            assert expected is not None
            assert found.seconds is not None
            assert found.seconds <= limit + 1e-9
            assert found.quality == pytest.approx(expected[0], abs=1e-9)


def test_a_shared_step_that_depends_on_the_axis_of_one_task_is_refused_by_name() -> None:
    model = Necked(has_neck_by_task=True)
    with pytest.raises(ValueError, match=r"step \('neck', 1, \d\) is needed by \['title', 'topic'"):
        build_grid(model, random_table(model))


def test_a_cost_that_is_no_polynomial_is_refused_by_step() -> None:
    model = Necked(window=20)
    with pytest.raises(ValueError, match=r"step \('encode', 2, .*\): its cost is no polynomial"):
        build_grid(model, random_table(model))
    build_grid(wide := Necked(window=MAX_LENGTH), random_table(wide))


def test_steps_that_depend_on_lengths_are_refused_by_name() -> None:
    model = Necked(is_keyed_by_length=True)
    with pytest.raises(ValueError, match=r"step \('encode', .*depends on the lengths of inputs"):
        build_grid(model, random_table(model))


def test_shapes_that_the_model_does_not_take_are_refused(finders: Finders) -> None:
    with pytest.raises(InvalidInputError, match="tokens=41 must be 1 to 40"):
        finders.at(shapes_of(41, 1))
    with pytest.raises(InvalidInputError, match="input 'document' is required"):
        finders.at({"query": (3, 1)})
    with pytest.raises(ValueError, match=r"shapes=.* must be"):
        finders.at({"query": (3, 1), "document": (3, 2)})


def test_fixed_values_filter_rows_at_any_length(model: Necked, finders: Finders) -> None:
    before = model.num_plans
    for query in (3, 30):
        finder = finders.at(shapes_of(query, 7), {"neck": 1})
        found = finder.find(tolerance=0)
        assert found.subnet["neck"] == 1
        request = finder.request(None, None)
        rows = [r for r, row in enumerate(whole(finders).rows) if row["neck"] == 1]
        part = whole(finders).part(np.array(rows))
        reference = BruteForce(part, request, lengths={"query": query, "document": 7})
        expected = reference.best(request.weights, Budget())
        assert expected is not None
        assert found.quality == pytest.approx(expected[0], abs=1e-9)
        largest = finders.at(shapes_of(query, 7)).request(None, None).largest_macs
        assert found.fraction == found.cost.macs / largest
    assert model.num_plans == before
    with pytest.raises(ValueError, match="no row has the values"):
        finders.at(shapes_of(3, 7), {"neck": 2})


def test_of_dominated_rows_only_such_are_dropped_as_are_dominated_at_every_length(
    finders: Finders,
) -> None:
    grid = whole(finders)
    kept = set(grid.without_dominated().rows)
    dropped = [r for r, row in enumerate(grid.rows) if row not in kept]
    better = [r for r, row in enumerate(grid.rows) if row in kept]
    for query, document in LENGTHS:
        basis = grid.lengths.basis({"query": query, "document": document})
        shared, own = grid.macs(basis)
        for r in dropped:
            assert any(
                (shared[k] <= shared[r]).all()
                and (own[k] <= own[r]).all()
                and (grid.retention[k] >= grid.retention[r]).all()
                for k in better
            )


def test_the_table_must_score_every_task_and_know_the_given_axes(model: Necked) -> None:
    with pytest.raises(ValueError, match="no scores for task 'distance'"):
        Finders(model, random_table(model, tasks=["title", "topic"]))
    with pytest.raises(ValueError, match=r"given=\[\] must be \['inputs'\]"):
        Finders(given := Necked(with_given=True), replace(random_table(given), given=()))


def test_rows_for_inputs_that_the_table_leaves_out_are_refused() -> None:
    model = Necked(with_given=True)
    table = random_table(model)
    both = [r for r, row in enumerate(table.rows) if row["inputs"] != "query"]
    cells = {
        task: replace(own, value=own.value[both], n=own.n[both], stderr=own.stderr[both])
        for task, own in table.cells.items()
    }
    part = replace(table, rows=tuple(table.rows[r] for r in both), cells=cells)
    with pytest.raises(ValueError, match=r"the table has no row for the inputs \['query'\]"):
        build_grid(model, part, ["query"])
    cells = {task: replace(own, measured=own.measured[both]) for task, own in cells.items()}
    finders = Finders(model, replace(part, cells=cells))
    with pytest.raises(ValueError, match=r"the table has no row for the inputs \['query'\]"):
        finders.at({"query": (3, 1)})


def test_which_inputs_or_weights_there_are_is_of_no_one_task() -> None:
    model = Necked(with_load=True)
    axes = tuple(
        replace(axis, task="title") if axis.name == "bits" else axis for axis in model.space.axes
    )
    table = random_table(model)
    model.__dict__["space"] = Space(axes)
    with pytest.raises(ValueError, match="axis 'bits' must not belong to a task: 'title'"):
        build_grid(model, table)


def test_costs_too_large_to_be_counted_exactly_are_refused() -> None:
    model = Necked(scale=10**12)
    with pytest.raises(ValueError, match="MACs are too many to count exactly"):
        build_grid(model, random_table(model))


def test_few_timings_are_kept_and_the_others_found_again(finders: Finders) -> None:
    profile = random_profile(finders.functions)
    finder = finders.at(shapes_of(8, 8))
    seconds = [
        finder.find(budget=Budget(fraction=f), terms=Terms(timing=Timing.of(profile, rows))).seconds
        for f in (0.8, 0.9)
        for rows in (1, 2, 4, 8, 16, 32)
    ]
    again = [
        finder.find(budget=Budget(fraction=f), terms=Terms(timing=Timing.of(profile, rows))).seconds
        for f in (0.8, 0.9)
        for rows in (1, 2, 4, 8, 16, 32)
    ]
    assert seconds == again
    assert len(finder._solver.timed._timed) <= 4


def test_where_all_that_is_cheap_enough_is_too_slow_the_time_of_the_cheapest_is_named(
    model: Necked, finders: Finders
) -> None:
    functions = sorted(finders.functions, key=repr)
    slow = [1.0 if key[:2] == ("encode", 2) else 1e-3 for _, key in functions]  # type: ignore[index]
    curves = {function: i for i, function in enumerate(functions)}
    timing = Timing.of(LatencyProfile(curves, (1,), (8,), np.array(slow)[:, None, None]), 1)
    finder = finders.at(shapes_of(8, 8))
    wider = finders.at(shapes_of(8, 8), {"encoder": 3})
    cheapest = wider.find(budget=Budget(min_quality=0.01), tolerance=0).cost.macs
    budget = Budget(macs=cheapest - 1, latency_ms=500)
    with pytest.raises(
        TooSlowError, match=r"within budget\.macs is predicted to need 200\d"
    ) as caught:
        finder.find(None, None, budget, 0.0, Terms(0.0, timing, 0.5))
    assert caught.value.fastest_s == pytest.approx(2.0, abs=0.1)
    found = finder.find(None, None, replace(budget, macs=cheapest), 0.0, Terms(0.0, timing, 0.5))
    assert found.subnet["encoder"] == 3
