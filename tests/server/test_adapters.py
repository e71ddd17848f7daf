"""Adapters over HTTP: named in any protocol, by the client's profile, and told in receipts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from models.families.adapted import Adapted
from models.inputs import Given
from models.space import Subnet
from server import catalog
from server.app import create_app
from server.settings import Settings
from tests.tiny_adapted import ADAPTED, NAMES, write_adapted_checkpoint
from tests.tiny_text import write_text_checkpoint
from tests.walking import answers_of

TEXT = "w1 w2 w3"
OTHER = "tiny-text"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("adapted-models")
    write_adapted_checkpoint(folder / ADAPTED, tmp_path_factory.mktemp("sources"))
    write_text_checkpoint(folder / OTHER)
    url = f"sqlite:///{tmp_path_factory.mktemp('clients') / 'clients.db'}"
    return Settings(
        models=folder, policy="fixed", default_models=ADAPTED, database=url, indexes=folder.parent
    )


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        scopes = ["admin", "infer", "metrics"]
        made = client.post("/v1/keys", json={"scopes": scopes, "label": "root"})
        client.headers["authorization"] = f"Bearer {made.json()['key']}"
        yield client


@pytest.fixture(scope="module")
def model(settings: Settings) -> Adapted:
    found = catalog.load(settings.models_folder)[ADAPTED].model
    assert isinstance(found, Adapted)
    return found


def vector(model: Adapted, adapter: str | None, text: str = TEXT, **choices: Any) -> Tensor:
    """Return what an adapter makes of a text that runs alone."""
    ids = model.inputs["text"].type.encode(text)  # type: ignore[attr-defined]
    item = {"text": Given(ids, text, len(ids))}
    if adapter:
        item["adapter"] = Given(torch.tensor(NAMES.index(adapter)), adapter, 0)
    given = model.inputs.given_choices(model.space.axes, item)
    subnet = Subnet({**model.space.largest, **given, **choices})
    batch = model.inputs.batch([item])
    (answer,) = answers_of(model.plan(subnet, model.inputs.shapes(item)), batch).values()
    return answer[0]


def embedded(client: TestClient, **fields: Any) -> tuple[Tensor, dict[str, Any]]:
    body = {"input": TEXT, **fields}
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    return torch.tensor(answer.json()["data"][0]["embedding"]), answer.json()["receipt"]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_every_protocol_names_an_adapter(client: TestClient, model: Adapted) -> None:
    expected = vector(model, "medical")
    assert (expected - vector(model, None)).norm() > 0.1
    named = {"adapter": "medical"}
    close(embedded(client, **named)[0], expected)
    tensors = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}
    kserve = f"/v2/models/{ADAPTED}/infer"
    by_tensor = {"name": "adapter", "datatype": "BYTES", "shape": [1], "data": ["medical"]}
    for path, body in (
        ("/v1/infer", {"inputs": {"text": TEXT}, **named}),
        ("/v1/infer", {"inputs": {"text": TEXT, "adapter": "medical"}}),
        ("/embed", {"inputs": TEXT, **named}),
        (kserve, {**tensors, "parameters": named}),
        (kserve, {"inputs": [*tensors["inputs"], by_tensor]}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        close(torch.tensor(_vector_in(answer.json())), expected)
    header = {"x-rheostat-adapter": "medical"}
    answer = client.post("/embed", json={"inputs": TEXT}, headers=header).json()
    close(torch.tensor(answer[0]), expected)
    ranked = {"source": TEXT, "texts": [TEXT, "w7"], **named}
    scores = client.post("/v1/similarity", json=ranked).json()["scores"]
    close(torch.tensor(scores[1]), expected @ vector(model, "medical", "w7"))


def _vector_in(answer: Any) -> list[float]:
    if isinstance(answer, list):
        return answer[0]  # type: ignore[no-any-return]
    output = answer["outputs"][0]
    return output.get("data") or output["similarity"]["embedding"]  # type: ignore[no-any-return]


def test_vectors_of_different_adapters_are_of_different_spaces(client: TestClient) -> None:
    receipts = [embedded(client, adapter=name)[1] for name in (*NAMES, "")]
    assert len({one["space"] for one in receipts}) == len(receipts)
    assert [one["adapters"] for one in receipts] == [["legal"], ["medical"], ["code"], []]
    planned = client.post("/v1/plan", json={"adapter": "legal"}).json()["receipt"]
    assert (planned["space"], planned["adapters"]) == (receipts[0]["space"], ["legal"])


def test_items_of_one_request_may_have_adapters_of_their_own(
    client: TestClient, model: Adapted
) -> None:
    items = [{"text": TEXT, "adapter": name} for name in NAMES]
    answer = client.post("/v1/infer", json={"inputs": items}).json()
    for name, output in zip(NAMES, answer["outputs"], strict=True):
        close(torch.tensor(output["similarity"]["embedding"]), vector(model, name))
    assert (answer["receipt"]["space"], answer["receipt"]["adapters"]) == (None, sorted(NAMES))


def test_less_costs_less_and_no_adapter_costs_what_the_trunk_does(
    client: TestClient, model: Adapted
) -> None:
    whole, alone = (embedded(client, adapter=name)[1] for name in ("code", ""))
    cheaper = embedded(client, adapter="code", budget={"macs": whole["macs"] - 1})[1]
    assert cheaper["macs"] < whole["macs"]
    assert alone["macs"] < cheaper["macs"]
    found, receipt = embedded(client, adapter="code", budget={"fraction": 0.5})
    chosen = {axis: receipt["subnet"][axis] for axis in ("depth", "rank")}
    close(found, vector(model, "code", **chosen))


def test_what_there_is_not_is_named(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": TEXT, "adapter": "legl"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "'legl' is not known; one of ['legal', 'medical', 'code']" in error["message"]
    assert error["param"] == "adapter"
    body = {"model": OTHER, "input": TEXT, "adapter": "legal"}
    message = client.post("/v1/embeddings", json=body).json()["error"]["message"]
    assert message == f"adapter='legal': model '{OTHER}' has no adapters"
    listed = client.get(f"/v1/models/{ADAPTED}").json()
    assert listed["inputs"]["adapter"]["values"] == list(NAMES)
    assert {one["choices"].get("adapter") for one in listed["spaces"]} == {None, *NAMES}


def test_a_client_has_an_adapter_unless_its_request_says_otherwise(
    client: TestClient, model: Adapted
) -> None:
    wrong = client.put("/v1/clients/firm", json={"adapters": {ADAPTED: "tax"}})
    assert "adapter 'tax' is not known; one of" in wrong.json()["error"]["message"]
    client.put("/v1/clients/firm", json={"adapters": {ADAPTED: "legal"}}).raise_for_status()
    made = client.post("/v1/keys", json={"client": "firm", "scopes": ["infer"]}).json()
    own = {"authorization": f"Bearer {made['key']}"}
    expected = {None: "legal", "code": "code", "": None}
    for said, meant in expected.items():
        body = {"input": TEXT} if said is None else {"input": TEXT, "adapter": said}
        answer = client.post("/v1/embeddings", json=body, headers=own).json()
        close(torch.tensor(answer["data"][0]["embedding"]), vector(model, meant))


def test_an_index_is_of_one_adapter(client: TestClient) -> None:
    documents = [{"id": f"{i}", "text": f"w{i} w{i + 1} w9"} for i in range(6)]
    made = client.post(
        "/v1/indexes", json={"name": "law", "documents": documents, "adapter": "legal"}
    ).json()
    assert made["adapter"] == "legal"
    assert made["space"] == embedded(client, adapter="legal")[1]["space"]
    asked = {"index": "law", "query": documents[3]["text"], "k": 1}
    found = client.post("/v1/neighbors", json=asked).json()
    assert found["results"][0]["id"] == "3"
    assert found["results"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    header = {"x-rheostat-adapter": "code"}
    refused = client.post("/v1/neighbors", json=asked, headers=header).json()["error"]
    assert "index 'law' has vectors of 'legal'" in refused["message"]


def test_metrics_count_by_the_models_own_names(client: TestClient) -> None:
    embedded(client, adapter="code")
    lines = client.get("/metrics").text.splitlines()
    own = [line for line in lines if line.startswith("rheostat_adapter_requests_total")]
    assert len(own) == len(NAMES)
    assert all(f'model="{ADAPTED}"' in line for line in own)


def test_the_checkpoint_is_found_and_served_from_files_alone(settings: Settings) -> None:
    table = catalog.load(settings.models_folder)[ADAPTED].table
    assert not table.cells["similarity"].measured[-1].any()
    assert table.cells["similarity"].measured[0].all()
    assert (Path(settings.models_folder) / ADAPTED / "manifest.json").is_file()
