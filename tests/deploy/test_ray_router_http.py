"""What the router in front of the models keeps of HTTP: HEAD, compression, further names, CORS."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient

pytest.importorskip("ray", reason="needs the extra ray", exc_type=ImportError)

from deploy import ray_app
from deploy.ray_app import Model, application
from deploy.ray_router import router_app
from deploy.ray_settings import RaySettings
from server.app import create_app
from server.catalog import CatalogError
from tests.deploy.test_ray_router import IMAGES, INPUTS, Replicas
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

PAGE = "https://page.example"
NAMES = ("tiny-text", "ada", "org/name")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RaySettings:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "tiny-text")
    return RaySettings(
        models=folder,
        profiles=tmp_path_factory.mktemp("profiles"),
        host="127.0.0.1",
        database=f"sqlite:///{folder / 'clients.db'}",
        policy="fixed",
        aliases="ada=tiny-text,org/name=tiny-text,picture=tiny",
        default_models="picture,ada",
        cors_origins=PAGE,
    )


@pytest.fixture(scope="module")
def applications(settings: RaySettings) -> Iterator[Mapping[str, TestClient]]:
    with ExitStack() as running:
        yield {
            name: running.enter_context(
                TestClient(create_app(ray_app.own_settings(settings, folder, name)))
            )
            for name in INPUTS
            for folder in [settings.models_folder / name]
        }


@pytest.fixture
def handles(applications: Mapping[str, TestClient]) -> dict[str, Any]:
    return {name: Replicas(one.app, one.portal) for name, one in applications.items()}


@pytest.fixture
def client(settings: RaySettings, handles: dict[str, Any]) -> TestClient:
    return TestClient(router_app(settings, INPUTS, handles))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/metrics", "/v2", "/docs"])
def test_head_is_answered_as_get_without_the_body(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    if path != "/metrics":
        assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("name", NAMES)
def test_a_compressed_body_goes_to_the_model_that_it_names(
    client: TestClient, handles: dict[str, Any], name: str
) -> None:
    body = gzip.compress(json.dumps({"model": name, "input": "w1"}).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.post("/v1/embeddings", content=body, headers=headers)
    assert (answer.status_code, answer.json()["model"]) == (200, "tiny-text")
    assert not handles["tiny"].asked
    refused = client.post(
        "/v1/embeddings", content=body, headers={**headers, "content-encoding": "br"}
    )
    assert refused.status_code == 415
    assert refused.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("name", [*NAMES, "org%2Fname"])
def test_every_name_of_a_model_leads_to_it(
    client: TestClient, handles: dict[str, Any], name: str
) -> None:
    assert client.get(f"/v1/models/{name}").json()["root"] == "tiny-text"
    assert client.get(f"/v2/models/{name}/config").json()["name"] == "tiny-text"
    assert client.post(f"/v1/models/{name}/reload").json()["model"] == "tiny-text"
    assert not handles["tiny"].asked


def test_a_list_has_every_name_and_defaults_may_be_aliases(client: TestClient) -> None:
    entries = client.get("/v1/models").json()["data"]
    assert {one["id"]: one["root"] for one in entries} == {
        "tiny": "tiny", "picture": "tiny", **dict.fromkeys(NAMES, "tiny-text")
    }  # fmt: skip
    assert client.post("/v1/infer", files=IMAGES).json()["receipt"]["model"] == "tiny"
    assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
    message = client.get("/v1/models/none").json()["error"]["message"]
    assert all(name in message for name in (*NAMES, "tiny", "picture"))


def test_a_page_may_ask_and_can_read_errors_of_the_router_and_of_models(
    client: TestClient, handles: dict[str, Any]
) -> None:
    asking = {"origin": PAGE, "access-control-request-method": "POST"}
    assert client.options("/v1/embeddings", headers=asking).status_code == 200
    assert not handles["tiny"].asked
    for path in ("/v1/embeddings", "/v1/models/none/reload"):
        answer = client.post(path, headers={"origin": PAGE})
        assert answer.status_code >= 400
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]


def test_an_alias_of_a_model_that_is_not_deployed_is_refused(settings: RaySettings) -> None:
    wrong = settings.model_copy(update={"aliases": "ada=none"})
    with pytest.raises(CatalogError, match="aliases: ada=none: not served"):
        application(wrong, Model)


def test_a_prefix_is_rays_business() -> None:
    with pytest.raises(ValueError, match="root_path=/x: Ray's route_prefix says that"):
        RaySettings(root_path="/x")
