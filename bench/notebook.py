"""Cells of a long benchmark, told and written when they are done, so that a new run can go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import report

Figures = dict[str, Any]


class Notebook:
    """Figures by cell.

    Attributes:
        cells: Of those that are done, in order.
    """

    def __init__(self, about: Figures, path: Path | None, resumes: bool) -> None:
        """Begin, or go on.

        Args:
            about: What the figures depend on; a file is only gone on with if it has the same.
            path: To write to after each cell; None for nowhere.
            resumes: Whether cells that the file has are not done again.
        """
        self._about: Figures = json.loads(json.dumps(about))
        self._path = path
        self.cells: dict[str, Figures] = {}
        if resumes and path is not None and path.is_file():
            kept = json.loads(path.read_text())
            if kept["about"] != self._about:
                print(f"{path} is of another run: {kept['about']}", file=sys.stderr)
                sys.exit(2)
            self.cells = kept["done"]

    def cell(self, name: str, make: Callable[[], Figures]) -> Figures:
        """Return the figures of a cell; they are made unless they are known."""
        if name not in self.cells:
            self.cells[name] = make()
            self.write({})
        return self.cells[name]

    def write(self, figures: Figures) -> None:
        """Write what is done, with further figures."""
        if self._path is not None:
            report.write({"about": self._about, **figures, "done": self.cells}, self._path)
