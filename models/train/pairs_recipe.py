"""Hyper-parameters of training a model of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Lesson: TypeAlias = Literal["labels", "bi-to-cross", "cross-to-bi"]
LESSONS: tuple[Lesson, ...] = get_args(Lesson)


@dataclass(frozen=True)
class PairsRecipe:
    """Hyper-parameters of one run.

    Attributes:
        steps: Optimiser steps of each lesson.
        lessons: What is learned from, one after the other.
        queries: In each.
        hard: Wrong documents of a query that a first model ranks high.
        others: Documents of other queries that are wrong for it.
        learning_rate: Peak, after the warm-up, then a cosine down to zero.
        head_rate: The same for exits and scores.
        reach_rate: The same for how far heads see into the other text.
        reach: Where that starts; -5 is hardly at all, with -3 it is seven times as much.
        warmup: Fraction of the steps.
        weight_decay: Of AdamW, on the encoder's matrices only.
        last_exit: Weight of what the last exit teaches the others, beside the labels.
        teacher: Weight of the teacher's cosines, likewise.
        calibration: Weight of each score as a probability by itself.
        max_tokens: Documents are cut there in training.
        bfloat16: Whether matrix products are computed in bfloat16; weights stay in float32.
        seed: For order and draws.
    """

    steps: int = 600
    lessons: tuple[Lesson, ...] = ("labels",)
    queries: int = 8
    hard: int = 4
    others: int = 1
    learning_rate: float = 5e-5
    head_rate: float = 5e-4
    reach_rate: float = 2e-2
    reach: float = -5.0
    warmup: float = 0.1
    weight_decay: float = 0.01
    last_exit: float = 0.5
    teacher: float = 0.3
    calibration: float = 0.2
    max_tokens: int = 128
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense; ValueError naming the field."""
        for name, least in (
            ("steps", 1), ("queries", 2), ("hard", 0), ("others", 0), ("max_tokens", 3)
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be {least} or more")
        if self.hard + self.others < 1:
            raise ValueError(f"hard={self.hard} and others={self.others}: one or more is needed")
        if not self.lessons or not set(self.lessons) <= set(LESSONS):
            raise ValueError(f"lessons={list(self.lessons)} must be one or more of {list(LESSONS)}")
