"""Further names of models, and names with slashes, at every protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from server.app import create_app
from server.catalog import CatalogError
from server.settings import Settings
from tests.server.samples import image, text_of
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

REAL = "tiny-text"
ALIASES = f"text-embedding-ada-002={REAL},org/name={REAL},acme/deep/name = {REAL} , picture=tiny"
NAMES = (REAL, "text-embedding-ada-002", "org/name", "acme/deep/name")
SPELLINGS = [*NAMES, "org%2Fname", "acme%2Fdeep%2Fname"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "text", REAL)
    url = f"sqlite:///{folder / 'c.db'}"
    return Settings(models=folder, aliases=ALIASES, policy="fixed", database=url)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


def test_a_list_has_every_name_and_what_it_means(client: TestClient) -> None:
    entries = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    assert {name: one["root"] for name, one in entries.items()} == {
        "tiny": "tiny", "picture": "tiny", **dict.fromkeys(NAMES, REAL)
    }  # fmt: skip
    alias, real = entries["picture"], entries["tiny"]
    assert {**alias, "id": "tiny"} == real


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_name_is_described_wherever_it_stands_in_a_path(client: TestClient, name: str) -> None:
    detail = client.get(f"/v1/models/{name}").json()
    assert (detail["id"], detail["root"]) == (name.replace("%2F", "/"), REAL)
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/config", f"/v2/models/{name}/ready"):
        assert client.get(path).json()["name"] == REAL
    for path in ("", "/config", "/ready"):
        assert client.get(f"/v2/models/{name}/versions/1{path}").json()["name"] == REAL
        assert client.get(f"/v2/models/{name}/versions/2{path}").status_code == 404


@pytest.mark.parametrize("name", NAMES)
def test_answers_name_the_model_itself(client: TestClient, name: str) -> None:
    embedded = client.post("/v1/embeddings", json={"model": name, "input": "w1"}).json()
    assert embedded["model"] == embedded["receipt"]["model"] == REAL
    ranked = client.post("/v1/rerank", json={"model": name, "query": "w1", "documents": ["w2"]})
    assert ranked.json()["model"] == REAL
    assert client.get("/info", params={"model": name}).json()["model_id"] == REAL
    assert client.post("/embed", json={"model": name, "inputs": "w1"}).status_code == 200
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"]}
    for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/1/infer"):
        assert client.post(path, json={"inputs": [tensor]}).json()["model_name"] == REAL
    body = {"model": "picture", "image": text_of(image())}
    assert client.post("/v1/infer", json=body).json()["receipt"]["model"] == "tiny"


def test_an_unknown_name_is_told_every_name_that_there_is(client: TestClient) -> None:
    for name in ("none", "org", "org/name/x"):
        response = client.get(f"/v1/models/{name}")
        assert response.status_code == 404
        message = response.json()["error"]["message"]
        assert all(known in message for known in (*NAMES, "tiny", "picture"))
    assert client.get("/v2/models/org/none/config").status_code == 404


def test_series_and_lists_of_the_repository_have_models_not_names(client: TestClient) -> None:
    client.post("/v1/embeddings", json={"model": "text-embedding-ada-002", "input": "w1"})
    metrics = client.get("/metrics").text
    assert f'model="{REAL}"' in metrics
    assert "ada-002" not in metrics
    index = client.post("/v2/repository/index").json()
    assert sorted(one["name"] for one in index) == ["tiny", REAL]


def test_models_change_by_any_of_their_names(settings: Settings, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'c.db'}"
    with TestClient(create_app(settings.model_copy(update={"database": url}))) as client:
        for name in SPELLINGS:
            response = client.post(f"/v1/models/{name}/reload")
            assert (response.status_code, response.json()["model"]) == (200, REAL)
        assert client.post("/v1/models/acme/deep/name/unload").json() == {
            "model": REAL, "version": None
        }  # fmt: skip
        for name in NAMES:
            answer = client.post("/v1/embeddings", json={"model": name, "input": "w1"})
            assert answer.status_code == 404
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["tiny", "picture"]
        refused = client.post("/v1/models/acme/deep/name/load")
        assert refused.status_code == 409
        assert "means 'tiny-text'; load that" in refused.json()["error"]["message"]
        assert client.post(f"/v1/models/{REAL}/load").json()["model"] == REAL
        answer = client.post("/v1/embeddings", json={"model": NAMES[1], "input": "w1"})
        assert answer.status_code == 200


def test_a_client_with_models_of_its_own_is_judged_by_the_model(
    settings: Settings, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'c.db'}"
    with TestClient(create_app(settings.model_copy(update={"database": url}))) as client:
        assert client.put("/v1/clients/shop", json={"models": ["picture"]}).status_code == 422
        client.put("/v1/clients/shop", json={"models": [REAL]})
        made = client.post("/v1/keys", json={"scopes": ["infer"], "client": "shop"}).json()
        client.headers["x-api-key"] = made["key"]
        assert sorted(one["id"] for one in client.get("/v1/models").json()["data"]) == sorted(NAMES)
        for name in NAMES:
            answer = client.post("/v1/embeddings", json={"model": name, "input": "w1"})
            assert answer.status_code == 200
            assert client.get(f"/v1/models/{name}").status_code == 200
        for name in ("tiny", "picture"):
            body = {"model": name, "image": text_of(image())}
            refused = client.post("/v1/infer", json=body)
            assert refused.status_code == 404
            assert "picture'" not in refused.json()["error"]["message"].replace("'picture' is", "")
            assert client.get(f"/v1/models/{name}").status_code == 404


def test_a_default_may_be_an_alias(settings: Settings, tmp_path: Path) -> None:
    more = {"default_models": NAMES[1], "database": f"sqlite:///{tmp_path / 'c.db'}"}
    with TestClient(create_app(settings.model_copy(update=more))) as client:
        assert client.post("/v1/embeddings", json={"input": "w1"}).json()["model"] == REAL


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ("tiny=tiny-text", "aliases: 'tiny' is the name of a model that is served"),
        ("a=none", r"aliases: a=none: not served; \['tiny-text', 'tiny'\] are"),
        ("a=b,b=tiny", "aliases: a=b: not served"),
        ("a/reload=tiny", "'a/reload' is no name"),
        ("a/versions/1=tiny", "'a/versions/1' is no name"),
    ],
)
def test_names_that_collide_are_refused_at_the_start(
    settings: Settings, aliases: str, message: str
) -> None:
    with pytest.raises(CatalogError, match=message):
        create_app(settings.model_copy(update={"aliases": aliases}))


@pytest.mark.parametrize("aliases", ["a", "a=", "=b", "/a=b", "a/=b", "a=b,a=c"])
def test_what_is_no_list_of_aliases_is_refused_by_name(aliases: str) -> None:
    with pytest.raises(ValidationError, match=f"aliases={aliases}: .* (must be|is there twice)"):
        Settings(aliases=aliases)


def test_an_alias_is_no_name_for_a_model_that_is_loaded_later(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    write_checkpoint(folder / "tiny")
    more: dict[str, Any] = {"models": folder, "aliases": f"{REAL}=tiny"}
    more["database"] = f"sqlite:///{tmp_path / 'c.db'}"
    with TestClient(create_app(settings.model_copy(update=more))) as client:
        write_text_checkpoint(folder / "text", REAL)
        assert client.post(f"/v1/models/{REAL}/load").status_code == 409
        assert client.get(f"/v1/models/{REAL}").json()["root"] == "tiny"


OWN = "acme/deep/model"


@pytest.fixture(scope="module")
def own_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an app with a model that has slashes in its manifest's name."""
    folder = tmp_path_factory.mktemp("own")
    write_text_checkpoint(folder / "text", OWN)
    write_checkpoint(folder / "tiny")
    url = f"sqlite:///{folder / 'c.db'}"
    settings = Settings(
        models=folder, aliases=f"text-embedding-ada-002={OWN}", policy="fixed", database=url
    )
    settings = settings.model_copy(update={"profiles": folder / "profiles"})
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.mark.parametrize("name", [OWN, "acme%2Fdeep%2Fmodel", "text-embedding-ada-002"])
def test_a_manifest_may_name_a_model_with_slashes_at_every_protocol(
    own_client: TestClient, name: str
) -> None:
    spelled = name.replace("%2F", "/")
    assert own_client.get(f"/v1/models/{name}").json()["root"] == OWN
    body = {"model": spelled, "input": "w1"}
    assert own_client.post("/v1/embeddings", json=body).json()["model"] == OWN
    assert len(own_client.post("/embed", json={"model": spelled, "inputs": "w1"}).json()) == 1
    assert own_client.get("/info", params={"model": spelled}).json()["model_id"] == OWN
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"]}
    answer = own_client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]}).json()
    assert answer["model_name"] == OWN
    for path in ("/ready", "/config", "/versions/1/ready"):
        assert own_client.get(f"/v2/models/{name}{path}").json()["name"] == OWN
    ranked = own_client.post("/v1/rerank", json={"model": spelled, "query": "w1", "texts": ["w2"]})
    assert ranked.status_code == 200


def test_a_model_with_slashes_is_reloaded_and_has_a_series_and_a_profile(
    own_client: TestClient,
) -> None:
    assert own_client.post(f"/v1/models/{OWN}/reload").json()["model"] == OWN
    assert own_client.post(f"/v1/models/{OWN}/unload").json()["model"] == OWN
    assert own_client.post(f"/v1/models/{OWN}/load").json()["model"] == OWN
    assert f'model="{OWN}"' in own_client.get("/metrics").text


@pytest.mark.parametrize("name", ["acme/reload", "acme/versions/1"])
def test_a_manifests_name_that_ends_as_a_path_does_is_refused(tmp_path: Path, name: str) -> None:
    write_text_checkpoint(tmp_path / "text", name)
    with pytest.raises(CatalogError, match="is no name: its end has a meaning in paths"):
        create_app(Settings(models=tmp_path, policy="fixed", database="sqlite://"))
