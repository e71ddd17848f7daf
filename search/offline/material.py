"""A user's own data for `rheostat elasticize`, in three parts that share no text.

One part ranks and refits, one chooses, one reports: what a card says was measured on texts that
decided nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, TypeAlias, TypeVar

from models.files import reading
from models.tasks import Kind, Metric
from models.train.texts import ScoredPair, normal
from search.offline.converting import read_pairs
from search.offline.csv_rows import rows_of
from search.offline.errors import DataError
from search.offline.image_files import read_images
from search.offline.splitting import LEAST_HELD_OUT, MOST_MEASURED, Split
from search.offline.whole import Whole
from search.quality.agreement import (
    AgreementQuality,
    ClassesQuality,
    ProbeQuality,
    RankScoreQuality,
    agreement,
)
from search.quality.embeddings import Evaluation, SimilarityQuality
from search.quality.items import Item

Reading: TypeAlias = Callable[[Whole], "Material"]
"""Function of the whole model to the material that was read."""
Texts = TypeVar("Texts", list[str], dict[str, str])
LEAST_TEXTS = 30
_KINDS = "a .tsv of rated pairs, a .csv of labels, a .txt of texts or a folder of images"


@dataclass(frozen=True)
class Material:
    """What a model is made elastic with.

    Attributes:
        fit: Items that rank and refit.
        choose: What cuts are chosen by.
        report: What the table and the card say.
        task: Name of the task that the scores are of.
        metric: Of the task.
        sizes: For the card: how many of what there are in each part.
    """

    fit: Sequence[Item]
    choose: Evaluation
    report: Evaluation
    task: str
    metric: Metric
    sizes: Mapping[str, int]


def read_material(path: Path, more: Sequence[Path], seed: int) -> Reading:
    """Read data and split it; what comes back makes the material for a model.

    Args:
        path: Rated pairs, labelled texts, plain texts or a folder of images.
        more: Files of plain texts of the same kind of use; they rank and refit only.
        seed: Of the split.

    Raises:
        ValueError: Naming the file, and the column or line at fault.
    """
    rng = Random(seed)
    if path.is_dir():
        if more:
            raise DataError(f"--texts={more[0]}: --data={path} is of images")
        return _of_images(path, rng)
    readers = {".tsv": _of_pairs, ".csv": _of_labels, ".txt": _of_texts}
    if path.suffix not in readers:
        raise DataError(f"--data={path}: must be {_KINDS}")
    added: list[str] = []
    for one in more:
        if one.suffix != ".txt":
            raise DataError(f"--texts={one}: must be a .txt of texts, one a line")
        added += read_texts(one)
    return readers[path.suffix](path, added, rng)


def digest_of(path: Path) -> str:
    """Return a digest of a file, or of the images of a folder with their classes."""
    with reading(path, DataError):
        if not path.is_dir():
            return sha256(path.read_bytes()).hexdigest()
        told = (f"{image.digest} {image.label}\n" for image in read_images(path))
        return sha256("".join(told).encode()).hexdigest()


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


def _alone(item: Any) -> tuple[Any]:
    return (item,)


def _pair(pair: ScoredPair) -> tuple[str, str]:
    return pair[:2]


def _first(labelled: tuple[Any, str]) -> tuple[Any]:
    return labelled[:1]


def _of_texts(path: Path, added: list[str], rng: Random) -> Reading:
    return _unlabelled(Split(read_texts(path), _alone, _alone, rng), added)


def _of_pairs(path: Path, added: list[str], rng: Random) -> Reading:
    split = Split(read_pairs(path), _pair, _pair, rng)

    def make(whole: Whole) -> Material:
        if whole.task.kind not in ("embedding", "score"):
            raise DataError(
                f"--data={path}: rated pairs need a model of vectors or of scores, not of "
                f"{whole.task.kind}"
            )
        is_score = whole.task.kind == "score"
        fit, choose, report = split.within(whole, _together if is_score else None)
        for name, part in (("choosing", choose), ("reporting", report)):
            if len(part) < 4 or len({pair.score for pair in part}) < 2:
                raise DataError(f"{path}: too few pairs of different scores are left for {name}")
        if is_score:
            if added:
                raise DataError("--texts: a model of pairs is fitted on pairs alone")
            return _of_scores(whole, fit, choose, report)
        of_fit = list(dict.fromkeys(text for pair in fit for text in pair[:2]))
        return Material(
            fit=_clean([*of_fit, *added], [t for pair in (*choose, *report) for t in pair[:2]]),
            choose=SimilarityQuality(choose),
            report=SimilarityQuality(report),
            task="similarity",
            metric="spearman",
            sizes={"fit": len(of_fit) + len(added), "choose": len(choose), "report": len(report)},
        )

    return make


def _together(pair: ScoredPair) -> tuple[tuple[str, str]]:
    """Return a pair as the one item that a model of scores takes."""
    return (pair[:2],)


def _of_scores(
    whole: Whole,
    fit: Sequence[ScoredPair],
    choose: Sequence[ScoredPair],
    report: Sequence[ScoredPair],
) -> Material:
    """Return what compares a cross-encoder's scores with ratings."""
    chosen, reported = (
        RankScoreQuality([pair[:2] for pair in part], [pair.score for pair in part])
        for part in (choose, report)
    )
    sizes = {"fit": len(fit), "choose": len(choose), "report": len(report)}
    return Material(
        [pair[:2] for pair in fit], chosen, reported, whole.task.name, "spearman", sizes
    )


