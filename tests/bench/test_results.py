"""What benchmarks wrote stands in the pages that have a place for it, as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import insert, report
from bench.insert import RESULTS

ROOT = insert.ROOT
WRITTEN = sorted(RESULTS.glob("*.csv"))
TABLES = [
    report.Shown("of, a", ("model", "score"), (("tiny", "0.5000"), ('with "quotes"', "1"))),
    report.Shown("b", ("n", "n"), (("3", "4"),)),
]


@pytest.mark.parametrize("page", insert.pages(), ids=lambda page: page.name)
def test_a_page_has_the_results_as_they_were_written(page: Path) -> None:
    text = page.read_text()
    assert insert.inserted(text) == text, "python -m bench.insert writes it anew"


def test_a_newcomer_and_the_page_of_results_see_some() -> None:
    names = {page.relative_to(ROOT).as_posix() for page in insert.pages()}
    assert {"README.md", "docs/results/quick.md"} <= names


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.stem)
def test_the_tables_of_a_file_are_those_of_its_figures(file: Path) -> None:
    tables = report.from_csv(file.read_text())
    assert tables
    text = file.with_suffix(".md").read_text()
    assert text.startswith(report.as_markdown(tables))
    assert f"`python -m bench.{file.stem} --quick`; processor " in text


def test_every_result_stands_on_a_page() -> None:
    shown = {name for page in insert.pages() for name in insert.names_in(page.read_text())}
    assert shown >= {file.stem for file in WRITTEN}


def test_tables_are_read_as_they_were_written() -> None:
    assert report.from_csv(report.as_csv(TABLES)) == TABLES


def test_a_benchmark_that_ends_writes_what_it_showed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_shown", [])
    report.show("times", ["what", "ms"], [["a", 1.5]])
    report.finish({"times": [1.5]}, tmp_path / "times.json")
    assert json.loads((tmp_path / "times.json").read_text())["times"] == [1.5]
    assert "| a | 1.5000 |" in (tmp_path / "times.md").read_text()
    assert "0,times,0,1,ms,1.5000" in (tmp_path / "times.csv").read_text()


def test_only_the_place_of_a_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insert, "RESULTS", tmp_path)
    (tmp_path / "x.md").write_text("| new |\n")
    page = "before\n<!-- results: x -->\nold\n<!-- end of results -->\nafter\n"
    written = insert.inserted(page)
    assert written == "before\n<!-- results: x -->\n\n| new |\n\n<!-- end of results -->\nafter\n"
    assert insert.inserted(written) == written
