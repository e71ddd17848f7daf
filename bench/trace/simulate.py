"""Replays arrivals in virtual time: the server's own choice, schedule and batches, no server.

A cell takes a second, so that a policy can be judged over many seeds, on a machine that is busy.
Real are the policy, the search, the scheduler, the rule by which a batch grows and the pace that is
learnt. A batch takes what the latency profile says of its merged steps, so that a mix of widths
costs more than one width. HTTP is one reader that takes a fixed time for each request and each
answer, and slows the worker meanwhile, since both share an interpreter and the machine's cores.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

from bench.trace.around import Around, Slowness
from bench.trace.arrivals import FloatArray
from bench.trace.replay import Outcome
from models.core import Step
from models.inputs import Item
from search.budget import Budget, InfeasibleBudgetError
from search.timing.profile import LatencyProfile, Workload
from server.choose import Choice, Chooser, Question, RequestProgress
from server.engine.engine import Engine
from server.engine.flows import ANY_FLOW, Flows, Room
from server.engine.item import PreparedPlan, QueueItem
from server.engine.load import LoadPolicy
from server.engine.predict import InTime, Pace, batch_seconds
from server.engine.schedule import Scheduler
from server.errors import OverloadedError
from server.served import Served

_MAX_BATCH, _MAX_TOKENS = 64, 16384
_ROOM = Flows().enter(ANY_FLOW, 1, 0.0)  # of one client's requests all wait in one line


@dataclass
class Machine:
    """One model on one worker, in virtual time.

    Attributes:
        served: With its profile.
        item: That every request asks about.
        around: What comes on top of running.
        slowness: Of the machine.
    """

    served: Served
    item: Item
    around: Around = field(default_factory=Around)
    slowness: Slowness = field(default_factory=lambda: Slowness(1.0, 0))
    _calls: dict[Any, list[tuple[list[Step], Workload, float]]] = field(default_factory=dict)

    def batch_s(self, plans: Sequence[PreparedPlan]) -> float:
        """Return how long a batch of plans takes: each distinct step once, on its own rows."""
        return sum(seconds for _, _, seconds in self.calls(plans))

    def calls(self, plans: Sequence[PreparedPlan]) -> list[tuple[list[Step], Workload, float]]:
        """Return the steps of a batch that take the same rows, these, and their seconds."""
        key = frozenset(Counter(plan.subnet for plan in plans).items())
        if key not in self._calls:
            steps = {step.identity: step for plan in plans for step in plan.steps}
            rows = Counter(step.identity for plan in plans for step in plan.steps)
            by_rows: dict[int, list[Step]] = {}
            for identity, count in rows.items():
                by_rows.setdefault(count, []).append(steps[identity])
            lengths = {name: one.size for name, one in self.item.items()}
            profile = self.served.profile
            assert profile is not None, "the model was measured"
            given = {count: Workload.of(same, count, lengths) for count, same in by_rows.items()}
            self._calls[key] = [
                (same, given[count], profile.total(same, given[count]))
                for count, same in by_rows.items()
            ]
        return self._calls[key]

    def whole_s(self, size: int) -> float:
        """Return what a batch of the whole model takes from the first request to the last answer.

        Args:
            size: Of the batch.
        """
        served, around = self.served, self.around
        largest = served.finder.find()
        plan = served.prepare(largest.subnet, largest.scores)
        reading_s = size * (around.read_s + around.answer_s)
        run_s = self.batch_s([plan] * size) + around.batch_s + size * around.item_s
        return run_s + (reading_s if size == 1 else around.slows * reading_s)

    def replay(
        self, policy: LoadPolicy, fraction: float | None, due_s: FloatArray, slo_s: float
    ) -> list[Outcome]:
        """Return what becomes of requests.

        Args:
            policy: Of load; it may remember what it has seen.
            fraction: Ceiling of every request; None for none.
            due_s: When each is due, ascending, after what the policy has seen; shape [requests].
            slo_s: The latency budget of each.
        """
        budget = Budget(latency_ms=1000 * slo_s, fraction=fraction, strict=False)
        return _Cell(self, policy, budget, due_s.tolist()).run()


@dataclass(eq=False)
class _Request:
    """A request on its way.

    Attributes:
        due: When it is sent.
        item: Once a subnet is chosen.
        choice: Likewise.
        started: When its batch began.
        outcome: In the end.
    """

    due: float
    item: QueueItem | None = None
    choice: Choice | None = None
    started: float = 0.0
    outcome: Outcome | None = None

    @property
    def queued(self) -> QueueItem:
        """Its item, once it waits."""
        assert self.item is not None, "it waits"
        return self.item

    def end(self, now: float, status: int, content: bytes = b"") -> None:
        """Take in an answer."""
        self.outcome = Outcome(status, now - self.due, 0.0, content)


class _Cell:
    def __init__(
        self, machine: Machine, policy: LoadPolicy, budget: Budget, due_s: Sequence[float]
    ) -> None:
        self.machine, self.policy = machine, policy
        self.slo_s = (budget.latency_ms or inf) / 1000
        self.now = 0.0
        self.pace = Pace()
        self.queue: Scheduler[_Request] = Scheduler(_MAX_BATCH, _MAX_TOKENS)
        self.waiting: dict[_Request, None] = {}
        self.running: list[_Request] = []
        self.running_until = 0.0
        self.read_s = 0.0  # that the reader has worked so far
        self.to_read: deque[tuple[float, Callable[[], None]]] = deque()
        self.requests = [_Request(due) for due in due_s]
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.number = itertools.count()
        profile = machine.served.profile
        assert profile is not None, "the model was measured"
        self.profile = LatencyProfile(**profile.measured)  # learns anew
        self.served = machine.served.timed(self.profile)
        self.chooser = Chooser(cast(Engine, _EngineView(self)), policy)
        self.question = Question(None, None, budget, fixed=self.served.whole_outputs)
        self.shapes = machine.served.inputs.shapes(machine.item)

    def run(self) -> list[Outcome]:
        for one in self.requests:
            self._at(one.due, self._reader_of(one))
        while self.events:
            self.now, _, call = heapq.heappop(self.events)
            call()
        return [one.outcome or Outcome(None, inf, 0.0, b"") for one in self.requests]

    def _at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.number), call))

    def _reader_of(self, one: _Request) -> Callable[[], None]:
        return lambda: self._read(self.machine.around.read_s, lambda: self._admit(one))

    def _read(self, seconds: float, call: Callable[[], None]) -> None:
        """Let the reader work, one thing after the other, then call."""
        self.to_read.append((seconds, call))
        if len(self.to_read) == 1:
            self._next_reading()

    def _next_reading(self) -> None:
        seconds, call = self.to_read[0]
        seconds *= self.machine.slowness.at(self.now)

        def done() -> None:
            self.read_s += seconds
            call()
            self.to_read.popleft()
            if self.to_read:
                self._next_reading()

        self._at(self.now + seconds, done)

    def _admit(self, one: _Request) -> None:
        served = self.served
        spent_s, deadline = self.now - one.due, one.due + self.slo_s
        progress = RequestProgress(1, spent_s, spent_s, _ROOM, deadline, self.now)
        try:
            one.choice = self.chooser.choose(served, self.question, self.shapes, progress)
        except (OverloadedError, InfeasibleBudgetError):
            one.end(self.now, 429)
            return
        selection = one.choice.selection
        plan = served.prepare(selection.subnet, selection.scores)
        flops = selection.cost.flops
        one.item = QueueItem(plan, self.machine.item, deadline=deadline, flops=flops)
        self.queue.push(one, one.item.ticket, one)
        self.waiting[one] = None
        if not self.running:
            self._next_batch()

    def _next_batch(self) -> None:
        in_time = InTime(self.now, self.pace.value)
        batch, expired = self.queue.next_batch(self.now, lambda one: in_time(one.queued))
        for one in (*batch, *expired):
            del self.waiting[one]
        for one in expired:
            one.end(self.now, 504)
            self._note(is_late=True)
        self.running = batch
        if not batch:
            return
        items = [one.queued for one in batch]
        around, started, read_s = self.machine.around, self.now, self.read_s
        calls = self.machine.calls([item.prepared for item in items])
        slow = self.machine.slowness.at(started)
        seconds = sum(seconds for _, _, seconds in calls)
        seconds = slow * (seconds + around.batch_s + around.item_s * len(batch))
        predicted_s = batch_seconds(items)
        self.running_until = started + self.pace.value * predicted_s

        def end() -> None:
            self.pace.note(predicted_s, self.now - started)
            for steps, workload, taken_s in calls:
                self.profile.observe(steps, workload, slow * taken_s)
            for one in batch:
                one.started = started
                self._read(around.answer_s, self._answer_of(one, self.now - started))
            self._next_batch()

        def ran() -> None:
            self._at(self.now + around.slows * (self.read_s - read_s), end)

        self._at(started + seconds, ran)

    def _note(self, is_late: bool) -> None:
        self.policy.note(self.question.caller.client, is_late)

    def _answer_of(self, one: _Request, run_s: float) -> Callable[[], None]:
        def answer() -> None:
            one.end(self.now, 200, _receipt(one, run_s, self.now))
            self._note(self.now - one.due > self.slo_s)

        return answer


def _receipt(one: _Request, run_s: float, now: float) -> bytes:
    """Return what a server would tell of a request, as far as it is counted."""
    assert one.choice is not None, "it ran"
    seconds = {
        "queue": one.started - one.due,
        "run": run_s,
        "total": now - one.due,
        "predicted": one.choice.predicted_s,
    }
    receipt = {
        "quality": one.choice.selection.quality,
        "slimmed": one.choice.is_slimmed,
        "milliseconds": {name: 1000 * taken for name, taken in seconds.items()},
    }
    return json.dumps({"receipt": receipt}).encode()


class _EngineView:
    """As much of an engine as choosing needs; of one client all that is due before goes first."""

    def __init__(self, cell: _Cell) -> None:
        self._cell = cell

    @property
    def pace(self) -> float:
        return self._cell.pace.value

    def delay_s(self, room: Room, seconds: float, deadline: float = inf) -> float:
        cell = self._cell
        running_s = max(0.0, cell.running_until - cell.now) if cell.running else 0.0
        items = (one.queued for one in cell.waiting)
        ahead_s = sum(item.share.more for item in items if item.deadline <= deadline)
        return running_s + cell.pace.value * ahead_s
