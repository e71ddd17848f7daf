"""Reads the inputs of requests, off the event loop where that takes a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from models.inputs import Given, Inputs, Item, pixels
from server.errors import InvalidRequestError
from server.inputs.sources import Source, Sources
from server.inputs.turns import Turns

S = TypeVar("S", bound=Source)
R = TypeVar("R")

_SHORT = 128  # tokens of a request that are read sooner than a thread is woken and heard, 0.1 ms
_LEAST_S = 1e-4  # that an input takes, whatever its size


class Rate:
    """How many seconds a unit of work has lately taken; safe to use from several threads."""

    _KEPT = 0.98  # of the past, with each new observation

    def __init__(self, seconds: float, units: float) -> None:
        """Start as if so many units had taken so long."""
        self._seconds, self._units = seconds, units
        self._lock = threading.Lock()

    @property
    def value(self) -> float:
        """Seconds per unit."""
        return self._seconds / self._units

    def note(self, seconds: float, units: float) -> None:
        """Learn from one observation; nothing from one of no size."""
        if not units:
            return
        with self._lock:
            self._seconds = self._KEPT * self._seconds + seconds
            self._units = self._KEPT * self._units + units

    def note_if_slow(self, seconds: float, units: float) -> None:
        """Learn from one observation unless it was faster than those before."""
        if seconds > self.value * units:
            self.note(seconds, units)


class Decoder:
    """Reads inputs on threads, on which requests take turns. Admission bounds what waits."""

    def __init__(self, num_threads: int, clock: Callable[[], float], max_pixels: int) -> None:
        """Create threads once there is something to do.

        Args:
            num_threads: That take any input; one more takes small ones.
            clock: Returns seconds. Called from all threads.
            max_pixels: Most that the images of one request may have together.
        """
        self.num_threads = num_threads
        self._clock = clock
        self._max_pixels = max_pixels
        self._turns = Turns(num_threads)
        self._per_pixel = Rate(0.02, 1e6)
        self._per_token = Rate(0.002, 1e3)

    @property
    def backlog_s(self) -> float:
        """Predicted seconds until all that waits or is being read has been read."""
        return self._turns.waiting_s

    def wait_s(self, sources: Sequence[Source], client: str = "", weight: float = 1.0) -> float:
        """Predict for how long other requests' turns would hold up the reading of inputs from now.

        Takes some microseconds for each input, on the event loop, if anything waits at all.

        Args:
            sources: The inputs of a request.
            client: Whose it is.
            weight: The client's share, above 0.
        """
        if not self.backlog_s or is_short(sources):
            return 0.0
        costs = [self._cost(one) for one in sources]
        own_s = max(max(costs), sum(costs) / self.num_threads)
        return max(0.0, self._turns.predict_s(costs, client, weight) - own_s)

    async def decode(
        self, items: Sequence[Sources], inputs: Inputs, client: str = "", weight: float = 1.0
    ) -> list[Item]:
        """Decode the inputs of one request, those that items share once.

        Returns:
            The items, in order.

        Raises:
            InvalidRequestError: Naming the first input that is none; or the one with which there
                are too many pixels, before any is decoded.
            ModelNotReadyError: If the server is stopping.
        """
        named = {id(source): (name, source) for item in items for name, source in item.items()}
        sources = [source for _, source in named.values()]
        if is_short(sources):
            decoded = [_decoded(inputs, name, source) for name, source in named.values()]
        else:
            names = [name for name, _ in named.values()]
            num_images = sum(source.num_tokens == 0 for source in sources)
            if num_images * pixels.MAX_PIXELS > self._max_pixels:
                costs = [_LEAST_S] * len(sources)
                sources = await self._turns.map(_opened, sources, costs, client, weight)
                self._check_pixels(sources)
            name_of = {id(one): name for name, one in zip(names, sources, strict=True)}
            decoded = await self.map(
                lambda one: _decoded(inputs, name_of[id(one)], one), sources, client, weight
            )
        found = dict(zip(named, decoded, strict=True))
        return [{name: found[id(source)] for name, source in item.items()} for item in items]

    async def map(
        self,
        function: Callable[[S], R],
        sources: Sequence[S],
        client: str = "",
        weight: float = 1.0,
    ) -> list[R]:
        """Call a function on all inputs of a request.

        Returns:
            The results, in order.

        Raises:
            ModelNotReadyError: If the server is stopping.
            Exception: Whatever the function raises on the first input that it fails on.
        """
        timed = partial(self._timed, function)
        costs = [self._cost(source) for source in sources]
        return await self._turns.map(timed, sources, costs, client, weight)

    def close(self) -> None:
        """Stop the threads once they have done what they have begun."""
        self._turns.close()

    def _check_pixels(self, sources: Sequence[Source]) -> None:
        total = 0
        for source in sources:
            total += source.num_pixels
            if total > self._max_pixels:
                field = getattr(source, "field", None)
                raise InvalidRequestError(
                    f"{field}: with this image the request has {total:,} pixels; at most "
                    f"{self._max_pixels:,} are allowed (max_pixels)",
                    field,
                )

    def _cost(self, source: Source) -> float:
        return (
            _LEAST_S
            + self._per_pixel.value * source.num_pixels
            + self._per_token.value * source.num_tokens
        )

    def _timed(self, function: Callable[[S], R], source: S) -> R:
        if units := source.num_pixels:
            rate = self._per_pixel
        else:
            rate, units = self._per_token, source.num_tokens
        start = self._clock()
        try:
            result = function(source)
        except Exception:
            # What is refused early says nothing; what is refused late does.
            rate.note_if_slow(self._clock() - start, units)
            raise
        rate.note(self._clock() - start, units)
        return result


def is_short(sources: Sequence[Source]) -> bool:
    """Return whether inputs are so short that they are read at once, on the event loop."""
    left = _SHORT
    for source in sources:
        num_tokens = source.num_tokens
        left -= num_tokens
        if not num_tokens or left < 0:
            return False
    return True


def _opened(source: Source) -> Source:
    return source.opened()


def _decoded(inputs: Inputs, name: str, source: Source) -> Given:
    return inputs.given(name, source.decode(inputs[name].type))
