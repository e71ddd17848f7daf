"""Documents that clients keep, through HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import Settings
from tests.search.offline.test_static_exit import write_pruned
from tests.tiny_headed import CROSS_ENCODER

QUERY = "w1 w3 w5"
TEXTS = {f"d{i}": " ".join(f"w{(i * j) % 12 + 1}" for j in range(1, 4 + i % 5)) for i in range(20)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, all_settings: Settings) -> Settings:
    folder = tmp_path_factory.mktemp("indexed")
    write_pruned(folder / "models" / "tiny")
    (folder / "models" / CROSS_ENCODER).symlink_to(all_settings.models_folder / CROSS_ENCODER)
    return Settings(
        models=folder / "models",
        policy="fixed",
        indexes=folder / "indexes",
        max_index_documents=30,
        max_index_bytes=60_000,
    )


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda _: None)  # for other tests
        with TestClient(create_app(settings)) as client:
            make(client)
            yield client


def make(client: TestClient, status: int = 201, **fields: Any) -> dict[str, Any]:
    documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
    return ask(client, "/v1/indexes", status, name="all", documents=documents, **fields)


def ask(client: TestClient, path: str, status: int = 200, /, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ranked(client: TestClient, **fields: Any) -> list[str]:
    """Return the ids of all documents by a request that brings their texts."""
    found = ask(client, "/v1/rerank", query=QUERY, documents=[*TEXTS.values()], **fields)
    return [[*TEXTS][one["index"]] for one in found["results"]]


def by_cosine(client: TestClient) -> tuple[list[str], list[float]]:
    """Return all ids, best first, by whole vectors, and their cosines."""
    body = {"model": "tiny", "input": [QUERY, *TEXTS.values()]}
    answer = ask(client, "/v1/embeddings", **body)
    vectors = torch.tensor([one["embedding"] for one in answer["data"]])
    cosines = (vectors[1:] @ vectors[0]).tolist()
    order = sorted(range(20), key=lambda i: -cosines[i])
    return [[*TEXTS][i] for i in order], [cosines[i] for i in order]


def test_an_index_says_what_it_holds_and_what_cheap_queries_find(client: TestClient) -> None:
    about = client.get("/v1/indexes/all").json()
    assert (about["documents"], about["model"]) == (20, "tiny")
    assert about["queries"][-1]["overlap"] == 1
    assert all(0 <= one["overlap"] <= 1 and one["n"] == 20 for one in about["queries"])
    flops = [one["flops"] for one in about["queries"]]
    assert flops == sorted(flops)
    assert client.get("/v1/indexes").json()["indexes"] == [about]


def test_documents_by_id_are_ranked_as_if_their_texts_had_come(client: TestClient) -> None:
    ids, cosines = by_cosine(client)
    found = ask(client, "/v1/rerank", query=QUERY, index="all", ids=[*TEXTS], top_n=4)
    assert [[*TEXTS][one["index"]] for one in found["results"]] == ids[:4]
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == pytest.approx(cosines[:4], abs=1e-5)
    whole = ask(client, "/v1/rerank", query=QUERY, documents=[*TEXTS.values()], model="tiny")
    assert found["receipt"]["total_flops"] < whole["receipt"]["total_flops"] / 5


def test_the_nearest_are_the_first_of_all(client: TestClient) -> None:
    found = ask(client, "/v1/neighbors", index="all", query=QUERY, k=5, return_documents=True)
    assert [one["id"] for one in found["results"]] == by_cosine(client)[0][:5]
    assert [one["document"] for one in found["results"]] == [
        TEXTS[one["id"]] for one in found["results"]
    ]
    assert found["quality"]["overlap"] == 1
    assert len(ask(client, "/v1/neighbors", index="all", query=QUERY, k=99)["results"]) == 20


def test_a_cheap_query_has_a_known_quality(client: TestClient) -> None:
    asked = {"index": "all", "query": QUERY}
    least = ask(client, "/v1/neighbors", 422, **asked, budget={"flops": 1})["error"]["feasible"]
    found = ask(client, "/v1/neighbors", **asked, budget={"flops": least})
    about = client.get("/v1/indexes/all").json()
    assert found["quality"] == about["queries"][0]
    assert found["receipt"]["subnet"] == about["queries"][0]["subnet"]


def test_another_model_has_the_last_word(client: TestClient) -> None:
    expected = ranked(client, model=CROSS_ENCODER)
    asked = {"query": QUERY, "index": "all", "model": CROSS_ENCODER}
    found = ask(client, "/v1/neighbors", **asked, k=3)
    assert [one["id"] for one in found["results"]] == expected[:3]
    assert found["receipt"]["model"] == CROSS_ENCODER
    assert found["quality"] is None
    by_id = ask(client, "/v1/rerank", **asked, ids=[*TEXTS], top_n=3)
    assert [[*TEXTS][one["index"]] for one in by_id["results"]] == expected[:3]


def test_indexes_are_there_after_a_restart_and_gone_when_deleted(
    client: TestClient, settings: Settings
) -> None:
    assert settings.indexes is not None
    with TestClient(create_app(settings)) as later:
        asked = {"index": "all", "query": QUERY}
        first, second = (ask(one, "/v1/neighbors", **asked)["results"] for one in (client, later))
        assert first == second
        make(later, model="tiny")  # replaces it
        assert len([*settings.indexes.iterdir()]) == 1
        assert later.delete("/v1/indexes/all").status_code == 204
        assert ask(client, "/v1/neighbors", 404, **asked)["error"]["type"] == "unknown_index"
        make(later)


def test_a_broken_file_is_named_and_breaks_nothing_else(
    client: TestClient, settings: Settings
) -> None:
    assert settings.indexes is not None
    (path,) = settings.indexes.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert ask(client, "/v1/neighbors", 500, index="all", query=QUERY)
    path.write_bytes(content)
    assert ask(client, "/v1/neighbors", index="all", query=QUERY)


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("/v1/rerank", {"index": "all", "ids": ["d1", "x"]}, "ids[1]"),
        ("/v1/rerank", {"ids": ["d1"]}, "index"),
        ("/v1/rerank", {"ids": ["d1"], "documents": ["w1"]}, "documents"),
        ("/v1/rerank", {"index": "all", "documents": ["w1"]}, "index"),
        ("/v1/rerank", {"index": "all", "ids": []}, "ids"),
        (
            "/v1/rerank",
            {"index": "all", "ids": ["d1"], "cascade": {"depth": 1, "keep": 1}},
            "cascade",
        ),
        ("/v1/neighbors", {"index": "all", "k": 0}, "k"),
        ("/v1/neighbors", {"index": "all", "budget": {"flops": 1}}, "budget.flops"),
        ("/v1/indexes", {"name": "x", "documents": []}, "documents"),
        ("/v1/indexes", {"name": "x", "documents": [{"id": "a", "text": ""}]}, "documents[0].text"),
    ],
)
def test_what_is_wrong_is_named(
    client: TestClient, path: str, fields: dict[str, Any], field: str
) -> None:
    query = {} if path == "/v1/indexes" else {"query": QUERY}
    assert ask(client, path, 422, **query, **fields)["error"]["field"] == field


def test_what_an_index_may_hold_is_bounded(client: TestClient) -> None:
    twice = [{"id": "a", "text": "w1"}] * 2
    assert "twice" in ask(client, "/v1/indexes", 422, name="x", documents=twice)["error"]["message"]
    many = [{"id": str(i), "text": "w1"} for i in range(31)]
    error = ask(client, "/v1/indexes", 422, name="x", documents=many)["error"]
    assert "max_index_documents" in error["message"]
    large = [{"id": str(i), "text": "w1 " * 1000} for i in range(25)]
    error = ask(client, "/v1/indexes", 422, name="x", documents=large)["error"]
    assert "max_index_bytes" in error["message"]


def test_in_memory_they_last_as_long_as_the_server(settings: Settings, tmp_path: Path) -> None:
    with TestClient(create_app(settings.model_copy(update={"indexes": None}))) as client:
        make(client)
        assert ask(client, "/v1/neighbors", index="all", query=QUERY, k=2)["results"]
        client.delete("/v1/indexes/all")
        assert client.get("/v1/indexes").json() == {"indexes": []}
