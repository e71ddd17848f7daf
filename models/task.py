"""What a model can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Task:
    """One question a model answers.

    Attributes:
        name: Also the name of the value that the answering step emits.
        kind: ``classification``: the value is logits, shape [batch, len(labels)].
        labels: Class names, in logit order.
        metric: What the table scores, higher is better.
    """

    name: str
    kind: Literal["classification"]
    labels: tuple[str, ...]
    metric: Literal["accuracy"] = "accuracy"
