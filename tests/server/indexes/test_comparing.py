"""What a model that compares two texts finds of an index, through HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from search.anncur import CALLS
from server.app import create_app
from server.indexes.index import Index
from server.settings import Settings
from tests.search.offline.test_static_exit import write_pruned
from tests.server.indexes.test_fitted import ask, documents
from tests.tiny_headed import CROSS_ENCODER


def test_both_ways_are_measured_and_the_better_one_finds(
    tmp_path: Path, all_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pruned(tmp_path / "models" / "tiny")
    (tmp_path / "models" / CROSS_ENCODER).symlink_to(all_settings.models_folder / CROSS_ENCODER)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("server.indexes.comparing._MOST_PAIRS", 500)
    settings = Settings(models=tmp_path / "models", policy="fixed", indexes=tmp_path / "indexes")
    some, calls = documents()[:40], CALLS[0]
    asked: dict[str, Any] = {"index": "all", "query": "w3 w5", "k": 5, "model": CROSS_ENCODER}
    with TestClient(create_app(settings)) as client:
        body = {"name": "all", "model": "tiny", "pair_model": CROSS_ENCODER, "documents": some}
        about = ask(client, "/v1/indexes", **body)
        assert about["pair_model"] == CROSS_ENCODER
        assert [(one["k"], one["calls"], one["n"]) for one in about["duels"]] == [
            (1, calls, 3),
            (10, calls, 3),
        ]
        expected = ask(
            client,
            "/v1/rerank",
            query=asked["query"],
            documents=[one["text"] for one in some],
            model=CROSS_ENCODER,
            truncate="right",
        )
        scores = {some[one["index"]]["id"]: one["relevance_score"] for one in expected["results"]}
        for better, way in (("cur", "cur"), ("listed", "list")):
            win(settings, better)
            found = ask(client, "/v1/neighbors", **asked, calls=calls)
            assert (found["found_by"], found["duel"][better]) == (way, 1.0)
            assert found["receipt"]["model"] == CROSS_ENCODER
            own = [one["score"] for one in found["results"]]
            assert own == sorted(own, reverse=True)
            assert own == pytest.approx([scores[one["id"]] for one in found["results"]], abs=1e-5)
        limited = ask(client, "/v1/neighbors", **asked, calls=calls, budget={"fraction": 0.9})
        assert (limited["found_by"], limited["duel"]) == ("list", None)
        body |= {"documents": documents()[:80]}
        answer = client.post("/v1/indexes", json=body)
        assert answer.status_code == 422
        assert "8 to 62 can be compared" in answer.json()["error"]["message"]


def win(settings: Settings, better: str) -> None:
    """Have one way found all in what was measured."""
    assert settings.indexes is not None
    (path,) = settings.indexes.iterdir()
    index = Index.load(path)
    assert index.comparisons is not None
    cur, listed = float(better == "cur"), float(better == "listed")
    duels = [one._replace(cur=cur, listed=listed) for one in index.comparisons.duels]
    replace(index, comparisons=replace(index.comparisons, duels=duels)).save(path)
