"""The bare kernel: a back end's `run` and nothing around it, in a process of its own.

What is sent to that process are calls of these functions; it loads a model, and tokenises or
decodes its inputs, once.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.limit.cases import Content
from bench.settling import settle_backend
from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import Plan
from models.inputs import Inputs, Item, num_tokens
from models.inputs.content import Encoded, Text
from models.space import Subnet, Value

BATCH_SIZE = 32
BACKENDS = ("torch", "onnx")
_LEAST_WARM_UP = 20  # runs of one input
_MAX_SESSION_BYTES = 2**29  # the server's default
_POLL_S = 0.1


@dataclass(frozen=True)
class Kernel:
    """A subnet and its inputs.

    Attributes:
        checkpoint: Folder of the model.
        subnet: As a receipt tells it.
        tasks: Likewise.
        contents: Texts or encoded images.
        backend: One of `BACKENDS`.
    """

    checkpoint: Path
    subnet: tuple[tuple[str, Value], ...]
    tasks: tuple[str, ...]
    contents: tuple[Content, ...] = field(repr=False)
    backend: str = "torch"


@dataclass(frozen=True, slots=True)
class Throughput:
    """Batches one after the other.

    Attributes:
        rows_per_s: By the clock.
        cpu_ms: CPU time for each row.
    """

    rows_per_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Alone:
    """One input at a time, medians.

    Attributes:
        run_ms: Of the kernel.
        whole_ms: With tokenising or decoding before.
    """

    run_ms: float
    whole_ms: float


@contextmanager
def process() -> Iterator[ProcessPoolExecutor]:
    """Start the process; it computes with one thread."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as pool:
        yield pool


def outputs(kernel: Kernel, count: int) -> list[npt.NDArray[np.float32]]:
    """Return what the first inputs give, as `bench.limit.cases.values` reads it from answers."""
    ready = _ready(kernel)
    tasks = ready.model.tasks
    found = []
    for item in ready.items[:count]:
        rows = {task: value[0].float() for task, value in ready.run([item]).items()}
        if all(tasks[task].kind == "embedding" for task in rows):
            parts = [next(iter(rows.values()))]  # the same for every task, and sent once
        else:
            parts = [logits.softmax(-1) for logits in rows.values()]
        found.append(torch.cat(parts).numpy())
    return found


def throughput(kernel: Kernel, cores: frozenset[int], seconds: float) -> Throughput:
    """Run all inputs in batches sorted by length, over and over, each pass to its end.

    Args:
        kernel: To run.
        cores: To run on.
        seconds: No pass begins later.
    """
    os.sched_setaffinity(0, cores)
    ready = _ready(kernel)
    batches = _sorted_batches(ready)
    for batch in batches[:3]:
        ready.run(batch)
    wall = cpu = 0.0
    num_rows = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for batch in batches:
            # Anew each time: a packed batch keeps masks that belong to the kernel's time.
            inputs = ready.collate(batch)
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            ready.backend.run(ready.plan, inputs)
            wall += time.perf_counter() - wall_start
            cpu += time.process_time() - cpu_start
            num_rows += len(batch)
    return Throughput(num_rows / wall, 1000 * cpu / num_rows)


def alone(kernel: Kernel, cores: frozenset[int], count: int) -> Alone:
    """Run the first inputs one at a time, with and without tokenising or decoding them."""
    os.sched_setaffinity(0, cores)
    ready = _ready(kernel)
    run_s, whole_s = [], []
    for number, content in enumerate((*kernel.contents[:_LEAST_WARM_UP], *kernel.contents[:count])):
        started = time.perf_counter()
        inputs = ready.collate([ready.decode(content)])
        decoded = time.perf_counter()
        ready.backend.run(ready.plan, inputs)
        ended = time.perf_counter()
        if number >= _LEAST_WARM_UP:
            run_s.append(ended - decoded)
            whole_s.append(ended - started)
    return Alone(1000 * statistics.median(run_s), 1000 * statistics.median(whole_s))


@dataclass(frozen=True, slots=True)
class _Ready:
    model: Any
    backend: TorchBackend
    plan: Plan
    items: list[Item]

    def run(self, batch: Sequence[Item]) -> dict[str, Tensor]:
        return self.backend.run(self.plan, self.collate(batch))

    def collate(self, batch: Sequence[Item]) -> Mapping[str, Any]:
        inputs: Inputs = self.model.inputs
        return inputs.batch(batch)

    def decode(self, content: Content) -> Item:
        return _decode(self.model.inputs, content)


def _sorted_batches(ready: _Ready) -> list[list[Item]]:
    ordered = sorted(ready.items, key=num_tokens)
    batches = [ordered[i : i + BATCH_SIZE] for i in range(0, len(ordered), BATCH_SIZE)]
    Random(0).shuffle(batches)
    return batches


@cache
def _ready(kernel: Kernel) -> _Ready:
    model = checkpoint.load(kernel.checkpoint).model
    backend = TorchBackend() if kernel.backend == "torch" else _onnx_backend()
    backend.prepare(model)
    plan = model.plan(Subnet(dict(kernel.subnet)), model.inputs.plan_shapes(), kernel.tasks)
    items = [_decode(model.inputs, content) for content in kernel.contents]
    ready = _Ready(model, backend, plan, items)

    def run() -> None:
        ready.run(items[:1])
        time.sleep(_POLL_S)

    settle_backend(backend, run)
    return ready


def _onnx_backend() -> TorchBackend:
    from models.backends.onnx.backend import OnnxBackend  # the extra may not be installed
    from models.backends.onnx.records import SessionPolicy

    return OnnxBackend(
        max_bytes=_MAX_SESSION_BYTES, policy=SessionPolicy(step_after=1, fuse_after=1)
    )


def _decode(inputs: Inputs, content: Content) -> Item:
    given = Text(content) if isinstance(content, str) else Encoded(content)
    name = next(iter(inputs))
    return inputs.item({name: inputs[name].type.decode(given)})
