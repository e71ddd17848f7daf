"""Bits and widths chosen together, beside widths of floats alone and of int8 alone.

Every subnet of the shipped text encoder at its whole dimension is measured: its score from the
table, bytes of the weights that a run reads, and milliseconds of one text of the longest length on
one thread. Printed are the best scores under budgets. Then searches are run (`rheostat search`'s
loop), each of some evaluations, over bits and widths together, over widths of floats and over
widths of int8; what they find is compared by hypervolume, as a share of what all subnets have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import report
from models.space import Subnet
from search.offline.genes import gene_space, genes_of
from search.offline.linas import FloatArray, Genes, linas
from search.offline.linas import Measured as Known
from search.offline.measuring import measured
from search.quality.embeddings import Measured
from server import catalog

KINDS = {"bits and widths": (8, 32), "widths, float": (32,), "widths, int8": (8,)}
EVALUATIONS = (12, 24, 48)
_POPULATION = 12
_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of the way from the cheapest to the dearest subnet


class LookUps:
    """Measured subnets of some bits as two objectives to be small: minus the score, and a cost."""

    exact = (False, False)

    def __init__(
        self, model: Any, every: Sequence[Subnet], values: FloatArray, bits: Sequence[int]
    ) -> None:
        """Index them.

        Args:
            model: Whose subnets they are.
            every: The subnets, of all bits.
            values: Their objectives, shape [subnets, 2].
            bits: That a search may choose.
        """
        self.all = values
        self.values: Known = {
            genes_of(model.space, subnet): tuple(own.tolist())
            for subnet, own in zip(every, values, strict=True)
            if subnet["bits"] in bits
        }
        self._rows = list(self.values)
        self._places = np.array(self._rows)
        whole = gene_space(model)
        self.space = replace(whole, canonical=self._nearest, sample=self._drawn)

    def _nearest(self, genes: Genes) -> Genes:
        if genes in self.values:
            return genes
        return self._rows[int(np.abs(self._places - np.array(genes)).sum(axis=1).argmin())]

    def _drawn(self, rng: np.random.Generator) -> Genes:
        return self._rows[int(rng.integers(len(self._rows)))]

    def computed(self, genes: Genes) -> Sequence[float]:
        """Return nothing: both are measured."""
        return ()

    def measured(self, configurations: Sequence[Genes]) -> Sequence[Sequence[float]]:
        """Look both up."""
        return [self.values[genes] for genes in configurations]


def hypervolume(every: FloatArray, found: FloatArray) -> float:
    """Return the share of the hypervolume of all rows that some have, both shape [rows, 2]."""
    from pymoo.indicators.hv import HV

    worst, best = every.max(axis=0), every.min(axis=0)
    measure = HV(ref_point=np.ones(2))
    part, whole = ((values - best) / (worst - best) for values in (found, every))
    return float(measure(part) / measure(whole))


def searches(
    model: Any,
    every: Sequence[Subnet],
    values: FloatArray,
    seeds: int,
    evaluations: Sequence[int] = EVALUATIONS,
) -> dict[str, Any]:
    """Return per kind the hypervolumes after some evaluations, one a seed, and of all of it."""
    result: dict[str, Any] = {}
    for kind, bits in KINDS.items():
        data = LookUps(model, every, values, bits)
        shares: dict[int, list[float]] = {count: [] for count in evaluations}
        for seed in range(seeds):
            known: Known = {}
            rng = np.random.default_rng(seed)
            linas(data.space, data, rng, max(evaluations), known, _POPULATION)
            found = np.array(list(known.values()))
            for count in evaluations:
                shares[count].append(100 * hypervolume(values, found[:count]))
        most = 100 * hypervolume(values, np.array(list(data.values.values())))
        result[kind] = {"after": shares, "all": most, "subnets": len(data.values)}
    return result


def under_budgets(
    costs: NDArray[np.float64], scores: NDArray[np.float64], bits: NDArray[np.int64]
) -> list[list[float]]:
    """Return per budget the best score of all subnets, of floats and of int8."""
    rows = []
    for share in _SHARES:
        most = costs.min() + share * (costs.max() - costs.min())
        best = [
            max(scores[(costs <= most) & np.isin(bits, of)], default=float("nan"))
            for of in KINDS.values()
        ]
        rows.append([share, float(most), *map(float, best)])
    return rows


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def joint_bits(quick: bool, seeds: int) -> dict[str, Any]:
    """Measure, search and print; return the figures."""
    served = catalog.load_one(report.ZOO_TEXT)
    (task, *_), model = served.elastic.tasks, served.model
    whole = model.space.largest["dim"]
    rows = [r for r, row in enumerate(served.table.rows) if row["dim"] == whole]
    rows = rows[:: 4 if quick else 1] + rows[-1:]
    rows = list(dict.fromkeys(rows))
    every = [served.table.rows[r] for r in rows]
    scores = served.table.cells[task].value[rows, 0]
    evaluations, seeds = (EVALUATIONS[:2], 1) if quick else (EVALUATIONS, seeds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def table_scores(model: object, subnets: Sequence[Subnet]) -> list[Measured]:
        return [Measured(float(scores[every.index(one)]), 0, 0.0) for one in subnets]

    found = measured(model, every, table_scores, ("bytes", "ms"))
    torch.set_num_threads(threads)
    costs = np.array([values for _, values in found])
    bits = np.array([int(subnet["bits"]) for subnet in every])
    figures: dict[str, Any] = {"budgets": [], "searches": {}}
    volumes: list[list[object]] = []
    for column, (name, unit) in enumerate((("MB", 1e6), ("ms", 1.0))):
        own = costs[:, column] / unit
        for share, *others in under_budgets(own, scores, bits):
            figures["budgets"].append([name, f"{share:.0%}", *others])
        values = np.stack([-scores, own], axis=1)
        figures["searches"][name] = searches(model, every, values, seeds, evaluations)
        for kind, of in figures["searches"][name].items():
            after = map(_spread, of["after"].values())
            volumes.append([name, kind, *after, f"{of['all']:.1f} ({of['subnets']})"])
    titles = ["cost", "budget", "MB or ms", *KINDS]
    report.show("Best Spearman of minilm-2d's table under a budget", titles, figures["budgets"])
    titles = ["cost", "search over", *(f"after {n}" for n in evaluations), "all of them"]
    report.show(
        f"Hypervolume of (Spearman, cost), % of all {len(every)} subnets', {seeds} seeds",
        titles,
        volumes,
    )
    return figures


def main() -> None:
    """Measure, search and print."""
    options = report.parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    chosen = options.parse_args()
    report.finish(joint_bits(chosen.quick, chosen.seeds), chosen.json)


if __name__ == "__main__":
    main()
