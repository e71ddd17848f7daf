"""A request that has room: its items, its subnet, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from models.inputs import Item
from models.nn.ragged import Value
from search.find import Selection
from server.choose import Choice, Question
from server.engine.item import ItemResult, PreparedPlan, QueueItem, shared_part
from server.engine.reservation import Reservation
from server.items import macs_of
from server.observe.metrics import Stage

_NOTHING: Mapping[bytes, Value] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is told.

    Attributes:
        selection: The subnet that ran and what is known about it.
        outputs: Per item and task, without the batch dimension.
        num_tokens: Of each item; 0 where inputs have no length.
        backend: What ran it.
        batch_sizes: Of the batch each item was in.
        seconds: Per stage; queue and run are those of the item that took longest.
        choice: How the subnet was chosen.
        flops: Of the request, each value that its items share counted once.
        shared: Part of the FLOPs, 0..1, that were computed for others as well.
    """

    selection: Selection
    outputs: list[dict[str, Tensor]]
    num_tokens: list[int]
    backend: str
    batch_sizes: list[int]
    seconds: Mapping[Stage, float]
    choice: Choice
    flops: int
    shared: float


@dataclass(slots=True)
class Admitted:
    """A request that has room, its inputs and its subnet.

    Attributes:
        room: For its items.
        question: What was asked, and by whom.
        items: Decoded.
        choice: The subnet chosen, and how.
        flops: Of the request, each value that its items share counted once.
        deadline: Of its items, on the engine's clock.
        seconds: Per stage so far; ``run`` adds to it.
        shared: Part of the FLOPs of the last run that were computed for others as well.
        on_ran: Told of each run that ends: its slowest result, and of how many items.
    """

    room: Reservation
    question: Question
    items: list[Item]
    choice: Choice
    flops: int
    deadline: float
    seconds: dict[Stage, float]
    shared: float = 0.0
    on_ran: Callable[[ItemResult, int], None] | None = None

    @property
    def selection(self) -> Selection:
        """The subnet chosen."""
        return self.choice.selection

    def queued(self, prepared: PreparedPlan, item: Item, known: Mapping[bytes, Value]) -> QueueItem:
        """Return an item as the engine takes it."""
        flow = self.room.room.flow
        return QueueItem(
            prepared,
            item,
            known,
            deadline=self.deadline,
            flops=self.selection.cost.flops,
            client=flow.client,
            weight=flow.weight,
            priority=flow.priority,
        )

    async def run(
        self, prepared: PreparedPlan, going_on: Mapping[int, Mapping[bytes, Value]] | None = None
    ) -> list[ItemResult]:
        """Run items and add the times of the slowest.

        Args:
            prepared: The plan.
            going_on: What an earlier run kept, by the number of the item; only these items run.
                None to run all from the start.
        """
        known = dict.fromkeys(range(len(self.items)), _NOTHING) if going_on is None else going_on
        items = [self.queued(prepared, self.items[i], kept) for i, kept in known.items()]
        results = await self.room.submit(items)
        whole = macs_of(prepared, [item.inputs for item in items])
        self.shared = shared_part(sum(result.macs for result in results), whole)
        slowest = max(results, key=lambda result: result.queue_s + result.run_s)
        self.seconds[Stage.QUEUE] += slowest.queue_s
        self.seconds[Stage.RUN] += slowest.run_s
        if self.on_ran is not None:
            self.on_ran(slowest, len(results))
        return results
