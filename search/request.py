"""What a client asks, checked: tasks and how much each matters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from search.lengths import IntArray
from search.quality.table import FloatArray

_MAX_TASK_SETS = 32  # that are kept


class RequestError(ValueError):
    """Tasks or preferences make no sense. The message says what is allowed.

    Attributes:
        field: ``tasks`` or ``preferences``, with the entry where there is one.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, eq=False)
class Request:
    """Checked tasks and weights; equal and hashed by value.

    Attributes:
        tasks: Positions of the asked tasks, ascending.
        weights: Summing to 1, shape [asked tasks].
        largest_macs: MACs of the largest subnet for these tasks.
    """

    tasks: IntArray
    weights: FloatArray
    largest_macs: int

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self._key == other._key

    @cached_property
    def _key(self) -> bytes:
        return self.tasks.tobytes() + self.weights.tobytes()


class TaskSet:
    """Tasks that are asked together; compared by identity.

    Attributes:
        index: Their positions, ascending.
        ordered: Their names, in the model's order.
        names: The same as a set.
    """

    def __init__(self, tasks: tuple[str, ...], asked: tuple[str, ...]) -> None:
        _check_tasks(asked, tasks)
        self.index = np.array([i for i, task in enumerate(tasks) if task in asked])
        self.ordered = [tasks[i] for i in self.index]
        self.names = frozenset(self.ordered)


class RequestReader:
    """Checks and normalises requests to one model."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        """Read requests for some of a model's tasks."""
        self._tasks = tasks
        self._known = lru_cache(_MAX_TASK_SETS)(lambda asked: TaskSet(tasks, asked))

    def read(
        self, tasks: Collection[str] | None, preferences: Mapping[str, float] | None
    ) -> tuple[TaskSet, FloatArray]:
        """Return the tasks that a client asks for and their weights, which sum to 1.

        Raises:
            RequestError: As for `search.find.Finder.request`.
        """
        known = self._known(self._tasks if tasks is None else tuple(tasks))
        given = [1.0] * len(known.ordered)
        if preferences is not None:
            given = [preferences.get(task, 0.0) for task in known.ordered]
            is_sound = min(given) >= 0 and 0 < sum(given) < math.inf  # also not with a NaN
            if not (is_sound and preferences.keys() <= known.names):
                _check_preferences(preferences, known.ordered)
        largest = max(given)
        given = [weight / largest for weight in given]  # neither tiny nor huge ones lose the sum
        return known, np.array(given) / sum(given)


def _check_tasks(asked: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    if unknown := [task for task in asked if task not in tasks]:
        raise RequestError(f"unknown task {unknown[0]!r}; one of {list(tasks)}", "tasks")
    if not asked or len(set(asked)) != len(asked):
        raise RequestError(f"tasks={list(asked)} must name at least one, each once", "tasks")


def _check_preferences(preferences: Mapping[str, float], asked: Collection[str]) -> None:
    for task, weight in preferences.items():
        field = f"preferences.{task}"
        if task not in asked:
            raise RequestError(f"{field}: the task is not asked for; tasks={list(asked)}", field)
        if not (math.isfinite(weight) and weight >= 0):
            raise RequestError(f"{field}={weight} must be finite and at least 0", field)
    if not any(preferences.values()):
        raise RequestError(
            "preferences must give at least one task a weight above 0", "preferences"
        )
