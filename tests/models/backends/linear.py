"""Steps whose graphs are made by hand, so that sessions are built at once, and clocks that lie."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, cycle
from typing import Any

import torch
import torch.nn.functional as F
from onnx import GraphProto, TensorProto, helper
from torch import Tensor

from models.backends.onnx.backend import OnnxBackend
from models.backends.onnx.export import OUTPUT, Exported
from models.backends.timing import Clock
from models.core import Step
from models.nn.ragged import Value
from models.run.chain import Chain

WIDTH = 64


def linear_step(name: str, takes: Step | str = "x") -> Step:
    weight = torch.randn(WIDTH, WIDTH) / WIDTH**0.5
    return Step(name, partial(F.linear, weight=weight), (takes,))


def linear_chain(length: int) -> list[Step]:
    steps: list[Step] = []
    for number in range(length):
        steps.append(linear_step(f"step{number}", steps[-1] if steps else "x"))
    return steps


class ByHand:
    """Exports linear steps."""

    def export(self, run: Any, args: Sequence[Value]) -> Exported:
        shape = (None, WIDTH)
        proto = GraphProto(
            name="linear",
            node=[helper.make_node("Gemm", ["input0", "weight"], [OUTPUT], transB=1)],
            input=[helper.make_tensor_value_info("input0", TensorProto.FLOAT, shape)],
            output=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
        )
        return Exported(proto, {"weight": run.keywords["weight"]})

    def close(self) -> None:
        pass


def by_torch(steps: Sequence[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step.run(x)
    return x


def run(backend: OnnxBackend, steps: Sequence[Step], rows: int = 5) -> None:
    """Run steps on a batch and compare with torch."""
    x = torch.randn(rows, WIDTH)
    found = backend.run_chain(Chain(steps), [x])
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, by_torch(steps, x), atol=1e-4, rtol=0)


def warm(backend: OnnxBackend, steps: Sequence[Step]) -> None:
    backend.warm(Chain(steps), [torch.randn(1, WIDTH)])


def wait_for_builds(backend: OnnxBackend, builds: int) -> None:
    """Spin until the thread has built so many."""
    pause = threading.Event()
    for _ in range(1000):
        if backend.stats.builds >= builds:
            return
        pause.wait(0.01)
    raise AssertionError(f"{backend.stats}")


def ticking(*durations_s: float) -> Clock:
    """Return a clock by which calls take so long, one after the other, and all over again."""
    times = accumulate(step for duration in cycle(durations_s) for step in (0.0, duration))
    return lambda: next(times)


def session_wins() -> Clock:
    """Return a clock by which a session takes half the time of what runs without it."""
    return ticking(0.001, 0.002)
