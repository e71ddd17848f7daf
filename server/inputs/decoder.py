"""Reads the inputs of requests, off the event loop where that takes a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from typing import NamedTuple, Protocol, TypeVar

from models.inputs import Given, Inputs, Item, pixels
from server.errors import InvalidRequestError
from server.inputs.sources import Source, Sources, decode_all
from server.inputs.turns import Turns

S = TypeVar("S", bound=Source)
R = TypeVar("R")
Z = TypeVar("Z", bound="_Sized")

_SHORT = 128  # tokens of a request that are read sooner than a thread is woken and heard, 0.1 ms
_LEAST_S = 1e-4  # that an input takes, whatever its size
_PACK = 4096  # tokens of texts that are read in one go, 5 ms


class _Sized(Protocol):
    """What takes time by its size."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_pixels(self) -> int: ...


class _Pack(NamedTuple):
    """Inputs of one name that are read in one go."""

    name: str
    sources: Sequence[Source]

    @property
    def num_tokens(self) -> int:
        return sum(one.num_tokens for one in self.sources)

    @property
    def num_pixels(self) -> int:
        return sum(one.num_pixels for one in self.sources)


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
        self,
        items: Sequence[Sources],
        inputs: Inputs,
        client: str = "",
        weight: float = 1.0,
        due: float = inf,
    ) -> list[Item]:
        """Decode the inputs of one request, those that items share once.

        Args:
            items: Of the request.
            inputs: Of the model.
            client: Whose they are.
            weight: The client's share, above 0.
            due: On the clock, when they are of no use any more.

        Returns:
            The items, in order.

        Raises:
            InvalidRequestError: Naming the first input that is none; or the one with which there
                are too many pixels, before any is decoded.
            ModelNotReadyError: If the server is stopping.
        """
        found = await self._decoded(items, inputs, client, weight, due, None)
        return [one for one in found if one is not None]

    async def decode_until(
        self, items: Sequence[Sources], inputs: Inputs, client: str, weight: float, due: float
    ) -> list[Item | None]:
        """As `decode`, but return what there is at a time on the clock; None for other items."""
        longest_s = max(0.0, due - self._clock())
        return await self._decoded(items, inputs, client, weight, due, longest_s)

    async def _decoded(
        self,
        items: Sequence[Sources],
        inputs: Inputs,
        client: str,
        weight: float,
        due: float,
        longest_s: float | None,
    ) -> list[Item | None]:
        named = {id(source): (name, source) for item in items for name, source in item.items()}
        sources = [source for _, source in named.values()]
        decoded: list[Given | None] = []
        if is_short(sources):
            decoded += [_given(inputs, name, [source])[0] for name, source in named.values()]
        else:
            names = [name for name, _ in named.values()]
            num_images = sum(source.num_tokens == 0 for source in sources)
            if num_images * pixels.MAX_PIXELS > self._max_pixels:
                costs = [_LEAST_S] * len(sources)
                sources = await self._turns.map(_opened, sources, costs, client, weight, due)
                self._check_pixels(sources)
            packs = list(_packs(names, sources))
            work = partial(self._timed, lambda pack: _given(inputs, pack.name, pack.sources))
            costs = [self._cost(pack) for pack in packs]
            given: Sequence[list[Given] | None] = (
                await self._turns.map(work, packs, costs, client, weight, due)
                if longest_s is None
                else await self._turns.map_for(longest_s, work, packs, costs, client, weight, due)
            )
            for pack, own in zip(packs, given, strict=True):
                missing: list[Given | None] = [None] * len(pack.sources)
                decoded += missing if own is None else own
        found = dict(zip(named, decoded, strict=True))
        return [_item({name: found[id(own)] for name, own in item.items()}) for item in items]

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

    def _cost(self, source: _Sized) -> float:
        return (
            _LEAST_S
            + self._per_pixel.value * source.num_pixels
            + self._per_token.value * source.num_tokens
        )

    def _timed(self, function: Callable[[Z], R], source: Z) -> R:
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


def _packs(names: Sequence[str], sources: Sequence[Source]) -> Iterator[_Pack]:
    """Yield texts of one name that follow one another together, and each other input alone."""
    pack: list[Source] = []
    tokens = 0
    for i, one in enumerate(sources):
        own = one.num_tokens
        if pack and (not own or not tokens or tokens + own > _PACK or names[i] != names[i - 1]):
            yield _Pack(names[i - 1], pack)
            pack, tokens = [], 0
        pack.append(one)
        tokens += own
    yield _Pack(names[-1], pack)


def _given(inputs: Inputs, name: str, sources: Sequence[Source]) -> list[Given]:
    return [inputs.given(name, one) for one in decode_all(sources, inputs[name].type)]


def _item(found: Mapping[str, Given | None]) -> Item | None:
    """Return an item; None if one of its inputs is not there."""
    known = {name: one for name, one in found.items() if one is not None}
    return known if len(known) == len(found) else None
