"""The pages say what the code has, and lead where they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import models
from server import errors
from server.audit.audit import Audit
from server.catalog import Catalog
from server.errors import RheostatError
from server.http.scopes import SCOPES
from server.observe.audits import AuditMetrics
from server.observe.metrics import Metrics
from server.settings import DATA, KEY, PREFIX, URL, Settings

ROOT = Path(models.__file__).parent.parent
DOCS = ROOT / "docs"
GUIDES = DOCS / "guides"
PACKAGES = ("models", "search", "server", "client", "bench", "deploy")
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *ROOT.glob("client/*.md"),
        *ROOT.glob("models/zoo/*/*.md"),
    ]
)
MAX_LINES = {"README.md": 180, "docs/architecture.md": 130}
_MAX_DECISION_LINES = 40


def named(page: Path) -> str:
    """Return a page's path as tests show it."""
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return what links into a page may end with, as GitHub makes it of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", text_of(page), flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = sum(
            one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found
        )
        found.add(f"{slug}-{number}" if number else slug)
    return found


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield where each relative link of a page leads: a path, and an anchor or nothing."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        yield (page.parent / path if path else page).resolve(), anchor


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_and_anchors_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        assert path.exists(), path
        if anchor:
            assert anchor in anchors(path), f"{named(path)}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    start = "|".join((*PACKAGES, "tests", "docs"))
    for name in re.findall(rf"`((?:{start})/[\w/.*-]*)`", text_of(page)):
        assert list(ROOT.glob(name)), name


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += {path for path, _ in links(page) if path.suffix == ".md"} - reached
    assert set(DOCS.rglob("*.md")) <= reached


def test_the_pages_that_newcomers_read_first_stay_short() -> None:
    for name, limit in MAX_LINES.items():
        assert len((ROOT / name).read_text().splitlines()) < limit, name


def test_decisions_are_short_numbered_and_of_four_parts() -> None:
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    parts = ["## Context", "## Decision", "## Evidence", "## Consequences"]
    for page in pages:
        lines = page.read_text().splitlines()
        assert lines[0].startswith(f"# {page.name[:4]}: ")
        assert [line for line in lines if line.startswith("## ")] == parts, page.name
        assert len(lines) <= _MAX_DECISION_LINES, page.name


def test_the_page_of_settings_has_every_setting_and_no_other() -> None:
    names = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    written = re.findall(rf"`({PREFIX}[A-Z_]+)`", (GUIDES / "settings.md").read_text())
    # The text names more than one of them twice, as an example and in its row.
    assert set(written) == names | {DATA, URL, KEY}


def test_the_page_of_metrics_has_every_metric_and_no_other() -> None:
    metrics = Metrics(["tiny"], 8)
    metrics.add(AuditMetrics({}, Audit.off(Catalog([]))))
    metrics.tell_build(version="0", torch="0", backend="torch", device="cpu")
    text = metrics.text().decode()
    names = {
        n for n in re.findall(r"^# TYPE (\w+)", text, flags=re.M) if not n.endswith("_created")
    }
    assert names == set(re.findall(r"`(rheostat_\w+)`", (GUIDES / "metrics.md").read_text()))


def test_the_page_of_protocols_has_every_path() -> None:
    page = (GUIDES / "protocols.md").read_text()
    section = page.partition("## Paths")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(?:GET |POST )?(/[^\s`]*)`", section))
    above = tuple(f"{path}/" for path in listed if path != "/")
    assert not [path for path in SCOPES if path not in listed and not path.startswith(above)]


def test_the_page_of_protocols_has_every_error_with_its_status() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    known = {(e.error_type, str(e.status)) for e in kinds if issubclass(e, RheostatError)}
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (\d{3}) \|", (GUIDES / "protocols.md").read_text(), re.M
    )
    assert {(name, status) for names, status in rows for name in re.findall(r"\w+", names)} == known


def test_every_package_has_a_row_on_the_architecture_page_and_no_other_folder() -> None:
    page = (DOCS / "architecture.md").read_text()
    section = page.partition("## Rooms")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", section, flags=re.MULTILINE)
    rows = [name for cell in cells for name in re.findall(r"`([\w/-]+)/`", cell)]
    assert len(rows) == len(set(rows))
    packages = {
        str(file.parent.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    }
    assert packages <= set(rows), sorted(packages - set(rows))
    assert not [name for name in rows if not (ROOT / name).is_dir()]
