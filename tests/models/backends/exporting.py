"""Exporting without another process, which has tests of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from models.backends.onnx.export import Exported, export
from models.nn.ragged import Value
from models.run.chain import Run


class InThisProcess:
    def export(self, run: Run, args: Sequence[Value]) -> Exported:
        return export(run, args)

    def close(self) -> None:
        pass


def read_operators_once(patch: pytest.MonkeyPatch) -> None:
    """Have the exporter read its table of operators once; in every call it takes two seconds."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    read = cache(registration.ONNXRegistry.from_torchlib)
    patch.setattr(registration.ONNXRegistry, "from_torchlib", staticmethod(read))
