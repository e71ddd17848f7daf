"""What no scheduler can beat, even one that knows every arrival beforehand.

The bounding machine serves one thing at a time at the speed of the fastest batches, may leave a
request and come back to it at no cost, loses no time between runs, and may serve a request in part:
a part x of it takes x times as long and counts x. A subnet is a point (seconds, quality); parts of
several subnets may be mixed, so what a request is worth is a concave function of the seconds spent
on it, the upper hull of the points and of (0, 0), not served. Whatever a real server does is one
such schedule: each request it answers in time got at least that subnet's seconds of the device
between its arrival and its deadline, and no two got the same second. So the best schedule of this
machine is an upper bound for every server on the same device whose batches are no faster than those
measured; network, decoding, tokenising, search and the wait for a running batch come on top.

With preemption, seconds w_i can be served if and only if, for every interval, the requests that
arrive and end in it need no more than its length (earliest deadline first does it). All deadlines
lie equally far behind the arrivals, so only intervals [arrival_p, deadline_q] matter, which hold
the requests p..q. These w form a polymatroid (seconds are matched to requests), and over one a
separable concave sum is maximised by greed: give the steepest pieces first, to each request as much
as still fits (Federgruen and Groenevelt 1986, The greedy procedure for resource allocation
problems). Pieces of equal slope may go in any order, here by arrival, which takes linear time.

Maximising quality + a x share in time, for every a, gives the whole trade-off between the two: the
larger a, the earlier in the order come cheap subnets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.trace.arrivals import FloatArray

Point = tuple[float, float]
_SAME = 1e-9  # sums of the same seconds in another order


@dataclass(frozen=True)
class Bound:
    """The best that is possible.

    Attributes:
        corners: Of the trade-off, as (share in time, quality summed over these by all requests),
            the share ascending. What lies between two neighbours is possible as well.
    """

    corners: tuple[Point, ...]

    @property
    def attainment(self) -> float:
        """Largest share of the requests that can be served in time."""
        return self.corners[-1][0]

    @property
    def goodput(self) -> float:
        """Largest sum of the quality of those served in time, by all requests."""
        return max(quality for _, quality in self.corners)

    def quality(self, attainment: float) -> float | None:
        """Return the best mean quality if this share is served in time; None if it cannot be."""
        if not 0 < attainment <= self.attainment + _SAME:
            return None
        shares, qualities = zip((0.0, 0.0), *self.corners, strict=True)
        return float(np.interp(attainment, shares, qualities)) / attainment


def bound(due_s: FloatArray, slo_s: float, subnets: Sequence[Point]) -> Bound:
    """Return the bound for one machine.

    Args:
        due_s: Arrivals in seconds, ascending, shape [requests].
        slo_s: Seconds from each arrival to its deadline.
        subnets: Seconds for one request, above 0, and quality of each.
    """
    front = rising(subnets)
    corners = []
    for first in range(len(front)):
        # Where the share weighs so much that served at all means served with this subnet or better.
        filling = _Filling(due_s, slo_s)
        seconds, quality = front[first]
        share = filling.add(seconds) / seconds
        total = share * quality
        for (start, low), (end, high) in pairwise(front[first:]):
            total += filling.add(end - start) * (high - low) / (end - start)
        corners.append((share / len(due_s), total / len(due_s)))
    return Bound(tuple(upper_hull(corners)))


def rising(subnets: Sequence[Point]) -> list[Point]:
    """Return the corners of the upper hull from the fastest subnet to the best one."""
    hull = upper_hull(subnets)
    best = max(range(len(hull)), key=lambda i: hull[i][1])
    return hull[: best + 1]


def upper_hull(points: Sequence[Point]) -> list[Point]:
    """Return the corners of the least concave function above all points, from left to right."""
    hull: list[Point] = []
    for x, y in sorted(points):
        if hull and x - hull[-1][0] < _SAME:
            y = max(y, hull.pop()[1])
        while len(hull) > 1 and _is_below(hull[-1], hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _is_below(point: Point, left: Point, right: Point) -> bool:
    """Return whether a point lies on or below the line between two others."""
    (x, y), (x0, y0), (x1, y1) = point, left, right
    return (y - y0) * (x1 - x0) <= (y1 - y0) * (x - x0)


class _Filling:
    """Seconds given to each request so far."""

    def __init__(self, due_s: FloatArray, slo_s: float) -> None:
        self._due = due_s
        self._deadline = due_s + slo_s
        self._given = np.zeros(len(due_s))

    def add(self, most_s: float) -> float:
        """Give every request up to so many seconds more; return the sum of what was given.

        Between requests p and q there is room for deadline_q - arrival_p - (given to p..q). With
        G the running sum of what is given, that is (deadline_q - G_q) - (arrival_p - G_before_p):
        a request's room is the least of the first from it on, less the most of the second up to it.
        """
        after = self._deadline - np.cumsum(self._given)
        least_after = np.minimum.accumulate(after[::-1])[::-1].tolist()
        given = self._given.tolist()
        most_before = -np.inf
        running = added = 0.0
        for i, arrival in enumerate(self._due.tolist()):
            most_before = max(most_before, arrival - running)
            # What this pass has added lies before i, so it takes the same from all that come after.
            more = min(most_s, max(0.0, least_after[i] - added - most_before))
            added += more
            given[i] += more
            running += given[i]
        self._given = np.array(given)
        return added
