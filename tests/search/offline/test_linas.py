from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from search.offline.linas import (
    FloatArray,
    Genes,
    GeneSpace,
    Measured,
    evolved,
    fitted,
    linas,
    not_beaten,
    random_search,
)

pytest.importorskip("pymoo")
pytest.importorskip("sklearn")

SIZES = (4,) * 10
WEIGHTS = np.linspace(1, 3, len(SIZES))


class Ridge:
    """Error falls with every gene, with pairs that work together; cost is the genes' sum."""

    exact = (False, True)

    def __init__(self) -> None:
        self.seen: list[Genes] = []

    def error(self, genes: Genes) -> float:
        x = np.array(genes) / 3
        return float((WEIGHTS * (1 - x) ** 2).sum() - 0.5 * x[0] * x[1])

    def computed(self, genes: Genes) -> Sequence[float]:
        return [float(sum(genes))]

    def measured(self, configurations: Sequence[Genes]) -> Sequence[Sequence[float]]:
        self.seen += configurations
        return [(self.error(genes), *self.computed(genes)) for genes in configurations]


def best_within(known: Measured, cost: float) -> float:
    return min(values[0] for values in known.values() if values[1] <= cost)


def searched(budget: int, known: Measured | None = None, seed: int = 0) -> tuple[Measured, Ridge]:
    objectives, found = Ridge(), known if known is not None else {}
    linas(GeneSpace(SIZES), objectives, np.random.default_rng(seed), budget, found, 25)
    return found, objectives


def test_predictors_find_better_configurations_than_as_many_random_ones() -> None:
    found, objectives = searched(100)
    random: Measured = {}
    random_search(GeneSpace(SIZES), Ridge(), np.random.default_rng(0), 100, random)
    assert len(objectives.seen) == len(set(objectives.seen)) == len(found) == 100
    for cost in (12, 15, 18):
        assert best_within(found, cost) < best_within(random, cost) - 0.3


def test_a_search_goes_on_from_what_was_measured_and_measures_nothing_twice() -> None:
    known, _ = searched(50)
    before = dict(known)
    after, objectives = searched(75, known)
    assert len(objectives.seen) == 25
    assert not set(objectives.seen) & before.keys()
    assert after.keys() > before.keys()


def test_a_small_space_is_measured_whole_and_the_search_ends() -> None:
    found: Measured = {}
    linas(GeneSpace((2, 3)), Pair(), np.random.default_rng(0), 50, found, 4)
    assert sorted(found) == [(a, b) for a in range(2) for b in range(3)]


class Pair(Ridge):
    def error(self, genes: Genes) -> float:
        return float(-genes[0] - genes[1])


def test_genes_that_make_no_difference_are_no_features_and_no_new_configurations() -> None:
    space = GeneSpace(
        (2, 3),
        canonical=lambda genes: genes if genes[0] else (0, 0),
        used=lambda genes: [True, genes[0] == 1],
    )
    assert sorted(space.draw(np.random.default_rng(0), 10, ())) == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert space.features([(0, 0), (1, 2)]).tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1]]


def test_the_better_of_two_predictors_is_fitted() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    straight = fitted(x, x @ [1.0, 2.0, 3.0, 4.0], 0)
    np.testing.assert_allclose(straight.predict(x), x @ [1.0, 2.0, 3.0, 4.0], atol=0.2)
    bent = fitted(x, np.sin(2 * x[:, 0]), 0)
    assert type(bent.regressor_).__name__ == "SVR"


def test_nsga2_keeps_to_the_values_there_are() -> None:
    space = GeneSpace((3, 2, 5))

    def evaluate(rows: Sequence[Genes]) -> FloatArray:
        return np.array([[-sum(row), sum(row)] for row in rows], dtype=np.float64)

    found = evolved(space, evaluate, [(0, 0, 0)], 12, 5, 0)
    assert all(0 <= v < size for genes in found for v, size in zip(genes, space.sizes, strict=True))


def test_rows_that_are_beaten_are_left_out() -> None:
    values = np.array([[1.0, 5.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0], [1.0, 5.0]])
    assert sorted(not_beaten(values)) == [0, 1, 3]
