"""What `rheostat measure` does: the table of a text checkpoint, anew, for the tasks it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models import checkpoint
from models.backends.torch import TorchBackend
from models.checkpoint import Checkpoint
from models.families.exits import Exits
from models.families.pruned import Pruned
from models.space import Subnet
from models.tasks import Metric
from models.variants import loaded
from search.offline.rewriting import rewrite, with_config
from search.offline.text_tasks import TaskData
from search.quality.domains import mean_over, with_other_sets
from search.quality.embeddings import Measured, RankingQuality, table_of
from search.quality.side_scores import scores_by_side
from search.quality.sides import SIDES, sided
from search.quality.table import Table
from search.quality.whole_agreement import scores_and_agreement


def measure_tasks(
    folder: Path, data: Sequence[TaskData], report: Callable[[str], None] = lambda _: None
) -> Mapping[str, Measured]:
    """Measure every subnet of a text encoder for some tasks, which replace those it has.

    A task in which queries seek documents is measured three times: with both sides by the subnet,
    and with one side by the subnet and the other by the whole model.

    A task may be measured on several data sets: its scores are means over them, and the spread
    among them is in the errors of what every task retains (`search.quality.domains`).

    Args:
        folder: Of the checkpoint; its manifest and its table are written anew.
        data: What the tasks are measured on.
        report: Told what is being done.

    Returns:
        The score of the largest subnet by task.

    Raises:
        ValueError: If there is no task, one has data of several metrics, the whole model scores
            nothing on one, or the checkpoint is of no text encoder. Then the checkpoint stays as
            it was.
    """
    before = checkpoint.load(folder)
    return write_measured(before, before.model, data, report)


def write_measured(
    before: Checkpoint,
    model: Any,
    data: Sequence[TaskData],
    report: Callable[[str], None] = lambda _: None,
) -> Mapping[str, Measured]:
    """Do the same for a checkpoint that has been read.

    Args:
        before: Whose manifest and table are written anew.
        model: With its weights and the configuration to be written, but for the tasks.
        data: As for `measure_tasks`.
        report: Likewise.
    """
    metrics, folder = metrics_of(data), before.folder
    model = with_tasks(model, before.manifest.family, metrics, folder)
    backend = TorchBackend()
    backend.prepare(model)
    subnets = list(model.space)
    found: dict[str, list[list[Measured]]] = {task: [] for task in metrics}
    agreed: dict[str, list[list[float]]] = {task: [] for task in metrics}
    for one in data:
        report(f"measuring {one.task}")
        for task, (own, alike) in _scores(model, backend, one, subnets).items():
            if not own[-1].value > 0:
                raise ValueError(
                    f"task {task!r}: the whole model scores {own[-1].value:.4f}, not above 0"
                )
            found[task].append(own)
            agreed[task].append(alike)
    means = {task: mean_over(sets) for task, sets in found.items()}
    alike_means = {task: list(np.mean(sets, axis=0)) for task, sets in agreed.items()}
    scores = {
        task: np.array([[one.value for one in own] for own in sets]) for task, sets in found.items()
    }
    table = with_other_sets(table_of(model, subnets, means, alike_means), scores)
    rewrite(folder, before.manifest, model, bounded(table, model))
    return {task: own[-1] for task, own in means.items()}


def metrics_of(data: Sequence[TaskData]) -> dict[str, Metric]:
    """Return the metric of each task and of its sides, as `measure_tasks` says."""
    if not data:
        raise ValueError("tasks=[] must be one or more")
    metrics: dict[str, Metric] = {}
    for one in data:
        if metrics.setdefault(one.task, one.metric) != one.metric:
            raise ValueError(
                f"task {one.task!r} is measured by {metrics[one.task]} and {one.metric}: all data "
                "of a task must have one metric"
            )
        if one.has_sides:
            for side in SIDES:
                metrics[sided(one.task, side)] = one.metric
    return metrics


def _scores(
    model: Any, backend: TorchBackend, data: TaskData, subnets: Sequence[Subnet]
) -> dict[str, tuple[list[Measured], list[float]]]:
    """Return each subnet's score and agreement with the whole model, for a task and its sides."""
    if isinstance(data.evaluation, RankingQuality):
        by_side, alike = scores_by_side(model, backend, data.evaluation, subnets)
        return {
            data.task if side is None else sided(data.task, side): (own, alike)
            for side, own in by_side.items()
        }
    return {data.task: scores_and_agreement(model, backend, data.evaluation, subnets)}


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
