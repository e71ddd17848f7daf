"""What `rheostat measure` measures a text encoder on: a task each, from a file or a known set.

What data is decides how it is scored: rated pairs by rank correlation, labels by nearest
neighbours, questions with their answers by mean average precision, a collection by nDCG@10.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from models.files import reading
from models.tasks import Metric
from models.train import texts
from models.train.texts import Retrieval
from search.offline.converting import read_pairs
from search.offline.errors import DataError
from search.offline.material import read_labels
from search.quality.embeddings import Evaluation, RankingQuality, SimilarityQuality
from search.quality.neighbours import NeighboursQuality

_MOST_LABELLED = 3000  # texts, standard error about 0.01
_DOCUMENTS = 1000  # of a collection, besides those that answer a query
_NAME = "letters, digits, - and _"


@dataclass(frozen=True)
class TaskData:
    """What one task is measured on.

    Attributes:
        task: Its name.
        evaluation: Texts, and what their vectors are worth.
        metric: Of the task.
    """

    task: str
    evaluation: Evaluation
    metric: Metric

    @property
    def has_sides(self) -> bool:
        """Whether queries seek documents."""
        return isinstance(self.evaluation, RankingQuality)


def read_task(given: str, root: Path, seed: int = 0) -> TaskData:
    """Read what an option says: ``TASK=WHERE``.

    Args:
        given: The option's value. ``WHERE`` is one of `KNOWN`, a folder with ``corpus.jsonl``,
            ``queries.jsonl`` and ``qrels.tsv`` (BEIR's), a ``.tsv`` of rated pairs or of questions
            with answers, or a ``.csv`` of labelled texts.
        root: Folder of the known data sets.
        seed: Of what is drawn where there is more than is needed.

    Raises:
        DataError: Naming the option or the file, and what is allowed.
    """
    task, _, where = given.partition("=")
    if not where or not task.replace("-", "").replace("_", "").isalnum():
        raise DataError(f"--data={given}: must be TASK=WHERE, the task's name of {_NAME}")
    found = KNOWN[where](root) if where in KNOWN else _read(Path(where), given)
    if isinstance(found, Retrieval):
        metric: Metric = "ndcg@10" if found.candidates is None else "map"
        return TaskData(task, RankingQuality(_reduced(found, seed), metric), metric)
    if isinstance(found[0], texts.ScoredPair):
        return TaskData(task, SimilarityQuality(found), "spearman")
    Random(seed).shuffle(found)
    return TaskData(task, NeighboursQuality(found[:_MOST_LABELLED]), "accuracy")


def _read(path: Path, given: str) -> Any:
    if path.is_dir():
        return read_collection(path)
    if path.suffix == ".csv":
        return read_labels(path)
    if path.suffix != ".tsv":
        raise DataError(
            f"--data={given}: must be a folder, .tsv or .csv, or one of {sorted(KNOWN)}"
        )
    with reading(path, DataError), path.open(encoding="utf-8", newline="") as file:
        header = file.readline().rstrip("\r\n").split("\t")
    if {"question", "answer", "label"} <= set(header):
        return read_answers(path)
    return read_pairs(path)


def read_answers(path: Path) -> Retrieval:
    """Read questions that rank their own answers: TSV with question, answer and label 0 or 1.

    Raises:
        DataError: Naming the file, and the line at fault.
    """
    rows = []
    with reading(path, DataError), path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for row in reader:
            if row["label"] not in ("0", "1") or not (row["question"] and row["answer"]):
                raise DataError(
                    f"{path}, line {reader.line_num}: label must be 0 or 1, question and answer "
                    "texts"
                )
            rows.append(row)
    return _some(texts.answer_groups(rows), path)


def read_collection(folder: Path) -> Retrieval:
    """Read queries, documents and judgements in BEIR's layout.

    Raises:
        DataError: Naming the file, and the line at fault.
    """
    documents = _records(folder / "corpus.jsonl")
    queries = _records(folder / "queries.jsonl")
    place = {name: i for i, name in enumerate(documents)}
    relevant: dict[str, set[int]] = {}
    path = folder / "qrels.tsv"
    with reading(path, DataError):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            query, document, score = (*line.split("\t"), "", "")[:3]
            if number == 1 and query == "query-id":
                continue
            if query not in queries or document not in place or not score.isdigit():
                raise DataError(
                    f"{path}, line {number}: must be the ids of a query and a document, and a score"
                )
            if int(score) > 0:
                relevant.setdefault(query, set()).add(place[document])
    return _some(
        Retrieval(
            tuple(queries[query] for query in relevant),
            tuple(documents.values()),
            tuple(frozenset(own) for own in relevant.values()),
        ),
        path,
    )


def _records(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with reading(path, DataError):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = json.loads(line)
                name, title, text = record["_id"], record.get("title", ""), record["text"]
                whole = f"{title} {text}".strip()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise DataError(f"{path}, line {number}: must have _id and text") from None
            if not whole or str(name) in found:
                raise DataError(f"{path}, line {number}: is empty or has an _id of another line")
            found[str(name)] = whole
    return found


def _some(found: Retrieval, path: Path) -> Retrieval:
    if len(found.queries) < 2:
        raise DataError(f"{path}: needed are two queries or more that have a right document")
    return found


def _reduced(data: Retrieval, seed: int) -> Retrieval:
    """Return the collection without most documents that answer no query, where it is large."""
    if data.candidates is not None:
        return data
    kept = {i for own in data.relevant for i in own}
    others = [i for i in range(len(data.documents)) if i not in kept]
    Random(seed).shuffle(others)
    order = sorted(kept | set(others[:_DOCUMENTS]))
    place = {i: n for n, i in enumerate(order)}
    return Retrieval(
        data.queries,
        tuple(data.documents[i] for i in order),
        tuple(frozenset(place[i] for i in own) for own in data.relevant),
    )


KNOWN: Mapping[str, Callable[[Path], Any]] = {
    "stsb/dev": lambda root: texts.stsb(root, "dev"),
    "scifact/train": lambda root: texts.scifact(root, "train"),
    "cranfield": texts.cranfield,
    "trecqa/dev": lambda root: texts.trecqa(root, "dev"),
    "banking77/train": lambda root: texts.intents(root, "banking77", "train"),
    "clinc150/val": lambda root: texts.intents(root, "clinc150", "val"),
    "pydoc-code/dev": lambda root: texts.as_collection(texts.pydoc_code(root, "dev")[:500]),
}
"""Splits that may choose, of the data sets in the data folder; none of them is called test."""
