"""Measure what answers are worth: of vectors rank correlation with ratings, and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from models.backends.torch import TorchBackend
from models.core import Plan
from models.elastic import Elastic
from models.space import Subnet
from models.train.texts import Retrieval, ScoredPair
from models.variants import build, choices_of
from search.quality.errors import with_errors
from search.quality.items import Batches, Item
from search.quality.table import Cells, FloatArray, Table, given_axes

_MAX_PLANS = 64  # run together; bounds the vectors held at once
_NO_COLUMN = (Subnet({}),)


class Measured(NamedTuple):
    """One score.

    Attributes:
        value: In the task's metric.
        n: Pairs or queries it was measured on.
        stderr: Standard error.
    """

    value: float
    n: int
    stderr: float


def share_of(right: NDArray[np.bool_]) -> Measured:
    """Return the share of items that are right, and its standard error."""
    value, n = float(right.mean()), len(right)
    return Measured(value, n, float(np.sqrt(value * (1 - value) / n)))


def mean_of(each: FloatArray) -> Measured:
    """Return the mean of items' scores, and its standard error."""
    stderr = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
    return Measured(float(each.mean()), len(each), float(stderr))


class Evaluation(Protocol):
    """Texts, pairs or files of images, and what the answers to them are worth."""

    @property
    def texts(self) -> Sequence[Item]:
        """To be answered, each once."""

    def score(self, vectors: FloatArray) -> Measured:
        """Score vectors or logits, shape [texts, dim or classes], or scores, shape [texts]."""


class SimilarityQuality:
    """Spearman's rank correlation of cosines with people's ratings.

    Attributes:
        texts: Of all pairs, each once.
        ratings: Of the pairs, shape [pairs].
    """

    def __init__(self, pairs: Sequence[ScoredPair]) -> None:
        """Index the texts of rated pairs."""
        self.texts = list(dict.fromkeys(text for pair in pairs for text in pair[:2]))
        position = {text: i for i, text in enumerate(self.texts)}
        self._first = np.array([position[pair.first] for pair in pairs])
        self._second = np.array([position[pair.second] for pair in pairs])
        self.ratings = np.array([pair.score for pair in pairs])

    def score(self, vectors: FloatArray) -> Measured:
        """Return the correlation; see `rank_correlation`."""
        return rank_correlation(self.cosines(vectors), self.ratings)

    def cosines(self, vectors: FloatArray) -> FloatArray:
        """Return the cosine of each pair, shape [pairs], from unit vectors of the texts."""
        found: FloatArray = (vectors[self._first] * vectors[self._second]).sum(axis=1)
        return found


def rank_correlation(scores: FloatArray, ratings: FloatArray) -> Measured:
    """Return Spearman's rank correlation and its standard error.

    The error is the usual approximation for ranks, (1 + r^2 / 2) (1 - r^2)^2 / (n - 3) under the
    root (Bonett and Wright 2000, Psychometrika 65(1), on Fisher's scale).
    """
    value, n = float(spearmanr(scores, ratings).statistic), len(ratings)
    stderr = (1 - value**2) * np.sqrt((1 + value**2 / 2) / max(1, n - 3))
    return Measured(value, n, float(stderr))


class RankingQuality:
    """The mean over queries of how well the right documents rank by cosine.

    Attributes:
        texts: Queries and documents, each once.
        query_rows: Position of each query among the texts.
        document_rows: Position of each document.
    """

    def __init__(self, retrieval: Retrieval, metric: str) -> None:
        """Index the texts.

        Args:
            retrieval: Queries, documents and judgements.
            metric: ``mrr@10``, ``recall@1``, ``ndcg@10`` or ``map``.

        Raises:
            ValueError: If the metric is another.
        """
        if metric not in PER_QUERY:
            raise ValueError(f"metric={metric!r} must be one of {sorted(PER_QUERY)}")
        self._data = retrieval
        self._per_query = PER_QUERY[metric]
        self.texts = list(dict.fromkeys((*retrieval.queries, *retrieval.documents)))
        position = {text: i for i, text in enumerate(self.texts)}
        self.query_rows = np.array([position[text] for text in retrieval.queries])
        self.document_rows = np.array([position[text] for text in retrieval.documents])

    def score(self, vectors: FloatArray) -> Measured:
        """Return the mean and its standard error over queries."""
        return mean_of(self.each(vectors[self.query_rows], vectors[self.document_rows]))

    def each(self, queries: FloatArray, documents: FloatArray) -> FloatArray:
        """Score each query.

        Args:
            queries: Unit vectors of the queries, shape [queries, dim].
            documents: Of the documents, shape [documents, dim].
        """
        found = []
        for q, query in enumerate(queries):
            own = self._data.candidates
            candidates = np.arange(len(documents)) if own is None else np.array(own[q])
            order = candidates[np.argsort(-(documents[candidates] @ query), kind="stable")]
            found.append(self._per_query(np.isin(order, list(self._data.relevant[q]))))
        return np.array(found)


