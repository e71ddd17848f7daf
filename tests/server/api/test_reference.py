"""The pages for people load nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from server.api.reference import ASSETS

PAGES = ("/docs", "/redoc")


class Links(HTMLParser):
    """Everything that a page's markup loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "spec-url")]


def links(html: str) -> list[str]:
    parser = Links()
    parser.feed(html)
    return parser.found


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_no_other_origin(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.headers["content-type"].startswith("text/html")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", response.text)
    found = links(response.text)
    assert len(found) >= 2
    assert all(link.startswith("/docs/assets/") or link == "/openapi.json" for link in found)


@pytest.mark.parametrize("path", PAGES)
def test_everything_that_a_page_loads_is_here(client: TestClient, path: str) -> None:
    for link in links(client.get(path).text):
        response = client.get(link)
        assert response.status_code == 200
        assert len(response.content) > 1000


@pytest.mark.parametrize("path", PAGES)
def test_a_browser_may_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    policy = client.get(path).headers["content-security-policy"]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    allowed = {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert {source for sources in directives.values() for source in sources.split()} <= allowed


def test_the_document_is_not_sent_elsewhere_to_be_judged(client: TestClient) -> None:
    assert '"validatorUrl": null' in client.get("/docs").text


@pytest.mark.parametrize("name", ASSETS)
def test_a_file_has_its_type(client: TestClient, name: str) -> None:
    kind = client.get(f"/docs/assets/{name}").headers["content-type"]
    assert {"js": "javascript", "css": "css", "png": "image/png"}[name.rpartition(".")[2]] in kind


@pytest.mark.parametrize("name", ["core.py", "..%2fcore.py", "%2e%2e/core.py", "", "a/b"])
def test_no_other_file_is_served(client: TestClient, name: str) -> None:
    response = client.get(f"/docs/assets/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "unknown_path"
