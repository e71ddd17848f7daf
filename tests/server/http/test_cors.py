from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from server.app import create_app
from server.http.cors import EXPOSED
from server.http.serving import configured
from server.settings import Settings
from tests.server.bytewise import connected, rest
from tests.server.listening import listening

PAGE = "https://page.example"
TEXT = {"model": "tiny-text", "input": "w1"}


def with_origins(
    settings: Settings, factory: pytest.TempPathFactory, origins: str, **more: object
) -> Settings:
    url = f"sqlite:///{factory.mktemp('cors') / 'c.db'}"
    return settings.model_copy(update={"cors_origins": origins, "database": url, **more})


@pytest.fixture(scope="module")
def client(
    text_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A client of a server with keys, which pages of two origins may ask."""
    origins = f"{PAGE}, http://localhost:3000"
    settings = with_origins(text_settings, tmp_path_factory, origins, max_body_bytes=10_000)
    with TestClient(create_app(settings)) as client:
        made = client.post("/v1/keys", json={"scopes": ["infer"]}).json()
        client.headers["authorization"] = f"Bearer {made['key']}"
        yield client


def asking(method: str, headers: str = "authorization, content-type") -> dict[str, str]:
    return {
        "origin": PAGE,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/models/x/y/infer", "/v1/keys", "/healthz"])
def test_a_preflight_needs_no_key(client: TestClient, path: str) -> None:
    headers = asking("POST", "authorization, x-rheostat-fraction, content-type")
    response = client.options(path, headers={**headers, "authorization": ""})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"]
    assert (
        response.headers["access-control-allow-headers"]
        == headers["access-control-request-headers"]
    )


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status"),
    [
        ("POST", "/v1/embeddings", b'{"input": "w1", "model": "tiny-text"}', {}, 200),
        ("POST", "/v1/embeddings", b"{", {}, 400),
        ("POST", "/v1/embeddings", b"{}", {"authorization": ""}, 401),
        ("GET", "/v1/keys", b"", {}, 403),
        ("GET", "/nowhere", b"", {}, 404),
        ("DELETE", "/v1/models", b"", {}, 405),
        ("POST", "/v1/embeddings", b"x" * 20_000, {}, 413),
        ("POST", "/v1/embeddings", b"{}", {"content-encoding": "br"}, 415),
    ],
)
def test_a_page_can_read_answers_and_errors(
    client: TestClient,
    method: str,
    path: str,
    content: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    headers = {"origin": PAGE, "content-type": "application/json", **headers}
    response = client.request(method, path, content=content, headers=headers)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in response.headers
    exposed = set(response.headers["access-control-expose-headers"].split(", "))
    assert {"x-request-id", "retry-after", "retry-after-ms", "x-rheostat-subnet"} <= exposed
    assert {name for name in response.headers if name.startswith("x-")} <= exposed


def test_another_page_can_read_nothing(client: TestClient) -> None:
    other = {"origin": "https://other.example"}
    response = client.post("/v1/embeddings", json=TEXT, headers=other)
    assert "access-control-allow-origin" not in response.headers
    assert client.options("/v1/embeddings", headers={**asking("POST"), **other}).status_code == 400


def test_answers_say_that_they_depend_on_the_origin(client: TestClient) -> None:
    assert "Origin" in client.get("/healthz").headers["vary"]


def test_without_origins_there_is_no_permission(text_client: TestClient) -> None:
    response = text_client.post("/v1/embeddings", json=TEXT, headers={"origin": PAGE})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert text_client.options("/v1/embeddings", headers=asking("POST")).status_code == 405


def test_a_star_lets_every_page_ask(
    text_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = with_origins(text_settings, tmp_path_factory, "*")
    with TestClient(create_app(settings)) as client:
        response = client.post("/v1/embeddings", json=TEXT, headers={"origin": PAGE})
        assert response.headers["access-control-allow-origin"] == "*"
        assert client.options("/", headers=asking("POST")).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\norigin: %b\r\n" % PAGE.encode() + b"a:\r\n" * 200, b"431"),
        (b"GET / HTTP/1.1\r\norigin: %b\r\n\r\n" % PAGE.encode(), b"400"),
    ],
)
def test_a_page_can_read_what_is_said_of_its_head(
    text_settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
    sent: bytes,
    status: bytes,
) -> None:
    settings = with_origins(text_settings, tmp_path_factory, PAGE)
    app = create_app(settings)
    config = configured(app, settings)
    config.port, config.lifespan = 0, "off"
    with listening(app, config) as address, connected(address) as page:
        assert isinstance(page, socket.socket)
        page.sendall(sent)
        start = rest(page).partition(b"\r\n\r\n")[0].lower()
    assert start.startswith(b"http/1.1 " + status)
    assert b"\r\naccess-control-allow-origin: " + PAGE.encode() in start


@pytest.mark.parametrize(
    "origins", [f"{PAGE}/", "page.example", f"{PAGE}/a", "https://a b", "https://"]
)
def test_what_is_no_origin_is_refused_by_name(origins: str) -> None:
    with pytest.raises(ValidationError, match=r"cors_origins: .* must be SCHEME://HOST"):
        Settings(cors_origins=origins)


def test_origins_are_compared_as_browsers_send_them() -> None:
    assert Settings(cors_origins=" HTTPS://Page.example ,,*").origins == (PAGE, "*")


def test_every_header_that_is_exposed_is_named_once() -> None:
    assert len(set(EXPOSED)) == len(EXPOSED)
