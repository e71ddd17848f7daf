"""How long a request will wait among all that are inside: each client's requests are one flow.

The schedule (`server.engine.schedule`) gives higher classes everything, the clients of a class
their shares, and the requests of a client turns. So a request waits for its own turn, not for the
sum of all work. The estimate is that of an ideal fair queue (Demers, Keshav and Shenker 1989,
Analysis and Simulation of a Fair Queueing Algorithm, SIGCOMM; by weights: generalised processor
sharing, Parekh and Gallager 1993), plus one item of each other request, which cannot be divided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_PER_S = 1e9  # whole nanoseconds: a sum of millions of them stays exact


@dataclass(frozen=True, slots=True)
class Flow:
    """Whose a request is, as far as its turn goes.

    Attributes:
        client: Empty where nobody has to say.
        weight: The client's share of what its class gets, above 0.
        priority: Class; lower ones go first, always.
    """

    client: str = ""
    weight: float = 1.0
    priority: int = 0


ANY_FLOW = Flow()


@dataclass(slots=True)
class _Held:
    """What a flow's requests hold together.

    Attributes:
        weight: Of the flow.
        requests: Their number.
        items: Items.
        nanoseconds: Predicted for all items.
        head_nanoseconds: Predicted for one item of each request.
    """

    weight: float
    requests: int = 0
    items: int = 0
    nanoseconds: int = 0
    head_nanoseconds: int = 0


class Room:
    """What one request holds: a number of items, and the seconds they are predicted to take.

    Attributes:
        flow: Whose the request is.
        num_items: Of the request.
        nanoseconds: That those still to be done are predicted to take.
        head_nanoseconds: The same of one of them, the mean.
        estimated_s: What all were estimated at before they were read; 0 once they are.
    """

    def __init__(self, flows: Flows, flow: Flow, num_items: int) -> None:
        self.flow = flow
        self.num_items = num_items
        self.nanoseconds = self.head_nanoseconds = 0
        self.estimated_s = 0.0
        self._num_left = num_items
        self._flows = flows

    def hold(self, seconds: float, num_items: int) -> None:
        """Hold this much and no more: an estimate at first, then what is to be done.

        Args:
            seconds: Predicted.
            num_items: That take them together.
        """
        self._num_left = num_items
        self._change(round(_PER_S * seconds))

    def release(self, seconds: float) -> None:
        """Hold no longer what one item was predicted to take; nothing if the request is over."""
        if self._num_left:
            self._num_left -= 1
            self._change(max(0, self.nanoseconds - round(_PER_S * seconds)))

    def _change(self, nanoseconds: int) -> None:
        head = nanoseconds // max(1, self._num_left)
        self._flows.change(self.flow, nanoseconds - self.nanoseconds, head - self.head_nanoseconds)
        self.nanoseconds, self.head_nanoseconds = nanoseconds, head


class Flows:
    """All that is inside, by client and class. For one event loop, without a lock.

    Attributes:
        items: Items inside.
        nanoseconds: They are predicted to take.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], _Held] = {}
        self.items = 0
        self.nanoseconds = 0

    def enter(self, flow: Flow, num_items: int, seconds: float) -> Room:
        """Let a request in; give its room to `leave` when it is over."""
        held = self._held.setdefault(_key(flow), _Held(flow.weight))
        held.weight = flow.weight
        held.requests += 1
        held.items += num_items
        self.items += num_items
        room = Room(self, flow, num_items)
        room.hold(seconds, num_items)
        return room

    def leave(self, room: Room) -> None:
        """Let a request go, with all that it holds."""
        room.hold(0.0, 0)
        held = self._held[_key(room.flow)]
        held.requests -= 1
        held.items -= room.num_items
        self.items -= room.num_items
        if not held.requests:
            del self._held[_key(room.flow)]

    def change(self, flow: Flow, nanoseconds: int, head_nanoseconds: int) -> None:
        """Take in by how much a room of a flow holds more, and its one item takes longer."""
        held = self._held[_key(flow)]
        held.nanoseconds += nanoseconds
        held.head_nanoseconds += head_nanoseconds
        self.nanoseconds += nanoseconds

    def is_alone(self, flow: Flow) -> bool:
        """Return whether nothing of another flow is inside."""
        return self._held.keys() <= {_key(flow)}

    def items_of(self, flow: Flow) -> int:
        """Return the items that a flow has inside."""
        held = self._held.get(_key(flow))
        return held.items if held else 0

    def share(self, flow: Flow, max_items: int) -> int:
        """Return an equal share of a number of items for each flow that is inside, or enters."""
        return max_items // len(self._held.keys() | {_key(flow)})

    def wait_s(
        self,
        flow: Flow,
        seconds: float,
        running_s: float = 0.0,
        ahead_s: float | None = None,
        room: Room | None = None,
    ) -> float:
        """Predict how long a request of a flow will wait while others run.

        Args:
            flow: Of the request.
            seconds: The request itself is predicted to take.
            running_s: What the batch that runs now is predicted to take.
            ahead_s: What goes first in the same flow, where deadlines say so; None if the flow's
                requests take turns.
            room: The request's own, if it is inside already.
        """
        own = self._held.get(_key(flow), _Held(flow.weight))
        before = own.nanoseconds - (room.nanoseconds if room else 0)
        heads = own.head_nanoseconds - (room.head_nanoseconds if room else 0)
        requests = own.requests - (room is not None)
        nanoseconds = _PER_S * seconds
        if ahead_s is None:
            ahead = min(before, requests * nanoseconds + heads)
        else:
            ahead = max(0.0, min(before, _PER_S * ahead_s))
        turn = ahead + nanoseconds
        everything = float(before)
        for (priority, _), other in self._others(flow):
            everything += other.nanoseconds
            if priority < flow.priority:
                ahead += other.nanoseconds
            else:
                head = other.head_nanoseconds / other.requests
                ahead += min(other.nanoseconds, turn * other.weight / flow.weight + head)
        running = _PER_S * running_s
        return max(running, min(everything, running + ahead)) / _PER_S

    def _others(self, flow: Flow) -> Iterator[tuple[tuple[int, str], _Held]]:
        """Yield the other flows that are not of a lower class."""
        own = _key(flow)
        return (
            (key, held)
            for key, held in self._held.items()
            if key != own and key[0] <= flow.priority
        )


def _key(flow: Flow) -> tuple[int, str]:
    return flow.priority, flow.client
