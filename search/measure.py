"""Measure a model's table: the score of every (task, row, column), on data that trained nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import Elastic, merge
from search.table import Cells, Table


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
        Accuracy, with its binomial standard error, of every cell.
    """
    rows = tuple(model.space.select({None}))
    cells = {}
    for task in model.tasks:
        inputs, labels = examples[task]
        columns = tuple(model.space.select({task}))
        shape = tuple(inputs.shape[1:])
        plans = [[model.plan(row | column, shape, [task]) for column in columns] for row in rows]
        steps = merge(plan for some in plans for plan in some).values()
        logits = backend.run(steps, {input_name: inputs})
        correct = {path: int((x.argmax(1) == labels).sum()) for path, x in logits.items()}
        value = np.array([[correct[plan[-1].path] for plan in some] for some in plans]) / len(
            labels
        )
        cells[task] = Cells(
            columns=columns,
            value=value,
            n=np.full(value.shape, len(labels)),
            stderr=np.sqrt(value * (1 - value) / len(labels)),
            measured=np.ones(value.shape, dtype=np.bool_),
        )
        report()
    return Table(rows, cells)
