"""What a model can be asked."""

from __future__ import annotations

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
