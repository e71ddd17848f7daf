"""Put measured tables into pages: `python -m bench.insert`, also run by `python -m bench --quick`.

A page has a place for the file `docs/results/NAME.md`, which a benchmark has written, between the
lines ``<!-- results: NAME -->`` and ``<!-- end of results -->``. A test holds that what stands
there is the file, and that the file's tables are those of `NAME.csv`.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
_PLACE = re.compile(
    r"(<!-- results: (?P<name>[\w.-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL
)


def main() -> None:
    """Write every page that has a place."""
    insert_all()


def insert_all() -> None:
    """Write the pages whose places have another content than the files."""
    for page in pages():
        text = inserted(page.read_text())
        if text != page.read_text():
            page.write_text(text)
            print(f"{page.relative_to(ROOT)} has new results")


def pages() -> list[Path]:
    """Return the pages that have a place."""
    every = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(page for page in every if names_in(page.read_text()))


def names_in(text: str) -> list[str]:
    """Return the names of the results that a page has a place for."""
    return [found["name"] for found in _PLACE.finditer(text)]


def inserted(text: str) -> str:
    """Return a page's text with the results as the files have them.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    return _PLACE.sub(
        lambda place: f"{place[1]}\n{(RESULTS / (place['name'] + '.md')).read_text()}\n{place[3]}",
        text,
    )


if __name__ == "__main__":
    main()
