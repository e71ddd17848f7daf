from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from bench import browser
from server.app import create_app
from server.settings import Settings
from tests.server.listening import listening
from tests.server.toys import toy_families, write_varied


class Visit:
    """A page that is open.

    Attributes:
        page: In a browser.
        faults: What the browser found wrong: errors, and warnings on its console.
        hosts: Whom it asked.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda asked: self.hosts.add(asked.url.split("/")[2]))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("warning", "error"):
            self.faults.append(text)

    def flops(self, side: str) -> float:
        """Return where the front shows the pick of a budget."""
        mark = self.page.locator(f"[data-pick={side}]")
        return float(mark.get_attribute("data-flops") or "nan")


Open = Callable[..., Visit]


@pytest.fixture(scope="package")
def page_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Models that give classes, maps and vectors of texts; load changes no answer."""
    with toy_families():
        folder = write_varied(tmp_path_factory.mktemp("page-models"))
        database = f"sqlite:///{tmp_path_factory.mktemp('page') / 'c.db'}"
        yield Settings(models=folder, policy="fixed", database=database)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of a module."""
    if browser.chromium() is None:
        pytest.skip("no Chromium is installed")
    with browser.browser() as running:
        yield running


@pytest.fixture(scope="module")
def host(page_settings: Settings) -> Iterator[str]:
    """Host and port of a server that nobody needs a key for."""
    with listening(create_app(page_settings)) as host:
        yield host


@pytest.fixture
def visit(chromium: Browser, host: str) -> Iterator[Open]:
    """Open the page in a window of its own; what is found wrong there fails the test."""
    visits: list[Visit] = []

    def open_page(model: str, width: int = 1200, at: str = host) -> Visit:
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(10_000)
        found = Visit(page)
        visits.append(found)
        page.goto(f"http://{at}/ui?model={model}")
        return found

    yield open_page
    for one in visits:
        one.page.context.close()
        assert not one.faults
        assert len(one.hosts) == 1
