"""A corpus as `rheostat static` reads it: sentences to fit on, and documents held out to check by.

Of each held-out document one sentence becomes a query and the rest the document that it must find.
No sentence of a held-out document is fitted on, nor any text that equals one, letters and digits
alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from models.files import reading
from models.train.texts import Retrieval, normal
from search.offline.errors import DataError
from search.offline.material import LEAST_TEXTS, read_texts

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LEAST_CHARS, _MOST_CHARS = 20, 400  # of a sentence that may be a query
_MOST_QUERIES = 300
_MOST_DOCUMENTS = 600  # that a query is sought among
_CHECKED = 0.1  # of the documents
_LEAST_CHECKED = 10


@dataclass(frozen=True)
class Corpus:
    """Texts in parts that share none.

    Attributes:
        fit: Texts to fit on, in a random order.
        queries: Sentences that are fitted on nowhere, one of each held-out document that has more.
        documents: Of each query the rest of its document, then others.
        plain: Held-out texts that have no more than one sentence.
    """

    fit: Sequence[str]
    queries: Sequence[str]
    documents: Sequence[str]
    plain: Sequence[str]

    @property
    def checked(self) -> list[str]:
        """All held-out texts that stand for queries."""
        return [*self.queries, *self.plain]

    def retrieval(self) -> Retrieval:
        """Return the check as a collection: the n-th query's right document is the n-th."""
        return Retrieval(
            tuple(self.queries),
            tuple(self.documents),
            tuple(frozenset({i}) for i in range(len(self.queries))),
        )


def read_corpus(path: Path, more: Sequence[Path], seed: int) -> Corpus:
    """Read documents and split them.

    Args:
        path: ``.jsonl`` with ``text`` and perhaps ``title`` on each line, or ``.txt`` with a text
            on each.
        more: Files of texts, one a line, that are fitted on besides.
        seed: Of the split and of all orders.

    Raises:
        DataError: Naming the file, and the line at fault.
    """
    if path.suffix not in (".jsonl", ".txt"):
        raise DataError(f"--data={path}: must be a .jsonl with text and title, or a .txt of texts")
    documents = read_texts(path) if path.suffix == ".txt" else _read_documents(path)
    added = [text for one in more for text in _read_more(one)]
    return split(documents, added, seed)


def _read_documents(path: Path) -> list[str]:
    with reading(path, DataError):
        found = list(dict.fromkeys(_documents(path)))
    if len(found) < LEAST_TEXTS:
        raise DataError(f"{path} has {len(found)} texts; needed are {LEAST_TEXTS} or more")
    return found


def _documents(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}, line {number}: no JSON") from None
        parts = []
        for name in ("title", "text"):
            part = record.get(name, "") if isinstance(record, dict) else None
            if not isinstance(part, str):
                raise DataError(f"{path}, line {number}: {name} must be a text")
            parts.append(part.strip())
        if not parts[1]:
            raise DataError(f"{path}, line {number}: text must not be empty")
        yield " ".join(part for part in parts if part)


def _read_more(path: Path) -> list[str]:
    if path.suffix != ".txt":
        raise DataError(f"--texts={path}: must be a .txt of texts, one a line")
    return read_texts(path)


def split(documents: Sequence[str], added: Sequence[str], seed: int) -> Corpus:
    """Hold out documents and return all parts.

    Args:
        documents: Each once.
        added: Texts that are fitted on besides.
        seed: Of all orders.
    """
    rng = Random(seed)
    order = list(documents)
    rng.shuffle(order)
    count = min(_MOST_QUERIES, max(_LEAST_CHECKED, round(_CHECKED * len(order))))
    queries, rests, plain = [], [], []
    for document in order[:count]:
        parts = sentences(document)
        able = [s for s in parts if _LEAST_CHARS <= len(s) <= _MOST_CHARS]
        if len(parts) < 2 or not able:
            plain.append(document)
            continue
        query = rng.choice(able)
        queries.append(query)
        rests.append(" ".join(s for s in parts if s != query))
    known = {normal(s) for document in order[:count] for s in (document, *sentences(document))}
    texts = [s for document in order[count:] for s in sentences(document)]
    fit = [s for s in dict.fromkeys((*texts, *added)) if normal(s) not in known and normal(s)]
    rng.shuffle(fit)
    others = order[count : count + _MOST_DOCUMENTS - len(rests)] if queries else []
    return Corpus(fit, queries, [*rests, *others], plain)


def sentences(document: str) -> list[str]:
    """Return the sentences of a document, each once; the whole where it ends no sentence."""
    return list(dict.fromkeys(s.strip() for s in _SENTENCE.split(document) if s.strip()))
