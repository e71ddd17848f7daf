"""Searches for subnets on published measurements: what few evaluations are worth.

Each evaluation is a look-up among the 1,458 measured subnets of once-for-all MobileNetV3 that
DyNAS-T published (`RHEOSTAT_DATA/ofa-mbv3`), so that searches are compared without a GPU and
without weights. What a search proposes is replaced by the nearest subnet in the tables. They came
from searches themselves: a subnet drawn from all that could be would be worse than one drawn here.

Printed are the best top-1 accuracy found under a budget of MACs, beside the subnet of the most MACs
that fits and the true best; and the hypervolume of (top-1, MACs) that is found, as a share of that
of all subnets together. Means over seeds, with standard deviations.

Then, of the shipped text encoder, what it is worth to choose bits and widths together: see
`bench.joint_bits`.
"""

from __future__ import annotations

import ast
import csv
import gzip
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench import report
from bench.joint_bits import joint_bits
from models.families.convnet import Convnet
from models.formats import once_for_all
from search.offline.genes import gene_space, genes_of
from search.offline.linas import FloatArray, Genes, evolved, fitted, linas, random_search
from search.offline.linas import Measured as Known
from server.settings import data_folder

BUDGETS_M = (150, 175, 200, 225, 250, 275, 300, 350, 400)
EVALUATIONS, LOOKUPS = (25, 50, 100, 200), (50, 100, 250)
_POPULATION = 25  # of the searches under a budget, so that the first is no random draw alone
_GENERATIONS = 40
_FILES = ("evoga_acc", "evonsga2_acc_macs", "linasnsga2_acc_macs")


class Published:
    """The published subnets as objectives to be small: minus top-1 in percent, and MACs."""

    exact = (False, True)

    def __init__(self, folder: Path) -> None:
        labels = tuple(map(str, range(1000)))
        widths = (16, 16, 24, 40, 80, 112, 160)
        with torch.device("meta"):
            model = Convnet("ofa", once_for_all.config_of(widths, 960, 1280, labels))
        found: dict[Genes, list[tuple[float, float]]] = {}
        self.num_rows = 0
        for name in _FILES:
            with gzip.open(folder / f"{name}.csv.gz", "rt", newline="") as file:
                for row in csv.DictReader(file):
                    named = ast.literal_eval(row["Sub-network"])
                    own = once_for_all.choices(named["ks"], named["e"], named["d"])
                    subnet = model.canonical(own)
                    scores = (-float(row["Top-1 Acc (%)"]), float(row["MACs"]))
                    found.setdefault(genes_of(model.choices, subnet), []).append(scores)
                    self.num_rows += 1
        # One that was measured again counts by its mean.
        self.values = {genes: tuple(np.mean(own, axis=0)) for genes, own in found.items()}
        self.rows = list(self.values)
        self.all = np.array([self.values[genes] for genes in self.rows])
        self._whole = gene_space(model)
        self.all_features = self._whole.features(self.rows)
        self.space = replace(self._whole, canonical=self._nearest, sample=self._drawn)

    def _nearest(self, genes: Genes) -> Genes:
        """Return the published subnet with the most values in common, of blocks that are run."""
        if genes in self.values:
            return genes
        common = self.all_features @ self._whole.features([genes])[0]
        sizes = self.all_features.sum(axis=1)
        return self.rows[int((common - 0.5 * sizes).argmax())]

    def _drawn(self, rng: np.random.Generator) -> Genes:
        return self.rows[int(rng.integers(len(self.rows)))]

    def computed(self, genes: Genes) -> Sequence[float]:
        """Return the MACs."""
        return self.values[genes][1:]

    def measured(self, configurations: Sequence[Genes]) -> Sequence[Sequence[float]]:
        """Look both up."""
        return [self.values[genes] for genes in configurations]


Search = Callable[[Published, np.random.Generator, int], Known]


def by_random(data: Published, rng: np.random.Generator, budget: int) -> Known:
    """Look random subnets up."""
    known: Known = {}
    random_search(data.space, data, rng, budget, known)
    return known


def by_linas(data: Published, rng: np.random.Generator, budget: int, population: int = 50) -> Known:
    """Search with predictors."""
    known: Known = {}
    linas(data.space, data, rng, budget, known, population)
    return known


def by_nsga2(data: Published, rng: np.random.Generator, budget: int) -> Known:
    """Let NSGA-II look up what it proposes, each subnet once; what is known costs nothing."""
    known: Known = {}

    def look_up(configurations: Sequence[Genes]) -> FloatArray:
        for genes in configurations:
            known.setdefault(genes, data.values[genes])
        return np.array([data.values[genes] for genes in configurations])

    start = data.space.draw(rng, 50, ())
    evolved(data.space, look_up, start, 50, _GENERATIONS, int(rng.integers(2**31)))
    return dict(list(known.items())[:budget])


