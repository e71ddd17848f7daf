"""The static exit of an index, fitted to its documents, through HTTP."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint
from models.inputs.text import TOKENIZER
from search.offline.static_exit import with_static
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from server.app import create_app
from server.settings import Settings
from tests.search.offline.test_static_exit import write_pruned


def write_model(folder: Path) -> None:
    """Write a tiny encoder with cuts and a static exit that nobody has fitted."""
    write_pruned(folder)
    model = with_static(checkpoint.load(folder).model)
    subnets = list(model.space)
    worth = [Measured(0.5 + 0.4 * float(s["keep"]), 50, 0.01) for s in subnets]
    table_of(model, subnets, {"similarity": worth}).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "pruned", torch.float16, [TOKENIZER, TABLE])


def documents() -> list[dict[str, str]]:
    """Return short texts of three sentences, of words that come together."""
    rng = Random(0)
    found = []
    for i in range(180):
        words = [f"w{j}" for j in rng.sample(range(i % 4 * 10, i % 4 * 10 + 14), 10)]
        sentences = [" ".join(rng.choices(words, k=8)) + "." for _ in range(3)]
        found.append({"id": f"d{i}", "text": " ".join(sentences)})
    return found


def ask(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_queries_without_layers_find_more_by_what_was_fitted_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "models" / "tiny")
    settings = Settings(models=tmp_path / "models", policy="fixed", indexes=tmp_path / "indexes")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("server.indexes.fitting._LEAST_DOCUMENTS", 1000)
    query = {"index": "all", "query": "w3 w5 w7", "k": 8}
    with TestClient(create_app(settings)) as client:
        body = {"name": "all", "documents": documents()}
        before = ask(client, "/v1/indexes", **body)["queries"][0]
        monkeypatch.setattr("server.indexes.fitting._LEAST_DOCUMENTS", 100)
        about = ask(client, "/v1/indexes", **body)
        measured = about["queries"][0]
        assert (before["is_fitted"], measured["is_fitted"]) == (False, True)
        assert measured["overlap"] > before["overlap"]
        assert measured["flops"] == before["flops"]
        budget = {"flops": measured["flops"] * 4}
        found = ask(client, "/v1/neighbors", **query, budget=budget)
        assert found["quality"] == measured
    with TestClient(create_app(settings)) as later:
        assert later.get("/v1/indexes/all").json() == about
        again = ask(later, "/v1/neighbors", **query, budget=budget)
        assert again["results"] == found["results"]
