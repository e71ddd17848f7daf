"""What audits of answered requests saw, and what is left of a promise by it.

A table says what a subnet keeps of the whole model's score on the data it was measured on, and how
far their answers agreed there. Traffic has no labels, but agreement can be seen on it. Where that
is less than expected, the promise is scaled down by what is lost:

    kept = retention * min(1, seen / expected)

What is seen is one number a model, the disagreement over the expected one, so that a subnet is
judged that was not audited lately: seen = 1 - ratio * (1 - expected). The ratio is a mean in which
a sample loses half its weight with each `HALF_LIFE` later ones, so that a drift shows, plus its
error: mean + z * sqrt(variance / n), with n = (sum w)^2 / sum w^2. Each point of the front has a
mean of its own as well; while that has been added to lately, the worse of the two counts.

Sources: Roberts 1959, Control Chart Tests Based on Geometric Moving Averages, Technometrics 1(3),
for the mean; Kish 1965, Survey Sampling, for the n of weighted samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

from search.quality.cells import FloatArray

HALF_LIFE = 8  # samples
_DECAY = 0.5 ** (1 / HALF_LIFE)
_LATELY = 4 * HALF_LIFE  # samples of the model; a point that has none of them says nothing
_PRIOR_WEIGHT, _PRIOR_SPREAD = 2.0, 0.5  # of the ratio, before samples say how it varies
_LEAST = 0.005  # disagreement that is expected, at least: a ratio of two traces says nothing


class Bounds(NamedTuple):
    """A mean of samples.

    Attributes:
        mean: Of the samples, later ones weighing more.
        low: It is above, with the confidence asked for.
        high: It is below, likewise.
    """

    mean: float
    low: float
    high: float


@dataclass(slots=True)
class Running:
    """A mean that forgets, and its error."""

    weight: float = 0.0
    squares: float = 0.0
    mean: float = 0.0
    spread: float = 0.0

    def add(self, value: float) -> None:
        """Take in a sample."""
        self.weight = _DECAY * self.weight + 1
        self.squares = _DECAY**2 * self.squares + 1
        step = value - self.mean
        self.mean += step / self.weight
        self.spread = _DECAY * self.spread + step * (value - self.mean)

    def bounds(self, confidence: float, prior: float = 0.0) -> Bounds:
        """Return the mean between its one-sided bounds; it needs a sample or more.

        Args:
            confidence: Of each bound, 0.5 for the mean itself.
            prior: Spread that samples are taken to have until they say otherwise.
        """
        weight = _PRIOR_WEIGHT if prior else 0.0
        variance = (weight * prior**2 + self.spread) / (weight + self.weight)
        count = self.weight**2 / self.squares
        off = NormalDist().inv_cdf(confidence) * sqrt(variance / count)
        return Bounds(self.mean, self.mean - off, self.mean + off)


class AgreementSample(NamedTuple):
    """What one audited request showed of one subnet.

    Attributes:
        point: Of the front, the last that costs no more than the subnet.
        agreement: With the whole model, the mean over items and tasks, 0..1.
        expected: The same on the table's data; None where it is not known.
        ranks: Of a list, the rank correlation of its scores with the whole model's; else None.
    """

    point: int
    agreement: float
    expected: float | None
    ranks: float | None = None


@dataclass(slots=True)
class PointSeen:
    """What was seen of one point of the front."""

    agreement: Running = field(default_factory=Running)
    expected: Running = field(default_factory=Running)
    ratio: Running = field(default_factory=Running)
    ranks: Running = field(default_factory=Running)
    samples: int = 0
    last: int = 0


class Seen:
    """What audits saw of one model's subnets.

    Attributes:
        points: By point of the front; bounded by their number.
        samples: Taken in.
    """

    def __init__(self) -> None:
        self.points: dict[int, PointSeen] = {}
        self.samples = 0
        self._ratio = Running()

    def add(self, sample: AgreementSample) -> None:
        """Take in a sample."""
        self.samples += 1
        own = self.points.setdefault(sample.point, PointSeen())
        own.samples += 1
        own.last = self.samples
        own.agreement.add(sample.agreement)
        if sample.ranks is not None:
            own.ranks.add(sample.ranks)
        if sample.expected is not None:
            ratio = (1 - sample.agreement) / max(_LEAST, 1 - sample.expected)
            for one in (self._ratio, own.ratio):
                one.add(ratio)
            own.expected.add(sample.expected)

    def ratio(self, point: int, confidence: float) -> float:
        """Return the disagreement over the expected one that is not exceeded, at least 1."""
        found = [self._ratio]
        own = self.points.get(point)
        if own is not None and self.samples - own.last < _LATELY:
            found.append(own.ratio)
        highest = (one.bounds(confidence, _PRIOR_SPREAD).high for one in found if one.weight > 0)
        return max([1.0, *highest])


def part_kept(expected: FloatArray, ratio: FloatArray) -> FloatArray:
    """Return what is left of the retention of cells, 0..1.

    Args:
        expected: Agreement of the cells, 0..1.
        ratio: Disagreement seen over the expected one, 1 or more; broadcast.
    """
    seen = 1 - ratio * (1 - expected)
    left: FloatArray = (seen / expected.clip(_LEAST, None)).clip(0.0, 1.0)
    return left
