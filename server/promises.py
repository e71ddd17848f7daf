"""What a refusal may promise: a latency that holds when the request comes again.

Predictions are means. A figure that half of the requests would miss is no help to who is refused,
so what reading took and by how much predictions were missed lately is kept for each model.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

_KEPT = 64  # requests
_MAX_MODELS = 256
_FORGET = 0.9  # what a request weighs less in the usual time of reading for each later one
_LEAST_MARGIN = 1.5  # predictions change with the machine and with what runs beside
_QUANTILE = 0.95
_LEAST_S = 0.005  # that the event loop may be late


@dataclass(slots=True)
class _Seen:
    """What is known of one model's requests.

    Attributes:
        reading_s: What reading one usually takes.
        ratios: Time that requests took over the time predicted, the last ones.
        excesses: Time that they took beyond that, seconds: small subnets have as much of it as
            large ones.
    """

    reading_s: float
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    excesses: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))


class Promises:
    """Of each model, those unheard of for longest forgotten first. For one event loop."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def note_reading(self, model: str, seconds: float) -> None:
        """Take in how long a request took to read."""
        seen = self._of(model, seconds)
        seen.reading_s = _FORGET * seen.reading_s + (1 - _FORGET) * seconds

    def note_total(self, model: str, predicted_s: float, taken_s: float) -> None:
        """Take in how long a request took from its arrival to its answer."""
        if predicted_s > 0:
            seen = self._of(model, 0.0)
            seen.ratios.append(taken_s / predicted_s)
            seen.excesses.append(taken_s - predicted_s)

    def reading_s(self, model: str) -> float:
        """Return what reading a request usually takes."""
        seen = self._seen.get(model)
        return 0.0 if seen is None else seen.reading_s

    def seconds(self, model: str, predicted_s: float) -> float:
        """Return what nearly all requests keep of a predicted time, unless they wait."""
        seen = self._seen.get(model)
        ratio = _high(seen.ratios) if seen else 0.0
        excess_s = _high(seen.excesses) if seen else 0.0
        return max(_LEAST_MARGIN, ratio) * predicted_s + max(_LEAST_S, excess_s)

    def _of(self, model: str, reading_s: float) -> _Seen:
        seen = self._seen.get(model)
        if seen is None:
            seen = self._seen[model] = _Seen(reading_s)
        self._seen.move_to_end(model)
        if len(self._seen) > _MAX_MODELS:
            self._seen.popitem(last=False)
        return seen


def _high(values: Collection[float]) -> float:
    """Return what nearly all values are below; 0 for none."""
    return sorted(values)[int(_QUANTILE * len(values))] if values else 0.0
