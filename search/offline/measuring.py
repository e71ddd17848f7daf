"""What is measured of a subnet in a search: its score, MACs, milliseconds and bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from models import checkpoint
from models.backends.torch import TorchBackend
from models.files import reading
from models.inputs.content import Encoded
from models.inputs.image import ImageInput
from models.run.weights import weight_bytes
from models.space import Subnet
from models.variants import Choices, build, choices_of
from search.offline.csv_rows import rows_of
from search.offline.errors import DataError
from search.quality.embeddings import Evaluation, Measured, scores, table_of
from search.quality.table import TABLE, FloatArray
from search.quality.whole_agreement import scores_and_agreement

OBJECTIVES = ("quality", "macs", "ms", "bytes")
_BATCH = 64
_RUNS = 5  # of which the median counts


class Scores(Protocol):
    """Scores subnets of a model."""

    def __call__(self, model: Any, subnets: Sequence[Subnet]) -> list[Measured]:
        """Return the score of each."""


@dataclass(frozen=True)
class Labelled:
    """Images with their classes.

    Attributes:
        images: Normalised, shape [rows, 3, height, width].
        labels: Positions among the model's, shape [rows].
    """

    images: Tensor
    labels: Tensor

    def __call__(self, model: Any, subnets: Sequence[Subnet]) -> list[Measured]:
        """Return the accuracy of each subnet."""
        (task,), (name,) = model.tasks, model.inputs
        shapes = {name: tuple(self.images.shape[1:])}
        backend = TorchBackend()
        loads = {choices_of(model.space, subnet) for subnet in subnets}
        built: dict[Choices, Any] = {choices: build(model, choices) for choices in loads}
        plans = [built[choices_of(model.space, one)].plan(one, shapes) for one in subnets]
        right = [0] * len(plans)
        with torch.inference_mode():
            for images, labels in self.batches():
                for i, found in enumerate(backend.run_all(plans, {name: images})):
                    right[i] += int((found[task].argmax(1) == labels).sum())
        n = len(self.labels)
        shares = [count / n for count in right]
        return [Measured(p, n, float((p * (1 - p) / n) ** 0.5)) for p in shares]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield parts of the images with their labels."""
        for start in range(0, len(self.labels), _BATCH):
            part = slice(start, start + _BATCH)
            yield self.images[part], self.labels[part]

    def split(self, first: int) -> tuple[Labelled, Labelled]:
        """Return the first images and the others."""
        images, labels = self.images, self.labels
        return Labelled(images[:first], labels[:first]), Labelled(images[first:], labels[first:])


@dataclass(frozen=True)
class Texts:
    """Texts, and what their vectors are worth."""

    evaluation: Evaluation

    def __call__(self, model: Any, subnets: Sequence[Subnet]) -> list[Measured]:
        """Return the score of each subnet."""
        return scores(model, TorchBackend(), self.evaluation, subnets)


def write_table(
    folder: Path, model: Any, task: str, evaluation: Evaluation, whole: FloatArray | None = None
) -> list[Measured]:
    """Measure every subnet of a stored checkpoint of one task, and write its table.

    Args:
        folder: Of the checkpoint.
        model: As it is stored there.
        task: Its task.
        evaluation: Of the task.
        whole: The whole model's answers to the evaluation's items; None to compute them.

    Returns:
        The score of each subnet.

    Raises:
        ValueError: If the whole model scores nothing: then no table is written.
    """
    backend = TorchBackend()
    backend.prepare(model)
    subnets = list(model.space)
    found, agreed = scores_and_agreement(model, backend, evaluation, subnets, whole)
    best = found[-1]
    if best.value <= 0:
        raise ValueError(
            f"the whole model has {model.tasks[task].metric} {best.value:.3f} on the {best.n} "
            "examples that are reported, so what a cut keeps of it cannot be said; more examples, "
            "or more minutes to run them, are needed, or data that the model was made for"
        )
    table_of(model, subnets, {task: found}, {task: agreed}).save(folder / TABLE, model.space)
    checkpoint.cover(folder, TABLE)
    return found


def read_labelled(path: Path, image: ImageInput, labels: Sequence[str], seed: int) -> Labelled:
    """Read images in a random order: a CSV with the columns file and label.

    Args:
        path: Files are named relative to its folder.
        image: What they become.
        labels: Of the model; what the column may hold.
        seed: Of the order.

    Raises:
        ValueError: Naming the file, and the column or line at fault.
    """
    positions = {label: i for i, label in enumerate(labels)}
    images, found = [], []
    with reading(path, DataError):
        for at, row in rows_of(path, ("file", "label")):
            label = row["label"]
            if label is None or label not in positions:
                raise DataError(f"{at}: label={label!r} is none of the model's")
            where = path.parent / (row["file"] or "")
            if not where.is_file():
                raise DataError(f"{at}: {where} does not exist")
            try:
                images.append(image.decode(Encoded(where.read_bytes())))
            except ValueError as error:
                raise DataError(f"{at}: {where}: {error}") from None
            found.append(positions[label])
    if not images:
        raise DataError(f"{path} names no image")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return Labelled(torch.stack(images)[order], torch.tensor(found)[order])


def measured(
    model: Any,
    subnets: Sequence[Subnet],
    score: Scores,
    objectives: Sequence[str],
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[Measured, tuple[float, ...]]]:
    """Return the score of each subnet and its objectives, all to be small.

    Args:
        model: With the weights or statistics of all of them.
        subnets: To be measured.
        score: On the user's data.
        objectives: Of `OBJECTIVES`.
        clock: In seconds.
    """
    of_score = score(model, subnets)
    variants = {choices_of(model.space, subnet) for subnet in subnets}
    built = {choices: build(model, choices) for choices in variants}
    found = []
    for subnet, own in zip(subnets, of_score, strict=True):
        variant = built[choices_of(model.space, subnet)]
        values = []
        for name in objectives:
            if name == "quality":
                better = next(iter(model.tasks.values())).lower_is_better
                values.append(own.value if better else -own.value)
            else:
                values.append(_COSTS[name](variant, subnet, clock))
        found.append((own, tuple(values)))
    return found


def macs_of(model: Any, subnet: Subnet, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the multiply-accumulates for an item of the model's usual shapes."""
    return float(model.plan(subnet, model.inputs.plan_shapes()).cost.macs)


def _milliseconds(model: Any, subnet: Subnet, clock: Callable[[], float]) -> float:
    """Return the median time of one item alone, of the greatest length, in milliseconds."""
    plan, inputs = _example(model, subnet)
    backend, taken = TorchBackend(), []
    with torch.inference_mode():
        for _ in range(_RUNS):
            start = clock()
            backend.run(plan, inputs)
            taken.append(1000 * (clock() - start))
    return median(taken)


def _bytes(model: Any, subnet: Subnet, clock: Callable[[], float]) -> float:
    plan, inputs = _example(model, subnet)
    return float(weight_bytes(model, plan, inputs))


def _example(model: Any, subnet: Subnet) -> tuple[Any, Any]:
    shapes = model.inputs.plan_shapes()
    return model.plan(subnet, shapes), model.inputs.batch([model.inputs.longest()])


_COSTS: Mapping[str, Callable[[Any, Subnet, Callable[[], float]], float]] = {
    "macs": macs_of,
    "ms": _milliseconds,
    "bytes": _bytes,
}


def digest(parts: Iterable[Any]) -> str:
    """Return a digest of arrays or bytes, one after the other."""
    found = sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.tobytes())
    return found.hexdigest()
