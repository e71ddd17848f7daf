"""What waiting does to a request: policies that slim before the server has to refuse. Pure.

A policy says what compute costs at this moment and how long a run may take; the search does the
rest. `Price` is the default. `SlackFit` follows SuperServe (Khare et al. 2023, SuperServe:
Fine-Grained Inference Serving for Unpredictable Workloads, arXiv 2312.16733): the largest latency
bucket that fits the slack. `Fixed` runs what was asked for, however long others wait.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

# Quality per compute worth that of the mean request. Below the lowest nobody's best subnet
# changes; at the highest everybody gets the cheapest that the request allows.
LOWEST_PRICE, HIGHEST_PRICE = 0.01, 10.0
_RUNG = 1.25  # prices are powers of this, so that the search can remember its answers
_STICKY = 0.75  # rungs that the delay must move the price by before it moves
_FREE_PART = 0.25  # of the target delay: a queue this short is no load
_OF_BUDGET = 0.6  # what a wait may take of a latency budget
_FORGET = 0.99  # what a request weighs less in the mean for each later one


class Moment(NamedTuple):
    """What is known when a request's subnet is chosen.

    Attributes:
        delay_s: Predicted seconds until its turn.
        left_s: Of its latency budget, before that; infinity without one.
        flops: Of the subnet that it would get if nobody waited.
    """

    delay_s: float
    left_s: float
    flops: float


class Load(NamedTuple):
    """What the search is told.

    Attributes:
        price: Quality given up for compute worth ``Moment.flops``.
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
    """Compute has a price per FLOP that rises with the queueing delay.

    The price follows the predicted delay alone, without memory but for hysteresis: the queue is
    what integrates, so that a step in the load leads to one level and stays there. It is highest at
    the target, or at three fifths of what a request has left where that is less.
    """

    name = "price"

    def __init__(self, target_s: float) -> None:
        """Set the range.

        Args:
            target_s: Delay at which the price is highest, seconds.
        """
        self._target_s = target_s
        self._rung: int | None = None
        self._mean_flops = 0.0
        self._weight = 0.0

    def decide(self, moment: Moment) -> Load:
        """Return the price of this moment, for a request of this size."""
        self._weight = _FORGET * self._weight + 1
        self._mean_flops += (moment.flops - self._mean_flops) / self._weight
        target_s = min(self._target_s, _OF_BUDGET * moment.left_s)
        self._move(moment.delay_s / target_s if target_s > 0 else math.inf)
        price = 0.0
        if self._rung is not None:
            self.price = _RUNG**self._rung
            price = _on_ladder(self.price * moment.flops / self._mean_flops)
        else:
            self.price = 0.0
        return Load(price, moment.left_s - moment.delay_s)

    def _move(self, targets: float) -> None:
        """Follow a wait, as a multiple of its target."""
        part = (targets - _FREE_PART) / (1 - _FREE_PART)
        if part <= 0:
            self._rung = None
            return
        span = math.log(HIGHEST_PRICE / LOWEST_PRICE, _RUNG)
        rung = math.log(LOWEST_PRICE, _RUNG) + span * min(1.0, part)
        if self._rung is None or abs(rung - self._rung) > _STICKY:
            self._rung = round(rung)


def _on_ladder(price: float) -> float:
    return float(_RUNG ** round(math.log(price, _RUNG)))


def policy(name: str, target_s: float) -> LoadPolicy:
    """Return a policy by its name in the settings; KeyError if there is none such."""
    makers = {"price": Price, "slackfit": SlackFit}
    return Fixed() if name == Fixed.name else makers[name](target_s)
