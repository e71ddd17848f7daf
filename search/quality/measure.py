"""Measure a model's table: the score of every (task, row, column), on data that trained nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from models.backends.torch import TorchBackend
from models.elastic import Elastic
from models.space import Subnet, Value
from models.tasks import Task
from search.quality.alike import agreement
from search.quality.errors import with_errors
from search.quality.smooth import smooth, with_largest
from search.quality.table import Cells, FloatArray, Table

_TINY = 1e-12


def measure(
    model: Elastic,
    backend: TorchBackend,
    examples: Mapping[str, tuple[Tensor, Tensor]],
    report: Callable[[], object] = lambda: None,
    within: Mapping[str, Value] | None = None,
) -> Table:
    """Score every subnet of a model that takes one input, computing each value once.

    Args:
        model: Prepared by the backend. Its metrics are accuracies, or root mean square errors.
        backend: Runs the plans.
        examples: Per task, inputs of shape [n, ...] and what is right: labels, int64, shape [n], or
            the numbers that the answers should be, of their shape.
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
    (only,) = model.inputs
    gains: dict[str, FloatArray] = {}
    agreed: dict[str, FloatArray] = {}
    for task_name, task in model.tasks.items():
        gain_of = _gain_of(task)
        inputs, truth = examples[task_name]
        columns = tuple(model.space.select({task_name}))
        shapes = {only: tuple(inputs.shape[1:])}
        plans = [model.plan(row | own, shapes, [task_name]) for row in rows for own in columns]
        answers = backend.run_all(plans, {only: inputs})
        if not within:  # or the whole model's weights may be others
            alike = [_alike(task, answer[task_name], answers[-1][task_name]) for answer in answers]
            agreed[task_name] = np.array(alike).reshape(len(rows), -1)
        found = np.stack([gain_of(answer[task_name], truth) for answer in answers], axis=1)
        # Rows and columns are products of axes: give each axis of the task its own.
        axes = (*shared.axes, *model.space.select({task_name}).axes)
        sizes = (1 if axis.name in within else len(axis.values) for axis in axes)
        gains[task_name] = found.reshape(len(truth), *sizes)
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


def _expected(model: Elastic, gains: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the expected scores of each task, from what each input adds to them."""
    accuracies = {name: own for name, own in gains.items() if not model.tasks[name].lower_is_better}
    expected: dict[str, FloatArray] = {}
    if accuracies:
        means = {name: own.mean(axis=0) for name, own in accuracies.items()}
        expected = with_largest(means, smooth(accuracies))
    for name in gains.keys() - accuracies.keys():  # each error has a unit of its own
        expected |= smooth({name: gains[name]})
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
    if task.lower_is_better:
        value = np.sqrt(-mean)
        # The derivative of a root is 1 / (2 root).
        spread = gains.std(axis=0, ddof=min(1, n - 1)) / np.sqrt(n)
        stderr = spread / (2 * np.maximum(value, _TINY))
        # No cell is expected to be better than the best that was seen.
        smoothed = np.sqrt(np.maximum(-expected, -mean.max()))
    else:
        value, smoothed = mean, expected.clip(0.0, 1.0)
        stderr = np.sqrt(mean * (1 - mean) / n)
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


def _gain_of(task: Task) -> Callable[[Tensor, Tensor], FloatArray]:
    """Return what says what each input adds to a task's score, the more the better."""
    if task.metric == "accuracy":
        return _is_right
    if task.metric == "rmse":
        return _minus_squared_error
    raise ValueError(f"task {task.name!r}: metric={task.metric!r} must be accuracy or rmse")


def _is_right(logits: Tensor, labels: Tensor) -> FloatArray:
    right: FloatArray = (logits.argmax(1) == labels).double().numpy(force=True)
    return right


def _minus_squared_error(found: Tensor, truth: Tensor) -> FloatArray:
    if found.shape != truth.shape:
        raise ValueError(f"answers of shape {list(found.shape)}, truth of {list(truth.shape)}")
    each = (found - truth).double().reshape(len(found), -1)
    squares: FloatArray = each.pow(2).mean(1).numpy(force=True)
    return -squares
