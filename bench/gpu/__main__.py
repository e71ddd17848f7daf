"""What a GPU does with the shipped models: launched call by call, compiled, recorded, exported.

Each way runs the whole plan of each model at several sizes of batch, of texts of 16 tokens or of
images. Times are of a whole run, from a batch on the device to answers on the CPU, as a server sees
it. Every way must first give eager torch's answers. `compiled` is torch.compile with the mode
reduce-overhead, chain by chain; `recorded` is what serves on CUDA (`models/backends/cuda`), first
as it records at once, then with what its compiler makes of a hot chain.

`--device cpu` is a dry run: recordings repeat the function, and compiling ends before kernels are
written. `bench/gpu.sh` runs the tests marked gpu and then this.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import report
from bench.gpu.page import LENGTH, device_facts, name_of, page
from bench.gpu.ways import EAGER, WAYS, make_backend, make_ready
from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import Plan
from models.elastic import Elastic
from models.nn.ragged import Value
from models.run.backend import Backend

SIZES = (1, 8, 32)
_TOLERANCE = 1e-3  # compiled kernels add in another order


@dataclass(frozen=True)
class Cell:
    """One way at one size of batch.

    Attributes:
        ms: Of a run, by repeat; none if there was no time or it failed.
        said: Why there is no time.
    """

    ms: tuple[float, ...] = ()
    said: str = ""

    @property
    def median(self) -> float | None:
        """The median time in milliseconds."""
        return statistics.median(self.ms) if self.ms else None


def main() -> None:
    """Time every way and write the page."""
    options = _options()
    device, is_dry = options.device, options.device == "cpu"
    if not is_dry and not torch.cuda.is_available():
        print("torch sees no CUDA device; --device cpu is a dry run", file=sys.stderr)
        sys.exit(2)
    give_up = time.monotonic() + 60 * options.minutes
    cells: dict[tuple[str, int, str], Cell] = {}
    folders, sizes = ((report.ZOO_TEXT,), SIZES[:1]) if options.quick else (report.ZOO_ALL, SIZES)
    models = {folder.name: checkpoint.load(folder).model for folder in folders}
    for way in WAYS:  # what takes longest to make ready comes last
        for name, model in models.items():
            try:
                backend = make_backend(way, device)
            except (ImportError, ValueError) as error:
                said = str(error)
                cells |= {(name, size, way): Cell(said=said) for size in sizes}
                continue
            backend.prepare(model)
            for size in sizes:
                if time.monotonic() > give_up:
                    cells[name, size, way] = Cell(said="no time left; see --minutes")
                    continue
                print(f"{way}: {name}, batch {size}", file=sys.stderr, flush=True)
                cells[name, size, way] = timed(
                    backend, TorchBackend(device), model, size, 3 if options.quick else 30
                )
            backend.close()
    rows = _rows(models, sizes, cells)
    columns = ["model", "batch", *(f"{way}, ms" for way in WAYS)]
    report.show(f"Milliseconds of a run on {name_of(device)}, and eager over each", columns, rows)
    figures = [
        {"model": name, "batch": size, "way": way, "ms": cell.ms, "said": cell.said}
        for (name, size, way), cell in cells.items()
    ]
    report.finish({"device": device_facts(device), "runs": figures}, options.json)
    if options.page is not None:
        options.page.write_text(page(device_facts(device), options.tests, columns, rows, is_dry))


def timed(backend: Backend, eager: TorchBackend, model: Elastic, size: int, repeats: int) -> Cell:
    """Return times of a way once it is ready and has given the right answers.

    Args:
        backend: Has prepared the model.
        eager: Gives the right answers.
        model: Runs whole.
        size: Rows of the batch.
        repeats: Times.
    """
    try:
        plan, inputs = _batch(model, size)
        placed = {name: backend.place(value) for name, value in inputs.items()}
        expected = eager.run(plan, placed)
        make_ready(backend, plan, placed)
        for task, value in backend.run(plan, placed).items():
            torch.testing.assert_close(value, expected[task], atol=_TOLERANCE, rtol=_TOLERANCE)
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            backend.run(plan, placed)
            found.append(1000 * (time.perf_counter() - start))
        return Cell(tuple(found))
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise whatever they like
        return Cell(said=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}")


def _batch(model: Elastic, size: int) -> tuple[Plan, dict[str, Value]]:
    """Return the plan of the whole model for all tasks, and a batch of examples."""
    inputs: dict[str, Value] = {}
    shapes = {}
    for name, slot in model.inputs.items():
        example = slot.type.example(LENGTH if slot.type.has_length else None)
        shapes[name] = slot.type.shape_of(example)
        inputs[name] = model.inputs.collate(name, [example] * size)
    return model.plan(model.space.largest, shapes), inputs


def _rows(
    models: Mapping[str, object], sizes: Sequence[int], cells: Mapping[tuple[str, int, str], Cell]
) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in models:
        for size in sizes:
            first = cells[name, size, EAGER].median
            own = [_told(cells[name, size, way], way, first) for way in WAYS]
            rows.append([name, size, *own])
    return rows


def _told(cell: Cell, way: str, eager: float | None) -> str:
    if cell.median is None:
        return cell.said
    ratio = f" ({eager / cell.median:.2f} x)" if eager and way != EAGER else ""
    return f"{cell.median:.2f}{ratio}"


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    options.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (%(default)s)")
    options.add_argument("--page", type=Path, metavar="FILE", help="also write a page")
    options.add_argument("--tests", default="not run", help="what came of them, for the page")
    options.add_argument(
        "--minutes",
        type=float,
        default=4,
        metavar="M",
        help="start nothing after them (%(default)s)",
    )
    return options.parse_args()


if __name__ == "__main__":
    main()
