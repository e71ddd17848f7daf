"""What every benchmark prints and writes."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from models.train import cifar100
from models.train.cifar100 import Cifar100
from server.settings import data_folder

_ZOO = Path(__file__).parent.parent / "models" / "zoo"
ZOO = _ZOO / "cifar100-mtl"
ZOO_TEXT = _ZOO / "minilm-2d"
ZOO_USES = _ZOO / "minilm-elastic"
ZOO_ALL = (ZOO, ZOO_TEXT, ZOO_USES, _ZOO / "pycode-exits")
# Sets that decide what runs fast.
_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
)
_CONSOLE = Console(width=120)


@dataclass(frozen=True)
class Shown:
    """A table as it was printed.

    Attributes:
        title: Above it.
        columns: Names.
        rows: Cells, as text.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_shown: list[Shown] = []  # by this process, until `finish` writes them


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(description=text)
    options.add_argument("--quick", action="store_true", help="a coarser run, under 45 s")
    options.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the figures here, and the tables beside it as .md and .csv",
    )
    return options


def cifar100_splits() -> Cifar100:
    """Return the data set; without it say so in one line and end with code 2."""
    try:
        return cifar100.load(data_folder() / "cifar100")
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs CIFAR-100: {error}", file=sys.stderr)
        sys.exit(2)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    lines = [line.partition(":") for line in _read("/proc/cpuinfo").splitlines()]
    told = {name.strip(): value.strip() for name, _, value in lines}
    flags = told.get("flags", "").split()
    return {
        "processor": told.get("model name", platform.processor()),
        "instructions": " ".join(name for name in _INSTRUCTIONS if name in flags) or "not told",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
    }


def resident_mb() -> float:
    """Return the memory this process holds now, in megabytes; NaN where it is not told."""
    pages = _read("/proc/self/statm").split()[1:2]
    return int(pages[0]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else math.nan


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    cells = [tuple(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row) for row in rows]
    for row in cells:
        table.add_row(*row)
    _CONSOLE.print(table)
    _shown.append(Shown(title, tuple(columns), tuple(cells)))


def finish(figures: dict[str, Any], path: Path | None, own: Path | None = None) -> None:
    """Print the machine, and write the figures and the tables that were shown.

    Args:
        figures: What is written as JSON.
        path: Where to; None to write nothing.
        own: A file that the benchmark has written itself, which no table replaces.
    """
    told = ", ".join(f"{k} {v}" for k, v in machine().items())
    _CONSOLE.print(f"machine: {told}")
    if path is None:
        return
    write(figures, path)
    if path.with_suffix(".csv") != own:
        path.with_suffix(".csv").write_text(as_csv(_shown))
    text = f"{as_markdown(_shown)}\n`{_command(path)}`; {told}.\n"
    path.with_suffix(".md").write_text(text)
    _shown.clear()


def as_csv(tables: Sequence[Shown]) -> str:
    """Return tables as one file: a line for each cell, which `from_csv` reads."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(("table", "title", "row", "column", "name", "value"))
    for number, table in enumerate(tables):
        for i, row in enumerate(table.rows):
            for j, (name, value) in enumerate(zip(table.columns, row, strict=True)):
                lines.writerow((number, table.title, i, j, name, value))
    return file.getvalue()


def from_csv(text: str) -> list[Shown]:
    """Return the tables of `as_csv`, but for those without a row."""
    cells = list(csv.DictReader(io.StringIO(text)))
    found = []
    for _, table in groupby(cells, key=itemgetter("table")):
        rows = [list(row) for _, row in groupby(table, key=itemgetter("row"))]
        columns = tuple(cell["name"] for cell in rows[0])
        values = tuple(tuple(cell["value"] for cell in row) for row in rows)
        found.append(Shown(rows[0][0]["title"], columns, values))
    return found


def as_markdown(tables: Sequence[Shown]) -> str:
    """Return tables as Markdown, each with its title above."""
    parts = []
    for table in tables:
        head = "| " + " | ".join(table.columns) + " |"
        rule = "|---" + "|---:" * (len(table.columns) - 1) + "|"
        rows = ["| " + " | ".join(row) + " |" for row in table.rows]
        parts.append("\n".join((f"**{table.title}**", "", head, rule, *rows)) + "\n")
    return "\n".join(parts)


def _command(path: Path) -> str:
    """Return the command line of this process, without where it writes."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = getattr(spec, "name", "") or Path(sys.argv[0]).name
    given = [one for one in sys.argv[1:] if one not in ("--json", str(path))]
    return " ".join(("python -m", name.removesuffix(".__main__"), *given))


def write(figures: dict[str, Any], path: Path) -> None:
    """Write the machine and the figures; a file that is there is replaced as a whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    part.replace(path)
