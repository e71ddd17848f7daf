"""What `rheostat quantize` does: int8 weights beside the others, with scores of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models import checkpoint
from models.backends.torch import TorchBackend
from models.bits import AXIS, FEW, WHOLE
from models.checkpoint import Checkpoint
from models.inputs.image import ImageInput
from models.nn.calibrated import calibrated, seen
from models.nn.quantized import Ranges
from models.space import Subnet
from models.train.cifar100 import Cifar100
from models.variants import build
from search.offline.measuring import Scores, read_labelled
from search.offline.measuring_tasks import metrics_of, write_measured
from search.offline.rewriting import check_table, rewrite, table_in, with_config
from search.offline.text_tasks import TaskData
from search.offline.training import by_task
from search.quality.embeddings import Measured
from search.quality.errors import with_errors
from search.quality.measure import measure
from search.quality.table import TABLE, Cells, Table

_CALIBRATED = 512  # images
_BATCH = 64
_SUBNETS = 6  # beside the smallest and the largest


def quantize(
    folder: Path, score: Scores, images: Tensor | None = None
) -> tuple[Measured, Measured]:
    """Offer 8 bits beside 32 in the checkpoint of a model with one score for each subnet.

    The weights stay as they are: they are rounded when they are loaded. Every subnet is scored with
    rounded weights. It is not expected to be better than with whole ones: that would be chance.

    Args:
        folder: Of the checkpoint; its manifest and its table are written anew.
        score: Measures as the table was measured.
        images: That convolutions are calibrated on, as for `ranges_of`; None for a model without.

    Returns:
        The scores of the largest subnet, with 32 and with 8 bits.

    Raises:
        ValueError: If its family knows no bits, it has no table or offers 8 bits already.
    """
    loaded, table = _opened(folder)
    both = _offering(loaded, images)
    few = [Subnet({AXIS: FEW, **row}) for row in table.rows]
    found = score(both, few)
    cells = {task: _joined(own, _measured(own, found)) for task, own in table.cells.items()}
    joined = with_errors(Table((*few, *_whole(table)), cells, table.given))
    rewrite(folder, loaded.manifest, both, joined)
    own = next(iter(table.cells.values()))
    best = Measured(float(own.value[-1, -1]), int(own.n[-1, -1]), float(own.stderr[-1, -1]))
    return best, found[-1]


def quantize_tasks(
    folder: Path, data: Sequence[TaskData], report: Callable[[str], None] = lambda _: None
) -> dict[str, tuple[Measured, Measured]]:
    """Do the same for a text encoder with several tasks, by what each is measured on.

    Subnets are measured anew with both bits, so that all rows are of the same data.

    Args:
        folder: Of the checkpoint; its manifest and its table are written anew.
        data: What its tasks are measured on (`search.offline.measuring_tasks`).
        report: Told what is being done.

    Returns:
        By task, the scores of the largest subnet with 32 and with 8 bits.

    Raises:
        ValueError: As for `quantize` and `measure_tasks`, or if the data are of other tasks than
            the model's.
    """
    loaded, _ = _opened(folder)
    given, own = list(metrics_of(data)), list(loaded.model.tasks)
    if sorted(given) != sorted(own):
        raise ValueError(f"{folder}: its tasks are {own}, those of the data {given}")
    whole = write_measured(loaded, _offering(loaded), data, report)
    model = checkpoint.load(folder, with_weights=False).model
    table = Table.load(folder / TABLE, model.space, model.tasks)
    row = table.rows.index(model.space.largest | {AXIS: FEW})
    few = {task: table.at(task, row, -1) for task in own}
    return {
        task: (whole[task], Measured(one.value, one.n, one.stderr)) for task, one in few.items()
    }


def quantize_labelled(folder: Path, path: Path) -> tuple[Measured, Measured]:
    """Do the same for a model of images with one task, by images and their classes.

    Where it has convolutions, some of the images, at most half of them, calibrate these; the others
    score.

    Args:
        folder: Of the checkpoint; its manifest and its table are written anew.
        path: A CSV with the columns file and label.

    Returns:
        As `quantize`.

    Raises:
        ValueError: If the model takes no images or has several tasks, or as `quantize` and
            `read_labelled`.
    """
    model = checkpoint.load(folder, with_weights=False).model
    inputs = list(model.inputs.values())
    if len(model.tasks) != 1 or not isinstance(inputs[0].type, ImageInput):
        raise ValueError(f"{folder}: --images needs a model of images with one task")
    (task,) = model.tasks.values()
    score = read_labelled(path, inputs[0].type, task.labels, 0)
    if not calibrated(model):
        return quantize(folder, score)
    known, score = score.split(min(_CALIBRATED, len(score.labels) // 2))
    return quantize(folder, score, known.images)


def quantize_images(folder: Path, splits: Cifar100) -> tuple[float, float]:
    """Do the same for a slimmable classifier; what convolutions see is calibrated first.

    Args:
        folder: Of the checkpoint; its manifest and its table are written anew.
        splits: What it was trained and its table was measured on.

    Returns:
        The mean score of the largest subnet over its tasks, with 32 and with 8 bits.

    Raises:
        ValueError: As for `quantize`.
    """
    loaded, table = _opened(folder)
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
    images = splits.train.pixels[order[:_CALIBRATED]]
    both = _offering(loaded, loaded.model.config.input.normalise(images))
    few: Any = build(both, (FEW,))
    with tqdm(total=len(both.tasks), desc="table", unit="task") as progress:
        examples = by_task(both, splits.validation)
        found = measure(few, TorchBackend(), examples, progress.update, {AXIS: FEW})
    cells = {task: _joined(own, found.cells[task]) for task, own in table.cells.items()}
    joined = with_errors(Table((*found.rows, *_whole(table)), cells, table.given))
    rewrite(folder, loaded.manifest, both, joined)
    before, after = (
        sum(float(own.value[-1, -1]) for own in one.cells.values()) / len(one.cells)
        for one in (table, found)
    )
    return before, after


def ranges_of(model: Any, images: Tensor) -> dict[str, Ranges]:
    """Return what each convolution of a model takes and gives, over subnets of every size.

    Args:
        model: With convolutions, of one input.
        images: Normalised, shape [images, 3, height, width].
    """
    rng, backend = Random(0), TorchBackend()
    subnets = [model.space.smallest, model.space.largest]
    subnets += [model.space.sample(rng) for _ in range(_SUBNETS)]
    plans = [model.plan(subnet, model.inputs.plan_shapes()) for subnet in dict.fromkeys(subnets)]
    with seen(model) as found:
        for batch in torch.split(images, _BATCH):
            for plan in plans:
                backend.run(plan, {"image": batch})
    return found


def _opened(folder: Path) -> tuple[Checkpoint, Table]:
    loaded = checkpoint.load(folder)
    model = loaded.model
    if not hasattr(model.config, "bits"):
        raise ValueError(f"{folder}: family {loaded.manifest.family!r} has no axis of bits")
    check_table(loaded)
    if len(model.config.bits) > 1:
        raise ValueError(f"{folder}: bits={list(model.config.bits)} are on offer already")
    return loaded, table_in(loaded)


def _offering(loaded: Checkpoint, images: Tensor | None = None) -> Any:
    """Return the model of a checkpoint with both bits on offer."""
    model = loaded.model
    given: dict[str, Any] = {} if images is None else {"ranges": ranges_of(model, images)}
    return with_config(model, replace(model.config, bits=(FEW, WHOLE), **given), loaded.folder)


def _whole(table: Table) -> list[Subnet]:
    return [Subnet({AXIS: WHOLE, **row}) for row in table.rows]


def _measured(whole: Cells, found: list[Measured]) -> Cells:
    """Return scores with 8 bits as cells."""
    value = np.array([[one.value] for one in found])
    return replace(
        whole,
        value=value,
        n=np.array([[one.n] for one in found]),
        stderr=np.array([[one.stderr] for one in found]),
        measured=np.ones_like(value, dtype=np.bool_),
        smoothed=None,
        agreement=None,
        error=None,
    )


def _joined(whole: Cells, few: Cells) -> Cells:
    """Return the scores with 8 bits above those with 32."""
    bound = np.maximum if whole.lower_is_better else np.minimum
    return replace(few, smoothed=bound(few.expected, whole.expected)).above(whole)
