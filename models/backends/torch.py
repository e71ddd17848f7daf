"""Run plans with torch, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from models.core import Step
from models.nn.ragged import Ragged
from models.run.execution import Backend, StoppedError, Value, never


class TorchBackend(Backend):
    """Runs the steps of a plan one after the other on one device."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.is_synchronous = self.device.type == "cpu"

    @property
    def name(self) -> str:
        """What receipts call this back end, for example ``torch-cpu``."""
        return f"torch-{self.device.type}"

    @property
    def hardware(self) -> str:
        """The name of the CUDA device."""
        return "" if self.is_synchronous else torch.cuda.get_device_name(self.device)

    def prepare(self, model: nn.Module) -> None:
        """Move a model's weights to the device, in the layout its kernels like best."""
        model.to(self.device)
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def place(self, value: Value) -> Value:
        """Return a value on the device, images with their channels last."""
        if isinstance(value, Ragged):
            return value.to(self.device)
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        return value.to(self.device, memory_format=layout)

    def wait(self) -> None:
        """Return once the device is idle."""
        if self.device.type == "cuda":  # pragma: no cover - needs a GPU
            torch.cuda.synchronize(self.device)

    def run_chain(
        self, steps: Sequence[Step], values: Mapping[str, Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps; see `models.run.execution.Backend.run_chain`."""
        seen = dict(values)
        for step in steps:
            if stop():
                raise StoppedError
            seen[step.emits] = step.run(*(seen[name] for name in step.takes))
        return seen[steps[-1].emits]
