"""What a model can be asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Metric: TypeAlias = Literal["accuracy", "spearman", "mrr@10", "ndcg@10", "map"]


@dataclass(frozen=True, slots=True)
class Task:
    """One question a model answers.

    Attributes:
        name: Also the name of the value that the answering step emits.
        kind: ``classification``: the value is logits, shape [batch, len(labels)]. ``embedding``:
            it is unit vectors, shape [batch, dimensions].
        labels: Class names, in logit order; none for an embedding.
        metric: What the table scores, higher is better.
    """

    name: str
    kind: Literal["classification", "embedding"]
    labels: tuple[str, ...] = ()
    metric: Metric = "accuracy"


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
