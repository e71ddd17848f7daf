"""How long a request will wait among all that are inside: each client's requests are one flow.

The schedule (`server.engine.schedule`) gives higher classes everything, the clients of a class
their shares, and the requests of a client turns. So a request waits for its own turn, not for the
sum of all work. The estimate is that of an ideal fair queue (Demers, Keshav and Shenker 1989,
Analysis and Simulation of a Fair Queueing Algorithm, SIGCOMM; by weights: generalised processor
sharing, Parekh and Gallager 1993), plus one item of each other request, which cannot be divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TypeAlias

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
BACKGROUND = 1000  # class of what nobody waits for; no request can step back so far


FlowKey: TypeAlias = tuple[int, str]
"""Class and client."""

Held: TypeAlias = Mapping[FlowKey, tuple[float, int, int, int, int]]
"""Of each flow what `_Held` has."""


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

    def plus(self, other: _Held) -> _Held:
        """Return what both hold; the weight is the other's."""
        return _Held(
            other.weight,
            self.requests + other.requests,
            self.items + other.items,
            self.nanoseconds + other.nanoseconds,
            self.head_nanoseconds + other.head_nanoseconds,
        )


_NONE = _Held(1.0)


class Room:
    """What one request holds: a number of items, and the seconds they are predicted to take.

    Attributes:
        flow: Whose the request is.
        num_items: Of the request.
        nanoseconds: That those still to be done are predicted to take.
        head_nanoseconds: The same of one of them, the mean.
        estimated_s: What all were estimated at before they were read; 0 once they are.
    """

    def __init__(self, flows: Flows, held: _Held, flow: Flow, num_items: int) -> None:
        self.flow = flow
        self.num_items = num_items
        self.nanoseconds = self.head_nanoseconds = 0
        self.estimated_s = 0.0
        self._num_left = num_items
        self._flows = flows
        self._held = held

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
        head = nanoseconds // (self._num_left or 1)
        more = nanoseconds - self.nanoseconds
        self._held.nanoseconds += more
        self._held.head_nanoseconds += head - self.head_nanoseconds
        self._flows.nanoseconds += more
        self.nanoseconds, self.head_nanoseconds = nanoseconds, head


class Flows:
    """All that is inside, by client and class. For one event loop, without a lock.

    Attributes:
        items: Items inside, those of other processes of the server included.
        nanoseconds: They are predicted to take.
    """

    def __init__(self) -> None:
        self._held: dict[FlowKey, _Held] = {}
        self._others_held: dict[int, Held] = {}  # of other processes, as they told
        self._foreign: dict[FlowKey, _Held] = {}  # the sum of these
        self.items = 0
        self.nanoseconds = 0

    @property
    def own(self) -> Held:
        """What this process holds, to be told to the others."""
        return {key: astuple(held) for key, held in self._held.items()}

    def note_other(self, process: int, held: Held) -> None:
        """Take in what another process holds now; nothing once it is gone."""
        for sign, known in ((-1, self._others_held.pop(process, {})), (1, held)):
            for _, _, items, nanoseconds, _ in known.values():
                self.items += sign * items
                self.nanoseconds += sign * nanoseconds
        if held:
            self._others_held[process] = held
        self._foreign = {}
        for known in self._others_held.values():
            for key, values in known.items():
                self._foreign[key] = self._foreign.get(key, _NONE).plus(_Held(*values))

    def forget_others(self) -> None:
        """Take in that nothing is known of other processes any more."""
        for process in list(self._others_held):
            self.note_other(process, {})

    def enter(self, flow: Flow, num_items: int, seconds: float) -> Room:
        """Let a request in; give its room to `leave` when it is over."""
        key = _key(flow)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(flow.weight)
        held.weight = flow.weight
        held.requests += 1
        held.items += num_items
        self.items += num_items
        room = Room(self, held, flow, num_items)
        room.hold(seconds, num_items)
        return room

    def leave(self, room: Room) -> None:
        """Let a request go, with all that it holds."""
        room.hold(0.0, 0)
        key = _key(room.flow)
        held = self._held[key]
        held.requests -= 1
        held.items -= room.num_items
        self.items -= room.num_items
        if not held.requests:
            del self._held[key]

    def is_alone(self, flow: Flow) -> bool:
        """Return whether nothing of another flow is inside."""
        return self._held.keys() | self._foreign.keys() <= {_key(flow)}

    def items_of(self, flow: Flow) -> int:
        """Return the items that a flow has inside."""
        held = self._of(_key(flow))
        return held.items if held else 0

    def share(self, flow: Flow, max_items: int) -> int:
        """Return an equal share of a number of items for each flow that is inside, or enters."""
        return max_items // len(self._held.keys() | self._foreign.keys() | {_key(flow)})

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
        key = _key(flow)
        own = self._of(key) or _Held(flow.weight)
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
        for other_key, other in self._every.items():
            priority = other_key[0]
            if other_key == key or priority > flow.priority:
                continue  # those of lower classes wait
            everything += other.nanoseconds
            if priority < flow.priority:
                ahead += other.nanoseconds
            else:
                head = other.head_nanoseconds / other.requests
                ahead += min(other.nanoseconds, turn * other.weight / flow.weight + head)
        running = _PER_S * running_s
        return max(running, min(everything, running + ahead)) / _PER_S

    def _of(self, key: FlowKey) -> _Held | None:
        """Return what a flow holds in all processes; None if it holds nothing."""
        here = self._held.get(key)
        if not self._foreign:
            return here
        elsewhere = self._foreign.get(key)
        if here is None or elsewhere is None:
            return here or elsewhere
        return elsewhere.plus(here)

    @property
    def _every(self) -> Mapping[FlowKey, _Held]:
        """What all flows hold in all processes."""
        if not self._foreign:
            return self._held
        return {key: self._of(key) or _NONE for key in self._held.keys() | self._foreign}


def _key(flow: Flow) -> FlowKey:
    return flow.priority, flow.client
