"""The back ends that every family is run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import onnxruntime as ort
import pytest

from models.backends.cuda.graphs import GraphBackend, RecordingPolicy
from models.backends.onnx.backend import OnnxBackend
from models.backends.onnx.export import Exported, export
from models.backends.torch import TorchBackend
from models.nn.ragged import Value
from models.run.backend import Backend
from models.run.chain import Chain, Run
from models.run.execution import never
from tests.models.backends.cuda.tape import Tape
from tests.models.backends.linear import session_wins

_AT_ONCE = RecordingPolicy(record_after=1, compile_after=None)


class InThisProcess:
    """Exports without another process, which has tests of its own."""

    def export(self, run: Run, args: Sequence[Value]) -> Exported:
        return export(run, args)

    def close(self) -> None:
        pass


class Warmed(OnnxBackend):
    """Builds the sessions of a chain before it runs it, however slow they are."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device, max_bytes=10**9, exporter=InThisProcess(), clock=session_wins())

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        self.warm(chain, inputs)
        return super().run_chain(chain, inputs, stop)


BACKENDS: dict[str, Callable[[], Backend]] = {
    "torch": TorchBackend,
    "onnx": Warmed,
    "recorded": lambda: GraphBackend("cpu", policy=_AT_ONCE, recorder=Tape()),
    "cuda": lambda: TorchBackend("cuda"),
    "cuda-graphs": lambda: GraphBackend("cuda", policy=_AT_ONCE),
    "cuda-onnx": lambda: Warmed("cuda"),
}
_HAS_CUDA_ONNX = "CUDAExecutionProvider" in ort.get_available_providers()
_MARKS = {
    "cuda": [pytest.mark.gpu],
    "cuda-graphs": [pytest.mark.gpu],
    "cuda-onnx": [
        pytest.mark.gpu,
        pytest.mark.skipif(not _HAS_CUDA_ONNX, reason="needs onnxruntime-gpu"),
    ],
}
EVERY = pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=_MARKS.get(name, [])) for name in BACKENDS],
    indirect=True,
)


def read_operators_once(patch: pytest.MonkeyPatch) -> None:
    """Have the exporter read its table of operators once; in every call it takes two seconds."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    read = cache(registration.ONNXRegistry.from_torchlib)
    patch.setattr(registration.ONNXRegistry, "from_torchlib", staticmethod(read))
