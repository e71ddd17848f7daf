"""A request that has room: its items, its subnet, and what became of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
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
        adapters: Of the items, each once.
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
    adapters: tuple[str, ...] = ()


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
        read: Positions of these items among those asked; in stages some may not be read in time.
        charge: Charges the FLOPs of what runs, where that is not known before; QuotaExceededError.
        adapters: Of the items, each once.
    """

    room: Reservation
    question: Question
    items: list[Item]
    choice: Choice
    flops: int
    deadline: float
    seconds: dict[Stage, float]
    read: Sequence[int] = ()
    shared: float = 0.0
    on_ran: Callable[[ItemResult, int], None] | None = None
    charge: Callable[[float], Awaitable[None]] | None = None
    adapters: tuple[str, ...] = ()

    @property
    def selection(self) -> Selection:
        """The subnet chosen."""
        return self.choice.selection

    def queued(
        self,
        prepared: PreparedPlan,
        item: Item,
        known: Mapping[bytes, Value] = _NOTHING,
        flops: float | None = None,
        deadline: float | None = None,
        longest_s: float = inf,
    ) -> QueueItem:
        """Return an item as the engine takes it.

        Args:
            prepared: The plan.
            item: Decoded.
            known: What an earlier run kept of it.
            flops: Of the plan on the item; None for those of the subnet chosen.
            deadline: Of the item; None for that of the request.
            longest_s: As in `QueueItem`.
        """
        flow = self.room.room.flow
        return QueueItem(
            prepared,
            item,
            known,
            deadline=self.deadline if deadline is None else deadline,
            flops=self.selection.cost.flops if flops is None else flops,
            client=flow.client,
            weight=flow.weight,
            priority=flow.priority,
            longest_s=longest_s,
        )

    async def run(self, prepared: PreparedPlan) -> list[ItemResult]:
        """Run all items by one plan and add the times of the slowest."""
        items = [self.queued(prepared, item) for item in self.items]
        results = await self.room.submit(items)
        self._note(items, results)
        return results

    async def run_items(
        self, items: Sequence[QueueItem], until: float = inf
    ) -> Sequence[ItemResult | None]:
        """Run items from `queued` and add the times of the slowest.

        Args:
            items: Of any plans.
            until: On the engine's clock.

        Returns:
            In order; None for each that was not done by then.
        """
        if until == inf:
            results: Sequence[ItemResult | None] = await self.room.submit(items)
        else:
            results = await self.room.submit_until(items, until)
        done = [(i, result) for i, result in zip(items, results, strict=True) if result is not None]
        if done:
            self._note([item for item, _ in done], [result for _, result in done])
        return results

    async def pay(self, flops: float) -> None:
        """Charge what is to run and was not known before.

        Raises:
            QuotaExceededError: If too little is left.
        """
        if self.charge is not None:
            await self.charge(flops)

    def _note(self, items: Sequence[QueueItem], results: Sequence[ItemResult]) -> None:
        by_plan: dict[PreparedPlan, list[Item]] = {}
        for item in items:
            by_plan.setdefault(item.prepared, []).append(item.inputs)
        whole = sum(macs_of(prepared, inputs) for prepared, inputs in by_plan.items())
        self.shared = shared_part(sum(result.macs for result in results), whole)
        slowest = max(results, key=lambda result: result.queue_s + result.run_s)
        self.seconds[Stage.QUEUE] += slowest.queue_s
        self.seconds[Stage.RUN] += slowest.run_s
        if self.on_ran is not None:
            self.on_ran(slowest, len(results))
