from __future__ import annotations

import numpy as np
import pytest

from bench.text_sets import HeldOut, Judge
from bench.text_uses import least_fractions
from models.space import Subnet
from models.train.texts import Retrieval, ScoredPair
from search.quality.embeddings import Evaluation, RankingQuality, SimilarityQuality
from search.quality.neighbours import NeighboursQuality
from search.quality.table import FloatArray

TEXTS = [f"text {i}" for i in range(40)]
_HALF = len(TEXTS) // 2  # queries; then the document of each, which lies where it does
_ANGLES = dict(zip(TEXTS, np.tile(np.linspace(0, 3, _HALF), 2), strict=True))


def whole(texts: list[str]) -> FloatArray:
    angles = np.array([_ANGLES[text] for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def worse(texts: list[str]) -> FloatArray:
    noise = np.random.default_rng(0).normal(0, 0.3, (len(texts), 2))
    vectors = whole(texts) + noise
    found: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def _pairs() -> Evaluation:
    return SimilarityQuality([ScoredPair(TEXTS[0], other, -_ANGLES[other]) for other in TEXTS[1:]])


def _search() -> Evaluation:
    queries, documents = TEXTS[:_HALF], TEXTS[_HALF:]
    relevant = tuple(frozenset({i}) for i in range(_HALF))
    return RankingQuality(Retrieval(tuple(queries), tuple(documents), relevant), "mrr@10")


def _labels() -> Evaluation:
    return NeighboursQuality([(text, "ab"[i % _HALF >= 10]) for i, text in enumerate(TEXTS)])


@pytest.mark.parametrize("evaluation", [_pairs(), _search(), _labels()])
def test_a_share_is_of_the_whole_and_has_an_error(evaluation: Evaluation) -> None:
    held_out = HeldOut("set", "use", evaluation)
    judge = Judge(held_out, whole)  # type: ignore[arg-type]  # lists alone here
    same = judge.of(whole)  # type: ignore[arg-type]
    assert set(same) == set(held_out.tasks)
    for kept in same.values():
        assert kept.share == pytest.approx(1)
        assert kept.stderr == pytest.approx(0, abs=1e-9)
        assert kept.value == pytest.approx(judge.whole.value)
    for kept in judge.of(worse).values():  # type: ignore[arg-type]
        assert kept.value == pytest.approx(kept.share * judge.whole.value)
        assert kept.stderr > 0


def test_of_a_search_queries_may_be_cut_alone() -> None:
    judge = Judge(HeldOut("set", "use", _search()), whole)  # type: ignore[arg-type]
    found = judge.of(lambda texts: -whole(list(texts)))
    assert found["use"].share == pytest.approx(1)  # both turned around alike
    assert found["use:query"].share < 0.9
    alone = judge.of(lambda texts: -whole(list(texts)), queries_alone=True)
    assert alone == {"use:query": found["use:query"]}


def test_the_least_fraction_is_of_the_mean_over_a_use() -> None:
    judge = Judge(HeldOut("set", "use", _pairs()), whole)  # type: ignore[arg-type]
    small, large = Subnet({"keep": 0.5}), Subnet({"keep": 1.0})
    one = judge.of(whole)["use"]  # type: ignore[arg-type]
    measured = {
        ("use", "first"): {small: one._replace(share=0.97), large: one},
        ("use", "second"): {small: one._replace(share=0.95), large: one},
    }
    (row,) = least_fractions({small: 0.5, large: 1.0}, measured)
    assert row == {"use": "use", "99%": 1.0, "98%": 1.0, "95%": 0.5, "90%": 0.5}
