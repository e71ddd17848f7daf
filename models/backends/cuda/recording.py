"""What makes a function of tensors repeatable at one stroke: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from models.nn.ragged import Value


class Recorder(Protocol):
    """Makes what a function does repeatable at one stroke."""

    def record(self, run: Callable[[], Value]) -> tuple[Callable[[], None], Value]:
        """Return what does again all that ``run`` does, and what ``run`` returned.

        Each repetition reads the tensors that ``run`` read and writes those it returned.
        """


class CudaRecorder:  # pragma: no cover - needs a GPU
    """Records CUDA graphs, which share one pool of memory: none runs beside another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Value]) -> tuple[Callable[[], None], Value]:
        """Capture a function on the current device; see `Recorder.record`."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # lets libraries choose kernels and allocate what they keep
                run()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device: the compiler does.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = run()
        return graph.replay, output
