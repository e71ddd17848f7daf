from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from server import catalog
from server.app import create_app
from server.classify import LabelVectors, label_subnet
from server.settings import Settings
from tests.tiny_text import write_text_checkpoint

LABELS = ["w1 w2", "w3 w4", "w5 w6 w7"]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A server of its own: what it keeps is what these tests have asked."""
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # for this process's other tests
    write_text_checkpoint(tmp_path / "models" / "tiny-text")
    settings = Settings(models=tmp_path / "models", policy="fixed", max_texts=6)
    with TestClient(create_app(settings)) as client:
        yield client


def ask(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/classify", json={"labels": LABELS, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def embed(client: TestClient, texts: list[str], **body: Any) -> torch.Tensor:
    answer = client.post("/v1/embeddings", json={"input": texts, **body})
    assert answer.status_code == 200, answer.text
    return torch.tensor([one["embedding"] for one in answer.json()["data"]])


def test_labels_are_in_order_of_their_cosines(client: TestClient) -> None:
    texts = ["w3 w9", "w5"]
    expected = embed(client, texts) @ embed(client, LABELS).T
    for item, cosines in zip(ask(client, input=texts)["data"], expected, strict=True):
        found = {one["index"]: one["score"] for one in item["labels"]}
        torch.testing.assert_close(
            torch.tensor([found[i] for i in range(len(LABELS))]), cosines, atol=1e-5, rtol=0
        )
        scores = [one["score"] for one in item["labels"]]
        assert scores == sorted(scores, reverse=True)
        assert all(one["label"] == LABELS[one["index"]] for one in item["labels"])


def test_the_second_request_spends_nothing_on_labels(client: TestClient) -> None:
    first, second = ask(client, input="w1"), ask(client, input="w9 w8")
    assert first["receipt"]["label_flops"] > 0
    assert first["receipt"]["labels_kept"] == 0
    assert second["receipt"]["label_flops"] == 0
    assert second["receipt"]["labels_kept"] == len(LABELS)
    again = ask(client, input="w1", labels=[*LABELS[1:], "w8"])["receipt"]
    assert again["labels_kept"] == 2
    assert 0 < again["label_flops"] < first["receipt"]["label_flops"]
    assert ask(client, input="w1")["data"] == first["data"]


def test_classes_of_an_index_are_those_that_would_be_sent(client: TestClient) -> None:
    documents = [{"id": f"class {i}", "text": text} for i, text in enumerate(LABELS)]
    made = client.post("/v1/indexes", json={"name": "kinds", "documents": documents})
    assert made.status_code == 201, made.text
    body = {"input": ["w3 w9", "w5"], "top_k": 2}
    expected = ask(client, **body)
    answer = client.post("/v1/classify", json={**body, "index": "kinds"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["receipt"]["label_flops"] == 0
    assert found["receipt"]["labels_kept"] == len(LABELS)
    for item, other in zip(found["data"], expected["data"], strict=True):
        assert [one["label"] for one in item["labels"]] == [
            f"class {one['index']}" for one in other["labels"]
        ]
        scores = [one["score"] for one in other["labels"]]
        assert [one["score"] for one in item["labels"]] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "either labels or index must be given"),
        ({"labels": LABELS, "index": "kinds"}, "either labels or index must be given"),
        ({"index": "kinds", "label_prompt": "x"}, "label_prompt must be left out where index"),
        ({"index": "none"}, "index='none' does not exist"),
    ],
)
def test_classes_are_sent_or_kept(client: TestClient, body: dict[str, Any], message: str) -> None:
    answer = client.post("/v1/classify", json={"input": "w1", **body})
    assert answer.status_code in (404, 422)
    assert message in answer.json()["error"]["message"]


def test_a_budget_is_for_inputs_and_labels_are_of_the_largest_subnet_of_their_space(
    client: TestClient,
) -> None:
    cut = ask(client, input="w1 w2 w3", budget={"fraction": 0.5})
    assert cut["receipt"]["fraction"] <= 0.5
    served = client.app.state.service.catalog["tiny-text"]  # type: ignore[attr-defined]
    subnet = served.elastic.space.check(cut["receipt"]["subnet"])
    of_labels = label_subnet(served, subnet)
    assert served.space_of(of_labels) == served.space_of(subnet)
    assert of_labels["dim"] == subnet["dim"]
    # Vectors of another space are others, and are not taken for these.
    assert (ask(client, input="w1 w2 w3")["receipt"]["label_flops"] > 0) == (
        served.space_of(served.elastic.space.largest) != served.space_of(subnet)
    )


def test_only_the_nearest_are_returned_if_so_wished(client: TestClient) -> None:
    (item,) = ask(client, input="w1", top_k=2)["data"]
    assert len(item["labels"]) == 2
    (item,) = ask(client, input="w1", top_k=50)["data"]
    assert len(item["labels"]) == len(LABELS)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": "w1", "labels": ["w2"]}, "labels"),
        ({"input": "w1", "labels": ["w2", "w3", "w2"]}, "labels[2]"),
        ({"input": "w1", "labels": [f"w{i}" for i in range(7)]}, "labels"),
        ({"input": [f"w{i}" for i in range(7)], "labels": LABELS}, "input"),
        ({"input": "w1", "labels": LABELS, "top_k": 0}, "top_k"),
        ({"input": "w1", "labels": LABELS, "label_prompt": "nothing"}, "labels[0]"),
        ({"labels": LABELS}, "input"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    client: TestClient, body: dict[str, Any], field: str
) -> None:
    answer = client.post("/v1/classify", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field


def test_more_pairs_than_one_request_may_have_are_refused_before_anything_is_run(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.api.rheostat.classify._MAX_PAIRS", 9)
    ask(client, input=["w1", "w2", "w3"])
    body = {"input": ["w1", "w2", "w3", "w4"], "labels": LABELS}
    error = client.post("/v1/classify", json=body).json()["error"]
    assert error["field"] == "labels"
    assert "3 labels for each of 4 inputs are 12 pairs; at most 9" in error["message"]


def test_a_model_without_vectors_is_refused(all_settings: Settings) -> None:
    with TestClient(create_app(all_settings)) as client:
        answer = client.post(
            "/v1/classify", json={"model": "tiny-classifier", "input": "w1", "labels": LABELS}
        )
    assert answer.status_code in (404, 422)


def test_kept_vectors_are_bounded_and_those_unused_for_longest_go_first(tmp_path: Path) -> None:
    served = catalog.load_one(write_text_checkpoint(tmp_path / "tiny-text"))
    kept, subnet = LabelVectors(4000), served.elastic.space.largest
    vector = torch.zeros(16)
    for i in range(5):
        kept.put(served, {(subnet, None, str(i)): vector})
    assert kept.get(served, (subnet, None, "0")) is not None  # used now
    for i in range(5, 9):
        kept.put(served, {(subnet, None, str(i)): vector})
    assert kept.num_bytes <= 4000
    assert kept.get(served, (subnet, None, "0")) is not None
    assert kept.get(served, (subnet, None, "1")) is None
    none = LabelVectors(0)
    none.put(served, {(subnet, None, "0"): vector})
    assert none.num_bytes == 0
