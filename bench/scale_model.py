"""A cluster as a queueing model: routers that pick the shorter of two queues, replicas that batch.

The parts are those of the server on Ray Serve. A request takes a router's time, one after the
other; the router draws two replicas at random and sends to the one with fewer requests under way,
as far as it knows: it counts what it sends, and learns a replica's number from each of its answers.
A replica runs whatever waits, up to a full batch, in ``alone_s`` and ``more_s`` for each row. What
a request gets is decided by the server's own price policy (`server.engine.load`) on the Pareto
front of a real model, as it comes to the replica; a row's time follows its share of the MACs. What
is the same for all requests and waits for nothing (network, HTTP, JSON) is one constant.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from server.engine.load import Moment, Price


@dataclass(frozen=True)
class Replica:
    """How long a replica takes.

    Attributes:
        alone_s: Of every batch.
        more_s: Of every row of the subnet that requests ask for.
        max_batch: Rows run together.
        front: Share of the MACs and quality of what a request may get, the last one the whole.
        target_delay_s: Of the price policy.
    """

    alone_s: float
    more_s: float
    max_batch: int
    front: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    target_delay_s: float = 0.05

    @property
    def capacity(self) -> float:
        """Requests per second with full batches and nothing slimmed."""
        return self.max_batch / (self.alone_s + self.more_s * self.max_batch)

    def best(self, price: float) -> tuple[float, float]:
        """Return what is worth most when the whole's compute costs so much quality."""
        return max(self.front, key=lambda point: point[1] - price * point[0])


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes:
        replicas: How many, all alike.
        replica: Each of them.
        routers: How many; requests come to each of them alike.
        router_s: Time of a router for a request, during which it does nothing else.
        constant_s: What every request takes besides.
    """

    replicas: int
    replica: Replica
    routers: int = 1
    router_s: float = 0.0
    constant_s: float = 0.0


@dataclass
class Run:
    """What a simulation showed; times in seconds.

    Attributes:
        latencies: Of all requests, in the order of their answers.
        shares: Of the whole model's MACs, in the same order.
        qualities: Of the whole model's, in the same order.
        busy_s: Time that replicas computed up to the last arrival, together.
        routing_s: Time that routers worked, together.
        end: Of the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    busy_s: float = 0.0
    routing_s: float = 0.0
    end: float = 0.0


_Event = Generator[simpy.Event, Any, None]


class _Queue:
    """First come, first served, for one reader that sleeps while it is empty."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._items: deque[Any] = deque()
        self._wake: simpy.Event | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake.succeed()

    def wait(self) -> simpy.Event:
        """Return what happens once something is there."""
        wake = self._env.event()
        if self._items:
            wake.succeed()
        else:
            self._wake = wake
        return wake

    def take(self, most: int) -> list[Any]:
        return [self._items.popleft() for _ in range(min(most, len(self._items)))]


class _Simulation:
    def __init__(self, cluster: Cluster, arrivals: Sequence[float], rng: random.Random) -> None:
        self.env = simpy.Environment()
        self.cluster = cluster
        self.arrivals = arrivals
        self.rng = rng
        self.run = Run()
        count = cluster.replicas
        self.routers = [_Queue(self.env) for _ in range(cluster.routers)]
        self.queues = [_Queue(self.env) for _ in range(count)]
        self.policies = [Price(cluster.replica.target_delay_s) for _ in range(count)]
        self.free_at = [0.0] * count  # when the batch under way ends
        self.waiting_s = [0.0] * count  # rows that wait, together
        self.under_way = [0] * count  # at each replica, whoever has sent it
        # As each router believes; only what it has touched.
        self.believed: list[dict[int, int]] = [{} for _ in range(cluster.routers)]
        self.env.process(self._arrive())
        for number in range(cluster.routers):
            self.env.process(self._route(number))
        for number in range(count):
            self.env.process(self._serve(number))

    def _arrive(self) -> _Event:
        for due in self.arrivals:
            if due > self.env.now:
                yield self.env.timeout(due - self.env.now)
            self.routers[self.rng.randrange(len(self.routers))].put(due)

    def _route(self, router: int) -> _Event:
        queue, believed = self.routers[router], self.believed[router]
        while True:
            yield queue.wait()
            (due,) = queue.take(1)
            if self.cluster.router_s:
                yield self.env.timeout(self.cluster.router_s)
                self.run.routing_s += self.cluster.router_s
            chosen = min(self._two(), key=lambda replica: believed.get(replica, 0))
            believed[chosen] = believed.get(chosen, 0) + 1
            self.under_way[chosen] += 1
            self._admit(chosen, due, router)

    def _two(self) -> Sequence[int]:
        count = self.cluster.replicas
        first = self.rng.randrange(count)
        return (first, (first + 1 + self.rng.randrange(count - 1)) % count) if count > 1 else (0,)

    def _admit(self, number: int, due: float, router: int) -> None:
        """Choose what a request gets by the wait that the replica sees."""
        replica = self.cluster.replica
        share, quality = replica.front[-1]
        if len(replica.front) > 1:
            delay_s = max(0.0, self.free_at[number] - self.env.now) + self.waiting_s[number]
            moment = Moment(
                self.env.now,
                delay_s,
                math.inf,
                1.0,
                lambda price: replica.more_s * replica.best(price)[0],
            )
            load = self.policies[number].decide(moment)
            share, quality = replica.best(load.price)
        self.waiting_s[number] += replica.more_s * share
        self.queues[number].put((due, router, share, quality))

    def _serve(self, number: int) -> _Event:
        queue, replica, run = self.queues[number], self.cluster.replica, self.run
        last = self.arrivals[-1]
        while True:
            yield queue.wait()
            batch = queue.take(replica.max_batch)
            rows_s = replica.more_s * sum(share for _, _, share, _ in batch)
            seconds = replica.alone_s + rows_s
            self.waiting_s[number] -= rows_s
            self.free_at[number] = self.env.now + seconds
            run.busy_s += max(0.0, min(seconds, last - self.env.now))
            yield self.env.timeout(seconds)
            self.under_way[number] -= len(batch)
            for due, router, share, quality in batch:
                self.believed[router][number] = self.under_way[number]
                run.latencies.append(self.env.now - due + self.cluster.constant_s)
                run.shares.append(share)
                run.qualities.append(quality)
            run.end = self.env.now


def simulate(cluster: Cluster, arrivals: Sequence[float], seed: int) -> Run:
    """Send requests at these times, seconds, ascending, and return when all are answered."""
    simulation = _Simulation(cluster, arrivals, random.Random(seed))
    simulation.env.run()
    return simulation.run
