"""What a start is doing: a bar on a terminal, elsewhere a line in the log every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import NoReturn

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

Tell = Callable[[float], None]
"""Takes the part that is done, 0..1."""

_SAY_S = 3.0  # between two lines
_BAR = "{desc}: {percentage:3.0f} % |{bar:30}| {elapsed}"


class ProgressDisplay:
    """Tells how far something is that takes seconds."""

    def __init__(
        self, has_bar: bool = False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Say how to tell.

        Args:
            has_bar: Whether to draw a bar on standard error instead of lines in the log.
            clock: Returns seconds.
        """
        self._has_bar = has_bar
        self._clock = clock

    @classmethod
    def on_terminal(cls) -> ProgressDisplay:
        """Return one with a bar if standard error is a terminal."""
        return cls(has_bar=sys.stderr.isatty())

    @contextmanager
    def of(self, what: str) -> Iterator[Tell]:
        """Tell of something while the block does it.

        It is told by who does it: a thread beside it would disturb what is measured.

        Args:
            what: Is being done, for people.

        Yields:
            What to call with the part that is done, as often as one likes.
        """
        log.info("%s", what)
        if self._has_bar:
            # A terminal may say that it has no lines, and then tqdm would draw nothing.
            width, height = get_terminal_size()
            drawn = tqdm(
                total=1.0, desc=what, bar_format=_BAR, ncols=width, nrows=height, leave=False
            )
            with logging_redirect_tqdm(), drawn as bar:
                yield lambda part: _draw(bar, part)
        else:
            yield self._lines(what)

    def _lines(self, what: str) -> Tell:
        said = self._clock()

        def tell(part: float) -> None:
            nonlocal said
            now = self._clock()
            if now - said >= _SAY_S:
                said = now
                log.info("%s: %.0f %%", what, 100 * part)

        return tell


def _draw(bar: tqdm[NoReturn], part: float) -> None:
    bar.update(part - bar.n)
