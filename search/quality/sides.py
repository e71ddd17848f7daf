"""Sides of a search: names of tasks with one side cut and the other whole."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias, get_args

Side: TypeAlias = Literal["query", "document"]
SIDES: tuple[Side, ...] = get_args(Side)
_MARK = ":"


def sided(task: str, side: Side) -> str:
    """Return the name of a task with one side cut and the other whole."""
    return f"{task}{_MARK}{side}"


def side_of(task: str) -> tuple[str, Side | None]:
    """Return the task that a name is of, and the side that is cut; None for both."""
    for side in SIDES:
        if task.endswith(_MARK + side):
            return task.removesuffix(_MARK + side), side
    return task, None


def default_tasks(tasks: Collection[str]) -> tuple[str, ...]:
    """Return the tasks that a request means that names none: those with both sides cut."""
    return tuple(task for task in tasks if side_of(task)[1] is None)


def as_side(task: str, side: Side | None, tasks: Collection[str]) -> str:
    """Return what a task is for texts of one side: itself where that was not measured.

    Args:
        task: Named in a request.
        side: Of its texts; None if they may be either.
        tasks: Of the model.
    """
    if side is None or side_of(task)[1] is not None:
        return task
    found = sided(task, side)
    return found if found in tasks else task
