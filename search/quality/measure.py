"""Measure a model's table: the score of every (task, row, column), on data that trained nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import merge
from models.elastic import Elastic
from search.quality.smooth import smooth
from search.quality.table import Cells, Table


def measure(
    model: Elastic,
    backend: TorchBackend,
    examples: Mapping[str, tuple[Tensor, Tensor]],
    input_name: str = "image",
    report: Callable[[], object] = lambda: None,
) -> Table:
    """Score every subnet of a classification model, running each path once.

    Args:
        model: Prepared by the backend.
        backend: Runs the plans.
        examples: Per task, inputs of shape [n, ...] and labels, int64, shape [n].
        input_name: What the plan's first step takes.
        report: Called after each task.

    Returns:
        Of every cell: accuracy with its binomial standard error, and expected accuracy.
    """
    rows = tuple(model.space.select({None}))
    outcomes: dict[str, NDArray[np.bool_]] = {}
    for task in model.tasks:
        inputs, labels = examples[task]
        columns = tuple(model.space.select({task}))
        shape = tuple(inputs.shape[1:])
        plans = [model.plan(row | column, shape, [task]) for row in rows for column in columns]
        logits = backend.run(merge(plans).values(), {input_name: inputs})
        is_right = {path: (x.argmax(1) == labels).numpy(force=True) for path, x in logits.items()}
        # Rows and columns are products of axes: give each axis of the task's path its own.
        axes = (*model.space.select({None}).axes, *model.space.select({task}).axes)
        outcomes[task] = np.stack([is_right[plan[-1].path] for plan in plans], axis=1).reshape(
            len(labels), *(len(axis.values) for axis in axes)
        )
        report()
    expected = smooth(outcomes)
    cells = {}
    for task, right in outcomes.items():
        columns = tuple(model.space.select({task}))
        value = right.mean(axis=0).reshape(len(rows), len(columns))
        cells[task] = Cells(
            columns=columns,
            value=value,
            n=np.full(value.shape, len(right)),
            stderr=np.sqrt(value * (1 - value) / len(right)),
            measured=np.ones(value.shape, dtype=np.bool_),
            smoothed=expected[task].clip(0.0, 1.0).reshape(value.shape),
        )
    return Table(rows, cells)
