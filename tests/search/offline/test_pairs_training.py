from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.families.pairs import EMBEDDING, SCORE, Pairs
from models.train import texts
from models.train.pairs_recipe import PairsRecipe
from models.train.texts import Retrieval
from search.offline import pairs_data
from search.offline.pairs_training import train_pairs_from, untrained
from search.offline.training import RECORD
from search.quality.pair_ranking import PairRankingQuality, reranking
from server import catalog

pytest.importorskip("transformers")
from tests.models.formats.public import write_folder  # imports transformers

TEXTS = [" ".join(f"w{(5 * i + 3 * j) % 50}" for j in range(2 + i % 5)) for i in range(24)]
QUESTIONS = Retrieval(
    tuple(TEXTS[:8]),
    tuple(TEXTS[8:]),
    tuple(frozenset({i}) for i in range(8)),
    tuple((i, i + 1, i + 8) for i in range(8)),
)
RECIPE = PairsRecipe(steps=2, queries=3, hard=1, others=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public") / "bert"
    write_folder(folder, "bert")
    return folder


def test_an_encoder_becomes_a_checkpoint_of_pairs_that_can_be_served(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "trecqa", lambda *_: QUESTIONS)
    lesson = pairs_data.Lesson("questions", QUESTIONS, 1.0)
    monkeypatch.setattr(pairs_data, "lessons", lambda *_: [lesson])
    said: list[str] = []
    found = train_pairs_from(source, tmp_path, tmp_path / "out", "tiny", RECIPE, said.append)
    served = catalog.load(tmp_path / "out").choose("tiny")
    assert isinstance(served.model, Pairs)
    assert list(served.table.rows) == list(found) == list(served.elastic.space)
    apart = served.elastic.space.smallest
    assert served.table.locate(EMBEDDING, apart) == served.table.locate(SCORE, apart)
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["texts"]["questions"] == {"queries": 8, "documents": 16, "share": 1.0}
    assert len(record["result"]) == len(found)
    again: list[str] = []
    assert train_pairs_from(source, tmp_path, tmp_path / "out", "tiny", RECIPE, again.append) == (
        found
    )


def test_wrong_documents_are_the_nearest_that_are_not_right(source: Path, tmp_path: Path) -> None:
    model, _ = untrained(source, "tiny", tmp_path)
    query, document = (slot.type for slot in model.inputs.values())
    vectors = np.eye(16)
    found = pairs_data.ranked(QUESTIONS, vectors[:8], vectors, query, document)  # type: ignore[arg-type]
    assert found.right == [[i] for i in range(8)]
    assert [set(own) for own in found.wrong] == [{i + 1, i + 8} for i in range(8)]


def test_a_reranking_counts_right_documents_that_are_no_candidates() -> None:
    data = Retrieval(("q",), ("a", "b", "c"), (frozenset({0, 2}),), None)
    found = reranking(data, (np.array([[1.0, 0.0]]), np.array([[1, 0], [0, 1], [-1, 0]])), 2)
    assert found.candidates == ((0, 1),)
    quality = PairRankingQuality(found, "ndcg@10")
    best = quality.score(np.array([1.0, 0.0])).value
    assert best == pytest.approx(1 / (1 + 1 / np.log2(3)))
    with pytest.raises(ValueError, match="candidates=None"):
        PairRankingQuality(data, "map")
