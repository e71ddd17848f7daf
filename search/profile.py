"""How long steps take on one machine and back end: measured once, corrected while serving.

Milliseconds never follow from MACs. A step's time depends on what it computes, on how many rows
it is given and on how long they are, so each function has a curve over both (`search.calibrate`
measures them). What is seen of real batches corrects a curve by least squares, a * time + b.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.core import Step
from search.table import FloatArray

Function: TypeAlias = tuple[Hashable, Hashable]
_MAX_KEPT = 4096  # predictions of one version of the corrections
_FORGET = 0.98  # what an observation weighs less for each later one
_APPLY_EVERY = 64  # chains seen
_HYSTERESIS = 0.1  # a correction that moves predictions by less is not worth new searches
_MIN_SPREAD = 0.3  # of the times seen, relative, for a slope and an offset to be told apart
_MAX_SECONDS = 1e4  # of one step
_MAX_SCALE = 10.0  # of either side; a stall of the machine is no property of a step


def function_of(step: Step) -> Function:
    """Return what a step's time goes by: its key, and its parent's, which sizes what it takes."""
    return (step.after.key if step.after else None, step.key)


class Workload(NamedTuple):
    """What a step is given.

    Attributes:
        rows: Inputs.
        length: Tokens of each, their mean; 0 where inputs have no length.
    """

    rows: float
    length: float


class Corrections(NamedTuple):
    """By curve: predicted seconds are ``scale`` x measured + ``offset``.

    Attributes:
        scale: Shape [curves].
        offset: Seconds, shape [curves].
        version: Counts the changes.
    """

    scale: FloatArray
    offset: FloatArray
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
        self.corrections = Corrections(np.ones(count), np.zeros(count), 0)
        self._sums = np.zeros((5, count))  # of 1, x, y, x * x, x * y: decayed
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
        scale, offset, _ = self.corrections
        found = self._numbers(functions)
        times: FloatArray = self._measured(found, workload) * scale[found] + offset[found]
        return times

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
        taken = measured * (seconds / measured.sum())
        terms = (np.ones_like(measured), measured, taken, measured**2, measured * taken)
        self._sums[:, found] *= _FORGET  # once also where several functions share a curve
        for row, term in zip(self._sums, terms, strict=True):
            np.add.at(row, found, term)
        scale, offset, _ = self.corrections
        predicted = float((measured * scale[found] + offset[found]).sum())
        self._total = [
            _FORGET * self._total[0] + predicted,
            _FORGET * self._total[1] + seconds,
        ]
        self.drift = self._total[1] / self._total[0]
        self._seen += 1
        if self._seen % _APPLY_EVERY == 0:
            self._apply()

    def _apply(self) -> None:
        """Put corrections to use if they would change a prediction by more than a little."""
        count, x, y, xx, xy = self._sums
        known = count > 1
        count = np.maximum(count, 1e-9)
        mean_x, mean_y = x / count, y / count
        spread = xx / count - mean_x**2
        covariance = xy / count - mean_x * mean_y
        slope = np.divide(mean_y, mean_x, out=np.ones_like(x), where=known)
        has_line = known & (spread > (_MIN_SPREAD * mean_x) ** 2)
        line = np.divide(covariance, spread, out=slope.copy(), where=has_line)
        # A line through two clouds may fall or start below zero; then only the scale is known.
        has_line &= (line > 0) & (mean_y >= line * mean_x)
        scale = np.where(has_line, line, slope).clip(1 / _MAX_SCALE, _MAX_SCALE)
        offset = np.where(has_line, mean_y - line * mean_x, 0.0)
        old = self.corrections
        before, after = old.scale * mean_x + old.offset, scale * mean_x + offset
        if (np.abs(after - before)[known] > _HYSTERESIS * before[known]).any():
            self.corrections = Corrections(
                np.where(known, scale, old.scale),
                np.where(known, offset, old.offset),
                old.version + 1,
            )

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
