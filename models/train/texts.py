"""Text data sets: free texts to distil on, pairs, labelled pairs, and retrieval collections.

Every reader names its split. Training never reads a split called test, and `overlap` says which
training texts stand in an evaluation split too.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class ScoredPair(NamedTuple):
    """Two texts and how alike people found them, on the data set's own scale."""

    first: str
    second: str
    score: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Queries, documents, and which documents answer which query.

    Attributes:
        queries: Texts.
        documents: Texts.
        relevant: Per query, the indices of its right documents; never empty.
        candidates: Per query, the indices to rank; None for all documents.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    candidates: tuple[tuple[int, ...], ...] | None = None


def stsb(root: Path, split: str) -> list[ScoredPair]:
    """Read STS-Benchmark: train, dev or test; scores 0..5."""
    rows = _tsv(root / "stsb" / f"{split}.tsv.gz")
    return [ScoredPair(r["sentence1"], r["sentence2"], float(r["score"])) for r in rows]


def sick(root: Path, split: str = "train") -> list[ScoredPair]:
    """Read SICK: train or trial, to report on only: it is not for commercial use; scores 1..5."""
    rows = _tsv(root / "sick" / f"{split}.tsv.gz")
    return [ScoredPair(r["sentence1"], r["sentence2"], float(r["relatedness"])) for r in rows]


def mrpc(root: Path, split: str) -> list[ScoredPair]:
    """Read the Microsoft Research Paraphrase Corpus: train, val or test; 1 for a paraphrase."""
    rows = _tsv(root / "mrpc" / f"{split}.tsv.gz")
    return [ScoredPair(r["sentence1"], r["sentence2"], float(r["label"])) for r in rows]


def sts_years(root: Path, known: Collection[str]) -> list[ScoredPair]:
    """Read STS 2012 to 2015 without pairs of which both texts are in ``known``; scores 0..5.

    STS-Benchmark is drawn from these years, so its train and dev texts must be left out.
    """
    seen = {normal(text) for text in known}
    pairs = []
    for year in (2012, 2013, 2014, 2015):
        for row in _tsv(root / "sts12-15" / f"sts{year}.tsv.gz"):
            if not {normal(row["sentence1"]), normal(row["sentence2"])} <= seen:
                pairs.append(ScoredPair(row["sentence1"], row["sentence2"], float(row["score"])))
    return pairs


def scifact(root: Path, split: str) -> Retrieval:
    """Read SciFact's claims, train or dev, over its whole corpus; titles stand before texts."""
    corpus = list(_jsonl(root / "scifact" / "corpus.jsonl.gz"))
    index = {str(record["doc_id"]): i for i, record in enumerate(corpus)}
    claims = [
        record
        for record in _jsonl(root / "scifact" / f"claims_{split}.jsonl.gz")
        if record["cited"]
    ]
    return Retrieval(
        tuple(record["claim"] for record in claims),
        tuple(f"{record['title']} {record['text']}" for record in corpus),
        tuple(frozenset(index[str(doc)] for doc in record["cited"]) for record in claims),
    )


def trecqa(root: Path, split: str) -> Retrieval:
    """Read TREC QA: each question ranks its own answers; questions without a right one are left."""
    return answer_groups(_tsv(root / "trecqa" / f"{split}.tsv.gz"))


def answer_groups(rows: Iterable[Mapping[str, str]]) -> Retrieval:
    """Return questions that rank their own answers, those alone that have right and wrong ones.

    Args:
        rows: With ``question``, ``answer`` and ``label``, 1 for a right answer.
    """
    groups: dict[str, list[tuple[str, bool]]] = {}
    for row in rows:
        groups.setdefault(row["question"], []).append((row["answer"], row["label"] == "1"))
    documents: list[str] = []
    queries, relevant, candidates = [], [], []
    for question, answers in groups.items():
        own = range(len(documents), len(documents) + len(answers))
        documents.extend(text for text, _ in answers)
        right = frozenset(i for i, (_, is_right) in zip(own, answers, strict=True) if is_right)
        if right and len(right) < len(answers):
            queries.append(question)
            relevant.append(right)
            candidates.append(tuple(own))
    return Retrieval(tuple(queries), tuple(documents), tuple(relevant), tuple(candidates))