def _reciprocal_rank(right: NDArray[np.bool_]) -> float:
    places = np.flatnonzero(right[:10])
    return 1.0 / (places[0] + 1) if len(places) else 0.0


def _first_is_right(right: NDArray[np.bool_]) -> float:
    return float(right[0])


def _ndcg(right: NDArray[np.bool_]) -> float:
    gains = 1 / np.log2(np.arange(2, 12))
    top = right[:10]
    return float((top * gains[: len(top)]).sum() / gains[: min(10, int(right.sum()))].sum())


def _average_precision(right: NDArray[np.bool_]) -> float:
    places = np.flatnonzero(right)
    return float((np.arange(1, len(places) + 1) / (places + 1)).mean())


PER_QUERY: dict[str, Callable[[NDArray[np.bool_]], float]] = {
    "mrr@10": _reciprocal_rank,
    "recall@1": _first_is_right,
    "ndcg@10": _ndcg,
    "map": _average_precision,
}


def scores(
    model: Elastic,
    backend: TorchBackend,
    evaluation: Evaluation,
    subnets: Sequence[Subnet],
    report: Callable[[], object] = lambda: None,
) -> list[Measured]:
    """Score subnets on one evaluation; see `scores_by`."""
    (found,) = scores_by(model, backend, [evaluation], subnets, report)
    return found


def scores_by(
    model: Elastic,
    backend: TorchBackend,
    evaluations: Sequence[Evaluation],
    subnets: Sequence[Subnet],
    report: Callable[[], object] = lambda: None,
) -> list[list[Measured]]:
    """Score subnets in several ways on the same texts; what they share is computed once.

    Args:
        model: Prepared by the backend, without axes of single tasks. A text that is too long is
            cut at its end.
        backend: Runs the plans.
        evaluations: Of the same texts.
        subnets: To be scored; those of other weights by variants that are built here.
        report: Called after each batch.

    Returns:
        Per evaluation, the score of each subnet.
    """
    texts = evaluations[0].texts
    assert all(evaluation.texts == texts for evaluation in evaluations), "of the same texts"
    task = next(iter(model.tasks))
    batches = Batches(model, texts)
    shapes = batches.shapes
    loads = {choices_of(model.space, subnet) for subnet in subnets}
    variants = {choices: build(model, choices) for choices in loads}
    for variant in variants.values():
        if isinstance(variant, nn.Module):
            backend.prepare(variant)
    plans = {
        subnet: variants[choices_of(model.space, subnet)].plan(subnet, shapes, [task])
        for subnet in subnets
    }
    found: list[dict[Subnet, Measured]] = [{} for _ in evaluations]
    # Neighbours have most steps in common.
    ordered = sorted(plans.items(), key=lambda entry: repr([step.key for step in entry[1]]))
    for start in range(0, len(ordered), _MAX_PLANS):
        part = dict(ordered[start : start + _MAX_PLANS])
        vectors = answers_by_plan(list(part.values()), backend, batches, report)
        for subnet, of_subnet in zip(part, vectors, strict=True):
            for own, evaluation in zip(found, evaluations, strict=True):
                own[subnet] = evaluation.score(of_subnet)
    return [[own[subnet] for subnet in subnets] for own in found]


def answers_by_plan(
    plans: Sequence[Plan],
    backend: TorchBackend,
    batches: Batches,
    report: Callable[[], object] = lambda: None,
) -> list[FloatArray]:
    """Return the answers of each plan, one row an item, in the items' order.

    Args:
        plans: Of one task each, and of a model that the backend has prepared.
        backend: Runs the plans.
        batches: Items.
        report: Called after each batch.
    """
    parts: list[list[Tensor]] = [[] for _ in plans]
    for batch in batches:
        for own, answers in zip(parts, backend.run_all(plans, batch), strict=True):
            (rows,) = answers.values()
            own.append(rows.float())
        report()
    return [batches.in_order(torch.cat(own).numpy().astype(np.float64)) for own in parts]


def table_of(
    model: Elastic,
    subnets: Sequence[Subnet],
    found: Mapping[str, Sequence[Measured]],
    agreed: Mapping[str, Sequence[float]] | None = None,
) -> Table:
    """Return the table of measured scores by task, one row per subnet, the largest last.

    Args:
        model: Of the subnets.
        subnets: Measured.
        found: Their scores.
        agreed: How far they agree with the whole model; None where that was not measured.
    """
    cells = {}
    for task, measured in found.items():
        column = np.array([[m.value] for m in measured])
        cells[task] = Cells(
            columns=_NO_COLUMN,
            value=column,
            n=np.array([[m.n] for m in measured]),
            stderr=np.array([[m.stderr] for m in measured]),
            measured=np.ones(column.shape, dtype=np.bool_),
            lower_is_better=model.tasks[task].lower_is_better,
            agreement=np.array([agreed[task]]).T if agreed else None,
        )
    table = Table(tuple(subnets), cells, given_axes(model.space.axes))
    return with_errors(table) if agreed else table
