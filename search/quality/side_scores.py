"""Scores of pairs of subnets: one side of a search cut, the other whole, as an index is used.

Documents are embedded once and queries many times, so what a subnet is worth for queries is what
they find among documents of the whole model. Vectors of two subnets may be compared only in one
space (`models.vectors`); the same numbers say what a mixed index loses where they are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.backends.torch import TorchBackend
from models.elastic import Elastic
from models.space import Subnet
from search.quality.embeddings import (
    Evaluation,
    Measured,
    RankingQuality,
    mean_of,
    scores_by,
)
from search.quality.sides import SIDES, Side
from search.quality.table import FloatArray
from search.quality.whole_agreement import WholeAgreement, whole_answers

_TINY = 1e-12


class OneSide:
    """A search with vectors of a subnet on one side, and of the whole model on the other."""

    def __init__(self, ranking: RankingQuality, whole: FloatArray, side: Side) -> None:
        """Take the whole model's unit vectors of the ranking's texts, shape [texts, dim]."""
        self.texts = ranking.texts
        self._ranking, self._whole, self._side = ranking, whole, side

    def score(self, vectors: FloatArray) -> Measured:
        """Return the mean over queries; the whole's vectors are cut to the size of these."""
        ranking, whole = self._ranking, self._whole[:, : vectors.shape[1]]
        whole = whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), _TINY)
        queries, documents = (vectors, whole) if self._side == "query" else (whole, vectors)
        return mean_of(ranking.each(queries[ranking.query_rows], documents[ranking.document_rows]))


def scores_by_side(
    model: Elastic, backend: TorchBackend, ranking: RankingQuality, subnets: Sequence[Subnet]
) -> tuple[dict[Side | None, list[Measured]], list[float]]:
    """Score subnets in a search: with both sides cut (None), and with one.

    Args:
        model: Of one input, a text; prepared by the backend.
        backend: Runs the plans.
        ranking: Queries, documents and judgements.
        subnets: To be scored.

    Returns:
        The scores, and how far each subnet agrees with the whole model.
    """
    whole = whole_answers(model, backend, ranking.texts)
    ways: list[Evaluation] = [ranking, *(OneSide(ranking, whole, side) for side in SIDES)]
    alike = WholeAgreement("embedding", ranking.texts, whole)
    *found, agreed = scores_by(model, backend, [*ways, alike], subnets)
    return dict(zip((None, *SIDES), found, strict=True)), [one.value for one in agreed]
