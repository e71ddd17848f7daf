"""What `rheostat train` does around a recipe: data in, checkpoint, table, record and card out."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from models import checkpoint
from models.backends.torch import TorchBackend
from models.families.slimmable import Slimmable, SlimmableConfig
from models.files import read_json, reading
from models.space import Subnet
from models.train import cifar100
from models.train.run import LOG_FILE, STATE_FILE, StateError, load_state
from models.train.slimmable import Recipe, recipe_json, train
from search.finders import Finders
from search.quality.measure import measure
from search.quality.table import TABLE, Table

RECORD = "train.json"
CARD = "README.md"
RUN = "run"  # state and log, for going on after an interruption; not part of the checkpoint


def train_slimmable(
    data: Path, out: Path, name: str, recipe: Recipe, device: str, init: Path | None = None
) -> None:
    """Train a slimmable model on CIFAR100-MTL and write a checkpoint that can be served.

    Args:
        data: Folder of the data set.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        device: Where to train.
        init: The ``out`` of an earlier run, to start from its last weights; None to start afresh.

    Raises:
        FileNotFoundError: If the data set is not there.
        StateError: If the earlier run's state or record is not there, or damaged.
        ValueError: If ``out`` holds a run with another recipe.
    """
    splits = cifar100.load(data)
    torch.manual_seed(recipe.seed)
    model = Slimmable(name, SlimmableConfig(splits.tasks, cifar100.INPUT))
    if init is not None:
        model.load_state_dict(load_state(init / RUN / STATE_FILE)["model"])
    backend = TorchBackend(device)
    backend.prepare(model)
    average = train(model, splits.train, recipe, out / RUN)
    record: dict[str, object] = {
        "recipe": recipe_json(recipe),
        "epochs": training_log(out),
        "machine": {**machine(), "device": device},
    }
    if init is not None:
        record["earlier"] = earlier_record(init)
    finish(average, splits, out, backend, record)


def machine() -> dict[str, object]:
    """Return what a record says of the machine that trained."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def earlier_record(init: Path) -> dict[str, object]:
    """Return the record of an earlier run without its result.

    Raises:
        StateError: If there is none.
    """
    path = init / RECORD
    with reading(path, StateError):
        return {k: v for k, v in read_json(path, StateError).items() if k != "result"}


def training_log(out: Path, run: str = RUN) -> list[dict[str, float]]:
    """Return the records of a run, one per epoch or some steps."""
    return [json.loads(line) for line in (out / run / LOG_FILE).read_text().splitlines()]


def finish(
    model: Slimmable,
    splits: cifar100.Cifar100,
    out: Path,
    backend: TorchBackend,
    record: dict[str, object],
) -> None:
    """Write the checkpoint of a trained model, its table, the record of its training and a card.

    The table is measured with the weights as they are stored, on the validation split. The test
    split is only reported.
    """
    checkpoint.save(out, model, "slimmable")
    stored = checkpoint.load(out).model
    backend.prepare(stored)
    with tqdm(total=len(stored.tasks), desc="table", unit="task") as progress:
        table = measure(stored, backend, by_task(stored, splits.validation), report=progress.update)
    table.save(out / TABLE, stored.space)
    record["result"] = result(stored, table, splits.test, backend)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    (out / CARD).write_text(card(stored, record))
    for file in (TABLE, RECORD, CARD):
        checkpoint.cover(out, file)


def by_task(model: Slimmable, images: cifar100.Images) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each task's normalised images and labels."""
    return {
        task: (
            model.config.input.normalise(images.pixels[images.task == i]),
            images.label[images.task == i],
        )
        for i, task in enumerate(model.tasks)
    }


def result(
    model: Slimmable, table: Table, test: cifar100.Images, backend: TorchBackend
) -> list[dict[str, object]]:
    """Return the mean accuracy of the front's subnets on both splits, cheapest first."""
    finder = Finders(model, table).at()
    examples = by_task(model, test)
    rows = []
    for point in finder.front(most=12):
        validation = [score.value for score in point.scores.values()]
        accuracy = evaluate(model, point.subnet, examples, backend)
        rows.append(
            {
                "macs": point.cost.macs,
                "fraction": point.fraction,
                "validation_accuracy": sum(validation) / len(validation),
                "test_accuracy": sum(accuracy.values()) / len(accuracy),
                "subnet": dict(point.subnet),
            }
        )
    return rows


def evaluate(
    model: Slimmable,
    subnet: Subnet,
    examples: Mapping[str, tuple[Tensor, Tensor]],
    backend: TorchBackend,
) -> dict[str, float]:
    """Return the accuracy of one subnet per task."""
    accuracy = {}
    for task, (images, labels) in examples.items():
        own = model.space.select({None, task})
        choices = Subnet((axis.name, subnet[axis.name]) for axis in own.axes)
        plan = model.plan(choices, model.inputs.plan_shapes(), [task])
        logits = backend.run(plan, {"image": images})[task]
        accuracy[task] = float((logits.argmax(1) == labels).float().mean())
    return accuracy


def card(model: Slimmable, record: Mapping[str, object]) -> str:
    """Return the card of a checkpoint, in Markdown."""
    rows = record["result"]
    assert isinstance(rows, list)
    largest = model.plan(model.space.largest, model.inputs.plan_shapes()).cost
    return _CARD.format(
        name=model.name,
        num_tasks=len(model.tasks),
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=largest.macs,
        record=RECORD,
        input=model.config.input,
        rows="\n".join(
            f"| {row['macs'] / 1e6:.1f} | {row['fraction']:.3f} "
            f"| {100 * row['validation_accuracy']:.1f} | {100 * row['test_accuracy']:.1f} |"
            for row in rows
        ),
    )


_CARD = """# {name}

Slimmable multi-task image classifier: one shared encoder of four residual stages, {num_tasks}
decoders. Every stage and every decoder runs at a quarter, half, three quarters or all of its
channels; {num_parameters:,} parameters, {macs:,} MACs at most.

- **Data**: CIFAR-100 (A. Krizhevsky, 2009; no licence stated, used for research), its 20
  superclasses as 20 five-way tasks. 40,000 images train, 5,000 (50 a class) measure the table,
  the 10,000 official test images are only reported. Weights: Apache-2.0.
- **Recipe**: `rheostat train slimmable`; sandwich rule, task losses on every subnet, CI-KD,
  a training-only classifier over the classes of all tasks, averaged weights. Hyper-parameters,
  machine and losses, also of an earlier run that this one started from, are in `{record}`.
- **Input**: RGB, {input.height} x {input.width}; other sizes are scaled and cut at the centre.
- **Limits**: tiny photographs of a research data set; a task's answer means nothing for an image
  that belongs to none of the task's five classes.

Mean accuracy over the tasks, in per cent, of the subnets that the search takes for equal weights.
They were chosen on the validation split, so the test column is the honest one.

| MMACs | fraction | validation | test |
|---|---|---|---|
{rows}
"""
