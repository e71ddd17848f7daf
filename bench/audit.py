"""Whether `min_quality` keeps its word when the texts change, with audits and without.

Requests with a floor arrive text by text, from one data set and then from others. Each is answered
by the subnet that the server's search chooses; a share of them is audited as the server does it,
with the same mean, bounds and limit of compute. Vectors are those of the shipped encoder, computed
once. A window of 1,000 requests keeps the word if the mean over its requests of what their subnets
keep of the whole model's score, on all of their data set, is no less than the floor. The first data
set is of the table's kind; what is kept on it says what the table promises too much by itself.

With --quick fewer texts and windows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Any

import numpy as np

from bench import report
from bench.minilm import reduced
from models.backends.torch import TorchBackend
from models.space import Subnet
from models.train import texts
from models.variants import choices_of
from search.budget import Budget
from search.find import Selection
from search.quality.alike import agreement, whole_of
from search.quality.audit import AgreementSample
from search.quality.cells import FloatArray
from search.quality.embeddings import (
    Evaluation,
    Measured,
    RankingQuality,
    SimilarityQuality,
    scores_by,
)
from search.quality.neighbours import NeighboursQuality
from search.terms import Terms
from server import catalog
from server.audit.audit import MOST, Audit
from server.served import Served
from server.settings import data_folder

_WINDOW = 1000  # requests
_SHARE = 0.01
_FLOORS = (0.95, 0.9)
_CONFIDENCE = 0.9  # that a floor is kept by the table's errors
_BOUND = 0.95  # of what audits see
_FIRST = "STS-B"


class _Each:
    """Scores vectors and keeps them."""

    def __init__(self, inner: Evaluation) -> None:
        self.texts, self._inner = inner.texts, inner
        self.vectors: FloatArray

    def score(self, vectors: FloatArray) -> Measured:
        self.vectors = vectors
        return self._inner.score(vectors)


class Domain:
    """A data set, as traffic of it looks to an audit; a subnet is run when it is asked for."""

    def __init__(self, served: Served, evaluation: Evaluation) -> None:
        """Run the whole model."""
        self._model, self._backend = served.model, TorchBackend()
        self._backend.prepare(self._model)
        self._evaluation = evaluation
        self._whole = self._run(served.elastic.space.largest)
        self._known: dict[Subnet, tuple[float, FloatArray]] = {}

    def at(self, subnet: Subnet) -> tuple[float, FloatArray]:
        """Return what a subnet keeps of the whole's score, and its agreement on each text."""
        if subnet not in self._known:
            (value, vectors), (best, whole) = self._run(subnet), self._whole
            each = agreement("embedding", vectors, whole[:, : vectors.shape[1]])
            assert each is not None
            self._known[subnet] = value / best, each
        return self._known[subnet]

    def _run(self, subnet: Subnet) -> tuple[float, FloatArray]:
        each = _Each(self._evaluation)
        ((found,),) = scores_by(self._model, self._backend, [each], [subnet])
        return found.value, each.vectors


