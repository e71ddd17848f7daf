"""The page's files and headers, and who is led to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import Settings
from tests.server.api.test_reference import links
from tests.server.listening import free_port, server

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
STATIC = [Path(str(file)) for file in files("server.ui").joinpath("static").iterdir()]
MAX_LINES = 300


@pytest.fixture(scope="module")
def bare(text_settings: Settings) -> Iterator[TestClient]:
    """A client of a server without the page."""
    with TestClient(create_app(text_settings.model_copy(update={"ui": False}))) as client:
        yield client


def test_all_that_the_page_loads_is_here_and_is_told_to_load_nothing_else(
    client: TestClient,
) -> None:
    page = client.get("/ui")
    assert page.headers["content-type"].startswith("text/html")
    loaded = [link for link in links(page.text) if link.startswith("ui/")]
    assert {"ui/app.js", "ui/style.css", "ui/parts.css", "ui/icon.svg"} <= set(loaded)
    for link in loaded:
        found = client.get(f"/{link}")
        assert found.status_code == 200
        assert found.headers["x-content-type-options"] == "nosniff"
    for response in (page, client.get("/ui/app.js")):
        policy = response.headers["content-security-policy"]
        sources = {word for part in policy.split("; ") for word in part.split()[1:]}
        assert sources == {"'none'", "'self'", "blob:", "'script'"}


@pytest.mark.parametrize("file", STATIC, ids=lambda file: file.name)
def test_a_file_is_short_and_names_no_other_host(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[\w-]+\.\w+", text)
    assert "innerHTML" not in text
    assert len(text.splitlines()) <= MAX_LINES
    modules = re.findall(r'^import .* from "\./([\w.]+)";$', text, flags=re.MULTILINE)
    assert set(modules) <= {other.name for other in STATIC}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_browsers_at_the_root_are_led_to_the_page(client: TestClient, method: str) -> None:
    led = client.request(method, "/", headers=BROWSER, follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (307, "/ui")


def test_others_at_the_root_see_what_they_did(text_client: TestClient) -> None:
    assert text_client.get("/", headers={"accept": "*/*"}).status_code == 405
    posted = text_client.post("/", json={"inputs": "w1"}, headers=BROWSER)
    assert posted.status_code == 200


def test_below_a_prefix_the_page_is_below_it(text_settings: Settings) -> None:
    settings = text_settings.model_copy(update={"root_path": "/models/a"})
    with TestClient(create_app(settings)) as client:
        led = client.get("/models/a", headers=BROWSER, follow_redirects=False)
        assert led.headers["location"] == "/models/a/ui"
        assert client.get("/models/a/ui/app.js").status_code == 200


def test_a_server_without_the_page_has_none(bare: TestClient) -> None:
    for path in ("/ui", "/ui/app.js"):
        response = bare.get(path)
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "unknown_path"
    assert bare.get("/", headers=BROWSER).status_code == 405


@pytest.mark.parametrize("path", ["/ui/page.py", "/ui/..%2fpage.py", "/ui/a/b"])
def test_no_other_file_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.slow
def test_processes_that_answer_http_beside_the_engines_have_the_page(folder: Path) -> None:
    port = free_port()
    with server(folder, port, "--http-workers", "1"):
        led = httpx.get(f"http://127.0.0.1:{port}/", headers=BROWSER, follow_redirects=True)
        assert led.url.path == "/ui"
        assert httpx.get(f"http://127.0.0.1:{port}/ui/app.js").status_code == 200
