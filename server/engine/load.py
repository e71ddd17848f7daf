"""What waiting does to a request: policies that slim before the server has to refuse. Pure.

A policy says what time costs at this moment and how long a run may take; the search does the rest.
`Price` is the default. `SlackFit` follows SuperServe (Khare et al. 2023, SuperServe:
Fine-Grained Inference Serving for Unpredictable Workloads, arXiv 2312.16733): the largest latency
bucket that fits the slack. `Fixed` runs what was asked for, however long others wait.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from server.engine.demand import Demand, WorkRange

# Prices are powers of one number, so that the search can remember its answers. At the lowest
# nobody's best subnet changes; at the highest everybody gets the cheapest that the request allows.
_RUNG = 1.5
_LADDER = (0.0, *(_RUNG**power for power in range(-11, 7)))
LOWEST_PRICE, HIGHEST_PRICE = _LADDER[1], _LADDER[-1]
_FULL = 0.5  # of the horizon: the queue may be predicted to become so long, and no longer
_SHORTEST = 0.2  # of the horizon, a window in which more may come
_OF_TARGET = 2.0  # horizon of a request that has more time
_FORGET = 0.99  # what a request weighs less in the mean for each later one
_LATE = 0.02  # part of the requests with a limit on their time that may be late
_STEP = 0.1  # of caution, for one that was
_MOST_CAUTION = 2.0
_MAX_CLIENTS = 1024  # of which it is known, those unheard of for longest forgotten first


class Moment(NamedTuple):
    """What is known when a request's subnet is chosen.

    Attributes:
        arrived: Seconds, on any clock that never goes back.
        delay_s: Predicted until its turn.
        left_s: Of its latency budget, before that; infinity without one.
        size: FLOPs of the whole model on its items.
        seconds_at: Returns what it is predicted to add to the worker's time at a price.
        num_behind: Requests that have arrived and of which nothing is known yet.
        client: Whose request it is.
    """

    arrived: float
    delay_s: float
    left_s: float
    size: float
    seconds_at: Callable[[float], float]
    num_behind: int = 0
    client: str = ""


class Load(NamedTuple):
    """What the search is told.

    Attributes:
        price: Quality given up for time worth that of the whole model.
        max_seconds: For the run.
    """

    price: float
    max_seconds: float


class LoadPolicy(ABC):
    """Decides for one request at a time, on the event loop.

    Attributes:
        name: As in the settings.
        heeds_latency: Whether a latency budget bears on the subnet; if not, only on the deadline.
        price: For the mean request, as last decided.
    """

    name: ClassVar[str]
    heeds_latency: ClassVar[bool] = True
    price: float = 0.0

    @abstractmethod
    def decide(self, moment: Moment) -> Load:
        """Return what this request may cost and take."""

    def note(self, client: str, is_late: bool) -> None:  # noqa: B027 - most learn nothing from it
        """Take in how a request ended that had a limit on its time and might have been slimmed."""


class Fixed(LoadPolicy):
    """Never slims."""

    name = "fixed"
    heeds_latency = False

    def decide(self, moment: Moment) -> Load:
        """Return no limit."""
        return Load(0.0, math.inf)


class SlackFit(LoadPolicy):
    """Gives each request the largest latency bucket that fits its slack.

    A request without a latency budget has that of the target: it is due when its own run, after
    a wait as long as the target, would end.
    """

    name = "slackfit"

    def __init__(self, target_s: float, buckets: int = 16) -> None:
        """Divide time.

        Args:
            target_s: Delay that the server aims at, seconds.
            buckets: To each tenfold of time.
        """
        self._target_s = target_s
        self._per_decade = buckets

    def decide(self, moment: Moment) -> Load:
        """Return the bucket; one that ends in the past is left to the search to refuse."""
        slack = moment.left_s if math.isfinite(moment.left_s) else 2 * self._target_s
        slack -= moment.delay_s
        if slack <= 0:
            return Load(0.0, 0.0)
        bucket = math.floor(self._per_decade * math.log10(slack))
        return Load(0.0, 10 ** (bucket / self._per_decade))


class Price(LoadPolicy):
    """The worker's time has a price: the lowest at which all will be done in time.

    All is what waits, the request itself, and what usually comes after a request within windows of
    its horizon (`server.engine.demand`), or has arrived already if that is more. By the end of each
    window no more may be left than half a horizon, so that bursts are met by subnets that were
    small enough from their start. The queue is what integrates, so that a step in the load leads to
    one level and stays there. Where nobody waits and nobody is likely to come, time is free.

    The horizon is what a request has left, but at most twice the target.

    What is predicted may be wrong: other programs take the cores, a burst is longer than those
    before it. So predictions count for more the more requests of a client were late: each late one
    multiplies them, each one in time takes back as little as leaves a small part late in the long
    run, which is how Gibbs and Candès (2021, Adaptive Conformal Inference Under Distribution Shift,
    NeurIPS) keep a rate of errors whatever changes. Nobody pays for another's tight limits.
    """

    name = "price"

    def __init__(self, target_s: float) -> None:
        """Expect nothing.

        Args:
            target_s: Delay that the server aims at, seconds.
        """
        self._target_s = target_s
        self._demand = Demand()
        self._mean_size = 0.0
        self._weight = 0.0
        self._rung = 0
        # Of each client the logarithm of what predictions are multiplied by, if it is not 0.
        self._caution: OrderedDict[str, float] = OrderedDict()

    def note(self, client: str, is_late: bool) -> None:
        """Become more careful with a client's requests, or a little less."""
        caution = self._caution.pop(client, 0.0) + _STEP * (is_late - _LATE)
        if caution > 0:
            self._caution[client] = min(_MOST_CAUTION, caution)
        if len(self._caution) > _MAX_CLIENTS:
            self._caution.popitem(last=False)

    def decide(self, moment: Moment) -> Load:
        """Return the price of this moment, for a request of this size."""
        self._weight = _FORGET * self._weight + 1
        self._mean_size += (moment.size - self._mean_size) / self._weight
        size = moment.size / self._mean_size
        work = WorkRange(moment.seconds_at(0.0), moment.seconds_at(own_price(HIGHEST_PRICE, size)))
        self._demand.note(moment.arrived, work)
        behind = work.times(moment.num_behind / size)
        horizon_s = min(moment.left_s, _OF_TARGET * self._target_s)
        room = self._room(moment, horizon_s, behind)

        def is_held(rung: int) -> bool:
            usual, own = own_price(_LADDER[rung], 1.0), own_price(_LADDER[rung], size)
            seconds = usual_s = moment.seconds_at(own)
            if usual != own:
                usual_s = moment.seconds_at(usual)
            return room.holds(seconds, work.part(usual_s))

        rung = 0  # mostly nobody waits
        if not is_held(rung):
            rung = max(self._rung, 1)  # mostly little has changed since
            while rung > 1 and is_held(rung - 1):
                rung -= 1
            while rung < len(_LADDER) - 1 and not is_held(rung):
                rung += 1
        self._rung = rung
        self.price = _LADDER[rung]
        return Load(own_price(self.price, size), moment.left_s - moment.delay_s)

    def _room(self, moment: Moment, horizon_s: float, behind: WorkRange) -> _Room:
        if horizon_s <= 0:
            return _Room(moment.delay_s, -1.0, ())
        coming = self._demand.within(_SHORTEST * horizon_s, horizon_s)
        more = tuple((window, usual.at_least(behind)) for window, usual in coming)
        times = math.exp(self._caution.get(moment.client, 0.0))
        return _Room(moment.delay_s, _FULL * horizon_s, more, times)


