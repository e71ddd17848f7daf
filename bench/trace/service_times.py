"""How long this machine takes for one request under each subnet, at the fastest seen."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.trace.bound import Point
from models.backends.torch import TorchBackend
from models.inputs import Item
from models.inputs.text import text_input
from search.find import Selection
from server.served import Served

BATCH_SIZES = (8, 32)
_POINTS = 400  # budgets tried for the front; more find nothing new on the shipped model


@dataclass
class ServiceTimes:
    """Seconds per text of every subnet on the Pareto front of quality over MACs.

    Taken in this process on the back end that the servers use, without a server around it. The
    least over batch sizes and rounds is kept: a bound must not be low because the machine was slow.

    Attributes:
        served: The model.
        texts: Different ones of one length, as many as the largest batch.
        batch_sizes: Tried for each subnet.
        front: Subnets, cheapest first.
        seconds: Per text of each.
    """

    served: Served
    texts: Sequence[str]
    batch_sizes: Sequence[int] = BATCH_SIZES
    front: list[Selection] = field(init=False)
    seconds: list[float] = field(init=False)

    def __post_init__(self) -> None:
        """Find the front."""
        reader = text_input(self.served.inputs)
        self._items: list[Item] = [
            self.served.inputs.item({"text": reader.encode(text)})
            for text in self.texts[: max(self.batch_sizes)]
        ]
        shapes = self.served.inputs.shapes(self._items[0])
        finder = self.served.finders.at(shapes, self.served.whole_outputs)
        self.front = finder.front(most=_POINTS)
        self.seconds = [math.inf] * len(self.front)
        self._backend = TorchBackend()
        self._backend.prepare(self.served.model)

    def measure(self, seconds: float) -> None:
        """Time all subnets in turn until so many seconds have passed, at least once."""
        give_up = time.perf_counter() + seconds
        while True:
            for size in self.batch_sizes:
                inputs = self.served.inputs.batch(self._items[:size])
                for i, selection in enumerate(self.front):
                    taken = self._time(selection, inputs) / size
                    self.seconds[i] = min(self.seconds[i], taken)
            if time.perf_counter() > give_up:
                return

    def _time(self, selection: Selection, inputs: Any) -> float:
        plan = self.served.prepare(selection.subnet, selection.scores).plan
        started = time.perf_counter()
        self._backend.run(plan, inputs)  # gives back tensors on the CPU: it has ended
        return time.perf_counter() - started

    @property
    def points(self) -> list[Point]:
        """Seconds and quality of each subnet."""
        return [(s, one.quality) for s, one in zip(self.seconds, self.front, strict=True)]

    def figures(self) -> list[dict[str, Any]]:
        """Return what is known of each subnet."""
        return [
            {
                "subnet": " ".join(f"{axis}={value}" for axis, value in one.subnet.items()),
                "fraction": one.fraction,
                "ms": 1000 * seconds,
                "quality": one.quality,
            }
            for seconds, one in zip(self.seconds, self.front, strict=True)
        ]
