from __future__ import annotations

import pytest

from bench.curves import hypervolume, spearman
from bench.ecmt import methods
from models.core import plan_cost
from search.budget import Budget
from search.finders import Finders
from tests.tiny import tiny_model, tiny_table


def test_hypervolume_is_the_area_of_the_union_of_the_boxes() -> None:
    assert hypervolume([(0.5, 0.5)], 0.0) == pytest.approx(0.25)
    assert hypervolume([(1.0, 0.5), (0.5, 1.0), (0.4, 0.4)], 0.0) == pytest.approx(0.75)
    assert hypervolume([(0.5, 0.5)], 0.25) == pytest.approx(0.0625)
    assert hypervolume([], 0.2) == 0.0
    assert hypervolume([(0.1, 0.9)], 0.2) == 0.0


def test_spearman_counts_ranks_and_shares_ties() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 99]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0.0
    assert spearman([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(0.8944, abs=1e-4)


def test_every_method_keeps_its_promise_and_the_budget() -> None:
    model = tiny_model()
    table = tiny_table(model)
    ways = methods(model, table, Finders(model, table).at())
    largest = plan_cost(model.plan(model.space.largest, {"image": model.config.input.shape})).macs
    equal = dict.fromkeys(model.tasks, 1.0)
    for fraction in (0.01, 0.2, 0.5, 0.8, 1.0):
        for name, find in ways.items():
            subnet = find(equal, Budget(fraction=fraction))
            if subnet is None:
                assert fraction < 0.9
                continue
            assert (
                plan_cost(model.plan(subnet, {"image": model.config.input.shape})).macs
                <= fraction * largest
            )
            widths = set(subnet.values())
            if name == "one global width":
                assert len(widths) == 1
            if name == "encoder full":
                assert {v for k, v in subnet.items() if k.startswith("encoder")} == {1.0}
            if name == "decoders full":
                assert {v for k, v in subnet.items() if k.startswith("decoder")} == {1.0}
    assert ways["exact search"](equal, Budget(fraction=0.01)) is None
