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
        # One for all: what libraries keep for each stream is not allocated during a capture then.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, run: Callable[[], Value]) -> tuple[Callable[[], None], Value]:
        """Capture a function; see `Recorder.record`."""
        current = torch.cuda.current_stream(self._device)
        graph = torch.cuda.CUDAGraph()
        # Entered again, since a capture that fails leaves its own stream behind as the current one.
        with torch.cuda.device(self._device), torch.cuda.stream(current):
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(2):  # lets libraries choose kernels and allocate what they keep
                    run()
            current.wait_stream(self._stream)
            # Other threads may go on using the device: the compiler does.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                output = run()
        return graph.replay, output
