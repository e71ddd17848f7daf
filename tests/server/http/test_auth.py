from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.types import Scope as AsgiScope

from server.app import create_app
from server.clients.database import Database
from server.clients.keys import Scope, new_key
from server.clients.store import Store
from server.errors import UnknownPathError
from server.http.auth import Access, is_loopback
from server.http.scopes import PUBLIC, SCOPES
from server.settings import Settings, SettingsError
from tests.server.samples import Connection, image, run, text_of

CLOSED = sorted(path for path, scope in SCOPES.items() if scope is not PUBLIC)
IMAGE = {"image": text_of(image())}


class Guarded(NamedTuple):
    """An app with keys, and these by what they are."""

    app: FastAPI
    client: TestClient
    keys: dict[str, str]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def stored(url: str, expires_in_s: float) -> str:
    """Store a key as another process does, and return it."""
    now = time.time()
    text, key = new_key(list(Scope), None, "", now - 2, now + expires_in_s)

    async def store() -> None:
        database = Database(url)
        await Store(database, 1).add_key(key)
        await database.close()

    run(store())
    return text


def methods(app: FastAPI) -> dict[str, set[str]]:
    """Return the methods of every route of an app, by path."""
    found: dict[str, set[str]] = {}
    for route in iter_route_contexts(app.routes):
        assert route.path_format is not None
        found.setdefault(route.path_format, set()).update(route.methods or ())
    return found


@pytest.fixture(scope="module")
def own_settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    database = f"sqlite:///{tmp_path_factory.mktemp('access') / 'clients.db'}"
    return Settings(models=folder, policy="fixed", database=database)


@pytest.fixture(scope="module")
def guarded(own_settings: Settings) -> Iterator[Guarded]:
    with TestClient(app := create_app(own_settings)) as client:
        client.put("/v1/clients/shop", json={})
        bodies = {scope: {"scopes": [scope]} for scope in Scope} | {
            "all": {"scopes": list(Scope)},
            "shop": {"scopes": ["infer"], "client": "shop"},
            "revoked": {"scopes": list(Scope)},
        }
        # The first closes the authenticator, so that one is the administrator's.
        admin = client.post("/v1/keys", json={"scopes": ["admin"]}).json()["key"]
        made = {
            name: client.post("/v1/keys", json=body, headers=bearer(admin)).json()
            for name, body in bodies.items()
        }
        path = f"/v1/keys/{made['revoked']['id']}"
        assert client.delete(path, headers=bearer(admin)).status_code == 204
        keys = {str(name): answer["key"] for name, answer in made.items()}
        keys["expired"] = stored(own_settings.database_url, expires_in_s=-1)
        keys["unknown"] = new_key({Scope.ADMIN}, None, "", 0.0, None)[0]
        keys["forged"] = keys["all"][:-1] + ("A" if keys["all"][-1] != "A" else "B")
        keys["foreign"] = "sk-abcdef"
        yield Guarded(app, client, keys)


def ask(guarded: Guarded, path: str, headers: dict[str, str]) -> list[httpx2.Response]:
    """Call every method of a route without a body."""
    filled = path.replace("{model}", "none").replace("{version}", "1").replace("{client}", "x")
    filled = filled.replace("/ui/{name}", "/ui/icon.svg")
    filled = filled.replace("{key}", "0").replace("{name}", "favicon.png")
    return [
        guarded.client.request(method, filled, headers=headers)
        for method in sorted(methods(guarded.app)[path])
    ]


def test_every_route_of_the_app_has_a_scope_and_every_scope_a_route(guarded: Guarded) -> None:
    assert set(methods(guarded.app)) == set(SCOPES)


def test_what_is_public_is_health_documentation_and_the_page_and_nothing_else(
    guarded: Guarded,
) -> None:
    public = {path for path, scope in SCOPES.items() if scope is PUBLIC}
    health = {"/healthz", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
    documentation = {"/docs", "/docs/assets/{name}", "/redoc", "/openapi.json"}
    assert public == health | documentation | {"/ui", "/ui/{name}"}
    for path in public:
        for response in ask(guarded, path, {}):
            assert response.status_code == 200


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("key", ["unknown", "forged", "foreign", "revoked", "expired"])
def test_no_route_answers_to_a_key_that_is_not_valid(guarded: Guarded, path: str, key: str) -> None:
    for headers in (bearer(guarded.keys[key]), {"x-api-key": guarded.keys[key]}):
        for response in ask(guarded, path, headers):
            assert response.status_code == 401


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer"}],
    ids=["none", "empty", "basic", "bare"],
)
def test_no_route_answers_without_a_key(
    guarded: Guarded, path: str, headers: dict[str, str]
) -> None:
    for response in ask(guarded, path, headers):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("path", CLOSED)
def test_a_route_answers_to_keys_of_its_scope_alone(
    guarded: Guarded, path: str, scope: Scope
) -> None:
    for response in ask(guarded, path, bearer(guarded.keys[scope])):
        if scope is SCOPES[path]:
            assert response.status_code not in (401, 403)
        else:
            assert response.status_code == 403
            assert f"has not the scope {SCOPES[path]}" in response.text


def test_a_route_that_nobody_classified_is_refused_whoever_asks(guarded: Guarded) -> None:
    app = guarded.app

    @app.get("/forgotten")
    async def forgotten() -> dict[str, bool]:
        return {"reached": True}

    try:
        for headers in ({}, bearer(guarded.keys["all"])):
            response = guarded.client.get("/forgotten", headers=headers)
            assert response.status_code == 404
            assert response.json()["error"]["type"] == "unknown_path"
    finally:
        app.router.routes.pop()


