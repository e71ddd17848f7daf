from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.train.texts import normal
from search.offline.corpus import read_corpus
from search.offline.errors import DataError


def documents(count: int) -> list[dict[str, str]]:
    return [
        {"title": f"Title {i}.", "text": f"Sentence number {i} of one. And sentence {i} of two."}
        for i in range(count)
    ]


def write(path: Path, records: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return path


def test_no_sentence_of_a_held_out_document_is_fitted_on(tmp_path: Path) -> None:
    shared = {"title": "", "text": "Sentence number 3 of one! Nothing else is known of it."}
    records = [*documents(200), shared]
    read = read_corpus(write(tmp_path / "corpus.jsonl", records), [], 1)
    assert len(read.queries) == 20
    assert len(read.documents) == 201
    fitted = {normal(text) for text in read.fit}
    held_out = [*read.queries, *read.documents[:20]]
    for text in held_out:
        for sentence in text.split(". "):
            assert normal(sentence) not in fitted
    assert len(read.fit) > 150


def test_a_query_is_not_part_of_the_document_that_it_must_find(tmp_path: Path) -> None:
    read = read_corpus(write(tmp_path / "corpus.jsonl", documents(60)), [], 0)
    data = read.retrieval()
    for query, right in zip(data.queries, data.relevant, strict=True):
        (own,) = right
        assert query not in data.documents[own]
        number = next(word for word in query.split() if word.strip(".").isdigit())
        assert number.strip(".") in data.documents[own]


def test_short_texts_are_held_out_whole(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"short text {i}" for i in range(50)))
    more = tmp_path / "more.txt"
    more.write_text("\n".join(f"another {i}" for i in range(40)))
    read = read_corpus(path, [more], 0)
    assert (len(read.queries), len(read.documents), len(read.plain)) == (0, 0, 10)
    assert len(read.fit) == 40 + 40
    assert set(read.plain).isdisjoint(read.fit)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ('{"title": "a"}', "line 2: text must not be empty"),
        ('{"text": 3}', "line 2: text must be a text"),
        ("[1]", "line 2: title must be a text"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_corpus(path, [], 0)


def test_other_files_and_too_few_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus.csv: must be a .jsonl"):
        read_corpus(tmp_path / "corpus.csv", [], 0)
    with pytest.raises(DataError, match="has 5 texts; needed are 30"):
        read_corpus(write(tmp_path / "corpus.jsonl", documents(5)), [], 0)
