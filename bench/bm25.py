"""BM25, as a first stage for benchmarks.

Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond, with
the usual k1 = 1.2 and b = 0.75 and the logarithm that is never negative.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

_K1, _B = 1.2, 0.75
_WORD = re.compile(r"[a-z0-9]+")


class Bm25:
    """An index over documents."""

    def __init__(self, documents: Sequence[str]) -> None:
        counts = [Counter(_WORD.findall(one.lower())) for one in documents]
        lengths = np.array([sum(own.values()) for own in counts], dtype=np.float64)
        norm = _K1 * (1 - _B + _B * lengths / lengths.mean())
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, own in enumerate(counts):
            for word, count in own.items():
                found[word].append((i, count))
        self._count = len(documents)
        self._postings = {}
        for word, pairs in found.items():
            at = np.array([i for i, _ in pairs])
            often = np.array([count for _, count in pairs], dtype=np.float64)
            rare = np.log(1 + (self._count - len(at) + 0.5) / (len(at) + 0.5))
            self._postings[word] = (at, rare * often * (_K1 + 1) / (often + norm[at]))

    def first(self, query: str, count: int) -> list[int]:
        """Return the numbers of the best documents, best first."""
        scores = np.zeros(self._count)
        for word in _WORD.findall(query.lower()):
            if word in self._postings:
                at, worth = self._postings[word]
                scores[at] += worth
        found: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
        return found
