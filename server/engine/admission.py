"""How many images may be inside the server, and when to come back if it is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import OverloadedError

_MAX_RETRY_S = 60.0  # clients take a longer wait as "never"
_WINDOW = 32  # batches over which the drain rate is taken


class Admission:
    """Counts images from before they are decoded until they are answered.

    Used from the event loop only, so it needs no lock.
    """

    def __init__(self, max_images: int, clock: Callable[[], float]) -> None:
        self._max_images = max_images
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self.admitted = 0

    @contextmanager
    def reserve(self, num_images: int) -> Iterator[None]:
        """Hold room for all images of a request, or for none.

        Raises:
            OverloadedError: If there is not enough room.
        """
        if self.admitted + num_images > self._max_images:
            raise OverloadedError(
                f"{self.admitted} images are being served and {num_images} more would exceed "
                f"{self._max_images}",
                self.drain_s(),
            )
        self.admitted += num_images
        try:
            yield
        finally:
            self.admitted -= num_images

    def note(self, num_images: int) -> None:
        """Record that a batch has just been finished."""
        self._done.append((self._clock(), num_images))

    def drain_s(self) -> float:
        """Return how long the images inside will take at the recent rate, seconds, at most 60."""
        if len(self._done) < 2:
            return 1.0
        since = self._clock() - self._done[0][0]
        # The first batch marks where the window starts; its images were done before.
        finished = sum(size for _, size in self._done) - self._done[0][1]
        return min(_MAX_RETRY_S, self.admitted * since / finished)
