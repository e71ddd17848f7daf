"""How long steps take on one machine and back end: measured once, corrected while serving.

Milliseconds never follow from MACs. A step's time depends on what it computes, on how many rows
it is given and on how long they are, so each function has a curve over both
(`search.timing.calibrate` measures them). What is seen of real batches corrects a curve by a ratio
for each size of batches, as back ends decide for each size what runs it: torch at first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.backends.timing import SIZES
from models.core import Step
from search.quality.table import FloatArray
from search.timing.between import Each, between, sizes

Function: TypeAlias = tuple[tuple[Hashable, ...], Hashable]
_MAX_KEPT = 4096  # predictions of one version of the corrections
_FORGET = 0.98  # what an observation weighs less for each later one
_LOOK_EVERY, _APPLY_EVERY = 4, 64  # chains seen
# A correction that moves predictions by less is not worth new searches; one by much comes sooner.
_HYSTERESIS, _MUCH = 0.1, 0.3
_WORTH = 8  # observations that the timing of a new way to run steps is worth
_MAX_SECONDS = 1e4  # of one step
_MAX_RATIO = 10.0  # of either side; a stall of the machine is no property of a step
_NEAREST = ((1, 2), (0, 2), (1, 0))  # of each size the other ones


def function_of(step: Step) -> Function:
    """Return what a step's time goes by: the keys of what it takes, which size it, and its own."""
    takes = [one if isinstance(one, str) else one.time_key for one in step.takes]
    return tuple(takes), step.time_key


class Workload(NamedTuple):
    """What steps are given.

    Attributes:
        rows: Items.
        length: Tokens of each, their mean, of all sequences that the step depends on together; 0
            where there are none. One number for all steps, or one for each, shape [steps].
    """

    rows: float
    length: float | FloatArray

    @classmethod
    def of(cls, steps: Iterable[Step], rows: float, lengths: Mapping[str, float]) -> Workload:
        """Return the workload of each step of a plan.

        Args:
            steps: Of the plan.
            rows: Items.
            lengths: Of each input that has one (`models.inputs.Inputs.lengths`).
        """
        given = [step.inputs for step in steps]
        summed = {names: float(sum(lengths.get(n, 0) for n in names)) for names in set(given)}
        if len(summed) == 1:
            return cls(rows, next(iter(summed.values())))
        return cls(rows, np.array([summed[names] for names in given]))


class Corrections(NamedTuple):
    """What curves are multiplied by.

    Attributes:
        ratios: Seconds taken over seconds measured, shape [curves, sizes], for batches of the sizes
            `models.backends.timing.SIZES`; between them in a straight line over the logarithm.
        version: Counts the changes.
    """

    ratios: FloatArray
    version: int


