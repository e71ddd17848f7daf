from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from models.train.texts import (
    as_collection,
    cosqa,
    free_texts,
    normal,
    overlap,
    pydoc_code,
    scifact,
    sick,
    sts_years,
    stsb,
    trecqa,
)

data = pytest.mark.skipif("RHEOSTAT_DATA" not in os.environ, reason="RHEOSTAT_DATA is not set")


@pytest.fixture
def root() -> Path:
    return Path(os.environ["RHEOSTAT_DATA"])


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write("\n".join(lines) + "\n")


def test_overlap_sees_through_case_spaces_and_punctuation() -> None:
    assert normal("  A man, playing_guitar! ") == "a man playing guitar"
    assert overlap(["A man."], ["a MAN", "a dog"]) == {"a man"}


def test_quotes_and_tabs_of_a_table_are_taken_as_they_stand(tmp_path: Path) -> None:
    lines = ["sentence1\tsentence2\tscore", 'say "hi\t"\t2.5']
    write(tmp_path / "stsb" / "dev.tsv.gz", lines)
    assert stsb(tmp_path, "dev") == [('say "hi', '"', 2.5)]


def test_years_leave_out_pairs_that_are_known(tmp_path: Path) -> None:
    header = "year\tsubset\tsplit\tscore\tsentence1\tsentence2"
    for year in (2012, 2013, 2014, 2015):
        rows = [header, f"{year}\tx\ttest\t3.0\tOne {year}\tTwo", f"{year}\tx\ttest\t1.0\tA\tB"]
        write(tmp_path / "sts12-15" / f"sts{year}.tsv.gz", rows)
    found = sts_years(tmp_path, ["a", "b!", "two"])
    assert [pair.first for pair in found] == ["One 2012", "One 2013", "One 2014", "One 2015"]


def test_questions_without_a_choice_are_left_out(tmp_path: Path) -> None:
    rows = ["label\tquestion\tanswer", "1\tq1\ta", "0\tq1\tb", "0\tq2\tc", "1\tq3\td"]
    write(tmp_path / "trecqa" / "dev.tsv.gz", rows)
    found = trecqa(tmp_path, "dev")
    assert found.queries == ("q1",)
    assert found.candidates == ((0, 1),)
    assert found.relevant == (frozenset({0}),)


def test_claims_point_into_the_corpus(tmp_path: Path) -> None:
    corpus = [{"doc_id": 9, "title": "T", "text": "x"}, {"doc_id": 4, "title": "U", "text": "y"}]
    claims = [{"id": 1, "claim": "c", "cited": [4]}, {"id": 2, "claim": "d", "cited": []}]
    write(tmp_path / "scifact" / "corpus.jsonl.gz", [json.dumps(one) for one in corpus])
    write(tmp_path / "scifact" / "claims_dev.jsonl.gz", [json.dumps(one) for one in claims])
    found = scifact(tmp_path, "dev")
    assert found.documents == ("T x", "U y")
    assert (found.queries, found.relevant) == (("c",), (frozenset({1}),))


@data
def test_sizes_of_the_data_sets(root: Path) -> None:
    assert [len(stsb(root, split)) for split in ("train", "dev", "test")] == [5749, 1500, 1379]
    assert len(sick(root)) == 4500
    assert [len(pydoc_code(root, split)) for split in ("train", "dev", "test")] == [
        13131,
        2441,
        1610,
    ]
    code = cosqa(root, "test")
    assert (len(code.queries), len(code.documents)) == (500, 6267)
    claims = scifact(root, "dev")
    assert (len(claims.queries), len(claims.documents)) == (300, 5183)
    assert len(as_collection(pydoc_code(root, "dev")).queries) == 2441


@data
def test_free_texts_are_there_and_none_is_empty(root: Path) -> None:
    sizes = {name: len(texts) for name, texts in free_texts(root).items()}
    assert sizes == {
        "stsb": 11498,
        "clinc150": 15000,
        "banking77": 10003,
        "pydoc-code": 13131,
        "scifact": 809,
    }
    assert all(text.strip() for texts in free_texts(root).values() for text in texts)
