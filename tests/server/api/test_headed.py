"""Classes and scores of texts over HTTP: in Rheostat's own protocol, KServe's, and in rankings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from models.families.headed import Headed
from models.inputs.text import text_input
from models.nn.ragged import Ragged
from server import catalog
from server.app import create_app
from server.settings import Settings
from tests.tiny_headed import CLASSIFIER, CROSS_ENCODER

QUERY = "w1 w3 w5"
DOCUMENTS = ["w1 w2", "w3", "w4 w5 w6 w7", "w8 w1 w9"]
RANK = {"model": CROSS_ENCODER, "query": QUERY}


@pytest.fixture(scope="module")
def client(all_settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(all_settings)) as client:
        yield client


@pytest.fixture(scope="module")
def pairs(all_settings: Settings) -> Headed:
    return headed(all_settings, CROSS_ENCODER)


@pytest.fixture(scope="module")
def classes(all_settings: Settings) -> Headed:
    return headed(all_settings, CLASSIFIER)


def headed(settings: Settings, name: str) -> Headed:
    model = catalog.load(settings.models_folder)[name].model
    assert isinstance(model, Headed)
    return model


def answer_of(model: Headed, texts: tuple[str, ...], depth: int = 4) -> torch.Tensor:
    """Return the logits of one item, step by step."""
    inputs = {
        name: Ragged.pack([text_input(model.inputs, name).encode(text)])
        for name, text in zip(model.inputs, texts, strict=True)
    }
    shapes = {name: (len(value.values),) for name, value in inputs.items()}
    plan = model.plan(model.space.largest | {"depth": depth}, shapes)
    values: dict[Any, Any] = {}
    for step in plan.steps:
        taken = [inputs[x] if isinstance(x, str) else values[x.identity] for x in step.takes]
        values[step.identity] = step.run(*taken)
    found: torch.Tensor = values[plan.steps[-1].identity][0]
    return found


def post(client: TestClient, path: str, status: int = 200, /, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def logits(model: Headed, depth: int = 4) -> list[float]:
    return [float(answer_of(model, (QUERY, text), depth)) for text in DOCUMENTS]


PROTOCOLS = [
    ("/v1/rerank", "documents", lambda found: found["results"], "relevance_score"),
    ("/rerank", "documents", lambda found: found["results"], "relevance_score"),
    ("/v2/rerank", "documents", lambda found: found["results"], "relevance_score"),
    ("/v1/rerank", "texts", lambda found: found, "score"),
    ("/rerank", "texts", lambda found: found, "score"),
    ("/v2/rerank", "texts", lambda found: found, "score"),
]


@pytest.mark.parametrize(("path", "field", "entries", "score"), PROTOCOLS)
def test_a_cross_encoder_ranks_by_its_head_in_every_protocol(
    client: TestClient, pairs: Headed, path: str, field: str, entries: Any, score: str
) -> None:
    expected = logits(pairs)
    found = entries(post(client, path, **RANK, **{field: DOCUMENTS}))
    assert [one["index"] for one in found] == sorted(range(4), key=lambda i: -expected[i])
    for one in found:
        assert one[score] == pytest.approx(logistic(expected[one["index"]]), abs=1e-5)


@pytest.mark.parametrize("field", ["documents", "texts"])
def test_raw_scores_are_the_logits(client: TestClient, pairs: Headed, field: str) -> None:
    found = post(client, "/rerank", **RANK, **{field: DOCUMENTS}, raw_scores=True)
    name = "score" if field == "texts" else "relevance_score"
    by_index = (
        {one["index"]: one[name] for one in found["results"]}
        if isinstance(found, dict)
        else {one["index"]: one[name] for one in found}
    )
    assert [by_index[i] for i in range(4)] == pytest.approx(logits(pairs), abs=1e-5)


def test_a_cascade_of_a_cross_encoder_deepens_the_best(client: TestClient, pairs: Headed) -> None:
    shallow, deep = logits(pairs, 1), logits(pairs)
    best = sorted(range(4), key=lambda i: -shallow[i])[:2]
    body = {**RANK, "documents": DOCUMENTS, "cascade": {"depth": 1, "keep": 2}}
    found = post(client, "/v1/rerank", **body)
    assert sorted(found["receipt"]["deepened"]) == sorted(best)
    scores = {one["index"]: one["relevance_score"] for one in found["results"]}
    for i in range(4):
        expected = logistic((deep if i in best else shallow)[i])
        assert scores[i] == pytest.approx(expected, abs=1e-5)
    whole = post(client, "/v1/rerank", **RANK, documents=DOCUMENTS)
    assert found["receipt"]["total_flops"] < whole["receipt"]["total_flops"]


def test_a_ranking_with_a_budget_costs_less(client: TestClient) -> None:
    whole = post(client, "/v1/rerank", **RANK, documents=DOCUMENTS)
    half = post(client, "/v1/rerank", **RANK, documents=DOCUMENTS, budget={"fraction": 0.5})
    assert half["receipt"]["flops"] <= 0.5 * whole["receipt"]["flops"]


def test_a_score_is_a_number_for_infer_and_kserve(client: TestClient, pairs: Headed) -> None:
    expected = float(answer_of(pairs, (QUERY, "w3")))
    inputs = {"query": {"text": QUERY}, "document": {"text": "w3"}}
    own = post(client, "/v1/infer", model=CROSS_ENCODER, inputs=inputs)
    assert own["outputs"][0]["score"]["score"] == pytest.approx(expected, abs=1e-5)
    tensors = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
        for name, text in (("query", QUERY), ("document", "w3"))
    ]
    found = post(client, f"/v2/models/{CROSS_ENCODER}/infer", inputs=tensors)["outputs"][0]
    assert found["data"] == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("raw", [False, True])
def test_classes_are_predicted_most_likely_first(
    client: TestClient, classes: Headed, raw: bool
) -> None:
    scores = answer_of(classes, (QUERY,))
    scores = scores if raw else scores.softmax(0)
    expected = sorted(zip(scores.tolist(), "abc", strict=True), reverse=True)
    found = post(client, "/predict", model=CLASSIFIER, inputs=QUERY, raw_scores=raw)
    assert [one["label"] for one in found] == [label for _, label in expected]
    assert [one["score"] for one in found] == pytest.approx([s for s, _ in expected], abs=1e-5)
    assert post(client, "/predict", model=CLASSIFIER, inputs=[QUERY], raw_scores=raw) == found
    rows = [[QUERY], ["w3"]]
    both = post(client, "/predict", model=CLASSIFIER, inputs=rows, raw_scores=raw)
    assert [one["label"] for one in both[0]] == [one["label"] for one in found]
    assert len(both) == 2


def test_a_pair_is_predicted_as_its_score(client: TestClient, pairs: Headed) -> None:
    expected = logistic(float(answer_of(pairs, (QUERY, "w3"))))
    found = post(client, "/predict", model=CROSS_ENCODER, inputs=[QUERY, "w3"])
    assert found == [{"score": pytest.approx(expected, abs=1e-5), "label": "LABEL_0"}]


def test_what_a_path_cannot_use_is_refused_by_name(client: TestClient) -> None:
    for name, kind in ((CLASSIFIER, "classes"), (CROSS_ENCODER, "score")):
        for path, body in (
            ("/v1/embeddings", {"input": "w1"}),
            ("/embed", {"inputs": "w1"}),
            ("/v1/similarity", {"source": "w1", "texts": ["w2"]}),
            ("/similarity", {"inputs": {"source_sentence": "w1", "sentences": ["w2"]}}),
        ):
            answer = client.post(path, json={"model": name, **body})
            assert answer.status_code in (400, 422), answer.text
            assert f"answers with {kind}; allowed here: embedding" in answer.text
    refused = client.post("/v1/rerank", json={**RANK, "model": CLASSIFIER, "documents": ["w1"]})
    assert "answers with classes; allowed here: embedding, score" in refused.text
    refused = client.post("/predict", json={"model": "tiny-text", "inputs": "w1"})
    assert "answers with embedding; allowed here: classes, score" in refused.text
    for name, inputs, problem in (
        (CLASSIFIER, ["w1", "w2"], "inputs has 2 texts; tiny-classes takes one text"),
        (CROSS_ENCODER, [["w1"]], "inputs[0] has 1 texts; tiny-pairs takes a pair of texts"),
        (CLASSIFIER, [["w1", "w2", "w3"]], "a pair of texts, or a list of [text] and of pairs"),
        (CLASSIFIER, [], "inputs is empty"),
    ):
        answer = client.post("/predict", json={"model": name, "inputs": inputs})
        assert answer.status_code in (400, 422)
        assert problem in answer.text


def test_a_request_without_a_model_means_one_that_can_answer(client: TestClient) -> None:
    assert post(client, "/v1/embeddings", input="w1")["model"] == "tiny-text"
    refused = post(client, "/predict", 422, inputs="w1")
    assert f"one of ['{CLASSIFIER}', '{CROSS_ENCODER}']" in refused["error"]


def test_info_says_what_a_model_is_for(client: TestClient) -> None:
    def kind(name: str) -> Any:
        return client.get("/info", params={"model": name}).json()["model_type"]

    assert kind("tiny-text").keys() == {"embedding"}
    assert kind(CLASSIFIER)["classifier"]["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert kind(CROSS_ENCODER) == {
        "reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    }
