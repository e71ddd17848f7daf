"""What scores of pairs are worth: how well the right documents rank among a query's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.train.texts import Retrieval
from search.quality.cells import FloatArray
from search.quality.embeddings import PER_QUERY, Measured, mean_of

_FAR = 1000  # places behind the candidates, for what is not among them


class PairRankingQuality:
    """The mean over queries of how well the right documents rank by a model's scores.

    Attributes:
        texts: Each query with each of its candidates.
    """

    def __init__(self, retrieval: Retrieval, metric: str) -> None:
        """Index the pairs.

        Args:
            retrieval: Queries with their candidates, and judgements.
            metric: As for `search.quality.embeddings.RankingQuality`. Right documents that are no
                candidates count as not found.

        Raises:
            ValueError: If the metric is another, or the queries have no candidates of their own.
        """
        if metric not in PER_QUERY:
            raise ValueError(f"metric={metric!r} must be one of {sorted(PER_QUERY)}")
        if retrieval.candidates is None:
            raise ValueError("candidates=None: each query needs its own")
        self._candidates, self._relevant = retrieval.candidates, retrieval.relevant
        self._per_query = PER_QUERY[metric]
        self.texts: list[tuple[str, str]] = [
            (query, retrieval.documents[i])
            for query, own in zip(retrieval.queries, retrieval.candidates, strict=True)
            for i in own
        ]

    def score(self, vectors: FloatArray) -> Measured:
        """Return the mean of scores of shape [pairs], and its standard error over queries."""
        return mean_of(self.each(vectors))

    def each(self, scores: FloatArray) -> FloatArray:
        """Return the metric of each query, from the scores of all pairs."""
        found, start = [], 0
        for own, relevant in zip(self._candidates, self._relevant, strict=True):
            order = np.argsort(-scores[start : start + len(own)], kind="stable")
            start += len(own)
            right = np.isin(np.array(own)[order], list(relevant))
            missed = len(relevant) - int(right.sum())
            far = [False] * _FAR + [True] * missed if missed else []
            found.append(self._per_query(np.append(right, far).astype(np.bool_)))
        return np.array(found)


def reranking(retrieval: Retrieval, vectors: Sequence[FloatArray], count: int) -> Retrieval:
    """Return queries whose candidates are the documents of the largest cosines.

    Args:
        retrieval: Over all documents.
        vectors: Unit vectors of the queries and of the documents, shape [queries or documents,
            dim].
        count: Candidates of each.
    """
    queries, documents = vectors
    candidates = []
    for query in queries:
        cosines = documents @ query
        candidates.append(tuple(np.argsort(-cosines, kind="stable")[:count].tolist()))
    return Retrieval(retrieval.queries, retrieval.documents, retrieval.relevant, tuple(candidates))
