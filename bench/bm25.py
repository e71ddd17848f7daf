"""BM25 (`search.lexical`) over a collection, as a first stage for benchmarks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from search.lexical import bm25

_WORD = re.compile(r"[a-z0-9]+")


class Bm25:
    """An index over documents."""

    def __init__(self, documents: Sequence[str]) -> None:
        counts = [Counter(_WORD.findall(one.lower())) for one in documents]
        lengths = np.array([sum(own.values()) for own in counts], dtype=np.float64)
        relative = lengths / lengths.mean()
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, own in enumerate(counts):
            for word, count in own.items():
                found[word].append((i, count))
        self._count = len(documents)
        self._postings = {}
        for word, pairs in found.items():
            at = np.array([i for i, _ in pairs])
            often = [count for _, count in pairs]
            self._postings[word] = (at, bm25(often, relative[at], len(at), self._count))

    def first(self, query: str, count: int) -> list[int]:
        """Return the numbers of the best documents, best first."""
        scores = np.zeros(self._count)
        for word in _WORD.findall(query.lower()):
            if word in self._postings:
                at, worth = self._postings[word]
                scores[at] += worth
        found: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
        return found