def cranfield(root: Path) -> Retrieval:
    """Read Cranfield 1400: judged 1 to 4 is right; what is judged otherwise, or empty, is not."""
    documents = [d for d in _jsonl(root / "cranfield" / "docs.jsonl.gz") if d["text"].strip()]
    index = {str(record["doc_id"]): i for i, record in enumerate(documents)}
    relevant: dict[str, set[int]] = {}
    for row in _tsv(root / "cranfield" / "qrels.tsv.gz"):
        if int(row["code"]) >= 1 and row["doc_id"] in index:
            relevant.setdefault(row["query_no"], set()).add(index[row["doc_id"]])
    queries = {r["query_no"]: r["text"] for r in _tsv(root / "cranfield" / "queries.tsv.gz")}
    return Retrieval(
        tuple(queries[number] for number in relevant),
        tuple(record["text"] for record in documents),
        tuple(frozenset(own) for own in relevant.values()),
    )


def intents(root: Path, name: str, split: str) -> list[tuple[str, str]]:
    """Read texts with their intents, each text once: BANKING77 or CLINC150."""
    rows = _tsv(root / name / f"{split}.tsv.gz")
    return list({row["text"]: row["label"] for row in rows}.items())


def pydoc_code(root: Path, split: str) -> list[tuple[str, str]]:
    """Read (docstring, function) pairs of Python packages: train, dev or test."""
    records = _jsonl(root / "pydoc-code" / f"{split}.jsonl.gz")
    return [(record["doc"], record["code"]) for record in records]


def cosqa(root: Path, split: str) -> Retrieval:
    """Read CoSQA: web queries, dev or test, over all of its functions."""
    codes = list(_jsonl(root / "cosqa" / "codes.jsonl.gz"))
    index = {str(record["code_id"]): i for i, record in enumerate(codes)}
    rows = list(_tsv(root / "cosqa" / f"queries_{split}.tsv.gz"))
    return Retrieval(
        tuple(row["query"] for row in rows),
        tuple(record["code"] for record in codes),
        tuple(frozenset({index[row["code_id"]]}) for row in rows),
    )


def as_collection(pairs: Iterable[tuple[str, str]]) -> Retrieval:
    """Return pairs as a collection in which each first text must find its own second one."""
    queries, documents = zip(*pairs, strict=True)
    return Retrieval(
        tuple(queries), tuple(documents), tuple(frozenset({i}) for i in range(len(queries)))
    )


def free_texts(root: Path) -> dict[str, list[str]]:
    """Return texts to distil on, by data set; all of train splits, all free to share.

    Intents (CLINC150, BANKING77), Python docstrings and SciFact's training claims.
    """
    return {
        "stsb": [text for pair in stsb(root, "train") for text in pair[:2]],
        "clinc150": [row["text"] for row in _tsv(root / "clinc150" / "train.tsv.gz")],
        "banking77": [row["text"] for row in _tsv(root / "banking77" / "train.tsv.gz")],
        "pydoc-code": [doc for doc, _ in pydoc_code(root, "train")],
        "scifact": [r["claim"] for r in _jsonl(root / "scifact" / "claims_train.jsonl.gz")],
    }


def overlap(texts: Iterable[str], held_out: Iterable[str]) -> set[str]:
    """Return the normal forms of texts that stand in both, see `normal`."""
    return {normal(text) for text in texts} & {normal(text) for text in held_out}


def normal(text: str) -> str:
    """Return a text's letters and digits in lower case: what overlap is judged by."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _tsv(path: Path) -> Iterator[Mapping[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
