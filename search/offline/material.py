"""A user's own data for `rheostat elasticize`, in three parts that share no text.

One part ranks and refits, one chooses, one reports: what a card says was measured on texts that
decided nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias, TypeVar

from models.files import reading
from models.tasks import Metric
from models.train.texts import normal
from search.offline.converting import read_pairs
from search.offline.csv_rows import rows_of
from search.offline.errors import DataError
from search.quality.agreement import AgreementQuality, ProbeQuality
from search.quality.embeddings import Evaluation, SimilarityQuality
from search.quality.table import FloatArray

Embed: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Function of texts to the whole model's unit vectors, shape [texts, dim]."""
T = TypeVar("T")
Texts = TypeVar("Texts", list[str], dict[str, str])
LEAST_TEXTS = 30
MOST_MEASURED = 1000  # pairs or texts of the part that reports
MOST_CHOOSING = 600
_SHARES = (0.6, 0.8)  # ends of the parts that fit and choose
_KINDS = "a .tsv of rated pairs, a .csv of labels or a .txt of texts"


@dataclass(frozen=True)
class Material:
    """What a model is made elastic with.

    Attributes:
        fit: Texts that rank and refit.
        choose: What cuts are chosen by.
        report: What the table and the card say.
        task: Name of the task that the scores are of.
        metric: Of the task.
        sizes: For the card: how many of what there are in each part.
    """

    fit: Sequence[str]
    choose: Evaluation
    report: Evaluation
    task: str
    metric: Metric
    sizes: Mapping[str, int]


def read_material(path: Path, more: Sequence[Path], seed: int) -> Callable[[Embed], Material]:
    """Read data and split it; what comes back makes the material once a model can embed texts.

    Args:
        path: Rated pairs, labelled texts or plain texts.
        more: Files of plain texts of the same kind of use; they rank and refit only.
        seed: Of the split.

    Raises:
        ValueError: Naming the file, and the column or line at fault.
    """
    readers = {".tsv": _of_pairs, ".csv": _of_labels, ".txt": _of_texts}
    if path.suffix not in readers:
        raise DataError(f"--data={path}: must be {_KINDS}")
    added: list[str] = []
    for one in more:
        if one.suffix != ".txt":
            raise DataError(f"--texts={one}: must be a .txt of texts, one a line")
        added += read_texts(one)
    return readers[path.suffix](path, added, Random(seed))


def read_texts(path: Path) -> list[str]:
    """Read texts, one a line, each once.

    Raises:
        ValueError: If the file is not UTF-8 or has fewer than `LEAST_TEXTS`.
    """
    with reading(path, DataError):
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        found = list(dict.fromkeys(line for line in lines if line))
        return _enough(found, path)


def read_labels(path: Path) -> list[tuple[str, str]]:
    """Read labelled texts: CSV with the columns text and label, each text once.

    Raises:
        ValueError: Naming the file, and the column or line at fault.
    """
    found: dict[str, str] = {}
    with reading(path, DataError):
        for at, row in rows_of(path, ("text", "label")):
            text, label = (row["text"] or "").strip(), (row["label"] or "").strip()
            if not text or not label:
                raise DataError(f"{at}: text and label must not be empty")
            if found.setdefault(text, label) != label:
                raise DataError(f"{at}: {text!r} has another label above")
        return list(_enough(found, path).items())


def _enough(found: Texts, path: Path) -> Texts:
    if len(found) < LEAST_TEXTS:
        raise DataError(f"{path} has {len(found)} texts; needed are {LEAST_TEXTS} or more")
    return found


def _of_texts(path: Path, added: list[str], rng: Random) -> Callable[[Embed], Material]:
    fit, choose, report = parts(read_texts(path), lambda text: (text,), rng)
    choose, report = choose[:MOST_CHOOSING], report[:MOST_MEASURED]

    def make(embed: Embed) -> Material:
        return Material(
            fit=_clean([*fit, *added], [*choose, *report]),
            choose=AgreementQuality(choose, embed(choose)),
            report=AgreementQuality(report, embed(report)),
            task="similarity",
            metric="agreement",
            sizes={"fit": len(fit) + len(added), "choose": len(choose), "report": len(report)},
        )

    return make


def _of_pairs(path: Path, added: list[str], rng: Random) -> Callable[[Embed], Material]:
    fit, choose, report = parts(read_pairs(path), lambda pair: pair[:2], rng)
    choose, report = choose[:MOST_CHOOSING], report[:MOST_MEASURED]
    for name, part in (("choosing", choose), ("reporting", report)):
        if len(part) < 4 or len({pair.score for pair in part}) < 2:
            raise DataError(f"{path}: too few pairs of different scores are left for {name}")
    of_fit = list(dict.fromkeys(text for pair in fit for text in pair[:2]))

    def make(_: Embed) -> Material:
        return Material(
            fit=_clean([*of_fit, *added], [t for pair in (*choose, *report) for t in pair[:2]]),
            choose=SimilarityQuality(choose),
            report=SimilarityQuality(report),
            task="similarity",
            metric="spearman",
            sizes={"fit": len(of_fit) + len(added), "choose": len(choose), "report": len(report)},
        )

    return make


def _of_labels(path: Path, added: list[str], rng: Random) -> Callable[[Embed], Material]:
    fit, choose, report = parts(read_labels(path), lambda pair: (pair[0],), rng)
    choose, report = choose[:MOST_CHOOSING], report[:MOST_MEASURED]
    examples = fit[:MOST_MEASURED]
    if len({label for _, label in examples}) < 2:
        raise DataError(f"{path}: label must have two values or more")

    def make(_: Embed) -> Material:
        return Material(
            fit=_clean([*(t for t, _ in fit), *added], [t for t, _ in (*choose, *report)]),
            choose=ProbeQuality(examples[:MOST_CHOOSING], choose),
            report=ProbeQuality(examples, report),
            task="classification",
            metric="accuracy",
            sizes={"fit": len(fit) + len(added), "choose": len(choose), "report": len(report)},
        )

    return make


def _clean(fit: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """Return texts, each once, without those that choose or report."""
    known = {normal(text) for text in held_out}
    return [text for text in dict.fromkeys(fit) if normal(text) not in known]


def parts(
    items: Sequence[T], texts_of: Callable[[T], Sequence[str]], rng: Random
) -> tuple[list[T], list[T], list[T]]:
    """Split items into three parts, 60, 20 and 20 per cent, that share no text.

    Items that have a text in common, letters and digits alone, go together.
    """
    group: dict[str, int] = {}
    joined: list[int] = []  # a forest: each group's parent

    def root(i: int) -> int:
        while joined[i] != i:
            joined[i] = joined[joined[i]]
            i = joined[i]
        return i

    own = []
    for item in items:
        joined.append(len(joined))
        number = len(joined) - 1
        for text in texts_of(item):
            number_of_text = group.setdefault(normal(text), number)
            joined[root(number)] = root(number_of_text)
        own.append(number)
    members: dict[int, list[T]] = {}
    for item, number in zip(items, own, strict=True):
        members.setdefault(root(number), []).append(item)
    order = list(members.values())
    rng.shuffle(order)
    found: tuple[list[T], list[T], list[T]] = ([], [], [])
    taken = 0
    for together in order:
        share = taken / len(items)
        found[sum(share >= end for end in _SHARES)].extend(together)
        taken += len(together)
    return found