def hypervolume(data: Published, known: Known, count: int) -> float:
    """Return the share of all subnets' hypervolume that the first so many have."""
    from pymoo.indicators.hv import HV

    worst, best = data.all.max(axis=0), data.all.min(axis=0)
    measure = HV(ref_point=np.ones(2))
    part = np.array(list(known.values())[:count])
    found, whole = ((values - best) / (worst - best) for values in (part, data.all))
    return float(measure(found) / measure(whole))


def best_top1(known: Known, macs: float, count: int) -> float:
    """Return the best top-1 of the first so many that fit; NaN if none does."""
    fits = [-top1 for top1, own in list(known.values())[:count] if own <= macs]
    return max(fits, default=float("nan"))


def predicted_top1(data: Published, known: Known, macs: float, seed: int) -> float:
    """Return the top-1 of what a predictor, fitted on what is known, holds for the best."""
    model = fitted(data.space.features(list(known)), np.array([v[0] for v in known.values()]), seed)
    guess = np.where(data.all[:, 1] <= macs, model.predict(data.all_features), np.inf)
    return float(-data.all[int(guess.argmin()), 0])


def largest_top1(data: Published, macs: float) -> float:
    """Return the top-1 of the subnet that spends the most MACs within a budget."""
    fits = data.all[data.all[:, 1] <= macs]
    return float(-fits[fits[:, 1].argmax(), 0])


def _spread(values: Sequence[float]) -> str:
    seen = [value for value in values if value == value]
    lost = len(values) - len(seen)
    if not seen:
        return "none fits"
    text = f"{np.mean(seen):.2f} ± {np.std(seen, ddof=min(1, len(seen) - 1)):.2f}"
    return f"{text} ({lost} found none)" if lost else text


def under_budgets(data: Published, seeds: int, budgets: Sequence[int]) -> list[list[object]]:
    """Return a row per budget and number of evaluations."""
    most = max(EVALUATIONS)
    runs: dict[str, list[Known]] = {"random": [], "linas": []}
    for seed in range(seeds):
        runs["random"].append(by_random(data, np.random.default_rng(seed), most))
        rng = np.random.default_rng(seed)
        runs["linas"].append(by_linas(data, rng, most, _POPULATION))
    rows: list[list[object]] = []
    for million in budgets:
        macs = million * 1e6
        truth = best_top1(data.values, macs, len(data.values))
        for count in EVALUATIONS:
            guesses = [
                predicted_top1(data, dict(list(known.items())[:count]), macs, seed)
                for seed, known in enumerate(runs["random"])
            ]
            found = {n: [best_top1(k, macs, count) for k in of] for n, of in runs.items()}
            rows.append(
                [
                    million,
                    count,
                    _spread(found["random"]),
                    _spread(guesses),
                    _spread(found["linas"]),
                    f"{largest_top1(data, macs):.2f}",
                    f"{truth:.2f}",
                ]
            )
    return rows


def over_lookups(data: Published, seeds: int) -> list[list[object]]:
    """Return the hypervolume found by each search after some look-ups."""
    searches: dict[str, Search] = {"random": by_random, "NSGA-II": by_nsga2, "LINAS": by_linas}
    rows: list[list[object]] = []
    for name, search in searches.items():
        runs = [search(data, np.random.default_rng(seed), max(LOOKUPS)) for seed in range(seeds)]
        shares = [[100 * hypervolume(data, known, n) for known in runs] for n in LOOKUPS]
        rows.append([name, *map(_spread, shares)])
    return rows


def main() -> None:
    """Search and print."""
    options = report.parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    chosen = options.parse_args()
    try:
        data = Published(data_folder() / "ofa-mbv3")
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs the published subnets: {error}", file=sys.stderr)
        sys.exit(2)
    seeds = 2 if chosen.quick else chosen.seeds
    budgets = (150, 250, 350) if chosen.quick else BUDGETS_M
    of = f"{data.num_rows} published rows, {len(data.rows)} distinct subnets, {seeds} seeds"
    found = under_budgets(data, seeds, budgets)
    columns = [
        "M MACs",
        "evaluations",
        "random",
        "predictor on random",
        "LINAS",
        "most MACs that fit",
        "true best",
    ]
    report.show(f"Best top-1 (%) under a budget: {of}", columns, found)
    volumes = over_lookups(data, seeds)
    names = ["search", *(f"after {n}" for n in LOOKUPS)]
    report.show(f"Hypervolume, % of all subnets': {of}", names, volumes)
    joint = joint_bits(chosen.quick, seeds)
    figures = {
        "seeds": seeds,
        "under_budget": [dict(zip(columns, row, strict=True)) for row in found],
        "hypervolume": [dict(zip(names, row, strict=True)) for row in volumes],
        "joint_bits": joint,
    }
    report.finish(figures, chosen.json)


if __name__ == "__main__":
    main()
