from __future__ import annotations

from typing import Any

import pytest

from models.tasks import ERRORS, Task, wanted_tasks

TASKS = {name: Task(name, "classes", ("no", "yes")) for name in ("first", "second", "third")}


def test_tasks_are_answered_in_the_models_order_and_each_once() -> None:
    assert wanted_tasks(TASKS, None) == ["first", "second", "third"]
    assert wanted_tasks(TASKS, ["third", "first", "third"]) == ["first", "third"]
    with pytest.raises(ValueError, match=r"unknown task 'fourth'; one of \['first', 'second'"):
        wanted_tasks(TASKS, ["first", "fourth"])


def test_less_is_better_of_errors_alone() -> None:
    assert Task("depth", "map", metric="rmse", channels=("m",)).lower_is_better
    assert not Task("parts", "map", ("a", "b"), metric="miou").lower_is_better
    assert "accuracy" not in ERRORS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "classes", "labels": ("one",)}, r"labels=\['one'\] must be two or more"),
        ({"kind": "map"}, "a map has either labels or channels"),
        ({"kind": "map", "labels": ("a", "b"), "channels": ("c",)}, "either labels or channels"),
        (
            {"kind": "map", "labels": tuple(map(str, range(257)))},
            "257 labels of a map; at most 256",
        ),
        ({"kind": "score", "labels": ("a", "b")}, "kind='score' has no labels"),
        ({"kind": "embedding", "labels": ("a", "b")}, "kind='embedding' has no labels"),
    ],
)
def test_a_task_whose_answers_could_not_be_read_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Task("task", **fields)
