"""What every benchmark prints and writes."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
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
ZOO_ALL = (ZOO, ZOO_TEXT, _ZOO / "pycode-exits")
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


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(description=text)
    options.add_argument("--quick", action="store_true", help="a coarser run, under 45 s")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
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
    for row in rows:
        table.add_row(*(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row))
    _CONSOLE.print(table)


def finish(figures: dict[str, Any], path: Path | None) -> None:
    """Print the machine and write the figures."""
    _CONSOLE.print("machine: " + ", ".join(f"{k} {v}" for k, v in machine().items()))
    if path is not None:
        write(figures, path)


def write(figures: dict[str, Any], path: Path) -> None:
    """Write the machine and the figures; a file that is there is replaced as a whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    part.replace(path)