@dataclass(eq=False)
class LatencyProfile:
    """Seconds of every function of a model, by rows and length.

    One thread observes; any may predict.

    Attributes:
        curves: Of each function, the row in ``seconds``; functions of equal cost share one.
        rows: Batch sizes measured, ascending.
        lengths: Tokens of each sequence of a row measured, ascending; (0,) where inputs have no
            length.
        seconds: Measured, shape [curves, rows, lengths].
        sequences: On how many sequences the functions of each curve depend, 1 where on none; None
            for 1 everywhere.
    """

    curves: Mapping[Function, int]
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    seconds: FloatArray
    sequences: Sequence[int] | None = None
    corrections: Corrections = field(init=False)
    drift: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        """Start without corrections.

        Raises:
            ValueError: If the arrays do not fit together or a time is not positive.
        """
        for name, points in (("rows", self.rows), ("lengths", self.lengths)):
            if not points or points[0] < (name == "rows") or list(points) != sorted(set(points)):
                raise ValueError(f"{name}={list(points)[:9]} must ascend, from 0, or 1 row")
        count = len(self.seconds)
        shape = (count, len(self.rows), len(self.lengths))
        if self.seconds.shape != shape or not _are_times(self.seconds):
            raise ValueError(f"seconds must be positive, below {_MAX_SECONDS:g}, of shape {shape}")
        if not all(0 <= curve < count for curve in self.curves.values()):
            raise ValueError(f"curves must be in 0..{count - 1}")
        sequences = np.array([1] * count if self.sequences is None else self.sequences)
        if sequences.shape != (count,) or not (sequences >= 1).all():
            raise ValueError(f"sequences must be {count} numbers of 1 or more")
        self._sequences = sequences
        self._is_single = bool((sequences == 1).all())
        self.corrections = Corrections(np.ones((count, len(SIZES))), 0)
        self._sums = np.zeros((3, count, len(SIZES)))  # of 1, measured and taken: decayed
        self._seen = 0
        self._total = [0.0, 0.0]  # seconds predicted and taken, decayed
        self._numbers = lru_cache(_MAX_KEPT)(self.numbers)

    @property
    def measured(self) -> dict[str, Any]:
        """The arguments that make the same profile, without its corrections."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.init}

    @cached_property
    def calibrated(self) -> LatencyProfile:
        """The same curves, whatever was seen since."""
        return LatencyProfile(**self.measured)

    def adopt(self, corrections: Corrections, drift: float) -> None:
        """Predict as another profile of the same curves, which observes."""
        self.corrections, self.drift = corrections, drift

    def numbers(self, functions: tuple[Function, ...]) -> NDArray[np.int64]:
        """Return the curve of each function; KeyError if one was not measured."""
        return np.array([self.curves[function] for function in functions], dtype=np.int64)

    def times(self, numbers: NDArray[np.int64], workload: Workload) -> FloatArray:
        """Predict the seconds of each function.

        Args:
            numbers: Of its curve, from `numbers`.
            workload: Sizes between those measured are interpolated, sizes beyond them
                extrapolated, in a straight line.
        """
        groups = self._groups(numbers, workload)
        if len(groups) == 1:
            return self._times(numbers, groups[0][1])
        found = np.empty(len(numbers))
        for at, own in groups:
            found[at] = self._times(numbers[at], own)
        return found

    def total(self, steps: Iterable[Step], workload: Workload) -> float:
        """Predict the seconds of steps that all take the same rows.

        Raises:
            KeyError: If one was not measured.
        """
        found = self._numbers(tuple(map(function_of, steps)))
        return float(self.times(found, workload).sum())

    def observe(self, steps: Sequence[Step], workload: Workload, seconds: float) -> None:
        """Learn from one call of the back end.

        Args:
            steps: That it ran, one after the other.
            workload: What they were given.
            seconds: What they took together; each is taken to have had its predicted share.
        """
        functions = tuple(map(function_of, steps))
        if not all(function in self.curves for function in functions):
            return  # of plans that no table names
        total, parts = self._predicted(functions, workload)
        for part in parts:
            self._add(part, seconds / total)
        self._total = [_FORGET * self._total[0] + total, _FORGET * self._total[1] + seconds]
        self.drift = self._total[1] / self._total[0]
        self._seen += 1
        if self._seen % _LOOK_EVERY == 0:
            self._apply(_HYSTERESIS if self._seen % _APPLY_EVERY == 0 else _MUCH)

    def replace(self, steps: Sequence[Step], workload: Workload, seconds: float) -> None:
        """Learn that steps run in another way from now on; what was seen of the old way is over.

        Args:
            steps: As in `observe`.
            workload: Likewise.
            seconds: They take now.
        """
        functions = tuple(map(function_of, steps))
        if not all(function in self.curves for function in functions):
            return
        total, parts = self._predicted(functions, workload)
        for part in parts:
            nearest = round(sum(size * near for size, near in sizes(part.each)))
            self._sums[:, part.found, nearest] = 0.0
            for _ in range(_WORTH):
                self._add(part, seconds / total)
        self._apply(_HYSTERESIS)

    def _groups(self, found: NDArray[np.int64], workload: Workload) -> list[tuple[Any, Each]]:
        """Return steps that are given the same: where they stand, and what each is given."""
        length = workload.length
        if self._is_single and isinstance(length, (int, float)):
            return [(slice(None), Each(workload.rows, length))]
        lengths = length / self._sequences[found]
        return [
            (np.flatnonzero(lengths == own), Each(workload.rows, float(own)))
            for own in np.unique(lengths)
        ]

    def _predicted(
        self, functions: tuple[Function, ...], workload: Workload
    ) -> tuple[float, list[_Part]]:
        """Return the seconds of functions together, and parts of them that are given the same."""
        found = self._numbers(functions)
        parts = []
        for at, each in self._groups(found, workload):
            measured = self._measured(found[at], each)
            predicted = measured * self._ratios(found[at], each)
            parts.append(_Part(found[at], each, measured, predicted))
        return sum(float(part.predicted.sum()) for part in parts), parts

    def _times(self, found: NDArray[np.int64], each: Each) -> FloatArray:
        return self._measured(found, each) * self._ratios(found, each)

    def _add(self, part: _Part, ratio: float) -> None:
        """Add to the sums of the two sizes that a workload lies between, by what it took."""
        for size, near in sizes(part.each):
            if not near:
                continue
            self._sums[:, part.found, size] *= 1 - near * (1 - _FORGET)  # once for a shared curve
            weights = np.full_like(part.measured, near)
            terms = (weights, near * part.measured, near * ratio * part.predicted)
            for sums, term in zip(self._sums[:, :, size], terms, strict=True):
                np.add.at(sums, part.found, term)

    def _apply(self, hysteresis: float) -> None:
        """Put ratios to use if they would change a prediction by more than a little."""
        count, measured, taken = self._sums
        known = count > 1
        ratios = np.divide(taken, measured, out=np.ones_like(taken), where=known)
        ratios = ratios.clip(1 / _MAX_RATIO, _MAX_RATIO)
        # A size that was not seen goes half the way of the nearest that was: what runs small
        # batches faster gains less in large ones, and what slows the machine slows both.
        seen = known.copy()
        for size, others in enumerate(_NEAREST):
            for other in others:
                is_gap = ~known[:, size] & seen[:, other]
                ratios[is_gap, size] = np.sqrt(ratios[is_gap, other])
                known[:, size] |= is_gap
        old = self.corrections
        if (np.abs(ratios - old.ratios)[known] > hysteresis * old.ratios[known]).any():
            new = np.where(known, ratios, old.ratios)
            self.corrections = Corrections(new, old.version + 1)

    def _ratios(self, found: NDArray[np.int64], each: Each) -> FloatArray:
        of = self.corrections.ratios
        ratios: FloatArray = sum(of[found, size] * part for size, part in sizes(each))
        return ratios

    def _measured(self, found: NDArray[np.int64], each: Each) -> FloatArray:
        cell = self.seconds[found]
        (row, next_row), of_rows = between(self.rows, each.rows)
        (column, next_column), of_length = between(self.lengths, each.length)
        times = cell[:, row, column] * (1 - of_rows) + cell[:, next_row, column] * of_rows
        if of_length:
            later = cell[:, row, next_column] * (1 - of_rows)
            later = later + cell[:, next_row, next_column] * of_rows
            times = times * (1 - of_length) + later * of_length
        # Far outside what was measured a falling line would end below nothing.
        positive: FloatArray = np.maximum(times, cell[:, 0, 0] * 0.1)
        return positive


class _Part(NamedTuple):
    """Functions that are given the same: their curves, seconds measured and predicted."""

    found: NDArray[np.int64]
    each: Each
    measured: FloatArray
    predicted: FloatArray


def _are_times(seconds: FloatArray) -> bool:
    return bool(((seconds > 0) & (seconds < _MAX_SECONDS)).all())  # also not with a NaN
