"""Budgets, weights and inputs as people type them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rheostat import Budget

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS = {"flops": "flops", "macs": "macs", "b": "bytes"}
_AMOUNT = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?) *([kmgt]?)(flops|macs|b)", re.IGNORECASE)
_TIME = re.compile(r"([0-9.]+) *(ms|s)", re.IGNORECASE)
_FORMS = "must be like 50%, 30MFLOPs, 15MMACs, 20ms or 40MB"


def budget_of(
    limits: Sequence[str] | None, min_quality: str | None, strict: bool = False
) -> Budget | None:
    """Return the budget of several options; None if there is none.

    Raises:
        ValueError: If one cannot be read, or two limit the same.
        typer.Exit: If the client is not installed.
    """
    try:
        from rheostat import Budget
    except ModuleNotFoundError:
        raise missing_client() from None
    found: dict[str, Any] = {}
    for text in limits or ():
        name, value = _limit(text)
        if name in found:
            raise ValueError(f"--budget={text}: there is a limit of {name} already")
        found[name] = value
    if min_quality is not None:
        found["min_quality"] = _share("min-quality", min_quality)
    if strict:
        found["strict"] = True
    return Budget(**found) if found else None


def _limit(text: str) -> tuple[str, float]:
    """Return the field of a budget that a text means, and its value."""
    given = text.strip()
    try:
        if given.endswith("%"):
            return "fraction", _share("budget", given)
        if found := _TIME.fullmatch(given):
            return "latency_ms", float(found[1]) * (1000 if found[2].lower() == "s" else 1)
        if found := _AMOUNT.fullmatch(given):
            return _UNITS[found[3].lower()], float(found[1]) * _PREFIXES[found[2].lower()]
    except ValueError:
        pass
    raise ValueError(f"--budget={text} {_FORMS}")


def _share(option: str, text: str) -> float:
    """Return per cent as a share."""
    try:
        if not text.strip().endswith("%"):
            raise ValueError
        return float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise ValueError(f"--{option}={text} must be per cent, such as 95%") from None


def weights_of(pairs: Sequence[str] | None) -> dict[str, float] | None:
    """Return the weights of ``TASK=WEIGHT``.

    Raises:
        ValueError: If one is none.
    """
    found: dict[str, float] = {}
    for pair in pairs or ():
        task, _, weight = pair.rpartition("=")
        try:
            found[task] = float(weight)
        except ValueError:
            task = ""
        if not task:
            raise ValueError(f"--prefer={pair} must be TASK=WEIGHT, such as segmentation=0.7")
    return found or None


def inputs_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Return one item of ``NAME=TEXT`` and ``NAME=@FILE``.

    Raises:
        ValueError: If one is none.
        OSError: If a file cannot be read.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not (name and is_pair):
            raise ValueError(f"--input={pair} must be NAME=TEXT or NAME=@FILE")
        found[name] = Path(value[1:]).read_bytes() if value.startswith("@") else value
    return found


def lines_of(name: str, texts: Sequence[str] | None, file: Path | None) -> list[str]:
    """Return texts that were given and those of a file, one on each line that is not empty.

    Raises:
        ValueError: If there is none.
        OSError: If the file cannot be read.
    """
    found = list(texts or ())
    if file is not None:
        content = sys.stdin.read() if str(file) == "-" else file.read_text()
        found += [line.strip() for line in content.splitlines() if line.strip()]
    if not found:
        raise ValueError(f"no {name} are given")
    return found


def missing_client() -> typer.Exit:
    """Say how to get the Python client, and return what ends the command."""
    typer.echo(
        "rheostat: the Python client is missing: pip install ./client, in the repository", err=True
    )
    return typer.Exit(2)
