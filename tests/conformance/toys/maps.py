"""A convolutional model with a class and a distance for each pixel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs
from models.inputs.image import ImageInput
from models.nn.layers import SlimConv2d
from models.space import Axis, Space, Subnet
from models.tasks import Task, wanted_tasks


@dataclass(frozen=True)
class MapsConfig:
    image: ImageInput
    labels: tuple[str, ...] = ("sky", "sea", "land")
    full: int = 16
    widths: tuple[float, ...] = (0.25, 0.5, 1.0)


class Maps(nn.Module):
    def __init__(self, name: str, config: MapsConfig) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.trunk = SlimConv2d(3, config.full, 3, 2)
        channels = {task: self._outputs(task) for task in self.tasks}
        self.inner = nn.ModuleDict(
            {task: SlimConv2d(config.full, config.full, 3) for task in channels}
        )
        self.last = nn.ModuleDict(
            {task: SlimConv2d(config.full, n, 1) for task, n in channels.items()}
        )

    @cached_property
    def inputs(self) -> Inputs:
        return Inputs.of("image", self.config.image)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        return {
            "parts": Task("parts", "map", self.config.labels, "miou"),
            "depth": Task("depth", "map", metric="rmse", unit="m", channels=("distance",)),
        }

    @cached_property
    def space(self) -> Space:
        widths = self.config.widths
        return Space(
            (Axis("trunk", widths), *(Axis(f"{t}.width", widths, task=t) for t in self.tasks))
        )

    def run_trunk(self, width: int, x: Tensor) -> Tensor:
        return F.relu(self.trunk(x, width))

    def run_task(self, task: str, width: int, x: Tensor) -> Tensor:
        """Map [batch, in, h, w] to [batch, channels, 2h, 2w]."""
        last = self.last[task]
        found = last(F.relu(self.inner[task](x, width)), self._outputs(task))
        return F.interpolate(found, scale_factor=2.0)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        wanted = wanted_tasks(self.tasks, tasks)
        subnet = self.space.select({None, *wanted}).check(subnet)
        _, height, width = shapes["image"]
        pixels = -(-height // 2) * -(-width // 2)
        inner = self._channels(subnet["trunk"])
        cost = Cost(27 * inner * pixels)
        trunk = Step(("trunk", inner), partial(self.run_trunk, inner), ("image",), cost)
        answers = {}
        for task in wanted:
            own = self._channels(subnet[f"{task}.width"])
            cost = Cost((9 * inner + self._outputs(task)) * own * pixels)
            run = partial(self.run_task, task, own)
            answers[task] = Step(("task", task, own), run, (trunk,), cost)
        return Plan(answers)

    def _outputs(self, task: str) -> int:
        return len(self.tasks[task].labels or self.tasks[task].channels)

    def _channels(self, width: object) -> int:
        return round(self.config.full * float(width))  # type: ignore[arg-type]


FAMILY = Family(MapsConfig, Maps)
