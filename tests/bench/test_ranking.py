from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bench.bm25 import Bm25
from bench.notebook import Notebook
from bench.rankers import Cell, Lists, Policy
from bench.ranking_tables import row
from models.train.texts import Retrieval

DOCUMENTS = ("a cat sat", "dogs and cats and dogs", "nothing of that", "the cat of a dog")


def test_rare_words_that_come_often_go_first() -> None:
    ranker = Bm25(DOCUMENTS)
    assert ranker.first("dogs", 1) == [1]
    assert ranker.first("a cat", 2) == [0, 3]
    assert ranker.first("unheard", 4) == [0, 1, 2, 3]


def test_an_answer_is_scored_with_what_was_not_sent_behind_it() -> None:
    data = Retrieval(("q",), DOCUMENTS, (frozenset({0, 2}),))
    lists = Lists(data, [[3, 2, 1, 0]])
    two = Policy("two", {}, first=2)  # 2 and 3 are sent, in this order
    ideal = 1 + 1 / math.log2(3)
    assert lists.score(0, two, [0, 1]) == pytest.approx((1 + 1 / math.log2(5)) / ideal)
    assert lists.score(0, Policy("all", {}), [0, 2, 1, 3]) == pytest.approx(1)


def cell(score: float, seconds: float) -> Cell:
    return Cell(np.full(4, score), np.full(4, seconds), {}, math.nan)


def test_the_best_fixed_policy_is_one_that_is_in_time() -> None:
    whole, half, spread = (
        Policy(name, {"in_stages": is_spread})
        for name, is_spread in (("whole for all", False), ("half", False), ("spread", True))
    )
    cells = {whole: cell(0.8, 2.0), half: cell(0.6, 0.5), spread: cell(0.7, 0.5)}
    found = row(Policy("1000 ms", {}), 1, 1000.0, cell(0.7, 0.9), cells, cells)
    assert (found["best_fixed"], found["late"]) == ("half", 0)
    assert found["ahead"] == pytest.approx(0.1)
    assert found["of_whole"] == pytest.approx(0.7 / 0.8)


def test_a_run_that_was_stopped_goes_on_with_the_cells_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    one = Cell(np.array([0.5, math.nan]), np.array([0.25]), {429: 1}, math.nan, 3.0)
    Notebook({"claims": 2}, path, resumes=False).cell("static", lambda: one.figures)
    again = Notebook({"claims": 2}, path, resumes=True)
    kept = Cell.of(again.cell("static", lambda: pytest.fail("it is known")))
    assert kept.figures == one.figures
    assert kept.refused == {429: 1}
    with pytest.raises(SystemExit):
        Notebook({"claims": 3}, path, resumes=True)
    assert json.loads(path.read_text())["done"]["static"]["flops"] == 3.0
