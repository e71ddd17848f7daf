"""When requests arrive: gaps of a gamma distribution, or those of a real service.

A pattern is drawn once and stretched by one factor to each load, so that loads differ in nothing
but pace: the order of the gaps and their ratios stay.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MEDIAN = "-median"
TRACES = ("code", "conv", f"code{MEDIAN}", f"conv{MEDIAN}")
GAMMAS = ("gamma-1", "gamma-4", "gamma-16")


@dataclass(frozen=True, eq=False)
class Arrivals:
    """A pattern of arrivals.

    Attributes:
        name: In the tables.
        origin: Where it comes from, in words.
        times: Ascending from 0, one mean gap apart on average, shape [requests].
    """

    name: str
    origin: str
    times: FloatArray

    def at(self, rate: float) -> FloatArray:
        """Return the times in seconds at a mean rate in requests per second."""
        return self.times / rate

    @property
    def cv2(self) -> float:
        """Squared coefficient of variation of the gaps: 1 for a Poisson process."""
        gaps = np.diff(self.times)
        return float(gaps.var() / gaps.mean() ** 2)


def make(name: str, count: int, seed: int, data: Path | None) -> Arrivals:
    """Return the pattern of a name in `TRACES` or `GAMMAS`.

    Args:
        name: Of the pattern.
        count: Requests in it.
        seed: Of random gaps.
        data: Folder of data sets; needed for traces.

    Raises:
        ValueError: If there is no such pattern, or the trace is too short.
        FileNotFoundError: If the trace is not there.
    """
    if name in GAMMAS:
        return gamma(float(name.removeprefix("gamma-")), count, seed)
    if name not in TRACES or data is None:
        raise ValueError(f"no arrivals named {name!r} without data")
    trace = name.removesuffix(MEDIAN)
    path = data / "azure-traces" / f"AzureLLMInferenceTrace_{trace}.csv.gz"
    seconds = np.fromiter(_read(path), np.float64)
    if len(seconds) < count:
        raise ValueError(f"{path} has {len(seconds)} requests, {count} are needed")
    return window(name, seconds, count)


def gamma(cv2: float, count: int, seed: int) -> Arrivals:
    """Return arrivals with independent gamma-distributed gaps.

    Args:
        cv2: Squared coefficient of variation of the gaps: 1 is Poisson, more is burstier.
        count: Requests.
        seed: Of the gaps.
    """
    gaps = np.random.default_rng(seed).gamma(1 / cv2, cv2, count - 1)
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    return Arrivals(f"gamma-{cv2:g}", f"gamma gaps, CV^2 {cv2:g}, seed {seed}", _paced(times))


def window(name: str, seconds: FloatArray, count: int) -> Arrivals:
    """Return a part of a trace: the requests in a row that took the least time, or a usual one.

    The busiest part of a bursty trace may be a single burst, which is even in itself.

    Args:
        name: Of the trace, and of the rule: with `MEDIAN` the trace is cut into parts, and of
            these the one of median length is taken; else its busiest part, the first of equals.
        seconds: Of all its arrivals, ascending.
        count: Requests wanted.
    """
    taken = seconds[count - 1 :] - seconds[: len(seconds) - count + 1]
    if name.endswith(MEDIAN):
        parts = np.arange(0, len(taken), count)
        first = int(parts[np.argsort(taken[parts], kind="stable")[len(parts) // 2]])
        rule = f"of all parts of {count} requests the one of median length"
    else:
        first = int(taken.argmin())
        rule = f"its {count} consecutive requests that took the least time"
    origin = (
        f"Azure LLM inference trace 2023, {name.removesuffix(MEDIAN)}: {rule}, "
        f"{taken[first]:.1f} s from second {seconds[first] - seconds[0]:.1f} on"
    )
    part = seconds[first : first + count]
    return Arrivals(name, origin, _paced(part - part[0]))


def _paced(times: FloatArray) -> FloatArray:
    """Scale times that start at 0 to a mean gap of exactly 1."""
    paced: FloatArray = times * ((len(times) - 1) / times[-1])
    return paced


def _read(path: Path) -> Iterator[float]:
    with gzip.open(path, "rt", newline="") as lines:
        first: datetime | None = None
        for row in csv.DictReader(lines):
            moment = datetime.fromisoformat(row["TIMESTAMP"])
            first = first or moment
            yield (moment - first).total_seconds()
