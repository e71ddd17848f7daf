"""What is wrong with files that offline commands read."""

from __future__ import annotations


class DataError(ValueError):
    """A file does not hold what is needed. The message names it."""


class RecordError(ValueError):
    """What an earlier run has kept is damaged, or of another run. The message names the file."""
