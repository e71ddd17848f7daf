"""How long steps take on one machine and back end: measured once, corrected while serving.

Milliseconds never follow from MACs. A step's time depends on what it computes, on how many rows
it is given and on how long they are, so each function has a curve over both
(`search.timing.calibrate` measures them). What is seen of real batches corrects a
curve by a ratio for each size of batches, as back ends decide for each size what runs it: torch
until there is something faster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.backends.timing import MEAN_TOKENS, SIZES
from models.core import Step
from search.quality.table import FloatArray

Function: TypeAlias = tuple[Hashable, Hashable]
_MAX_KEPT = 4096  # predictions of one version of the corrections
_FORGET = 0.98  # what an observation weighs less for each later one
_LOOK_EVERY, _APPLY_EVERY = 4, 64  # chains seen
# A correction that moves predictions by less is not worth new searches; one by much comes sooner.
_HYSTERESIS, _MUCH = 0.1, 0.3
_WORTH = 8  # observations that the timing of a new way to run steps is worth
_MAX_SECONDS = 1e4  # of one step
_MAX_RATIO = 10.0  # of either side; a stall of the machine is no property of a step
_LOGS = [math.log(rows) for rows in SIZES]
_NEAREST = ((1, 2), (0, 2), (1, 0))  # of each size the other ones


def function_of(step: Step) -> Function:
    """Return what a step's time goes by: its key, and its parent's, which sizes what it takes."""
    key = step.key if step.timed_as is None else step.timed_as
    return (step.after.key if step.after else None, key)


class Workload(NamedTuple):
    """What a step is given.

    Attributes:
        rows: Inputs.
        length: Tokens of each, their mean; 0 where inputs have no length.
    """

    rows: float
    length: float


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
class Profile:
    """Seconds of every function of a model, by rows and length.

    One thread observes; any may predict.

    Attributes:
        curves: Of each function, the row in ``seconds``; functions of equal cost share one.
        rows: Batch sizes measured, ascending.
        lengths: Tokens per row measured, ascending; (0,) where inputs have no length.
        seconds: Measured, shape [curves, rows, lengths].
    """

    curves: Mapping[Function, int]
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    seconds: FloatArray
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
        self.corrections = Corrections(np.ones((count, len(SIZES))), 0)
        self._sums = np.zeros((3, count, len(SIZES)))  # of 1, measured and taken: decayed
        self._seen = 0
        self._total = [0.0, 0.0]  # seconds predicted and taken, decayed
        self._numbers = lru_cache(_MAX_KEPT)(self._number)

    def times(self, functions: tuple[Function, ...], workload: Workload) -> FloatArray:
        """Predict the seconds of each function.

        Args:
            functions: Of the model.
            workload: For all of them; sizes between those measured are interpolated, sizes beyond
                them extrapolated, in a straight line.

        Raises:
            KeyError: If one was not measured.
        """
        found = self._numbers(functions)
        return self._measured(found, workload) * self._ratios(found, workload)

    def total(self, steps: Iterable[Step], workload: Workload) -> float:
        """Predict the seconds of steps that all take the same rows."""
        return float(self.times(tuple(map(function_of, steps)), workload).sum())

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
        found = self._numbers(functions)
        measured = self._measured(found, workload)
        predicted = measured * self._ratios(found, workload)
        self._add(found, workload, measured, predicted * (seconds / predicted.sum()))
        self._total = [
            _FORGET * self._total[0] + float(predicted.sum()),
            _FORGET * self._total[1] + seconds,
        ]
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
        found = self._numbers(functions)
        measured = self._measured(found, workload)
        predicted = measured * self._ratios(found, workload)
        nearest = round(sum(of * i for i, of in _sizes(workload)))
        self._sums[:, found, nearest] = 0.0
        for _ in range(_WORTH):
            self._add(found, workload, measured, predicted * (seconds / predicted.sum()))
        self._apply(_HYSTERESIS)

    def _add(
        self, found: NDArray[np.int64], workload: Workload, measured: FloatArray, taken: FloatArray
    ) -> None:
        """Add to the sums of the two sizes that a workload lies between."""
        for size, part in _sizes(workload):
            if not part:
                continue
            self._sums[:, found, size] *= 1 - part * (1 - _FORGET)  # once for a shared curve
            for row, term in zip(
                self._sums, (np.ones_like(measured), measured, taken), strict=True
            ):
                np.add.at(row[:, size], found, part * term)

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

    def _ratios(self, found: NDArray[np.int64], workload: Workload) -> FloatArray:
        ratios: FloatArray = sum(
            self.corrections.ratios[found, size] * part for size, part in _sizes(workload)
        )
        return ratios

    def _number(self, functions: tuple[Function, ...]) -> NDArray[np.int64]:
        return np.array([self.curves[function] for function in functions], dtype=np.int64)

    def _measured(self, found: NDArray[np.int64], workload: Workload) -> FloatArray:
        r, of_rows = _between(self.rows, workload.rows)
        c, of_length = _between(self.lengths, workload.length)
        cell = self.seconds[found]
        low = cell[:, r, c] * (1 - of_rows) + cell[:, r + 1 - (len(self.rows) == 1), c] * of_rows
        if len(self.lengths) == 1:
            times = low
        else:
            high = cell[:, r, c + 1] * (1 - of_rows)
            high = high + cell[:, r + 1 - (len(self.rows) == 1), c + 1] * of_rows
            times = low * (1 - of_length) + high * of_length
        # Far outside what was measured a falling line would end below nothing.
        positive: FloatArray = np.maximum(times, cell[:, 0, 0] * 0.1)
        return positive


def _are_times(seconds: FloatArray) -> bool:
    return bool(((seconds > 0) & (seconds < _MAX_SECONDS)).all())  # also not with a NaN


def _between(points: Sequence[int], value: float) -> tuple[int, float]:
    """Return the point before a value, and how far towards the next it lies."""
    if len(points) == 1:
        return 0, 0.0
    i = max(0, min(len(points) - 2, int(np.searchsorted(points, value, side="right")) - 1))
    return i, (value - points[i]) / (points[i + 1] - points[i])


def _sizes(workload: Workload) -> list[tuple[int, float]]:
    """Return the sizes that a workload lies between, and how near it is to each, 0..1."""
    rows = workload.rows * (workload.length / MEAN_TOKENS if workload.length else 1.0)
    at = math.log(max(rows, 1e-9))
    i = 0 if at < _LOGS[1] else 1
    upper = min(1.0, max(0.0, (at - _LOGS[i]) / (_LOGS[i + 1] - _LOGS[i])))
    return [(i, 1 - upper), (i + 1, upper)]


@dataclass(frozen=True)
class Timing:
    """A profile at one version and workload: what a search in time goes by.

    Attributes:
        profile: Measured.
        workload: Inputs of the request, and the length of the longest.
        version: Of the profile's corrections.
    """

    profile: Profile
    workload: Workload
    version: int

    @classmethod
    def of(cls, profile: Profile, workload: Workload) -> Timing:
        """Return the timing of now; rows are rounded up to a power of two, so that few differ."""
        rows = 2 ** math.ceil(math.log2(workload.rows))
        return cls(profile, workload._replace(rows=rows), profile.corrections.version)

    def microseconds(self, functions: tuple[Function, ...]) -> FloatArray:
        """Predict each function, shape [functions]."""
        return 1e6 * self.profile.times(functions, self.workload)
