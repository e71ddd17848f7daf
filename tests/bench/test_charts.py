from __future__ import annotations

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import charts
from bench.charts import IMAGES

ROOT = Path(charts.__file__).parent.parent
PICTURES = sorted(IMAGES.glob("*.svg"))
MAX_BYTES = 12_000


def rows(name: str) -> list[dict[str, str]]:
    with (IMAGES / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", sorted(charts.drawings()))
def test_a_committed_chart_is_what_its_figures_make(name: str) -> None:
    assert (IMAGES / name).read_text() == charts.drawings()[name]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_titled_and_follows_light_and_dark_mode(picture: Path) -> None:
    text = picture.read_text()
    root = ElementTree.fromstring(text)
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme:dark" in text
    assert len(text.encode()) < MAX_BYTES


@pytest.mark.parametrize("name", ["page.png", "answers.png"])
def test_a_picture_of_the_page_is_small(name: str) -> None:
    assert 10_000 < (IMAGES / name).stat().st_size < 120_000


def test_a_bar_is_as_long_as_its_figure() -> None:
    drawn = ElementTree.fromstring(charts.throughput())
    bars = [
        int(one.attrib["width"])
        for one in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if one.attrib["class"] in ("ours", "theirs")
    ]
    figures = [float(row["requests_per_s"]) for row in rows("throughput.csv")]
    assert len(bars) == len(figures)
    for bar, figure in zip(bars, figures, strict=True):
        assert bar / max(bars) == pytest.approx(figure / max(figures), abs=0.01)


def test_charted_throughputs_stand_in_the_measured_results() -> None:
    page = (ROOT / "docs" / "results" / "README.md").read_text()
    for row in rows("throughput.csv"):
        rate = row["requests_per_s"]
        # By itself, or as the median between the least and the most.
        assert re.search(rf"\| (\d+ / )?{rate}( / \d+)? \|", page), row


def test_charted_scores_stand_on_the_cards_of_the_models() -> None:
    for row in rows("quality.csv"):
        card = (ROOT / "models" / "zoo" / row["model"] / "README.md").read_text()
        assert f"| {row['test_score']} |" in card, row
