"""Answered requests that wait to be compared, bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from models.inputs import Item
from models.space import Subnet
from models.variants import choices_of, load_axes
from search.find import Selection
from search.floors import Floors
from search.quality.alike import whole_of
from search.terms import Terms
from server.admitted import Admitted
from server.engine.item import ItemResult
from server.question import Question
from server.served import Served

_ITEMS = 4  # of a request that are compared, at most
_LISTED = 32  # of a list
_OVERHEAD = 2048  # bytes of an item's objects beside its numbers


class AuditedSubnet(NamedTuple):
    """A subnet that a kept request is compared for.

    Attributes:
        subnet: It.
        fraction: Of the largest subnet's MACs.
    """

    subnet: Subnet
    fraction: float


@dataclass(frozen=True, eq=False)
class KeptRequest:
    """Some items of an answered request, and their answers.

    Attributes:
        served: The model.
        tasks: Answered.
        items: Decoded; of a list, the query first where the model embeds it.
        outputs: Per item and task, of the first of ``runs``.
        runs: The subnet that answered; then the one that the table alone would have chosen, where
            that is another.
        whole: Subnet to compare with.
        is_list: Whether the items are one list, put in order by their answers.
        reruns: What is to be run, and its FLOPs for an item.
        tries: How often its comparison has been stopped.
    """

    served: Served
    tasks: tuple[str, ...]
    items: Sequence[Item]
    outputs: Sequence[Mapping[str, Tensor]]
    runs: Sequence[AuditedSubnet]
    whole: Subnet
    is_list: bool
    reruns: Mapping[Subnet, float]
    tries: int = 0

    @property
    def flops(self) -> float:
        """Of all that is to be run."""
        return len(self.items) * sum(self.reruns.values())

    @property
    def num_bytes(self) -> int:
        """Of its inputs and answers."""
        held = sum(_bytes(one.value) for item in self.items for one in item.values())
        held += sum(output.nbytes for answer in self.outputs for output in answer.values())
        return held + _OVERHEAD * len(self.items)


def _bytes(value: object) -> int:
    return int(getattr(value, "nbytes", 0)) or int(getattr(value, "num_bytes", 0))


class KeptQueue:
    """What waits, the oldest first. For one event loop.

    Attributes:
        num_bytes: Of all that waits.
    """

    def __init__(self, max_bytes: int) -> None:
        """Hold at most so many bytes."""
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[KeptRequest, int]] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, kept: KeptRequest, first: bool = False) -> bool:
        """Let a request wait; return whether there was room."""
        held = kept.num_bytes
        if self.num_bytes + held > self._max_bytes:
            return False
        self.num_bytes += held
        (self._waiting.appendleft if first else self._waiting.append)((kept, held))
        self._filled.set()
        return True

    async def filled(self) -> None:
        """Return once something waits."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()

    def take(self) -> KeptRequest:
        """Return what waits first; IndexError if nothing does."""
        kept, held = self._waiting.popleft()
        self.num_bytes -= held
        return kept

    def drop(self, model: object) -> list[KeptRequest]:
        """Give up what is of a model."""
        gone = [entry for entry in self._waiting if entry[0].served.model is model]
        self._waiting = deque(e for e in self._waiting if e[0].served.model is not model)
        self.num_bytes -= sum(held for _, held in gone)
        return [kept for kept, _ in gone]


def kept_of(
    admitted: Admitted,
    served: Served,
    results: Sequence[ItemResult],
    is_list: bool,
    unaudited: Floors | None,
) -> KeptRequest | None:
    """Return what is kept of a request; None if there is nothing to compare.

    Args:
        admitted: The request.
        served: The model.
        results: Of its items.
        is_list: As for `Audit.note`.
        unaudited: What a promised quality counts by the table alone.
    """
    selection, elastic = admitted.selection, served.elastic
    subnet, tasks = selection.subnet, tuple(selection.scores)
    if not is_list and all(elastic.tasks[task].kind == "score" for task in tasks):
        return None  # the order of one is nothing
    whole = Subnet(whole_of(elastic.space, subnet))
    promised = selection
    if admitted.question.budget.min_quality is not None:
        promised = _promised(admitted.question, served, admitted, unaudited)
    runs = [AuditedSubnet(subnet, selection.fraction)]
    if promised.subnet != subnet:
        runs.append(AuditedSubnet(promised.subnet, promised.fraction))
    if all(run.subnet == whole for run in runs):
        return None
    each = selection.cost.flops / selection.fraction
    reruns = {promised.subnet: promised.fraction * each, whole: each}
    reruns.pop(subnet, None)
    most = _LISTED if is_list else _ITEMS
    items, outputs = admitted.items[:most], [result.outputs for result in results[:most]]
    if is_list:
        tasks = tuple(task for task in tasks if task in outputs[0])
    return KeptRequest(served, tasks, items, outputs, runs, whole, is_list, reruns)


def _promised(
    question: Question, served: Served, admitted: Admitted, floors: Floors | None
) -> Selection:
    """Return what a request would get by the table alone, if nobody waited."""
    space, subnet = served.elastic.space, admitted.selection.subnet
    finder = served.finders.at(served.inputs.upper(admitted.items), question.fixed)
    resident = None
    if load_axes(space):  # of weights that are there for sure
        resident = frozenset({choices_of(space, subnet), choices_of(space, space.largest)})
    budget = replace(question.budget, latency_ms=None)
    return finder.find(
        question.tasks, question.preferences, budget, terms=Terms(resident=resident, floors=floors)
    )