class _Room(NamedTuple):
    """What a request and those after it may take.

    Attributes:
        delay_s: Until its turn.
        most_s: That the queue may become.
        coming: What usually comes, within each of some windows.
        times: What predictions are multiplied by.
    """

    delay_s: float
    most_s: float
    coming: tuple[tuple[float, WorkRange], ...]
    times: float = 1.0

    def holds(self, seconds: float, part: float) -> bool:
        """Return whether the queue stays short enough.

        Args:
            seconds: That the request takes.
            part: Of what may be saved, that those to come do not save.
        """
        # Where nobody waits, a request may use all its time.
        own_s = self.delay_s + seconds if self.delay_s > 0 else 0.0
        return self.times * own_s <= self.most_s and all(
            self.times * (own_s + coming.at(part)) <= self.most_s + window
            for window, coming in self.coming
        )


def own_price(price: float, size: float) -> float:
    """Return the price for a request by its size, as a multiple of the mean: larger ones pay more.

    On the ladder, so that the search can remember its answers.
    """
    return float(_RUNG ** round(math.log(price * size, _RUNG))) if price else 0.0


def policy(name: str, target_s: float) -> LoadPolicy:
    """Return a policy by its name in the settings; KeyError if there is none such."""
    makers = {"price": Price, "slackfit": SlackFit}
    return Fixed() if name == Fixed.name else makers[name](target_s)
