"""A classifier of numbers whose weights are built for so many bits; the head is whole in all."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs
from models.inputs.tensor import TensorInput
from models.space import Axis, Space, Subnet, Value
from models.tasks import Task, wanted_tasks
from models.variants import not_built


@dataclass(frozen=True)
class BitsConfig:
    features: int = 5
    labels: tuple[str, ...] = ("round", "square", "flat")
    widths: tuple[int, ...] = (8, 16)
    bits: tuple[int, ...] = (3, 5, 32)


class Bits(nn.Module):
    def __init__(self, name: str, config: BitsConfig) -> None:
        super().__init__()
        self.name, self.config, self.bits = name, config, config.bits[-1]
        self.hidden = nn.Linear(config.features, config.widths[-1])
        self.head = nn.Linear(config.widths[-1], len(config.labels))

    @cached_property
    def inputs(self) -> Inputs:
        return Inputs.of("features", TensorInput((self.config.features,)))

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        return {"kind": Task("kind", "classes", self.config.labels)}

    @cached_property
    def space(self) -> Space:
        bits = Axis("bits", self.config.bits, when="load")
        return Space((bits, Axis("width", self.config.widths)))

    def variant(self, choices: Mapping[str, Value]) -> Bits:
        """Return a model whose hidden weights have other bits; all else is the same tensors."""
        made = copy.copy(self)
        made.bits, made._modules = int(choices["bits"]), dict(self._modules)
        made.hidden = copy.deepcopy(self.hidden)
        for weight in made.hidden.parameters():
            step = weight.abs().max() / (2 ** (made.bits - 1) - 1)
            weight.data = torch.round(weight / step) * step
        return made

    def run_hidden(self, width: int, x: Tensor) -> Tensor:
        return F.relu(F.linear(x, self.hidden.weight[:width], self.hidden.bias[:width]))

    def run_head(self, x: Tensor) -> Tensor:
        return F.linear(x, self.head.weight[:, : x.shape[1]], self.head.bias)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        subnet = self.space.check(subnet)
        width, bits = int(subnet["width"]), int(subnet["bits"])
        cost = Cost(self.config.features * width)
        run = partial(self.run_hidden, width) if bits == self.bits else not_built
        hidden = Step(("hidden", bits, width), run, ("features",), cost)
        answer = Step("head", self.run_head, (hidden,), Cost(width * len(self.config.labels)))
        return Plan(dict.fromkeys(wanted_tasks(self.tasks, tasks), answer))


FAMILY = Family(BitsConfig, Bits)
