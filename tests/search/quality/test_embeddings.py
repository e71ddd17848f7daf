from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.backends.torch import TorchBackend
from models.train.texts import Retrieval, ScoredPair
from search.quality.embeddings import Measured, RankingQuality, SimilarityQuality, scores, table_of
from tests.tiny_text import embed, tiny_exits, write_tokenizer

# One query along the first axis; documents at cosines 0.9, 0.8, ... in the order given.
NUM_DOCUMENTS = 12


def vectors(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    documents = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    return np.concatenate([[[1.0, 0.0]], documents])


def ranking(
    metric: str, relevant: set[int], candidates: tuple[int, ...] | None = None
) -> RankingQuality:
    texts = tuple(f"d{i}" for i in range(NUM_DOCUMENTS))
    own = None if candidates is None else (candidates,)
    return RankingQuality(Retrieval(("q",), texts, (frozenset(relevant),), own), metric)


def test_similarity_is_the_rank_correlation_of_cosines_with_ratings() -> None:
    pairs = [ScoredPair("q", f"d{i}", rating) for i, rating in enumerate([4, 3, 5, 1, 0, 2])]
    found = SimilarityQuality(pairs)
    assert found.texts == ["q", "d0", "d1", "d2", "d3", "d4", "d5"]
    order = found.score(vectors(np.array([0.8, 0.6, 0.9, 0.2, 0.1, 0.4])))
    assert order.value == pytest.approx(1.0)
    swapped = found.score(vectors(np.array([0.9, 0.6, 0.8, 0.2, 0.1, 0.4])))
    assert swapped.value == pytest.approx(1 - 6 * 2 / (6 * 35))  # two ranks off by one
    assert swapped.n == 6
    assert swapped.stderr > 0


@pytest.mark.parametrize(
    ("metric", "relevant", "expected"),
    [
        ("mrr@10", {2}, 1 / 3),
        ("mrr@10", {11}, 0.0),
        ("mrr@10", {4, 1}, 1 / 2),
        ("recall@1", {0, 3}, 1.0),
        ("recall@1", {1}, 0.0),
        ("ndcg@10", {0}, 1.0),
        ("ndcg@10", {1}, 1 / np.log2(3)),
        ("ndcg@10", {0, 11}, 1 / (1 + 1 / np.log2(3))),
        ("map", {0, 2}, (1 + 2 / 3) / 2),
        ("map", {11}, 1 / 12),
    ],
)
def test_ranking_metrics_by_hand(metric: str, relevant: set[int], expected: float) -> None:
    found = ranking(metric, relevant).score(vectors(np.linspace(0.9, 0.1, NUM_DOCUMENTS)))
    assert found.value == pytest.approx(expected)
    assert found.n == 1


def test_only_the_candidates_of_a_query_are_ranked() -> None:
    worth = vectors(np.linspace(0.9, 0.1, NUM_DOCUMENTS))
    assert ranking("mrr@10", {7}, (5, 7, 9)).score(worth).value == pytest.approx(1 / 2)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="metric='f1' must be one of"):
        ranking("f1", {0})


def test_scores_are_those_of_single_runs_however_they_are_batched(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = tiny_exits()
    model.attach(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    texts = [" ".join(f"w{(7 * i + j) % 50}" for j in range(1 + i % 9)) for i in range(24)]
    pairs = [
        ScoredPair(a, b, i) for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]
    evaluation = SimilarityQuality(pairs)
    subnets = list(model.space)
    backend = TorchBackend()
    found = scores(model, backend, evaluation, subnets)
    for subnet, measured in list(zip(subnets, found, strict=True))[::7]:
        rows = [model.text.encode(text) for text in evaluation.texts]
        widths = {axis: float(subnet[axis]) for axis in ("heads", "ffn")}
        alone = [
            embed(model, [row], int(subnet["depth"]), int(subnet["dim"]), **widths) for row in rows
        ]
        expected = evaluation.score(torch.cat(alone).double().numpy())
        assert measured.value == pytest.approx(expected.value, abs=1e-4)


def test_a_table_has_one_row_per_subnet_and_every_task() -> None:
    model = tiny_exits(tasks={"similarity": "spearman", "search": "mrr@10"})
    subnets = list(model.space)
    half = [Measured(0.5, 10, 0.1)] * len(subnets)
    table = table_of(model, subnets, {"similarity": half, "search": half})
    assert table.rows == tuple(subnets)
    assert table.at("search", 3, 0).stderr == 0.1
