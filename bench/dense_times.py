"""How the time of a dense model's subnets follows their FLOPs, in torch and as one graph each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import report
from models.backends.torch import TorchBackend
from models.core import Plan
from models.export import onnx_file
from models.families.dense import Dense
from models.space import Subnet
from search.quality.table import FloatArray

BATCHES = (1, 16)

Run = Callable[[Tensor], object]


def times(
    model: Dense, subnets: Sequence[Subnet], graphs: Sequence[Subnet], repeats: int
) -> dict[str, Any]:
    """Time subnets and print a line fitted to each engine and batch.

    Args:
        model: Theirs.
        subnets: That torch runs.
        graphs: That ONNX Runtime runs besides, each exported as one graph.
        repeats: Of which the fastest counts.
    """
    backend, shapes = TorchBackend(), model.inputs.plan_shapes()
    backend.prepare(model)
    found: dict[str, Any] = {}
    rows = []
    for engine, chosen in (("torch", subnets), ("onnx", graphs)):
        if not chosen:
            continue
        plans = [model.plan(one, shapes) for one in chosen]
        macs = np.array([float(plan.cost.macs) for plan in plans])
        make = _graph if engine == "onnx" else _steps
        runs = [make(model, plan, backend) for plan in plans]
        for batch in BATCHES:
            images = torch.randn(
                batch, *shapes["image"], generator=torch.Generator().manual_seed(0)
            )
            best = _fastest(runs, images, repeats)
            slope, start = np.polyfit(macs, best, 1)
            quarter = (start + slope * macs.max() / 4) / (start + slope * macs.max())
            fit = float(np.corrcoef(macs, best)[0, 1] ** 2)
            rows.append(
                [engine, len(runs), batch, 1e3 * best.min(), 1e3 * best.max(), fit, quarter]
            )
            found[f"{engine}, batch {batch}"] = {
                "macs": macs.tolist(),
                "seconds": best.tolist(),
                "R squared": fit,
                "quarter": quarter,
            }
    report.show(
        f"Time over FLOPs, one thread of the processor's time, least of {repeats} runs",
        ["engine", "subnets", "batch", "least, ms", "most, ms", "R squared", "quarter of FLOPs"],
        rows,
    )
    return found


def _fastest(runs: Sequence[Run], images: Tensor, repeats: int) -> FloatArray:
    """Return the seconds of the processor that each run takes at least, on one thread.

    The processor's time, not the clock's: other work on the machine would be taken for the model's.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = np.full(len(runs), np.inf)
    for _ in range(repeats + 1):  # in turn, so that a slow moment is nobody's alone
        for i, run in enumerate(runs):
            started = time.process_time()
            run(images)
            best[i] = min(best[i], time.process_time() - started)
    torch.set_num_threads(threads)
    return best


def _steps(model: Dense, plan: Plan, backend: TorchBackend) -> Run:
    return lambda images: backend.run(plan, {"image": images})


def _graph(model: Dense, plan: Plan, backend: TorchBackend) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = onnx_file.export(plan, model.inputs)
        onnx_file.save(file, Path(folder))
        path = str(Path(folder) / onnx_file.ONNX)
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = [one.name for one in session.get_inputs()]
    return lambda images: session.run(None, {name: images.numpy()})
