from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from models import checkpoint
from models.backends.torch import TorchBackend
from models.train.texts import ScoredPair
from search.quality.alike import agreement, whole_of
from search.quality.embeddings import SimilarityQuality
from search.quality.whole_agreement import scores_and_agreement
from tests.tiny_text import write_text_weights


def test_vectors_agree_by_their_cosine() -> None:
    found, whole = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), np.eye(2)[[0, 0, 0]]
    each = agreement("embedding", found, whole * [[1.0], [1.0], [-1.0]])
    assert each is not None
    np.testing.assert_allclose(each, [1.0, 0.0, 0.0])


def test_classes_agree_where_the_first_one_is_the_same() -> None:
    each = agreement("classes", np.array([[0.1, 0.9], [3.0, 2.0]]), np.array([[0, 1], [0, 1]]))
    assert each is not None
    assert each.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_by_their_rank_correlation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 5, 20).astype(np.float64)  # with ties
    whole = found + rng.normal(0, 1, 20)
    each = agreement("score", found, whole)
    assert each is not None
    assert each[0] == pytest.approx(float(spearmanr(found, whole).statistic))


def test_a_list_without_an_order_says_nothing_and_maps_are_not_compared() -> None:
    for found in (np.array([1.0, 2.0]), np.ones(5)):
        each = agreement("score", found, found)
        assert each is not None
        assert len(each) == 0
    assert agreement("map", np.ones((1, 2)), np.ones((1, 2))) is None


def test_the_whole_keeps_the_size_of_the_answer(tmp_path: Path) -> None:
    model = write_text_weights(tmp_path / "model")
    subnet = model.space.smallest
    whole = whole_of(model.space, subnet)
    assert whole["dim"] == subnet["dim"]
    assert {k: v for k, v in whole.items() if k != "dim"} == {
        k: v for k, v in model.space.largest.items() if k != "dim"
    }


def test_subnets_are_scored_and_compared_on_the_same_texts(tmp_path: Path) -> None:
    write_text_weights(tmp_path / "model")
    model, backend = checkpoint.load(tmp_path / "model").model, TorchBackend()
    backend.prepare(model)
    pairs = [ScoredPair(f"w{i} w{i + 1}", f"w{i} w{3 * i}", float(i)) for i in range(1, 9)]
    subnets = list(model.space)
    found, agreed = scores_and_agreement(model, backend, SimilarityQuality(pairs), subnets)
    assert len(found) == len(agreed) == len(subnets)
    assert agreed[-1] == pytest.approx(1.0)
    same_size = [i for i, one in enumerate(subnets) if dict(one) == whole_of(model.space, one)]
    assert len(same_size) > 1
    np.testing.assert_allclose([agreed[i] for i in same_size], 1.0, atol=1e-6)
    assert min(agreed) < 0.999
