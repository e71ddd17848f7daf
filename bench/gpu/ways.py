"""Ways to run plans on a device, each as a back end."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.backends.cuda.batches import content_of, source_of, taken
from models.backends.cuda.graphs import GraphBackend, RecordingPolicy
from models.backends.torch import TorchBackend
from models.core import Plan
from models.nn.ragged import Ragged, Value
from models.run.backend import Backend
from models.run.chain import Chain
from models.run.execution import never, run_plans

EAGER = "eager"
WAYS = (EAGER, "recorded", "recorded, compiled", "compiled", "ONNX Runtime")
_WARM = 3


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


def make_backend(way: str, device: str) -> Backend:
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


def make_ready(backend: Backend, plan: Plan, inputs: Mapping[str, Value]) -> None:
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
