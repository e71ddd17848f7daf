"""Classes named by texts: those are nearest to an input whose vectors are.

Vectors of labels are computed by the largest subnet that shares its space with the one that embeds
the inputs, and kept: labels are few and asked for again and again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from models.space import Subnet
from models.vectors import space_choices
from search.budget import Budget
from server.admitted import Answer
from server.indexes.asking import in_space
from server.indexes.index import Index
from server.inputs.sources import Passage
from server.question import Question
from server.ranking import task_of
from server.served import Served
from server.service import Service

_ENTRY_BYTES = 500  # of keys and containers, measured roughly
_Key: TypeAlias = tuple[Subnet, str | None, str]


@dataclass(frozen=True, slots=True)
class Classification:
    """Inputs and how near each label is.

    Attributes:
        answer: Of the inputs.
        task: That gave the vectors.
        cosines: Of each input with each label, shape [inputs, labels].
        label_flops: Spent on labels; 0 where all were kept.
        num_kept: Labels whose vectors were kept from before.
    """

    answer: Answer
    task: str
    cosines: Tensor
    label_flops: int
    num_kept: int


@dataclass(eq=False, slots=True)
class _Kept:
    """Vectors of one model's labels, and their bytes."""

    vectors: OrderedDict[_Key, Tensor] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def put(self, key: _Key, vector: Tensor) -> None:
        self.drop(key)
        self.vectors[key] = vector
        self.num_bytes += vector.nbytes + _ENTRY_BYTES

    def drop(self, key: _Key) -> None:
        if (vector := self.vectors.pop(key, None)) is not None:
            self.num_bytes -= vector.nbytes + _ENTRY_BYTES


class LabelVectors:
    """Vectors of labels, those unused for longest given up first. For one event loop."""

    def __init__(self, max_bytes: int) -> None:
        """Keep at most so many bytes, of all models together."""
        self._max_bytes = max_bytes
        self._of: WeakKeyDictionary[object, _Kept] = WeakKeyDictionary()

    @property
    def num_bytes(self) -> int:
        """Of all that is kept."""
        return sum(own.num_bytes for own in self._of.values())

    def get(self, served: Served, key: _Key) -> Tensor | None:
        """Return what is kept."""
        own = self._of.get(served.model)
        if own is None or key not in own.vectors:
            return None
        own.vectors.move_to_end(key)
        return own.vectors[key]

    def put(self, served: Served, vectors: Mapping[_Key, Tensor]) -> None:
        """Keep vectors, as far as there is room."""
        own = self._of.setdefault(served.model, _Kept())
        for key, vector in vectors.items():
            own.put(key, vector)
        while own.vectors and self.num_bytes > self._max_bytes:
            own.drop(next(iter(own.vectors)))


async def classify(
    service: Service,
    kept: LabelVectors,
    served: Served,
    question: Question,
    inputs: Sequence[Passage],
    labels: Sequence[Passage],
) -> Classification:
    """Compare inputs with labels.

    Args:
        service: Answers.
        kept: Vectors of labels; those that are missing are computed and kept.
        served: A model of vectors of texts.
        question: What is wanted of the inputs; its budget is not for labels.
        inputs: Texts.
        labels: Texts, each once.

    Raises:
        RheostatError: As `Service.infer`.
    """
    answer = await service.infer(served, question, served.named("text", inputs))
    task = next(iter(answer.selection.scores))
    subnet = label_subnet(served, answer.selection.subnet)
    keys = [(subnet, one.prompt, str(one.content)) for one in labels]
    found = {key: vector for key in keys if (vector := kept.get(served, key)) is not None}
    num_kept, flops = len(found), 0
    missing = {key: one for key, one in zip(keys, labels, strict=True) if key not in found}
    if missing:
        whole = replace(question, budget=Budget(), preferences=None, fixed=dict(subnet), side=None)
        of_labels = await service.infer(served, whole, served.named("text", missing.values()))
        flops = of_labels.flops
        vectors = [outputs[task] for outputs in of_labels.outputs]
        new = dict(zip(missing, vectors, strict=True))
        kept.put(served, new)
        found |= new
    rows = torch.stack([outputs[task] for outputs in answer.outputs])
    cosines = rows @ torch.stack([found[key] for key in keys]).T
    return Classification(answer, task, cosines, flops, num_kept)


async def classify_stored(
    service: Service,
    served: Served,
    question: Question,
    inputs: Sequence[Passage],
    index: Index,
) -> Classification:
    """Compare inputs with the documents of an index, which are the labels.

    Args:
        service: Answers.
        served: The index's model.
        question: What is wanted of the inputs.
        inputs: Texts.
        index: Has the labels' vectors.

    Raises:
        RheostatError: As `Service.infer` and `server.indexes.asking.in_space`.
    """
    wanted = in_space(served, index, question)
    answer = await service.infer(served, wanted, served.named("text", inputs))
    task = task_of(served, answer.selection, "embedding")
    rows = torch.stack([outputs[task].float().cpu() for outputs in answer.outputs])
    return Classification(answer, task, rows @ index.vectors.T, 0, len(index))


def label_subnet(served: Served, subnet: Subnet) -> Subnet:
    """Return the largest subnet whose vectors have the space and the size of another's."""
    space = served.elastic.space
    fixed = {axis.name: subnet[axis.name] for axis in space.axes if axis.kind == "output"}
    return space.check({**space.largest, **space_choices(served.elastic, subnet), **fixed})
