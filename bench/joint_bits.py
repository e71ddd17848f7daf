"""Bits and widths chosen together, beside widths of floats alone and of int8 alone.

Every subnet of the shipped text encoder at its whole dimension is measured: its score from the
table, bytes of the weights that a run reads, and milliseconds of one text of the longest length on
one thread. Printed are the best scores under budgets. Then searches are run (`rheostat search`'s
loop), each of some evaluations, over bits and widths together, over widths of floats and over
widths of int8; what they find is compared by hypervolume, as a share of what all subnets have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

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
Once: TypeAlias = Callable[[str, Callable[[], Any]], Any]
"""Function of a name and what computes its value, to the value."""
_POPULATION = 12
_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of the way from the cheapest to the dearest subnet


def at_once(_: str, make: Callable[[], Any]) -> Any:
    """Compute a value and keep nothing."""
    return make()


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
    once: Once = at_once,
) -> dict[str, Any]:
    """Return per kind the hypervolumes after some evaluations, one a seed, and of all of it."""
    result: dict[str, Any] = {}
    for kind, bits in KINDS.items():
        data = LookUps(model, every, values, bits)

        def search(seed: int, data: LookUps = data) -> list[float]:
            known: Known = {}
            rng = np.random.default_rng(seed)
            linas(data.space, data, rng, max(evaluations), known, _POPULATION)
            found = np.array(list(known.values()))
            return [100 * hypervolume(values, found[:count]) for count in evaluations]

        by_seed = [once(f"{kind}, seed {seed}", partial(search, seed)) for seed in range(seeds)]
        shares = dict(zip(evaluations, map(list, zip(*by_seed, strict=True)), strict=True))
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


def kept_in(path: Path | None) -> Once:
    """Return what computes a value once, and keeps it in a JSON file if there is one."""
    kept: dict[str, Any] = {}
    if path is not None and path.exists():
        kept = json.loads(path.read_text())

    def once(name: str, make: Callable[[], Any]) -> Any:
        if name not in kept:
            kept[name] = make()
            if path is not None:
                path.write_text(json.dumps(kept))
        return kept[name]

    return once


def joint_bits(quick: bool, seeds: int, once: Once = at_once) -> dict[str, Any]:
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

    def measure() -> list[list[float]]:
        found = measured(model, every, table_scores, ("bytes", "ms"))
        return [list(map(float, values)) for _, values in found]

    costs = np.array(once(f"costs of {len(every)}", measure))
    torch.set_num_threads(threads)
    bits = np.array([int(subnet["bits"]) for subnet in every])
    figures: dict[str, Any] = {"budgets": [], "searches": {}}
    volumes: list[list[object]] = []
    for column, (name, unit) in enumerate((("MB", 1e6), ("ms", 1.0))):
        own = costs[:, column] / unit
        for share, *others in under_budgets(own, scores, bits):
            figures["budgets"].append([name, f"{share:.0%}", *others])
        values = np.stack([-scores, own], axis=1)
        own_once = partial(_of, once, name)
        figures["searches"][name] = searches(model, every, values, seeds, evaluations, own_once)
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


def _of(once: Once, cost: str, name: str, make: Callable[[], Any]) -> Any:
    return once(f"{cost}, {name}", make)


def main() -> None:
    """Measure, search and print."""
    options = report.parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--kept", type=Path, help="keeps what was done, to go on later")
    chosen = options.parse_args()
    report.finish(joint_bits(chosen.quick, chosen.seeds, kept_in(chosen.kept)), chosen.json)


if __name__ == "__main__":
    main()
