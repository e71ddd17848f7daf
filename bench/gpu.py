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
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import report
from models import checkpoint
from models.backends.cuda.batches import content_of, source_of, taken
from models.backends.cuda.graphs import GraphBackend, RecordingPolicy
from models.backends.torch import TorchBackend
from models.core import Plan
from models.elastic import Elastic
from models.nn.ragged import Ragged, Value
from models.run.backend import Backend
from models.run.chain import Chain
from models.run.execution import never, run_plans

SIZES = (1, 8, 32)
EAGER = "eager"
WAYS = (EAGER, "recorded", "recorded, compiled", "compiled", "ONNX Runtime")
_LENGTH = 16  # tokens
_TOLERANCE = 1e-3  # compiled kernels add in another order
_WARM = 3


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


class Repeated:
    """Stands in for CUDA graphs in a dry run: a recording is the function, called again."""

    def record(self, run: Callable[[], Value]) -> tuple[Callable[[], None], Value]:
        """Return what writes to the same tensors again; see `Recorder.record`."""
        output = run()

        def replay() -> None:
            content_of(output).copy_(content_of(run()))

        return replay, output


class Compiled(TorchBackend):
    """Runs chains as `TorchBackend` does, each compiled for each size of batch."""

    def __init__(self, device: str, compiler: Callable[[Any], Any]) -> None:
        """Compile nothing yet.

        Args:
            device: As for `TorchBackend`.
            compiler: Of functions of plain tensors.
        """
        super().__init__(device)
        self._compiler = compiler
        self._functions: dict[Hashable, Callable[[Sequence[Value]], Value]] = {}

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps; see `models.run.backend.Backend.run_chain`."""
        shapes = tuple(content_of(value).shape for value in inputs)
        key = chain.key(inputs), shapes
        if key not in self._functions:
            self._functions[key] = self._compiled(chain, inputs)
        return self._functions[key](inputs)

    def _compiled(
        self, chain: Chain, inputs: Sequence[Value]
    ) -> Callable[[Sequence[Value]], Value]:
        layouts = [value.layout if isinstance(value, Ragged) else None for value in inputs]
        source = source_of(chain.run(inputs), inputs)

        def plain(*tensors: Tensor) -> Tensor:
            values = [
                tensor if layout is None else Ragged(tensor, layout)
                for tensor, layout in zip(tensors, layouts, strict=True)
            ]
            return content_of(chain.run(values))

        plain.__code__ = plain.__code__.replace()  # as in `GraphBackend`
        run = self._compiler(plain)
        # Cloned, as the next call writes over it.
        return lambda values: taken(run(*map(content_of, values)).clone(), source, values)


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
                backend = _backend(way, device)
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
    report.show(f"Milliseconds of a run on {_name(device)}, and eager over each", columns, rows)
    figures = [
        {"model": name, "batch": size, "way": way, "ms": cell.ms, "said": cell.said}
        for (name, size, way), cell in cells.items()
    ]
    report.finish({"device": _device(device), "runs": figures}, options.json)
    if options.page is not None:
        options.page.write_text(page(_device(device), options.tests, columns, rows, is_dry))


def _backend(way: str, device: str) -> Backend:
    """Return what runs plans in a way; ImportError or ValueError if it cannot here."""
    is_dry = device == "cpu"
    if way == EAGER:
        return TorchBackend(device)
    if way == "compiled":
        mode: dict[str, Any] = {"backend": "eager"} if is_dry else {"mode": "reduce-overhead"}
        return Compiled(device, partial(torch.compile, dynamic=False, **mode))
    if way == "ONNX Runtime":
        from models.backends.onnx.backend import OnnxBackend

        return OnnxBackend(device, max_bytes=4 * 10**9, threads=torch.get_num_threads())
    compile_after = _WARM if way == "recorded, compiled" else None
    return GraphBackend(
        device,
        policy=RecordingPolicy(record_after=1, compile_after=compile_after),
        recorder=Repeated() if is_dry else None,
        compiler=partial(torch.compile, dynamic=False, backend="eager" if is_dry else "inductor"),
    )


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
        _make_ready(backend, plan, placed)
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


def _make_ready(backend: Backend, plan: Plan, inputs: Mapping[str, Value]) -> None:
    """Run until nothing is recorded, compiled or built any more."""
    if hasattr(backend, "warm"):
        run_plans(_Warming(backend), [plan], inputs)
    for _ in range(_WARM):
        backend.run(plan, inputs)
    if isinstance(backend, GraphBackend):
        while backend.stats.compiling:
            time.sleep(0.05)
        backend.run(plan, inputs)  # takes over what was compiled


class _Warming:
    """Has a session built for each chain."""

    is_synchronous = True

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.place = backend.place

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        self._backend.warm(chain, inputs)
        return chain.run(inputs)


def _batch(model: Elastic, size: int) -> tuple[Plan, dict[str, Value]]:
    """Return the plan of the whole model for all tasks, and a batch of examples."""
    inputs: dict[str, Value] = {}
    shapes = {}
    for name, slot in model.inputs.items():
        example = slot.type.example(_LENGTH if slot.type.has_length else None)
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


def page(
    device: Mapping[str, str],
    tests: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    is_dry: bool,
) -> str:
    """Return the page of results.

    Args:
        device: What the figures depend on, by name.
        tests: What came of the tests marked gpu.
        columns: Of the table.
        rows: Of the table.
        is_dry: Whether no GPU was there.
    """
    dry = ["**A dry run without a GPU: these times say nothing about one.**", ""]
    table = [columns, ["---"] * len(columns), *rows]
    lines = [
        "# Measured on a GPU",
        "",
        *(dry if is_dry else []),
        f"`bench/gpu.sh`: {', '.join(f'{name} {value}' for name, value in device.items())}.",
        f"Tests: {tests}.",
        "",
        "Milliseconds of a run, the median; in brackets how many times faster than eager torch.",
        f"The whole model answers all tasks; texts have {_LENGTH} tokens.",
        "",
        *("| " + " | ".join(map(str, row)) + " |" for row in table),
    ]
    return "\n".join(lines) + "\n"


def _name(device: str) -> str:
    return "the processor" if device == "cpu" else torch.cuda.get_device_name(device)


def _device(device: str) -> dict[str, str]:
    """Return what the figures depend on."""
    found = {"device": _name(device), "torch": torch.__version__}
    if device != "cpu":
        found |= {"CUDA": str(torch.version.cuda), "driver": _driver()}
    try:
        import onnxruntime
    except ImportError:
        found["ONNX Runtime"] = "not installed"
    else:
        found["ONNX Runtime"] = onnxruntime.__version__
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            found["ONNX Runtime"] += " without CUDA"
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "not told"
    return told.stdout.strip().splitlines()[0]


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
