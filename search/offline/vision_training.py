"""What `rheostat train vision` does around its recipe: a folder of images in, a checkpoint out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from models import checkpoint
from models.backends.torch import TorchBackend
from models.families.dense import Dense, DenseConfig
from models.space import Subnet
from models.train.dense import DenseRecipe, train_dense
from models.train.maps import score_of
from models.train.vision import Pictures, VisionData, with_known
from search.finders import Finders
from search.offline.training import CARD, RECORD, RUN, machine, training_log
from search.offline.vision_data import read_vision
from search.quality.measure import added_by, measure
from search.quality.table import TABLE, Table

_SMALL = 64  # pixels of the shorter side; smaller images keep their size in the first stage
_POINTS = 12


def train_vision(
    folder: Path,
    out: Path,
    name: str | None,
    recipe: DenseRecipe,
    device: str,
    report: Callable[[str], None],
) -> None:
    """Train a dense model on a folder of images and write a checkpoint that can be served.

    Args:
        folder: With `dataset.toml`.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for; None for the data set's.
        recipe: Hyper-parameters.
        device: Where to train.
        report: Told what is being done.

    Raises:
        DataError: As `search.offline.vision_data.read_vision`.
        ValueError: If ``out`` holds a run with another recipe.
    """
    data = read_vision(folder, report)
    torch.manual_seed(recipe.seed)
    model = Dense(name or data.name, config_of(data))
    backend = TorchBackend(device)
    backend.prepare(model)
    report("training")
    average = train_dense(model, data.train, recipe, out / RUN)
    record: dict[str, object] = {
        "recipe": asdict(recipe),
        "images": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
        "steps": training_log(out),
        "machine": {**machine(), "device": device},
    }
    finish(average, data, out, backend, record, report)


def config_of(data: VisionData) -> DenseConfig:
    """Return the architecture for a data set's images and tasks."""
    small = min(data.input.height, data.input.width) < _SMALL
    strides = (1 if small else 2, 2, 2, 2)
    return DenseConfig(tuple(data.tasks.values()), data.input, strides=strides)


def finish(
    model: Dense,
    data: VisionData,
    out: Path,
    backend: TorchBackend,
    record: dict[str, object],
    report: Callable[[str], None],
) -> None:
    """Write the checkpoint of a trained model, its table, the record of its training and a card.

    The table is measured with the weights as they are stored, on the validation split. The test
    split is only reported.
    """
    checkpoint.save(out, model, "dense")
    stored: Dense = checkpoint.load(out).model
    backend.prepare(stored)
    report("measuring the table")
    table = measure(
        stored, backend, known(stored, data.validation), lambda: report("measured a task")
    )
    table.save(out / TABLE, stored.space)
    record["result"] = result(stored, table, data.test, backend)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    (out / CARD).write_text(card(stored, data, record))
    for file in (TABLE, RECORD, CARD):
        checkpoint.cover(out, file)


def known(model: Dense, pictures: Pictures) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each task's normalised images of which it is known, and what is true of them."""
    found = {}
    for task in model.tasks:
        own = pictures.part(with_known(pictures, task))
        found[task] = (model.config.input.normalise(own.pixels), own.truth[task])
    return found


def image_scores(
    model: Dense, subnets: Sequence[Subnet], pictures: Pictures, backend: TorchBackend
) -> list[dict[str, Tensor]]:
    """Return by subnet and task what each image of a split adds to the score, shape [images].

    The score is `models.train.maps.score_of` these. Tasks are known of images of their own.
    """
    found: list[dict[str, Tensor]] = [{} for _ in subnets]
    shapes = model.inputs.plan_shapes()
    for task, (images, truth) in known(model, pictures).items():
        axes = model.space.select({None, task}).axes
        own = [Subnet((axis.name, subnet[axis.name]) for axis in axes) for subnet in subnets]
        paths = list(dict.fromkeys(own))
        plans = [model.plan(path, shapes, [task]) for path in paths]
        parts, _ = added_by(model.tasks[task], backend, plans, {"image": images}, truth)
        for scores, one in zip(found, own, strict=True):
            scores[task] = torch.from_numpy(parts[:, paths.index(one)])
    return found


def result(
    model: Dense, table: Table, test: Pictures, backend: TorchBackend
) -> list[dict[str, object]]:
    """Return the scores of the front's subnets on both splits, cheapest first."""
    front = Finders(model, table).at().front(most=_POINTS)
    tested = image_scores(model, [point.subnet for point in front], test, backend)
    rows: list[dict[str, object]] = []
    for point, parts in zip(front, tested, strict=True):
        scores = {task: float(score_of(model.tasks[task], one)) for task, one in parts.items()}
        rows.append(
            {
                "macs": point.cost.macs,
                "fraction": point.fraction,
                "validation": {task: score.value for task, score in point.scores.items()},
                "test": scores,
                "subnet": dict(point.subnet),
            }
        )
    return rows


def card(model: Dense, data: VisionData, record: Mapping[str, object]) -> str:
    """Return the card of a checkpoint, in Markdown."""
    rows, images, tasks = record["result"], record["images"], model.tasks
    assert isinstance(rows, list)
    assert isinstance(images, dict)
    largest = model.plan(model.space.largest, model.inputs.plan_shapes()).cost
    return _CARD.format(
        name=model.name,
        data=data.name,
        input=model.config.input,
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=largest.macs,
        record=RECORD,
        **images,
        heads=" | ".join(f"{task}: {own.metric}" for task, own in tasks.items()),
        lines="---|" * len(tasks),
        rows="\n".join(
            f"| {row['macs'] / 1e6:.1f} | {row['fraction']:.3f} | "
            + " | ".join(f"{row['test'][task]:.4f}" for task in tasks)
            + " |"
            for row in rows
        ),
    )


_CARD = """# {name}

Dense multi-task model of images: an encoder of four scales and a decoder for each task, all widths
elastic; {num_parameters:,} parameters, {macs:,} MACs at most.

- **Data**: `{data}`; {train} images train, {validation} measure the table, {test} are only
  reported.
- **Recipe**: `rheostat train vision`; sandwich rule, losses where truth is known, CI-KD, averaged
  weights. Hyper-parameters, machine and losses are in `{record}`.
- **Input**: RGB, {input.height} x {input.width}; other sizes are scaled and cut at the centre.

Scores on the test split of the subnets that the search takes for equal weights. They were chosen on
the validation split.

| MMACs | fraction | {heads} |
|---|---|{lines}
{rows}
"""