def main() -> None:
    """Measure and print."""
    options = report.parser(__doc__)
    options.add_argument("--windows", type=int, default=200, metavar="N", help="of each row")
    options.add_argument("--share", type=float, default=_SHARE, metavar="S", help="audited")
    options.add_argument("--confidence", type=float, default=_CONFIDENCE, metavar="C")
    options.add_argument("--to", help="data sets after the change, separated by commas; all")
    options.add_argument("--model", type=Path, default=report.ZOO_TEXT, metavar="DIR")
    chosen = options.parse_args()
    evaluations: dict[str, Evaluation] = {}
    try:
        evaluations = domains_of(data_folder(), 60 if chosen.quick else None)
        named = [_FIRST, *(chosen.to or ",".join(evaluations)).split(",")]
        evaluations = {name: evaluations[name] for name in named}
    except KeyError as error:
        sys.exit(f"--to={chosen.to}: {error} must be one of {list(evaluations)}")
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs the text data sets: {error}", file=sys.stderr)
        sys.exit(2)
    served = catalog.load_one(chosen.model)
    domains = {}
    for name, evaluation in evaluations.items():
        domains[name] = Domain(served, evaluation)
        print(f"read {name}", file=sys.stderr, flush=True)
    windows = 20 if chosen.quick else chosen.windows
    rows = []
    first, *others = domains
    for floor in _FLOORS:
        for other in others:
            for audits in (False, True):
                found = traffic(
                    served,
                    [domains[first], domains[other]],
                    floor,
                    windows,
                    chosen.share if audits else 0.0,
                    chosen.confidence,
                )
                rows.append({"floor": floor, "to": other, "audited": audits, **found})
    columns = ["floor", "to", "audited", "kept", "least", "extra", "served", "next"]
    report.show(
        f"Windows of {_WINDOW} requests that keep the word, {windows} a row; from {first}",
        columns,
        [[_shown(row[name]) for name in columns] for row in rows],
    )
    report.finish({"rows": rows, "windows": windows, "share": chosen.share}, chosen.json)


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def domains_of(root: Path, most: int | None) -> dict[str, Evaluation]:
    """Return data sets that chose nothing, the one of the table's kind first."""
    rng = Random(0)
    pairs = texts.stsb(root, "test")
    dev, cranfield = texts.scifact(root, "dev"), texts.cranfield(root)
    known = {i for own in dev.relevant for i in own}
    others = [i for i in range(len(dev.documents)) if i not in known][:100]
    code = texts.pydoc_code(root, "test")
    rng.shuffle(code)
    found: dict[str, Evaluation] = {
        "STS-B": SimilarityQuality(pairs[: most and 2 * most]),
        "SciFact": RankingQuality(reduced(dev, others[:most], most or 300), "ndcg@10"),
    }
    if most is None:
        for name in ("banking77", "clinc150"):
            labelled = texts.intents(root, name, "test")
            rng.shuffle(labelled)
            found[name] = NeighboursQuality(labelled[:1500])
        found["Cranfield"] = RankingQuality(reduced(cranfield, [], 225), "ndcg@10")
        found["docstrings"] = RankingQuality(texts.as_collection(code[:500]), "mrr@10")
    return found


def traffic(
    served: Served,
    domains: Sequence[Domain],
    floor: float,
    windows: int,
    share: float,
    confidence: float,
) -> Mapping[str, float]:
    """Serve windows of requests, half of each domain, the change in the middle of a window."""
    rng = Random(0)
    errors = NormalDist().inv_cdf(confidence)
    models = catalog.Catalog([served])
    audit = Audit(share, 1, _BOUND, True, models, rng.random, errors)
    budget = Budget(min_quality=floor)
    finder = served.finders.at(fixed=served.whole_outputs)
    space = served.elastic.space
    resident = frozenset({choices_of(space, space.largest)})
    as_loaded = Terms(resident=resident, floors=audit.unaudited)
    promised = finder.find(served.default_tasks, budget=budget, terms=as_loaded)
    chosen = promised
    spent = extra = 0.0
    kept = []
    change = windows // 2 * _WINDOW + _WINDOW // 2
    for number in range(windows * _WINDOW):
        domain = domains[0] if number < change else domains[1]
        keeps, agreed = domain.at(chosen.subnet)
        kept.append(keeps)
        spent += chosen.fraction
        if rng.random() >= share:
            continue
        cost = _cost(served, chosen, promised)
        if extra + cost > MOST * share * spent:
            continue
        extra += cost
        text = rng.randrange(len(agreed))
        audit.add(served, _samples(audit, served, domain, text, (chosen, promised)))
        terms = as_loaded._replace(floors=audit.floors(served))
        chosen = finder.find(served.default_tasks, budget=budget, terms=terms)
    means = np.array(kept).reshape(windows, _WINDOW).mean(axis=1)
    return {
        "kept": float((means >= floor).mean()),
        "least": float(means.min()),
        "extra": extra / spent,
        "served": float(spent / len(kept)),
        "next": float(means[windows // 2 :].mean()),
    }


def _cost(served: Served, chosen: Selection, promised: Selection) -> float:
    """Return what an audit runs, in parts of the whole model."""
    runs = {served.elastic.space.largest: 1.0, promised.subnet: promised.fraction}
    runs.pop(chosen.subnet, None)
    return sum(runs.values())


def _samples(
    audit: Audit,
    served: Served,
    domain: Domain,
    text: int,
    ran: Sequence[Selection],
) -> list[AgreementSample]:
    space, cells = served.elastic.space, next(iter(served.table.cells.values()))
    task = next(iter(served.table.cells))
    found = []
    for subnet, fraction in {one.subnet: one.fraction for one in ran}.items():
        if dict(subnet) == whole_of(space, subnet):
            continue
        cell = served.table.locate(task, subnet)
        assert cell is not None
        point = audit.point_of(served, subnet, fraction)
        expected = float(cells.known_agreement[cell])
        found.append(AgreementSample(point, float(domain.at(subnet)[1][text]), expected))
    return found


if __name__ == "__main__":
    main()
