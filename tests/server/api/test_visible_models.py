"""A client that may use some models: for it there are no others, whichever way it asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.clients.keys import Scope
from server.http.scopes import SCOPES
from server.settings import Settings
from tests.server.samples import image, text_of
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

IMAGE = text_of(image())
OTHERS = ("tiny-text", "secret-text", "secret-image")
ASKED: dict[tuple[str, str], Any] = {
    ("GET", "/v1/models"): None,
    ("GET", "/v1/models/{model}"): None,
    ("POST", "/v1/infer"): {"image": IMAGE},
    ("POST", "/v1/plan"): {},
    ("POST", "/v1/embeddings"): {"input": "w1"},
    ("POST", "/embeddings"): {"input": "w1"},
    ("POST", "/v1/classify"): {"input": "w1", "labels": ["w2", "w3"]},
    ("POST", "/v1/similarity"): {"source": "w1", "texts": ["w2"]},
    ("POST", "/v1/rerank"): {"query": "w1", "documents": ["w2"]},
    ("POST", "/v2/rerank"): {"query": "w1", "documents": ["w2"]},
    ("POST", "/rerank"): {"query": "w1", "texts": ["w2"]},
    ("GET", "/v1/indexes"): None,
    ("POST", "/v1/indexes"): {"name": "all", "documents": [{"id": "a", "text": "w1"}]},
    ("GET", "/v1/indexes/{index}"): None,
    ("POST", "/v1/neighbors"): {"index": "all", "query": "w1"},
    ("POST", "/"): {"inputs": "w1"},
    ("POST", "/embed"): {"inputs": "w1"},
    ("POST", "/similarity"): {"inputs": {"source_sentence": "w1", "sentences": ["w2"]}},
    ("POST", "/predict"): {"inputs": "w1"},
    ("POST", "/tokenize"): {"inputs": "w1"},
    ("POST", "/decode"): {"ids": [1, 2]},
    ("GET", "/info"): None,
    ("GET", "/v2"): None,
    ("POST", "/v2/repository/index"): None,
    ("GET", "/v2/models/{model}"): None,
    ("GET", "/v2/models/{model}/config"): None,
    ("GET", "/v2/models/{model}/ready"): None,
    ("POST", "/v2/models/{model}/infer"): {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["w1"]}]
    },
    ("GET", "/v2/models/{model}/versions/{version}"): None,
    ("GET", "/v2/models/{model}/versions/{version}/config"): None,
    ("GET", "/v2/models/{model}/versions/{version}/ready"): None,
    ("POST", "/v2/models/{model}/versions/{version}/infer"): {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["w1"]}]
    },
}
NAMES_NONE = {
    ("GET", "/v1/models"),
    ("GET", "/v1/indexes"),
    ("GET", "/v2"),
    ("POST", "/v2/repository/index"),
}


@pytest.fixture(scope="module")
def app_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("tiny", "secret-image"):
        write_checkpoint(folder / name, name=name)
    for name in ("mine", "tiny-text", "secret-text"):
        write_text_checkpoint(folder / name, name=name)
    settings = Settings(
        models=folder,
        policy="fixed",
        database=f"sqlite:///{tmp_path_factory.mktemp('visible') / 'clients.db'}",
        default_models="secret-text,secret-image,mine",
    )
    with TestClient(create_app(settings)) as client:
        admin = client.post("/v1/keys", json={"scopes": ["admin"]}).json()["key"]
        client.headers["x-api-key"] = admin
        yield client


def key_for(client: TestClient, *models: str) -> dict[str, str]:
    """Store a client for which there are some models, and return a header with its key."""
    body = {"models": list(models)}
    assert client.put("/v1/clients/shop", json=body).is_success
    made = client.post("/v1/keys", json={"client": "shop", "scopes": ["infer"]}).json()
    return {"x-api-key": made["key"]}


@pytest.fixture(scope="module")
def key(app_client: TestClient) -> dict[str, str]:
    key = key_for(app_client, "mine", "tiny")
    body = ASKED["POST", "/v1/indexes"]
    assert app_client.post("/v1/indexes", json=body, headers=key).status_code == 201
    return key


def test_every_path_that_an_inference_key_opens_is_asked_here() -> None:
    assert {path for _, path in ASKED} == {p for p, s in SCOPES.items() if s is Scope.INFER}


def ask(
    client: TestClient, key: dict[str, str], method: str, path: str, model: str | None
) -> tuple[int, str]:
    """Ask a path for a model, in its own way, and return status and body."""
    body = ASKED[method, path]
    filled = path.replace("{model}", model or "none").replace("{version}", "1")
    if "{model}" not in path and model is not None:
        if body is None:
            filled += f"?model={model}"
        else:
            body = {**body, "model": model}
    response = client.request(method, filled, json=body, headers=key)
    return response.status_code, response.text


@pytest.mark.parametrize(("method", "path"), ASKED)
@pytest.mark.parametrize("model", [*OTHERS, None])
def test_a_model_that_is_not_a_clients_is_named_nowhere_and_is_as_one_that_is_not_served(
    app_client: TestClient, key: dict[str, str], method: str, path: str, model: str | None
) -> None:
    status, text = ask(app_client, key, method, path, model)
    missing = ask(app_client, key, method, path, "no-such-model")
    if model is not None:
        assert (status, _without_id(text.replace(model, "no-such-model"))) == (
            missing[0],
            _without_id(missing[1]),
        )
    if (method, path) not in NAMES_NONE:
        assert missing[0] == 404
    for other in OTHERS:
        assert other == model or other not in text, text


def _without_id(text: str) -> str:
    """Return an answer without what differs between any two."""
    return re.sub(r'"(request_)?id":"[0-9a-f]{32}"', "", text)


_CLASSES = ("POST", "/predict")  # which none of the models gives


@pytest.mark.parametrize(
    ("method", "path"), [one for one in ASKED if "{" not in one[1] and one != _CLASSES]
)
def test_a_request_that_names_no_model_means_one_of_the_clients(
    app_client: TestClient, key: dict[str, str], method: str, path: str
) -> None:
    status, text = ask(app_client, key, method, path, None)
    assert status in (200, 201), text


def test_lists_hold_the_clients_models_in_the_servers_order(
    app_client: TestClient, key: dict[str, str]
) -> None:
    listed = app_client.get("/v1/models", headers=key).json()["data"]
    assert [entry["id"] for entry in listed] == ["mine", "tiny"]
    index = app_client.post("/v2/repository/index", headers=key).json()
    assert [entry["name"] for entry in index] == ["mine", "tiny"]


def test_a_client_whose_models_have_gone_is_told_so(app_client: TestClient) -> None:
    own = key_for(app_client, "tiny-text")
    assert app_client.post("/v1/models/tiny-text/unload").status_code == 200
    assert app_client.get("/v1/models", headers=own).json()["data"] == []
    for path, body in (("/v1/embeddings", {"input": "w1"}), ("/v1/infer", {"image": IMAGE})):
        response = app_client.post(path, json=body, headers=own)
        assert response.status_code == 404
        assert response.json()["error"]["message"] == "none of this client's models is served now"
    assert app_client.post("/v1/models/tiny-text/load").status_code == 200


def test_the_probe_that_anybody_may_ask_names_no_model(app_client: TestClient) -> None:
    assert app_client.get("/readyz", headers={"x-api-key": ""}).json() == {"ready": True}


def test_an_administrator_sees_every_model(app_client: TestClient, tmp_path: Path) -> None:
    stored = app_client.get("/v1/checkpoints").json()["checkpoints"]
    assert {entry["model"] for entry in stored} == {"mine", "tiny", *OTHERS}
