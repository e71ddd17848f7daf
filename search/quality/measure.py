"""Measure a model's table: the score of every (task, row, column), on data that trained nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from models.backends.torch import TorchBackend
from models.elastic import Elastic
from models.tasks import Task
from search.quality.smooth import smooth
from search.quality.table import Cells, FloatArray, Table


def measure(
    model: Elastic,
    backend: TorchBackend,
    examples: Mapping[str, tuple[Tensor, Tensor]],
    report: Callable[[], object] = lambda: None,
) -> Table:
    """Score every subnet of a model that takes one input, computing each value once.

    Args:
        model: Prepared by the backend. Its metrics are accuracies, or root mean square errors.
        backend: Runs the plans.
        examples: Per task, inputs of shape [n, ...] and what is right: labels, int64, shape [n], or
            the numbers that the answers should be, of their shape.
        report: Called after each task.

    Returns:
        Of every cell: the score with its standard error, and the expected score.

    Raises:
        ValueError: If a task has another metric.
    """
    rows = tuple(model.space.select({None}))
    (name,) = model.inputs
    outcomes = {}
    for task_name, task in model.tasks.items():
        score = _outcomes_of(task)
        inputs, truth = examples[task_name]
        columns = tuple(model.space.select({task_name}))
        shapes = {name: tuple(inputs.shape[1:])}
        plans = [model.plan(row | own, shapes, [task_name]) for row in rows for own in columns]
        answers = backend.run_all(plans, {name: inputs})
        found = np.stack([score(answer[task_name], truth) for answer in answers], axis=1)
        # Rows and columns are products of axes: give each axis of the task its own.
        axes = (*model.space.select({None}).axes, *model.space.select({task_name}).axes)
        outcomes[task_name] = found.reshape(len(truth), *(len(axis.values) for axis in axes))
        report()
    expected = _expected(model.tasks, outcomes)
    cells = {}
    for task_name, task in model.tasks.items():
        columns = tuple(model.space.select({task_name}))
        shape = (len(rows), len(columns))
        mean, of_mean = _mean(outcomes[task_name])
        smoothed = expected[task_name]
        if task.lower_is_better:  # by the delta method: the derivative of a root is 1 / (2 root)
            value = np.sqrt(mean)
            stderr = of_mean / (2 * np.maximum(value, 1e-12))
            smoothed = np.sqrt(smoothed)
        else:
            value, stderr = mean, np.sqrt(mean * (1 - mean) / len(outcomes[task_name]))
        cells[task_name] = Cells(
            columns=columns,
            value=value.reshape(shape),
            n=np.full(shape, len(outcomes[task_name])),
            stderr=stderr.reshape(shape),
            measured=np.ones(shape, dtype=np.bool_),
            smoothed=smoothed.reshape(shape),
            lower_is_better=task.lower_is_better,
        )
    return Table(rows, cells)


def _mean(outcomes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean over inputs and its standard error."""
    n = len(outcomes)
    spread = outcomes.std(axis=0, ddof=1) if n > 1 else np.zeros(outcomes.shape[1:])
    return outcomes.mean(axis=0), spread / np.sqrt(n)


def _expected(
    tasks: Mapping[str, Task], outcomes: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """Return expected means: of accuracies together, of errors by task, each in a unit of its own.

    An error is smoothed as minus what it is, so that wider is known to be no worse there too.
    """
    right = {name: own for name, own in outcomes.items() if not tasks[name].lower_is_better}
    found = {name: own.clip(0.0, 1.0) for name, own in smooth(right).items()} if right else {}
    for name, own in outcomes.items():
        if tasks[name].lower_is_better:
            # No cell is expected to be better than the best that was seen.
            found[name] = np.maximum(-smooth({name: -own})[name], own.mean(axis=0).min())
    return found


def _outcomes_of(task: Task) -> Callable[[Tensor, Tensor], FloatArray]:
    """Return what gives each input's part of a task's score, shape [inputs]."""
    if task.metric == "accuracy":
        return _is_right
    if task.metric == "rmse":
        return _squared_error
    raise ValueError(f"task {task.name!r}: metric={task.metric!r} must be accuracy or rmse")


def _is_right(logits: Tensor, labels: Tensor) -> FloatArray:
    right: FloatArray = (logits.argmax(1) == labels).double().numpy(force=True)
    return right


def _squared_error(found: Tensor, truth: Tensor) -> FloatArray:
    squares: FloatArray = (found - truth).double().pow(2).flatten(1).mean(1).numpy(force=True)
    return squares
