"""HEAD, methods, and a prefix of a proxy, on every path that there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.clients.keys import Scope
from server.http.paths import HeadMethod, Methods, Prefix
from server.http.scopes import SCOPES
from server.settings import Settings, SettingsError
from tests.server.samples import Connection, run
from tests.server.written import Written

GETS = {
    "/healthz": 200,
    "/readyz": 200,
    "/health": 200,
    "/ping": 200,
    "/v2/health/live": 200,
    "/v2/health/ready": 200,
    "/docs": 200,
    "/docs/assets/swagger-ui.css": 200,
    "/redoc": 200,
    "/openapi.json": 200,
    "/metrics": 200,
    "/v1/clients": 200,
    "/v1/clients/x": 404,
    "/v1/keys": 200,
    "/v1/checkpoints": 200,
    "/v1/models": 200,
    "/v1/models/tiny-text": 200,
    "/v1/models/none": 404,
    "/info": 200,
    "/v2": 200,
    "/v2/models/tiny-text": 200,
    "/v2/models/tiny-text/config": 200,
    "/v2/models/tiny-text/ready": 200,
    "/v2/models/tiny-text/versions/1": 200,
    "/v2/models/tiny-text/versions/2": 404,
    "/nowhere": 404,
}
CHANGING = {"x-request-id", "date", "content-length"}


@pytest.fixture(scope="module")
def below(
    text_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A client of a server that stands below `/models/a`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('below') / 'c.db'}"
    settings = text_settings.model_copy(update={"root_path": "/models/a", "database": url})
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.mark.parametrize("path", GETS)
def test_head_is_answered_as_get_without_the_body(text_client: TestClient, path: str) -> None:
    get, head = text_client.get(path), text_client.head(path)
    assert get.status_code == head.status_code == GETS[path]
    assert head.content == b""
    for name in {*get.headers, *head.headers} - CHANGING:
        assert head.headers[name] == get.headers[name], name
    if path != "/metrics":  # which changes meanwhile
        assert head.headers["content-length"] == get.headers["content-length"]
    assert int(head.headers["content-length"]) > 0 or not get.content


def test_a_head_is_logged_as_one_with_the_paths_template(
    text_client: TestClient, written: Written
) -> None:
    text_client.head("/v1/models/tiny-text")
    (line,) = written.access()
    assert (line["method"], line["path"]) == ("HEAD", "/v1/models/{model}")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("HEAD", "/v1/embeddings", "POST"),
        ("GET", "/v1/embeddings", "POST"),
        ("OPTIONS", "/v1/embeddings", "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/keys", "GET, HEAD, POST"),
        ("POST", "/v1/clients/x", "DELETE, GET, HEAD, PUT"),
        ("GET", "/v1/models/a/b/reload", "POST"),
        ("POST", "/v2/models/tiny-text/config", "GET, HEAD"),
        ("GET", "/v2/models/tiny-text/versions/1/infer", "POST"),
        ("POST", "/docs", "GET, HEAD"),
        ("PATCH", "/", "POST"),
    ],
)
def test_another_method_is_told_every_one_that_the_path_has(
    text_client: TestClient, method: str, path: str, allowed: str
) -> None:
    response = text_client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed


def is_methods(middleware: Any) -> bool:
    return middleware.cls is Methods


def test_every_path_has_methods(text_settings: Settings) -> None:
    app = create_app(text_settings)
    found: Any
    (found,) = [one for one in app.user_middleware if is_methods(one)]
    assert set(found.kwargs["methods"]) == set(SCOPES)


@pytest.mark.parametrize("prefix", ["", "/models/a"], ids=["stripped", "whole"])
@pytest.mark.parametrize("path", GETS)
def test_below_a_prefix_everything_answers_whether_the_proxy_takes_it_off_or_not(
    below: TestClient, path: str, prefix: str
) -> None:
    for method in ("GET", "HEAD"):
        assert below.request(method, prefix + path).status_code == GETS[path]


@pytest.mark.parametrize("prefix", ["", "/models/a"], ids=["stripped", "whole"])
def test_below_a_prefix_posts_and_errors_are_those_of_the_path(
    below: TestClient, prefix: str
) -> None:
    answer = below.post(f"{prefix}/v1/embeddings", json={"input": "w1", "model": "tiny-text"})
    assert answer.status_code == 200
    assert set(below.post(f"{prefix}/v1/embeddings", json={}).json()["error"]) >= {"param", "code"}
    assert below.post(f"{prefix}/embed", json={"inputs": []}).json()["error_type"] == "Empty"
    assert isinstance(below.post(f"{prefix}/v2/models/no/infer", json={}).json()["error"], str)
    assert below.post(f"{prefix}/", json={"inputs": "w1"}).status_code == 200
    assert below.get(f"{prefix}/v1/infer").headers["allow"] == "POST"


def test_the_prefix_alone_is_the_root(below: TestClient) -> None:
    assert below.post("/models/a", json={"inputs": "w1"}).status_code == 200


def test_what_only_begins_like_the_prefix_is_a_path_of_its_own(below: TestClient) -> None:
    assert below.get("/models/ab/healthz").status_code == 404
    assert below.get("/models/a/models/a/healthz").status_code == 404


@pytest.mark.parametrize("prefix", ["", "/models/a"], ids=["stripped", "whole"])
def test_documents_and_pages_name_paths_below_the_prefix(below: TestClient, prefix: str) -> None:
    assert below.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/models/a"}]
    for page in ("/docs", "/redoc"):
        text = below.get(prefix + page).text
        assert "/models/a/openapi.json" in text
        assert text.count("/docs/assets/") == text.count("/models/a/docs/assets/") > 1


def test_below_a_prefix_keys_are_needed_as_elsewhere(
    text_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('keys') / 'c.db'}"
    settings = text_settings.model_copy(update={"root_path": "/x", "database": url})
    with TestClient(create_app(settings)) as client:
        made = client.post("/x/v1/keys", json={"scopes": [Scope.INFER]}).json()
        for prefix in ("", "/x"):
            assert client.get(f"{prefix}/healthz").status_code == 200
            assert client.get(f"{prefix}/v1/models").status_code == 401
            headers = {"x-api-key": made["key"]}
            assert client.get(f"{prefix}/v1/models", headers=headers).status_code == 200
            assert client.get(f"{prefix}/v1/keys", headers=headers).status_code == 403


def test_probes_below_a_prefix_are_not_logged(below: TestClient, written: Written) -> None:
    below.get("/models/a/readyz")
    below.get("/models/a/v1/models")
    assert [line["path"] for line in written.access()] == ["/v1/models"]


@pytest.mark.parametrize("root_path", ["/v1", "/v2/models", "/docs", "/healthz"])
def test_a_prefix_that_could_be_a_path_of_the_servers_own_is_refused(
    text_settings: Settings, root_path: str
) -> None:
    with pytest.raises(SettingsError, match=f"root_path={root_path}: it could not be told from"):
        create_app(text_settings.model_copy(update={"root_path": root_path}))


def test_a_scope_below_a_prefix_is_as_asgi_has_it() -> None:
    seen: list[Any] = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["root_path"], scope["path"], scope["raw_path"]))

    async def scenario() -> None:
        for path in ("/a%20b", "/p/a%20b", "/p"):
            scope = {"type": "http", "path": path.replace("%20", " "), "raw_path": path.encode()}
            await Prefix(note, "/p")(scope, None, None)  # type: ignore[arg-type]

    run(scenario())
    assert seen[:2] == [("/p", "/p/a b", b"/p/a%20b")] * 2
    assert seen[2][:2] == ("/p", "/p/")


def test_head_leaves_other_methods_and_what_is_no_request_alone() -> None:
    seen: list[Any] = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def scenario() -> None:
        connection = Connection("/", {})
        for scope in ({"type": "lifespan"}, {"type": "http", "method": "POST"}):
            await HeadMethod(note)(scope, connection._receive, connection._send)
            assert seen[-1] is scope

    run(scenario())


@pytest.mark.parametrize("prefix", ["", "/models/a"], ids=["stripped", "whole"])
def test_below_a_prefix_headers_are_heeded_or_refused_as_elsewhere(
    below: TestClient, prefix: str
) -> None:
    budget = {"x-rheostat-fraction": "0.5"}
    body = {"input": "w1", "model": "tiny-text"}
    answer = below.post(f"{prefix}/v1/embeddings", json=body, headers=budget)
    assert 0 < answer.json()["receipt"]["fraction"] <= 0.5
    assert below.get(f"{prefix}/v1/models", headers=budget).status_code in (400, 422)
