"""What a model can be asked, and what its answers are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["classes", "embedding", "score", "map"]
Metric: TypeAlias = Literal[
    "accuracy",
    "spearman",
    "agreement",
    "mrr@10",
    "ndcg@10",
    "map",
    "miou",
    "f1",
    "rmse",
    "mean_angular_error",
]
ERRORS: frozenset[Metric] = frozenset({"rmse", "mean_angular_error"})
"""Metrics of which less is better; their least value is 0. Of all others more is, at most 1."""

_MAX_MAP_LABELS = 256  # a picture of classes has a byte for each pixel


@dataclass(frozen=True, slots=True)
class Task:
    """One question a model answers.

    Attributes:
        name: Of the answer in its plans.
        kind: ``classes``: logits, shape [batch, labels]. ``embedding``: unit vectors, shape [batch,
            dimensions]. ``score``: a number, shape [batch]. ``map``: a value per pixel, shape
            [batch, channels, height, width]: logits of the labels, or numbers in a unit.
        labels: Class names, in logit order; none for what has no classes.
        metric: What the table scores.
        unit: Of a map of numbers, for example ``m``; empty where they have none.
        channels: Of a map of numbers, what each is; none for a map of classes.

    Raises:
        ValueError: If labels or channels do not go with the kind.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    metric: Metric = "accuracy"
    unit: str = ""
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a task whose answers could not be read."""
        if self.kind == "classes" and len(self.labels) < 2:
            raise ValueError(f"task {self.name!r}: labels={list(self.labels)} must be two or more")
        if self.kind == "map" and bool(self.labels) == bool(self.channels):
            raise ValueError(f"task {self.name!r}: a map has either labels or channels")
        if self.kind == "map" and len(self.labels) > _MAX_MAP_LABELS:
            raise ValueError(
                f"task {self.name!r}: {len(self.labels)} labels of a map; at most {_MAX_MAP_LABELS}"
            )
        if self.kind in ("embedding", "score") and self.labels:
            raise ValueError(f"task {self.name!r}: kind={self.kind!r} has no labels")

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self.metric in ERRORS


def wanted_tasks(tasks: Mapping[str, Task], asked: Collection[str] | None) -> list[str]:
    """Return the tasks asked for, all for None, in the model's order.

    Raises:
        ValueError: Naming one that the model does not have.
    """
    if asked is None:
        return list(tasks)
    if unknown := sorted(set(asked) - tasks.keys()):
        raise ValueError(f"unknown task {unknown[0]!r}; one of {list(tasks)}")
    return [task for task in tasks if task in asked]
