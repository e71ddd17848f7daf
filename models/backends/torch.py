"""Run plans with torch, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from models.nn.ragged import Ragged, Value
from models.run.backend import Backend
from models.run.chain import Chain, Run
from models.run.execution import StoppedError, never


class TorchBackend(Backend):
    """Runs the steps of a plan one after the other on one device."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        if self.device == torch.device("cuda"):  # unlike the device of any tensor
            self.device = torch.device("cuda", 0)
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
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps; see `models.run.backend.Backend.run_chain`."""

        def call(run: Run, args: Sequence[Value]) -> Value:
            if stop():
                raise StoppedError
            return run(*args)  # type: ignore[no-any-return]

        return chain.run(inputs, call)
