"""Run plans with torch, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from models.core import KeyPath, Step
from models.ragged import Ragged

Value: TypeAlias = Tensor | Ragged


class Advanced(NamedTuple):
    """What a run gave.

    Attributes:
        leaves: By path, on the CPU, each of shape [batch, ...].
        kept: What the steps to keep emitted, by path, on the device.
    """

    leaves: dict[KeyPath, Tensor]
    kept: dict[KeyPath, Value]


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

    def run(self, steps: Iterable[Step], inputs: Mapping[str, Value]) -> dict[KeyPath, Tensor]:
        """Run a plan, or several merged, on one batch; each path is computed once.

        Args:
            steps: Of prepared models, parents before children, each path once.
            inputs: By name, each of shape [batch, ...] or packed rows, on any device.

        Returns:
            What every leaf emitted, by path, on the CPU, each of shape [batch, ...].

        Raises:
            KeyError: If a step takes a value that neither the inputs nor its ancestors have.
        """
        return self.advance(steps, inputs).leaves

    @torch.inference_mode()
    def advance(
        self,
        steps: Iterable[Step],
        inputs: Mapping[str, Value],
        resume: KeyPath = (),
        keep: Collection[KeyPath] = (),
    ) -> Advanced:
        """Run steps from the start or from where an earlier run left off.

        Args:
            steps: As for `run`; from a resumed path on, see `models.core.rest_after`.
            inputs: By name: of the request, or what the step at ``resume`` emitted.
            resume: Path of that step; empty for a run from the start.
            keep: Paths of inner steps whose values are wanted too.

        Raises:
            KeyError: If a step takes a value that neither the inputs nor its ancestors have.
        """
        steps = tuple(steps)
        start = {name: self._place(value) for name, value in inputs.items()}
        last_use = {step.after.path: i for i, step in enumerate(steps) if step.after}
        values: dict[KeyPath, dict[str, Value]] = {}
        leaves: dict[KeyPath, Tensor] = {}
        kept: dict[KeyPath, Value] = {}
        for i, step in enumerate(steps):
            parent = step.after.path if step.after else ()
            seen = start if parent == resume else values[parent]
            result = step.run(*(seen[name] for name in step.takes))
            if step.path in last_use:
                values[step.path] = {**seen, step.emits: result}
                if step.path in keep:
                    kept[step.path] = result
            else:
                leaves[step.path] = result.cpu()
            if parent in values and last_use[parent] == i:
                del values[parent]  # what no later step takes is given back at once
        return Advanced(leaves, kept)

    def _place(self, value: Value) -> Value:
        if isinstance(value, Ragged):
            return value.to(self.device)
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        return value.to(self.device, memory_format=layout)
