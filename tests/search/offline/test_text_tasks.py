from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.offline.errors import DataError
from search.offline.text_tasks import KNOWN, read_task


def collection(folder: Path, judgements: list[tuple[str, str, str]]) -> Path:
    folder.mkdir()
    documents = [{"_id": f"d{i}", "title": "T", "text": f"w{i}"} for i in range(6)]
    queries = [{"_id": f"q{i}", "text": f"w{i} w1"} for i in range(3)]
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(row) for row in judgements)]
    (folder / "qrels.tsv").write_text("\n".join(lines))
    return folder


def test_a_collection_in_beirs_layout_is_a_search(tmp_path: Path) -> None:
    folder = collection(
        tmp_path / "beir",
        [("q0", "d0", "1"), ("q2", "d1", "2"), ("q2", "d5", "1"), ("q1", "d3", "0")],
    )
    read = read_task(f"retrieval={folder}", tmp_path)
    assert (read.task, read.metric, read.has_sides) == ("retrieval", "ndcg@10", True)
    assert list(read.evaluation.texts[:2]) == ["w0 w1", "w2 w1"]
    assert "T w5" in read.evaluation.texts


def test_a_files_columns_say_what_it_is(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    rows = [f"w{i}\tw{i + 1}\t{i % 3}" for i in range(8)]
    pairs.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    answers = tmp_path / "answers.tsv"
    rows = [f"{i % 2}\twhat is w{i // 4}\tw{i}" for i in range(12)]
    answers.write_text("\n".join(["label\tquestion\tanswer", *rows]))
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["text,label", *(f"w{i},{i % 3}" for i in range(40))]))
    found = {path.stem: read_task(f"x={path}", tmp_path) for path in (pairs, answers, labels)}
    assert {name: one.metric for name, one in found.items()} == {
        "pairs": "spearman",
        "answers": "map",
        "labels": "accuracy",
    }
    assert [name for name, one in found.items() if one.has_sides] == ["answers"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("retrieval", "must be TASK=WHERE"),
        ("re:trieval=stsb/dev", "must be TASK=WHERE"),
        ("a=file.json", "must be a folder, .tsv or .csv, or one of"),
    ],
)
def test_what_names_no_task_or_no_data_is_refused(given: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_task(given, tmp_path)


def test_a_judgement_of_what_is_not_there_is_named(tmp_path: Path) -> None:
    folder = collection(tmp_path / "beir", [("q0", "d0", "1"), ("q9", "d0", "1")])
    with pytest.raises(DataError, match="line 3: must be the ids of a query and a document"):
        read_task(f"a={folder}", tmp_path)


def test_no_known_set_is_a_test_split() -> None:
    assert not any("test" in name for name in KNOWN)
