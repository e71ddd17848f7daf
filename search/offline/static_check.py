"""What a static exit keeps of its whole model, checked on texts that were fitted on nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from models.backends.torch import TorchBackend
from models.elasticize.sparse_rows import Floats
from models.space import Subnet
from models.tasks import Metric
from search.offline.corpus import Corpus
from search.quality.agreement import AgreementQuality
from search.quality.embeddings import RankingQuality
from search.quality.items import Batches
from search.quality.table import FloatArray

_SEARCHES = ("mrr@10", "ndcg@10", "recall@1", "map")


@dataclass(frozen=True)
class Check:
    """What a static exit keeps of the whole model, on texts that were fitted on nowhere.

    Attributes:
        agreement: Of its vectors with the whole's (`AgreementQuality`).
        found: nDCG@10 of held-out sentences that seek their documents, the queries by the static
            exit, the documents by the whole model; None where no document has two sentences.
        whole: The same with the queries by the whole model.
        kept: ``found`` over ``whole``.
        stderr: Of ``kept``, from the differences by query; of ``agreement`` where there is none.
        queries: Sentences sought with.
        documents: Sought among.
        fitted_on: Texts.
        of: Texts that there were to fit on; time bounds them.
        seconds: That all of it took.
    """

    agreement: float
    found: float | None
    whole: float | None
    kept: float | None
    stderr: float
    queries: int
    documents: int
    fitted_on: int = 0
    of: int = 0
    seconds: float = 0.0


class Kept(NamedTuple):
    """What the static exit keeps at one size of the vectors.

    Attributes:
        agreement: Of its vectors with the whole model's.
        search: Share of the whole's nDCG@10 with its queries; None where that was not checked.
        stderr: Of the share, or of the agreement.
        n: Texts that were checked.
    """

    agreement: float
    search: float | None
    stderr: float
    n: int

    def share(self, metric: Metric) -> float:
        """Return the share of the whole model's score to expect."""
        is_search = metric in _SEARCHES and self.search is not None
        return min(1.0, self.search if is_search and self.search is not None else self.agreement)


class Embedder:
    """The vectors of texts by subnets of a model, at whole size."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._backend = TorchBackend()

    def batches(self, texts: Sequence[str]) -> Batches:
        """Return texts as batches; what is too long is cut at its end."""
        return Batches(self._model, texts)

    def vectors(self, batches: Batches, subnet: Subnet) -> Floats:
        """Return unit vectors in the texts' order, shape [texts, width]."""
        task = next(iter(self._model.tasks))
        plan = self._model.plan(subnet, batches.shapes, [task])
        with torch.inference_mode():
            parts = [self._backend.run(plan, batch)[task].float() for batch in batches]
        found: Floats = batches.in_order(torch.cat(parts).numpy())
        return found


def share_kept(found: FloatArray, whole: FloatArray) -> tuple[float, float]:
    """Return the ratio of two means over the same queries, and its standard error."""
    share = float(found.mean() / whole.mean())
    spread = float((found - share * whole).std(ddof=1))
    return share, spread / float(np.sqrt(len(whole)) * whole.mean())


def held_out_check(
    model: Any, static: Subnet, corpus: Corpus, checked: Floats, documents: Floats | None
) -> tuple[Check, dict[int, Kept]]:
    """Return the check at whole size, and what is kept at each.

    Args:
        model: With the static exit.
        static: Its subnet of the largest size.
        corpus: With the texts that check.
        checked: The whole model's vectors of those that stand for queries.
        documents: Likewise of the documents; None if there are none.
    """
    embedder = Embedder(model)
    own = embedder.vectors(embedder.batches(corpus.checked), static)
    agreement = AgreementQuality(corpus.checked, checked.astype(np.float64))
    by_dim: dict[int, Kept] = {}
    dims = next(axis.values for axis in model.space.axes if axis.kind == "output")
    found = whole = None
    if documents is not None:
        whole = _per_query(corpus, checked, documents, documents.shape[1])
    for dim in map(int, dims):
        near = agreement.score(_cut(own, dim))
        by_dim[dim] = Kept(near.value, None, near.stderr, near.n)
        if documents is None or whole is None:
            continue
        found = _per_query(corpus, own, documents, dim)
        share, stderr = share_kept(found, whole)
        by_dim[dim] = Kept(near.value, share, stderr, len(whole))
    best = by_dim[int(dims[-1])]
    return Check(
        agreement=best.agreement,
        found=None if found is None else float(found.mean()),
        whole=None if whole is None else float(whole.mean()),
        kept=best.search,
        stderr=best.stderr,
        queries=len(corpus.queries),
        documents=len(corpus.documents),
    ), by_dim


def _per_query(corpus: Corpus, queries: Floats, documents: Floats, dim: int) -> FloatArray:
    quality = RankingQuality(corpus.retrieval(), "ndcg@10")
    return quality.each(_cut(queries[: len(corpus.queries)], dim), _cut(documents, dim))


def _cut(vectors: Floats, dim: int) -> FloatArray:
    part = vectors[:, :dim].astype(np.float64)
    unit: FloatArray = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return unit
