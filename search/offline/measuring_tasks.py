"""What `rheostat measure` does: the table of a text checkpoint, anew, for the tasks it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models import checkpoint
from models.backends.torch import TorchBackend
from models.families.exits import Exits
from models.families.pruned import Pruned
from models.space import Subnet
from models.tasks import Metric
from models.variants import loaded
from search.offline.rewriting import rewrite, with_config
from search.offline.text_tasks import TaskData
from search.quality.embeddings import Measured, RankingQuality, table_of
from search.quality.side_scores import scores_by_side
from search.quality.sides import sided
from search.quality.table import Table
from search.quality.whole_agreement import scores_and_agreement


def measure_tasks(
    folder: Path, data: Sequence[TaskData], report: Callable[[str], None] = lambda _: None
) -> Mapping[str, Measured]:
    """Measure every subnet of a text encoder for some tasks, which replace those it has.

    A task in which queries seek documents is measured three times: with both sides by the subnet,
    and with one side by the subnet and the other by the whole model.

    Args:
        folder: Of the checkpoint; its manifest and its table are written anew.
        data: What the tasks are measured on.
        report: Told what is being done.

    Returns:
        The score of the largest subnet by task.

    Raises:
        ValueError: If there is no task, one is named twice, the whole model scores nothing on one,
            or the checkpoint is of no text encoder. Then the checkpoint stays as it was.
    """
    names = [one.task for one in data]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"tasks={names} must be one or more, each named once")
    before = checkpoint.load(folder)
    metrics: dict[str, Metric] = {}
    for one in data:
        metrics[one.task] = one.metric
        if one.has_sides:
            metrics |= {
                sided(one.task, "query"): one.metric,
                sided(one.task, "document"): one.metric,
            }
    model = with_tasks(before.model, before.manifest.family, metrics, folder)
    backend = TorchBackend()
    backend.prepare(model)
    subnets = list(model.space)
    found: dict[str, list[Measured]] = {}
    agreed: dict[str, list[float]] = {}
    for one in data:
        report(f"measuring {one.task}")
        if isinstance(one.evaluation, RankingQuality):
            by_side, alike = scores_by_side(model, backend, one.evaluation, subnets)
            for side, own in by_side.items():
                task = one.task if side is None else sided(one.task, side)
                found[task], agreed[task] = own, alike
        else:
            found[one.task], agreed[one.task] = scores_and_agreement(
                model, backend, one.evaluation, subnets
            )
        if not (value := found[one.task][-1].value) > 0:
            raise ValueError(f"task {one.task!r}: the whole model scores {value:.4f}, not above 0")
    ordered = {task: found[task] for task in metrics}
    table = bounded(table_of(model, subnets, ordered, agreed), model)
    rewrite(folder, before.manifest, model, table)
    return {task: own[-1] for task, own in found.items()}


def with_tasks(model: Any, family: str, metrics: Mapping[str, Metric], folder: Path) -> Any:
    """Return a text encoder with the same weights and other tasks; ValueError if it is none."""
    if isinstance(model, Pruned) and isinstance(model.base, Exits):
        inner = {**model.config.model, "tasks": dict(metrics)}
        config: Any = replace(model.config, model=inner)
    elif isinstance(model, Exits):
        config = replace(model.config, tasks=dict(metrics))
    else:
        raise ValueError(f"{folder}: family {family!r} embeds no texts")
    return with_config(model, config, folder)


def bounded(table: Table, model: Any) -> Table:
    """Return a table in which no other weights are expected to be better than the model's own.

    What weights of fewer bits score above the others is chance.
    """
    own = loaded(model.space)
    place = {row: r for r, row in enumerate(table.rows)}
    whole = np.array([place[Subnet({**row, **own})] for row in table.rows])
    cells = {
        task: replace(one, smoothed=np.minimum(one.expected, one.expected[whole]))
        for task, one in table.cells.items()
    }
    return replace(table, cells=cells)
