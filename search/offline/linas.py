"""Search for subnets that are not beaten in several objectives, by measuring few of them.

Each round measures a population, refits one predictor for each objective that must be measured on
all that was measured so far, and lets NSGA-II find the next population on the predictions. What
follows from a configuration, such as its MACs, is computed, not predicted.

Sources: Cummings et al. 2022, A Hardware-Aware Framework for Accelerating Neural Architecture
Search Across Modalities, arXiv 2205.10358, for the loop (LINAS); Deb et al. 2002, NSGA-II, IEEE
Transactions on Evolutionary Computation 6(2), with pymoo's implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Genes: TypeAlias = tuple[int, ...]
"""A position on each axis; what makes no difference is 0."""
FloatArray: TypeAlias = NDArray[np.float64]

POPULATION = 50
_GENERATIONS = 40  # of NSGA-II on predictions, of one population each
_SBX, _SBX_ETA, _MUTATION_ETA = 0.9, 15.0, 20.0
_TRIES = 200  # draws for each new configuration


@dataclass(frozen=True)
class GeneSpace:
    """What can be chosen.

    Attributes:
        sizes: Number of values of each gene.
        canonical: Function of genes; the same with 0 for those that make no difference.
        used: Function of genes: which of them make a difference.
        sample: Function that draws genes; None for each value alike.
    """

    sizes: tuple[int, ...]
    canonical: Callable[[Genes], Genes] = lambda genes: genes
    used: Callable[[Genes], Sequence[bool]] = lambda genes: [True] * len(genes)
    sample: Callable[[np.random.Generator], Genes] | None = None

    def draw(self, rng: np.random.Generator, count: int, known: Iterable[Genes]) -> list[Genes]:
        """Draw configurations that are not known; fewer than asked for where there are no more."""
        seen, found = set(known), list[Genes]()
        for _ in range(count * _TRIES):
            if len(found) == count:
                break
            drawn = self.sample or (lambda rng: tuple(rng.integers(self.sizes).tolist()))
            genes = self.canonical(drawn(rng))
            if genes not in seen:
                seen.add(genes)
                found.append(genes)
        return found

    def features(self, configurations: Sequence[Genes]) -> FloatArray:
        """Return one column per value of a gene; 0 for genes that make no difference."""
        ends = np.cumsum([0, *self.sizes])
        found = np.zeros((len(configurations), ends[-1]))
        for row, genes in zip(found, configurations, strict=True):
            for start, value, is_used in zip(ends, genes, self.used(genes), strict=False):
                row[start + value] = is_used
        return found


class Objectives(Protocol):
    """What is to be small of a configuration."""

    @property
    def exact(self) -> Sequence[bool]:
        """Of each objective, whether it follows from the configuration alone."""

    def computed(self, genes: Genes) -> Sequence[float]:
        """Return the exact objectives, in their order."""

    def measured(self, configurations: Sequence[Genes]) -> Sequence[Sequence[float]]:
        """Return all objectives of each configuration, in their order."""


Measured: TypeAlias = dict[Genes, tuple[float, ...]]


def random_search(
    space: GeneSpace, objectives: Objectives, rng: np.random.Generator, budget: int, known: Measured
) -> None:
    """Measure random configurations until so many are known; adds them to ``known``."""
    _measure(objectives, space.draw(rng, budget - len(known), known), known)


def linas(
    space: GeneSpace,
    objectives: Objectives,
    rng: np.random.Generator,
    budget: int,
    known: Measured,
    population: int = POPULATION,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Measure configurations, round by round, until so many are known; adds them to ``known``.

    Args:
        space: What can be chosen.
        objectives: To be small.
        rng: Of all that is drawn.
        budget: Configurations known at the end, at most.
        known: What was measured before, so that a search can go on.
        population: Measured in a round.
        is_over: Asked before each round.
    """
    while len(known) < budget and not is_over():
        count = min(population, budget - len(known))
        if len(known) < population:
            chosen = space.draw(rng, min(count, population - len(known)), known)
        else:
            chosen = _next(space, objectives, rng, known, count)
        if not chosen:
            return
        _measure(objectives, chosen, known)


