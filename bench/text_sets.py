"""Test sets of texts by what they are used for, and what a subnet keeps of the whole on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from bench.minilm import reduced
from models.train import texts
from models.train.texts import Retrieval, ScoredPair
from search.offline.static_check import share_kept
from search.quality.embeddings import (
    Evaluation,
    RankingQuality,
    SimilarityQuality,
    rank_correlation,
)
from search.quality.neighbours import NeighboursQuality
from search.quality.sides import sided
from search.quality.table import FloatArray

_RESAMPLES = 100  # of pairs, for the error of a ratio of rank correlations
_QUICK_CHARS = 120
_LABELLED = 3000  # texts, standard error about 0.01

Embed = Callable[[Sequence[str]], FloatArray]
"""Function of texts to unit vectors, shape [texts, dim]."""


class Kept(NamedTuple):
    """What vectors score, and which part of the whole model's score that is.

    Attributes:
        value: In the set's metric.
        n: Pairs, queries or texts.
        error: Standard error of the value.
        share: Of the whole model's value.
        stderr: Of the share, items being drawn in pairs.
    """

    value: float
    n: int
    error: float
    share: float
    stderr: float


@dataclass(frozen=True)
class HeldOut:
    """A test set.

    Attributes:
        name: Of the set.
        task: In tables; of a search, with both sides cut.
        evaluation: Of its texts.
    """

    name: str
    task: str
    evaluation: Evaluation

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it tells of: of a search also with the queries alone cut."""
        is_search = isinstance(self.evaluation, RankingQuality)
        return (sided(self.task, "query"), self.task) if is_search else (self.task,)


class Judge:
    """Compares vectors of a test set with the whole model's."""

    def __init__(self, held_out: HeldOut, whole: Embed) -> None:
        """Embed the test set by the whole model."""
        self._held_out = held_out
        self._texts = [str(text) for text in held_out.evaluation.texts]
        self._whole = whole(self._texts)

    @cached_property
    def whole(self) -> Kept:
        """The whole model's own score."""
        return self._kept(self._whole, self._whole)

    def of(self, embed: Embed, queries_alone: bool = False) -> dict[str, Kept]:
        """Return what a subnet, or another model, keeps by task.

        Args:
            embed: Of the subnet.
            queries_alone: Whether of a search only the queries are cut.
        """
        tasks, evaluation = self._held_out.tasks, self._held_out.evaluation
        if queries_alone and isinstance(evaluation, RankingQuality):
            own, rows = self._whole.copy(), np.unique(evaluation.query_rows)
            own[rows] = embed([self._texts[row] for row in rows])
            return {tasks[0]: self._kept(own, self._whole)}
        own = embed(self._texts)
        if len(tasks) == 1:
            return {tasks[0]: self._kept(own, own)}
        return {tasks[0]: self._kept(own, self._whole), tasks[1]: self._kept(own, own)}

    def _kept(self, own: FloatArray, documents: FloatArray) -> Kept:
        evaluation = self._held_out.evaluation
        if isinstance(evaluation, SimilarityQuality):
            return _of_pairs(evaluation, own, self._whole)
        found, best = (self._each(*pair) for pair in ((own, documents), (self._whole,) * 2))
        error = found.std(ddof=1) / np.sqrt(len(found))
        return Kept(float(found.mean()), len(found), float(error), *share_kept(found, best))

    def _each(self, queries: FloatArray, documents: FloatArray) -> FloatArray:
        evaluation = self._held_out.evaluation
        if isinstance(evaluation, RankingQuality):
            return evaluation.each(
                queries[evaluation.query_rows], documents[evaluation.document_rows]
            )
        assert isinstance(evaluation, NeighboursQuality)
        return evaluation.each(queries).astype(np.float64)


def _of_pairs(quality: SimilarityQuality, own: FloatArray, whole: FloatArray) -> Kept:
    """Return what is kept of a rank correlation; the error is that of resampled pairs."""
    cosines, best, rng = quality.cosines(own), quality.cosines(whole), np.random.default_rng(0)
    found = rank_correlation(cosines, quality.ratings)
    shares = []
    for _ in range(_RESAMPLES):
        rows = rng.integers(len(cosines), size=len(cosines))
        one, other = (
            rank_correlation(values[rows], quality.ratings[rows]).value
            for values in (cosines, best)
        )
        shares.append(one / other)
    share = found.value / rank_correlation(best, quality.ratings).value
    return Kept(*found, share, float(np.std(shares, ddof=1)))


def sets_of(root: Path, documents: int, most: int | None) -> list[HeldOut]:
    """Read the test sets.

    Args:
        root: Folder of the data sets.
        documents: Of SciFact's, that no claim cites.
        most: Pairs, queries with their own documents, or texts; None for all.
    """
    rated = [p for split in ("train", "dev") for p in texts.stsb(root, split)]
    years = texts.sts_years(root, [text for pair in rated for text in pair[:2]])
    pairs = {"STS-B": texts.stsb(root, "test"), "SICK": texts.sick(root), "STS 2012-15": years}
    dev = texts.scifact(root, "dev")
    cited = {i for own in dev.relevant for i in own}
    others = [i for i in range(len(dev.documents)) if i not in cited]
    Random(0).shuffle(others)
    scifact = reduced(dev, others[:documents], len(dev.queries))
    code = texts.as_collection(texts.pydoc_code(root, "test"))
    found = [HeldOut(name, "similarity", _rated(own, most)) for name, own in pairs.items()]
    searches = (
        ("SciFact", "retrieval", "ndcg@10", scifact),
        ("Cranfield", "retrieval", "ndcg@10", texts.cranfield(root)),
        ("TREC QA", "qa", "map", texts.trecqa(root, "test")),
        ("pydoc-code", "code", "ndcg@10", code),
    )
    for name, task, metric, own in searches:
        found.append(HeldOut(name, task, RankingQuality(_few(own, most), metric)))
    for name in ("banking77", "clinc150"):
        labelled = texts.intents(root, name, "test")
        Random(0).shuffle(labelled)
        part = labelled[: 10 * most if most else _LABELLED]
        found.append(HeldOut(name.upper(), "intent", NeighboursQuality(part)))
    return found


def _rated(pairs: Sequence[ScoredPair], most: int | None) -> SimilarityQuality:
    return SimilarityQuality(pairs[: 5 * most if most else None])


def _few(data: Retrieval, most: int | None) -> Retrieval:
    """Return the first queries among the beginnings of their own documents; all for None."""
    if most is None:
        return data
    wanted = sorted({i for own in (data.candidates or data.relevant)[:most] for i in own})
    place = {old: new for new, old in enumerate(wanted)}
    candidates = data.candidates and tuple(
        tuple(place[i] for i in own) for own in data.candidates[:most]
    )
    return Retrieval(
        data.queries[:most],
        tuple(data.documents[i][:_QUICK_CHARS] for i in wanted),
        tuple(frozenset(place[i] for i in own) for own in data.relevant[:most]),
        candidates,
    )
