from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.joint_bits import (
    EVALUATIONS,
    KINDS,
    LookUps,
    hypervolume,
    kept_in,
    searches,
    under_budgets,
)
from models.space import Axis, Space, Subnet
from search.offline.linas import FloatArray


class Model:
    """Three axes; int8 halves the cost and loses a little."""

    space = Space(
        (Axis("bits", (8, 32), when="load"), Axis("a", (1, 2, 3, 4, 5)), Axis("b", (1, 2, 3, 4, 5)))
    )


def rows() -> tuple[list[Subnet], FloatArray]:
    every = list(Model.space)
    cost = np.array([float(s["a"]) * float(s["b"]) * float(s["bits"]) for s in every])
    score = np.array([float(s["a"]) + float(s["b"]) + 0.01 * (s["bits"] == 32) for s in every])
    return every, np.stack([-score, cost], axis=1)


def test_a_search_proposes_measured_subnets_of_its_bits_alone() -> None:
    every, values = rows()
    data = LookUps(Model, every, values, KINDS["widths, float"])
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = data.space.canonical(tuple(rng.integers(data.space.sizes).tolist()))
        assert drawn[0] == 1
        assert data.measured([drawn]) == [data.values[drawn]]


def test_together_is_at_least_what_either_has_and_searches_find_most_of_it() -> None:
    pytest.importorskip("pymoo")
    every, values = rows()
    assert hypervolume(values, values) == pytest.approx(1)
    found = searches(Model, every, values, 1)
    most = {kind: of["all"] for kind, of in found.items()}
    assert most["bits and widths"] == pytest.approx(100)
    assert max(most["widths, float"], most["widths, int8"]) <= 100
    assert most["widths, float"] < most["widths, int8"]  # cheap ones are only there
    for of in found.values():
        shares = [np.mean(own) for own in of["after"].values()]
        assert shares == sorted(shares)
        assert shares[-1] > 0.95 * of["all"] or of["subnets"] <= max(EVALUATIONS)


def test_under_a_budget_the_best_that_fits_counts() -> None:
    costs, scores = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.7, 0.6])
    found = under_budgets(costs, scores, np.array([8, 32, 8]))
    assert found[0][2:] == pytest.approx([0.5, float("nan"), 0.5], nan_ok=True)
    assert found[-1][2:] == [0.7, 0.7, 0.6]


def test_what_was_done_is_kept_and_not_done_again(tmp_path: Path) -> None:
    path, made = tmp_path / "kept.json", []

    def make() -> list[float]:
        made.append(1)
        return [0.5, float(len(made))]

    first = kept_in(path)
    assert first("a", make) == first("a", make) == kept_in(path)("a", make) == [0.5, 1.0]
    assert kept_in(path)("b", make) == [0.5, 2.0]
    assert len(made) == 2