def _next(
    space: GeneSpace,
    objectives: Objectives,
    rng: np.random.Generator,
    known: Measured,
    count: int,
) -> list[Genes]:
    """Return configurations of which predictions say that nothing beats them."""
    rows = list(known)
    values = np.array([known[row] for row in rows])
    features = space.features(rows)
    seed = int(rng.integers(2**31))
    models = [
        None if is_exact else fitted(features, values[:, i], seed)
        for i, is_exact in enumerate(objectives.exact)
    ]

    def predicted(configurations: Sequence[Genes]) -> FloatArray:
        inputs, found = space.features(configurations), np.empty((len(configurations), len(models)))
        exact = [i for i, model in enumerate(models) if model is None]
        if exact:
            found[:, exact] = [objectives.computed(genes) for genes in configurations]
        for i, model in enumerate(models):
            if model is not None:
                found[:, i] = model.predict(inputs)
        return found

    best = [rows[i] for i in not_beaten(values)]
    chosen = evolved(space, predicted, best, POPULATION, _GENERATIONS, seed)
    fresh = [genes for genes in chosen if genes not in known][:count]
    return fresh + space.draw(rng, count - len(fresh), {*known, *fresh})


def fitted(features: FloatArray, values: FloatArray, seed: int) -> Any:
    """Return the better of ridge regression and support vectors, by cross-validation.

    Args:
        features: Shape [rows, features].
        values: Shape [rows].
        seed: Of the folds.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    folds = KFold(min(5, len(values)), shuffle=True, random_state=seed)
    found = []
    for model, grid in (
        (Ridge(), {"regressor__alpha": [0.1, 1.0, 10.0]}),
        (SVR(kernel="rbf"), {"regressor__C": [1.0, 10.0, 100.0]}),
    ):
        scaled = TransformedTargetRegressor(model, transformer=StandardScaler())
        search = GridSearchCV(scaled, grid, scoring="neg_mean_absolute_error", cv=folds)
        found.append(search.fit(features, values))
    return max(found, key=lambda search: search.best_score_).best_estimator_


def evolved(
    space: GeneSpace,
    evaluate: Callable[[Sequence[Genes]], FloatArray],
    start: Sequence[Genes],
    population: int,
    generations: int,
    seed: int,
) -> list[Genes]:
    """Return the last population of NSGA-II, each configuration once.

    Args:
        space: What can be chosen.
        evaluate: Function of configurations; objectives to be small, shape [rows, objectives].
        start: In the first population; the rest is drawn.
        population: Configurations.
        generations: Of the population.
        seed: Of all that is drawn.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.optimize import minimize

    first = list(dict.fromkeys(start))[:population]
    first += space.draw(np.random.default_rng(seed), population - len(first), first)
    probe = evaluate(first[:1])

    def rows(x: NDArray[Any]) -> list[Genes]:
        return [space.canonical(tuple(int(value) for value in row)) for row in x]

    class _Predicted(Problem):  # type: ignore[misc]
        def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = evaluate(rows(x))

    result = minimize(
        _Predicted(
            n_var=len(space.sizes),
            n_obj=probe.shape[1],
            xl=np.zeros(len(space.sizes)),
            xu=np.array(space.sizes) - 1,
            vtype=int,
        ),
        NSGA2(
            pop_size=population,
            sampling=np.array(first),
            crossover=SBX(prob=_SBX, eta=_SBX_ETA, vtype=float, repair=RoundingRepair()),
            mutation=PM(eta=_MUTATION_ETA, vtype=float, repair=RoundingRepair()),
        ),
        ("n_gen", generations),
        seed=seed,
        verbose=False,
    )
    return list(dict.fromkeys(rows(result.pop.get("X"))))


def not_beaten(values: FloatArray) -> list[int]:
    """Return the rows that no other one beats in an objective without losing in another.

    Args:
        values: To be small, shape [rows, objectives]. Of equal rows the first counts.
    """
    kept: list[int] = []
    for i in np.lexsort(values.T[::-1]).tolist():
        if not any((values[k] <= values[i]).all() for k in kept):
            kept.append(i)
    return kept


def _measure(objectives: Objectives, configurations: list[Genes], known: Measured) -> None:
    if configurations:
        found = objectives.measured(configurations)
        known.update(
            {g: tuple(map(float, own)) for g, own in zip(configurations, found, strict=True)}
        )
