"""Rows of a user's CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from search.offline.errors import DataError


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield each row with the place of it, for messages.

    Args:
        path: A CSV file with a header line, in UTF-8.
        columns: That it must have.

    Raises:
        DataError: If it has not.
        OSError: If it cannot be read.
        UnicodeDecodeError: If it is of another encoding.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        for column in columns:
            if column not in (rows.fieldnames or ()):
                raise DataError(f"{path} has no column {column!r}; needed: {', '.join(columns)}")
        for row in rows:
            yield f"{path}, line {rows.line_num}", row
