"""Answers as people read them in a terminal, and as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rheostat import (
        Embeddings,
        InferAnswer,
        PlanReceipt,
        RankingReceipt,
        Receipt,
        RerankAnswer,
        StagesReceipt,
        TaskOutput,
        Value,
    )

_WIDTH = 120  # where no terminal says
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_NUM_SHOWN = 4
_MANY = 6


def plan(receipt: PlanReceipt) -> None:
    """Print a plan."""
    console = _console()
    console.print(_tasks(receipt))
    _tell(console, receipt)


def infer(names: Sequence[str], answer: InferAnswer, out: Path | None) -> None:
    """Print answers, one row per item and task.

    Args:
        names: Of items.
        answer: About them.
        out: Where maps were written; None where they were not.
    """
    console, table = _console(), _table("item", "task", "answer", "sure")
    for name, outputs in zip(names, answer.outputs, strict=True):
        for task, output in outputs.items():
            table.add_row(name, task, *_cells(name, task, output, out))
    console.print(table)
    _tell(console, answer.receipt)


def embed(texts: Sequence[str], answer: Embeddings, out: Path | None) -> None:
    """Print the beginnings of vectors."""
    console, table = _console(), _table("text", "dimensions", f"first {_NUM_SHOWN}")
    for text, vector in zip(texts, answer.vectors, strict=True):
        first = " ".join(f"{number:+.3f}" for number in vector[:_NUM_SHOWN])
        table.add_row(text, str(len(vector)), first)
    console.print(table)
    _tell(console, answer.receipt)
    if out is not None:
        console.print(f"written to {out}", highlight=False, markup=False)


def rerank(texts: Sequence[str], answer: RerankAnswer) -> None:
    """Print texts, best first, and how closely each was read."""
    stages = answer.receipt.stages
    console = _console()
    table = _table("", "score", *(["read"] if stages else []), "text")
    for place, one in enumerate(answer.results, 1):
        read = [_read(stages, one.index)] if stages else []
        table.add_row(str(place), f"{one.relevance_score:.3f}", *read, texts[one.index])
    console.print(table)
    _tell(console, answer.receipt)


def write_vectors(path: Path, vectors: Sequence[Sequence[float]]) -> None:
    """Write vectors as float32 [texts, dimensions]."""
    np.save(path, np.array(vectors, np.float32))


def write_maps(folder: Path, name: str, outputs: dict[str, TaskOutput]) -> None:
    """Write the maps among the answers about one item; `infer` says what is written."""
    for task, output in outputs.items():
        path = folder / f"{name}-{task}.png"
        if output.png:
            path.write_bytes(base64.b64decode(output.png))
        elif output.values:
            from PIL import Image

            values = _numbers(output)
            np.save(folder / f"{name}-{task}.npy", values)
            if len(values) in (1, 3):
                span = float(values.max() - values.min()) or 1.0
                grey = (255 * (values - values.min()) / span).round().astype(np.uint8)
                picture = grey[0] if len(grey) == 1 else grey.transpose(1, 2, 0)
                Image.fromarray(picture).save(path)


def _numbers(output: TaskOutput) -> NDArray[np.float32]:
    """Return a map of numbers as float32 [channels, height, width]."""
    flat = np.frombuffer(base64.b64decode(output.values), "<f4").astype(np.float32)
    return flat.reshape(len(output.channels), output.height, output.width)


def _cells(name: str, task: str, output: TaskOutput, out: Path | None) -> tuple[str, str]:
    if output.label:
        return output.label, f"{100 * output.probabilities[output.label]:.0f} %"
    if output.height:
        what = ", ".join(output.labels) or f"{', '.join(output.channels)} {output.unit}".strip()
        where = "--out writes it" if out is None else str(out / f"{name}-{task}.png")
        return f"map {output.width} x {output.height} of {what}: {where}", ""
    if output.embedding:
        return f"vector of {len(output.embedding)}", ""
    return f"{output.score:.4g}", ""


def _tasks(receipt: PlanReceipt) -> Table:
    table = _table("task", "weight", "quality", "expected", "±", "n", "metric")
    for name, task in receipt.tasks.items():
        table.add_row(
            name,
            f"{receipt.preferences.get(name, 0):.2f}",
            f"{100 * task.retention:.1f} %",
            f"{task.expected:.3f}",
            f"{task.stderr:.3f}",
            str(task.n),
            task.metric,
        )
    return table


def _tell(console: Console, receipt: PlanReceipt | Receipt | RankingReceipt) -> None:
    """Print what ran, or would."""
    total = getattr(receipt, "total_flops", None)
    took = getattr(receipt, "milliseconds", None)
    flops = f"{_short(receipt.flops)}FLOPs, {100 * receipt.fraction:.1f} % of the whole"
    if total is not None:
        flops = f"{flops}; {_short(total)}FLOPs in all"
    quality = f"{100 * receipt.quality:.1f} % ± {100 * receipt.quality_stderr:.1f} of its score"
    time = "not known"
    if took is not None:
        time = f"{took.total:.1f} ms, predicted {took.predicted:.1f} ms"
    elif receipt.predicted_run_ms is not None:
        time = f"{receipt.predicted_run_ms:.1f} ms, predicted"
    rows = {
        "model": f"{receipt.model}, version {receipt.version}",
        "subnet": _subnet(receipt.subnet),
        "compute": flops,
        "quality": quality,
        "weights": f"{_short(receipt.bytes)}B",
        "time": time,
    }
    grid = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        grid.add_row(name, text)
    console.print(grid)


def _subnet(subnet: Mapping[str, Value]) -> str:
    """Return the value on each axis; of many axes of one part, the least and the most."""
    parts: dict[str, dict[str, Value]] = {}
    for axis, value in subnet.items():
        parts.setdefault(axis.partition(".")[0], {})[axis] = value
    told = []
    for part, axes in parts.items():
        if len(axes) <= _MANY:
            told += [f"{axis} {value}" for axis, value in axes.items()]
        else:
            values = sorted(axes.values(), key=float)
            told.append(f"{part}.* {values[0]} to {values[-1]}")
    return ", ".join(told)


def _read(stages: StagesReceipt, index: int) -> str:
    """Return how closely a text was read in a ranking in stages."""
    reached = stages.reached[index]
    if reached is None:
        return "not read"
    rung: dict[str, Value] = stages.rungs[reached]
    varied = [axis for axis in rung if len({one[axis] for one in stages.rungs}) > 1]
    return ", ".join(f"{axis} {rung[axis]}" for axis in varied) or "whole"


def _short(number: float) -> str:
    size, prefix = next((one for one in _PREFIXES if number >= one[0]), (1, ""))
    return f"{number / size:.3g} {prefix}"


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDTH
    return console


def _table(*columns: str) -> Table:
    table = Table()
    for name in columns:
        is_number = name in ("weight", "quality", "expected", "±", "n", "score", "sure")
        table.add_column(name, justify="right" if is_number else "left")
    return table
