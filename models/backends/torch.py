"""Run plans with torch, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from models.core import KeyPath, Step


class TorchBackend:
    """Runs the steps of a plan one after the other on one device."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    @property
    def name(self) -> str:
        """What receipts call this back end, for example ``torch-cpu``."""
        return f"torch-{self.device.type}"

    def prepare(self, model: nn.Module) -> None:
        """Move a model's weights to the device, in the layout its kernels like best."""
        model.to(self.device)
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(self, steps: Iterable[Step], inputs: Mapping[str, Tensor]) -> dict[KeyPath, Tensor]:
        """Run a plan, or several merged, on one batch; each path is computed once.

        Args:
            steps: Of prepared models, parents before children, each path once.
            inputs: By name, each of shape [batch, ...], on any device.

        Returns:
            What every leaf emitted, by path, on the CPU, each of shape [batch, ...].

        Raises:
            KeyError: If a step takes a value that neither the inputs nor its ancestors have.
        """
        steps = tuple(steps)
        start = {name: self._place(value) for name, value in inputs.items()}
        last_use = {step.after.path: i for i, step in enumerate(steps) if step.after}
        values: dict[KeyPath, dict[str, Tensor]] = {}
        results: dict[KeyPath, Tensor] = {}
        for i, step in enumerate(steps):
            parent = step.after.path if step.after else None
            seen = start if parent is None else values[parent]
            result = step.run(*(seen[name] for name in step.takes))
            if step.path in last_use:
                values[step.path] = {**seen, step.emits: result}
            else:
                results[step.path] = result.cpu()
            if parent is not None and last_use[parent] == i:
                del values[parent]  # what no later step takes is given back at once
        return results

    def _place(self, value: Tensor) -> Tensor:
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        return value.to(self.device, memory_format=layout)
