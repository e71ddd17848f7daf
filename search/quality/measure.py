"""Measure a model's table: the score of every (task, row, column), on data that trained nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import Plan
from models.elastic import Elastic
from models.space import Subnet, Value
from models.tasks import Task
from models.train.maps import Ratios, joined, judge_of, parts_of
from search.quality.alike import agreement
from search.quality.errors import with_errors
from search.quality.smooth import smooth, with_largest
from search.quality.table import Cells, FloatArray, Table

_TINY = 1e-12
_MOST_BYTES = 2**29  # of answers at a time


def measure(
    model: Elastic,
    backend: TorchBackend,
    examples: Mapping[str, tuple[Tensor | Mapping[str, Tensor], Tensor]],
    report: Callable[[], object] = lambda: None,
    within: Mapping[str, Value] | None = None,
) -> Table:
    """Score every subnet of a model for the same inputs, computing each value once.

    Args:
        model: Prepared by the backend. Its metrics are those of `models.train.maps.judge_of`.
        backend: Runs the plans.
        examples: Per task, inputs of shape [n, ...], by name where a model takes several, and what
            is right: labels, int64, shape [n], the numbers that the answers should be, of their
            shape, or maps as `models.train.vision.Pictures` has them.
        report: Called after each task.
        within: Values on axes that no task has alone: only subnets that have them. The model has
            the weights that they name.

    Returns:
        Of every cell: the score with its standard error, and the expected score.

    Raises:
        ValueError: If a task has another metric, or what is right is of another shape.
    """
    within = within or {}
    shared = model.space.select({None})
    rows = tuple(r for r in shared if all(r[axis] == value for axis, value in within.items()))
    gains: dict[str, FloatArray] = {}
    agreed: dict[str, FloatArray] = {}
    for task_name, task in model.tasks.items():
        given, truth = examples[task_name]
        inputs = given if isinstance(given, Mapping) else dict.fromkeys(model.inputs, given)
        columns = tuple(model.space.select({task_name}))
        shapes = {name: tuple(one.shape[1:]) for name, one in inputs.items()}
        plans = [model.plan(row | own, shapes, [task_name]) for row in rows for own in columns]
        own, alike = added_by(task, backend, plans, inputs, truth)
        if alike and not within:  # or the whole model's weights may be others
            agreed[task_name] = np.array(alike).reshape(len(rows), -1)
        # Rows and columns are products of axes: give each axis of the task its own.
        axes = (*shared.axes, *model.space.select({task_name}).axes)
        sizes = (1 if axis.name in within else len(axis.values) for axis in axes)
        gains[task_name] = (-own if task.lower_is_better else own).reshape(len(truth), *sizes)
        report()
    expected = _expected(model, gains)
    return with_errors(
        Table(
            rows,
            {
                name: replace(
                    _cells(task, tuple(model.space.select({name})), gains[name], expected[name]),
                    agreement=agreed.get(name),
                )
                for name, task in model.tasks.items()
            },
        )
    )


def added_by(
    task: Task,
    backend: TorchBackend,
    plans: Sequence[Plan],
    inputs: Mapping[str, Tensor],
    truth: Tensor,
) -> tuple[FloatArray, list[float]]:
    """Run plans and compare their answers with the truth.

    Args:
        task: That the plans answer.
        backend: Runs them.
        plans: Of one model; what they share runs once.
        inputs: By name, shape [n, ...].
        truth: As for `measure`.

    Returns:
        What each input adds to the score by each plan (`models.train.maps.parts_of`), shape
        [n, plans]; and how far each plan's answers agree with the last one's, nothing of maps.
    """
    judge, ratios, alike = judge_of(task), list[Ratios](), list[float]()
    for part in _parts(task, len(plans), truth):
        found = backend.run_all(plans, {name: one[part] for name, one in inputs.items()})
        answers = [answer[task.name] for answer in found]
        judged = [judge(answer, truth[part]) for answer in answers]
        ratios.append(Ratios(*(torch.stack(own, dim=1) for own in zip(*judged, strict=True))))
        if task.kind != "map":
            alike += [_alike(task, answer, answers[-1]) for answer in answers]
    return parts_of(joined(ratios)).numpy(), alike


def _parts(task: Task, num_plans: int, truth: Tensor) -> Iterator[slice]:
    """Yield all examples, those of maps in parts: answers of all subnets are there at a time."""
    size = len(truth)
    if task.kind == "map":
        pixels = truth.shape[-2] * truth.shape[-1]
        channels = len(task.labels or task.channels)
        size = max(1, _MOST_BYTES // (4 * pixels * channels * num_plans))
    for start in range(0, len(truth), size):
        yield slice(start, start + size)


def _expected(model: Elastic, gains: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the expected scores of each task, from what each input adds to them.

    Accuracies are smoothed together. Other scores have units of their own.
    """
    alone = [[name] for name in gains if model.tasks[name].metric != "accuracy"]
    together = [name for name in gains if model.tasks[name].metric == "accuracy"]
    expected: dict[str, FloatArray] = {}
    for names in [*alone, *([together] if together else [])]:
        own = {name: gains[name] for name in names}
        smoothed = smooth(own)
        if not model.tasks[names[0]].lower_is_better:
            means = {name: one.mean(axis=0) for name, one in own.items()}
            smoothed = with_largest(means, smoothed)
        expected |= smoothed
    return expected


def _alike(task: Task, found: Tensor, whole: Tensor) -> float:
    """Return how far answers agree with the whole model's; NaN where they are not compared."""
    one, other = (answers.double().numpy(force=True) for answers in (found, whole))
    each = agreement(task.kind, one, other)
    return np.nan if each is None or not len(each) else float(each.mean())


def _cells(
    task: Task, columns: tuple[Subnet, ...], gains: FloatArray, expected: FloatArray
) -> Cells:
    """Return a task's part of the table from what each input adds to its scores."""
    n, mean = len(gains), gains.mean(axis=0)
    stderr = gains.std(axis=0, ddof=min(1, n - 1)) / np.sqrt(n)
    value, smoothed = mean.clip(0.0, 1.0), expected.clip(0.0, 1.0)
    if task.lower_is_better:
        # No cell is expected to be better than the best that was seen.
        value = (-mean).clip(0.0)
        smoothed = np.maximum(-expected, value.min())
    if task.metric == "rmse":
        value, smoothed = np.sqrt(value), np.sqrt(smoothed)
        # The derivative of a root is 1 / (2 root).
        stderr = stderr / (2 * np.maximum(value, _TINY))
    if task.metric == "accuracy":
        stderr = np.sqrt(mean * (1 - mean).clip(0) / n)
    shape = (-1, len(columns))
    value = value.reshape(shape)
    return Cells(
        columns=columns,
        value=value,
        n=np.full(value.shape, n),
        stderr=stderr.reshape(shape),
        measured=np.ones(value.shape, dtype=np.bool_),
        smoothed=smoothed.reshape(shape),
        lower_is_better=task.lower_is_better,
    )
