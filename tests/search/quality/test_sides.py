from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import checkpoint
from models.backends.torch import TorchBackend
from models.train.texts import Retrieval
from search.quality.embeddings import RankingQuality, scores
from search.quality.side_scores import OneSide, scores_by_side
from search.quality.sides import as_side, default_tasks, side_of, sided
from tests.tiny_text import write_text_checkpoint

QUERIES = tuple(f"w{i} w{i + 3}" for i in range(8))
DOCUMENTS = tuple(f"w{i + 1} w{i + 3} w{2 * i}" for i in range(8))
DATA = Retrieval(QUERIES, DOCUMENTS, tuple(frozenset({i}) for i in range(8)))


def test_a_side_is_part_of_a_tasks_name_and_can_be_told_from_it() -> None:
    assert side_of(sided("retrieval", "query")) == ("retrieval", "query")
    assert side_of("query") == ("query", None)
    tasks = ["similarity", "retrieval", "retrieval:query", "retrieval:document"]
    assert default_tasks(tasks) == ("similarity", "retrieval")
    assert as_side("retrieval", "query", tasks) == "retrieval:query"
    assert as_side("similarity", "query", tasks) == "similarity"
    assert as_side("retrieval:document", "query", tasks) == "retrieval:document"
    assert as_side("retrieval", None, tasks) == "retrieval"


def test_the_side_that_is_not_cut_is_of_the_whole_model() -> None:
    """With whole documents that are what queries seek, bad documents of a subnet cannot hurt."""
    ranking = RankingQuality(DATA, "ndcg@10")
    whole = np.concatenate([np.eye(8), np.eye(8)])
    shuffled = np.concatenate([np.eye(8), np.eye(8)[::-1]])
    assert ranking.score(shuffled).value < 0.6
    assert OneSide(ranking, whole, "query").score(shuffled).value == 1
    assert OneSide(ranking, whole, "document").score(shuffled).value < 0.6
    assert OneSide(ranking, whole, "document").score(whole).value == 1


def test_the_largest_subnet_scores_the_same_by_every_side(tmp_path: Path) -> None:
    model = checkpoint.load(write_text_checkpoint(tmp_path)).model
    subnets = list(model.space)
    ranking = RankingQuality(DATA, "ndcg@10")
    found, _ = scores_by_side(model, TorchBackend(), ranking, subnets)
    assert list(found) == [None, "query", "document"]
    assert found[None] == scores(model, TorchBackend(), ranking, subnets)
    assert found["query"][-1] == found["document"][-1] == found[None][-1]
    assert found["query"] != found["document"]
    assert {one.n for own in found.values() for one in own} == {8}


def test_vectors_that_are_cut_are_compared_with_cut_ones() -> None:
    ranking = RankingQuality(DATA, "ndcg@10")
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(16, 8))
    cut = whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True)
    expected = ranking.score(cut).value
    # Lengths of documents matter: those of the whole are made unit vectors again.
    assert OneSide(ranking, whole, "query").score(cut).value == pytest.approx(expected)
