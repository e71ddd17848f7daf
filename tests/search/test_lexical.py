from __future__ import annotations

import math

import numpy as np
import pytest

from search.lexical import lexical_scores


def naive(query: list[int], documents: list[list[int]]) -> list[float]:
    """BM25 as the book has it, one word of one document at a time."""
    mean = sum(map(len, documents)) / len(documents)
    found = []
    for document in documents:
        score = 0.0
        for word in set(query):
            holding = sum(word in other for other in documents)
            rare = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            often = document.count(word)
            norm = 1.2 * (1 - 0.75 + 0.75 * len(document) / mean)
            score += rare * often * 2.2 / (often + norm)
        found.append(score)
    return found


def test_scores_are_those_of_bm25_with_the_list_for_its_corpus() -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 40, size=size).tolist() for size in (3, 30, 7, 120, 12)]
    query = [5, 9, 9, 77, 1]
    expected = np.array(naive(query, documents))
    standard = (expected - expected.mean()) / expected.std()
    found = lexical_scores(np.array(query), [np.array(one) for one in documents])
    assert found == pytest.approx(standard)


@pytest.mark.parametrize("documents", [[[7, 8], [9]], [[1, 2]], [[1, 5], [5, 1]]])
def test_a_list_whose_documents_have_as_much_of_the_query_scores_nothing(
    documents: list[list[int]],
) -> None:
    found = lexical_scores(np.array([1, 2]), [np.array(one) for one in documents])
    assert found.tolist() == [0.0] * len(documents)