def test_connections_that_are_neither_http_nor_lifespan_are_refused() -> None:
    async def scenario() -> None:
        async def reached(scope: AsgiScope, receive: Any, send: Any) -> None:
            raise AssertionError(scope)

        connection = Connection("/v1/infer", {})
        access = Access(reached, None)  # type: ignore[arg-type]  # never asked
        with pytest.raises(UnknownPathError, match="websocket"):
            await access({"type": "websocket"}, connection._receive, connection._send)

    run(scenario())


@pytest.mark.parametrize("headers", ["authorization", "x-api-key"])
def test_both_headers_carry_a_key(guarded: Guarded, headers: str) -> None:
    key = guarded.keys["shop"]
    given = {headers: f"bearer {key}" if headers == "authorization" else key}
    assert guarded.client.post("/v1/infer", json=IMAGE, headers=given).status_code == 200


def test_refusals_are_spelled_as_each_protocol_does(guarded: Guarded) -> None:
    client = guarded.client
    own = client.post("/v1/infer").json()["error"]
    assert (own["type"], own["field"]) == ("invalid_api_key", None)
    assert "a key is needed" in own["message"]
    openai = client.post("/v1/embeddings").json()["error"]
    assert {"message", "type", "param", "code"} <= set(openai)
    assert (openai["code"], openai["type"]) == ("invalid_api_key", "invalid_request_error")
    assert client.post("/embed").content == b""  # as TEI
    assert isinstance(client.post("/v2/models/tiny/infer").json()["error"], str)
    wrong = client.post("/v1/embeddings", headers=bearer(guarded.keys["metrics"]))
    assert wrong.status_code == 403
    assert wrong.json()["error"]["code"] == "permission_denied"


def test_each_kind_of_refusal_is_counted(guarded: Guarded) -> None:
    def counts() -> dict[str, float]:
        text = guarded.client.get("/metrics", headers=bearer(guarded.keys["metrics"])).text
        prefix = 'rheostat_access_refusals_total{reason="'
        lines = [line for line in text.splitlines() if line.startswith(prefix)]
        return {line.split('"')[1]: float(line.split()[-1]) for line in lines}

    before = counts()
    for key in ("unknown", "revoked", "expired", "metrics"):
        guarded.client.post("/v1/infer", headers=bearer(guarded.keys[key]))
    guarded.client.post("/v1/infer")
    after = counts()
    found = {reason: after[reason] - before[reason] for reason in after}
    assert found == {
        "missing": 1, "unknown": 1, "expired": 1, "revoked": 1, "scope": 1, "unavailable": 0
    }  # fmt: skip


def test_a_key_made_elsewhere_is_good_at_once(guarded: Guarded, own_settings: Settings) -> None:
    for _ in range(3):
        key = stored(own_settings.database_url, expires_in_s=60)
        assert guarded.client.get("/v1/models", headers=bearer(key)).status_code == 200


def test_without_keys_this_machine_may_do_everything_until_the_first_is_made(
    own_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = own_settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'c.db'}"})
    with caplog.at_level(logging.WARNING), TestClient(create_app(settings)) as client:
        assert "no keys exist: everybody on this machine may do everything" in caplog.text
        for headers in ({}, bearer("none")):  # OpenAI's client has to send something
            assert client.post("/v1/infer", json=IMAGE, headers=headers).status_code == 200
        made = client.post("/v1/keys", json={"scopes": ["admin", "infer"]}).json()
        assert client.post("/v1/infer", json=IMAGE).status_code == 401
        assert client.get("/v1/keys").status_code == 401
        key = bearer(made["key"])
        assert client.delete(f"/v1/keys/{made['id']}", headers=key).status_code == 204
        assert client.get("/v1/keys").status_code == 401  # revoking opens nothing
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/keys").status_code == 401  # nor does a restart


def test_another_address_without_keys_is_refused_unless_it_is_meant(
    own_settings: Settings, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'c.db'}"
    settings = own_settings.model_copy(update={"database": url, "host": "0.0.0.0"})
    with (
        pytest.raises(SettingsError, match=r"host=0\.0\.0\.0 can be reached .* \(--open\)"),
        TestClient(create_app(settings)),
    ):
        pass
    with TestClient(create_app(settings.model_copy(update={"open": True}))) as client:
        assert client.post("/v1/infer", json=IMAGE).status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get("/v1/clients").status_code == 401  # nobody administers without a key
        ours = new_key({Scope.INFER}, None, "", 0.0, None)[0]
        assert client.post("/v1/infer", json=IMAGE, headers=bearer(ours)).status_code == 401


def test_keys_are_good_for_a_stated_time_without_the_database(
    own_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'c.db'}"
    settings = own_settings.model_copy(update={"database": url, "database_grace_s": 60.0})
    with TestClient(create_app(settings)) as client:
        text = client.post("/v1/keys", json={"scopes": ["infer"]}).json()["key"]
        away_s = 59.0
        monkeypatch.setattr("server.clients.directory.Directory.away_s", property(lambda _: away_s))
        assert client.post("/v1/infer", json=IMAGE, headers=bearer(text)).status_code == 200
        new = new_key({Scope.INFER}, None, "", 0.0, None)[0]  # perhaps made elsewhere meanwhile
        response = client.post("/v1/infer", json=IMAGE, headers=bearer(new))
        assert response.status_code == 503
        assert "not known here; the database of keys has been away for 59 s" in response.text
        assert client.post("/v1/infer", json=IMAGE, headers=bearer("sk-a")).status_code == 401
        away_s = 61.0
        response = client.post("/v1/infer", json=IMAGE, headers=bearer(text))
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "database_unavailable"
        assert "away for 61 s; after 60 s (database_grace_s)" in response.text


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback_is_told_from_other_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
