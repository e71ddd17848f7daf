"""How much of a query's words the documents of a list have: what vectors of a text do not tell.

BM25 with the list for its corpus, on the tokens that a model reads. A word that all documents have
counts next to nothing, special tokens among them.

Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond, with
the usual k1 = 1.2 and b = 0.75 and the logarithm that is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.quality.table import FloatArray

_K1, _B = 1.2, 0.75


def lexical_scores(query: NDArray[np.int64], documents: Sequence[NDArray[np.int64]]) -> FloatArray:
    """Return the BM25 score of each document, in standard deviations of the list from its mean.

    Args:
        query: Token ids, shape [length].
        documents: Likewise; each has one or more.

    Returns:
        Shape [documents]; zeros where all score the same.
    """
    words, count = np.unique(query), len(documents)
    lengths = np.array([len(one) for one in documents])
    tokens, rows = np.concatenate(documents), np.repeat(np.arange(count), lengths)
    at = np.searchsorted(words, tokens)
    at[at == len(words)] = 0
    is_word = words[at] == tokens
    cells = rows[is_word] * len(words) + at[is_word]
    often = np.bincount(cells, minlength=count * len(words)).reshape(count, len(words))
    relative = (lengths / lengths.mean())[:, None]
    scores = bm25(often, relative, (often > 0).sum(axis=0), count).sum(axis=1)
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros(count)


def bm25(often: ArrayLike, relative: FloatArray, holding: ArrayLike, count: int) -> FloatArray:
    """Return what words say of documents; the arrays' shapes are broadcast together.

    Args:
        often: How many times a document has a word.
        relative: Its length over the mean length.
        holding: Documents that have the word.
        count: Of all documents.
    """
    often, holding = np.asarray(often, np.float64), np.asarray(holding, np.float64)
    rare = np.log(1 + (count - holding + 0.5) / (holding + 0.5))
    norm = _K1 * (1 - _B + _B * relative)
    found: FloatArray = rare * often * (_K1 + 1) / (often + norm)
    return found
