"""Scores of subnets together with how far their answers agree with the whole model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from models.backends.torch import TorchBackend
from models.elastic import Elastic
from models.space import Subnet
from models.tasks import Kind
from search.quality.alike import agreement
from search.quality.cells import FloatArray
from search.quality.embeddings import Evaluation, Measured, scores, scores_by
from search.quality.items import Item


class WholeAgreement:
    """Mean agreement of answers with the whole model's."""

    def __init__(self, kind: Kind, texts: Sequence[Item], whole: FloatArray) -> None:
        """Take the whole model's answers to the texts, of its largest size."""
        self.texts = texts
        self._kind, self._whole = kind, whole

    def score(self, vectors: FloatArray) -> Measured:
        """Return the mean; NaN where nothing can be compared."""
        whole = self._whole[:, : vectors.shape[1]] if vectors.ndim == 2 else self._whole
        each = agreement(self._kind, vectors, whole)
        value = float(each.mean()) if each is not None and len(each) else np.nan
        return Measured(value, len(vectors), 0.0)


class KeptAnswers:
    """Keeps the answers that it is to score."""

    def __init__(self, texts: Sequence[Item]) -> None:
        self.texts = texts
        self.vectors: FloatArray

    def score(self, vectors: FloatArray) -> Measured:
        """Keep them."""
        self.vectors = vectors
        return Measured(0.0, 0, 0.0)


def whole_answers(model: Elastic, backend: TorchBackend, texts: Sequence[Item]) -> FloatArray:
    """Return the answers of the largest subnet, one row an item."""
    kept = KeptAnswers(texts)
    scores(model, backend, kept, [model.space.largest])
    return kept.vectors


def scores_and_agreement(
    model: Elastic,
    backend: TorchBackend,
    evaluation: Evaluation,
    subnets: Sequence[Subnet],
    whole: FloatArray | None = None,
    report: Callable[[], object] = lambda: None,
) -> tuple[list[Measured], list[float]]:
    """Score subnets, and how far each agrees with the whole model on the same items.

    Args:
        model: As for `scores_by`.
        backend: Likewise.
        evaluation: Likewise.
        subnets: Likewise.
        whole: The whole model's answers; None to compute them.
        report: Called after each batch.
    """
    if whole is None:
        whole = whole_answers(model, backend, evaluation.texts)
    kind = next(iter(model.tasks.values())).kind
    alike = WholeAgreement(kind, evaluation.texts, whole)
    found, agreed = scores_by(model, backend, [evaluation, alike], subnets, report)
    return found, [one.value for one in agreed]