def _of_labels(path: Path, added: list[str], rng: Random) -> Reading:
    return _labelled(Split(read_labels(path), _first, _first, rng), added, path)


def _of_images(path: Path, rng: Random) -> Reading:
    """Read images: of the model's classes, of others, or without any."""
    images = read_images(path)
    if len(images) < LEAST_TEXTS:
        raise DataError(f"{path} has {len(images)} images; needed are {LEAST_TEXTS} or more")
    labelled = [(image.file, image.label) for image in images if image.label is not None]
    content: dict[Item, str] = {image.file: image.digest for image in images}
    if labelled:
        return _labelled(Split(labelled, lambda pair: (content[pair[0]],), _first, rng), [], path)
    files = [image.file for image in images]
    return _unlabelled(Split(files, lambda file: (content[file],), _alone, rng), [])


def _unlabelled(split: Split[Item], added: Sequence[str]) -> Reading:
    """Return what compares answers with the whole model's."""

    def make(whole: Whole) -> Material:
        fit, choose, report = split.within(whole)
        answers = whole.answers([*choose, *report])
        chosen, reported = answers[: len(choose)], answers[len(choose) :]
        kind = whole.task.kind
        reporting: Mapping[Kind, Callable[[], Evaluation]] = {
            "classes": lambda: ClassesQuality(report, reported.argmax(axis=1).tolist()),
            "score": lambda: RankScoreQuality(report, reported.tolist()),
            "embedding": lambda: AgreementQuality(report, reported),
        }
        return Material(
            fit=_clean([*fit, *added], [*choose, *report]),
            choose=agreement(kind, choose, chosen),
            report=reporting[kind](),
            task="similarity" if kind == "embedding" else whole.task.name,
            metric="spearman" if kind == "score" else "agreement",
            sizes={"fit": len(fit) + len(added), "choose": len(choose), "report": len(report)},
        )

    return make


def _labelled(split: Split[tuple[Item, str]], added: Sequence[str], path: Path) -> Reading:
    """Return what counts right classes: the model's own, or those of a probe of its vectors."""

    def make(whole: Whole) -> Material:
        fit, choose, report = split.within(whole)
        examples = fit[:MOST_MEASURED]
        quality: list[Evaluation]
        if whole.task.kind == "score":
            raise DataError(
                f"--data={path}: a model of scores needs a .tsv of rated pairs, or texts"
            )
        if whole.task.kind == "classes":
            place = {label: i for i, label in enumerate(whole.task.labels)}
            for _, label in (*fit, *choose, *report):
                if label not in place:
                    known = ", ".join(whole.task.labels[:10])
                    raise DataError(f"{path}: label={label!r} is none of the model's: {known} ...")
            quality = [
                ClassesQuality([item for item, _ in part], [place[label] for _, label in part])
                for part in (choose, report)
            ]
        elif len({label for _, label in examples}) < 2:
            raise DataError(f"{path}: label must have two values or more")
        else:
            examples = whole.within(examples, _first, whole.reporting, LEAST_HELD_OUT)
            quality = [
                ProbeQuality(examples[: len(choose)], choose),
                ProbeQuality(examples, report),
            ]
        return Material(
            fit=_clean([*(t for t, _ in fit), *added], [t for t, _ in (*choose, *report)]),
            choose=quality[0],
            report=quality[1],
            task=whole.task.name if whole.task.kind == "classes" else "classification",
            metric="accuracy",
            sizes={"fit": len(fit) + len(added), "choose": len(choose), "report": len(report)},
        )

    return make


def _clean(fit: Sequence[Item], held_out: Sequence[Item]) -> list[Item]:
    """Return items, each once, without those that choose or report."""
    known = {_key(item) for item in held_out}
    return [item for item in dict.fromkeys(fit) if _key(item) not in known]


def _key(item: Item) -> Item:
    return normal(item) if isinstance(item, str) else item
