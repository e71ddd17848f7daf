"""An image and a text, which may be missing, meet in a fusion; two of three tasks share a neck."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs, Slot
from models.inputs.image import ImageInput
from models.inputs.text import TOKENIZER, TextInput
from models.inputs.text_config import TextConfig
from models.nn.layers import SlimConv2d, SlimLinear
from models.nn.ragged import Ragged
from models.space import Axis, Space, Subnet
from models.tasks import Task, wanted_tasks


@dataclass(frozen=True)
class TwoTowersConfig:
    image: ImageInput
    text: TextConfig
    labels: Mapping[str, tuple[str, ...]]
    vocabulary: int = 60
    hidden: int = 16
    widths: tuple[float, ...] = (0.5, 1.0)


class TwoTowers(nn.Module):
    assets = (TOKENIZER,)

    def __init__(self, name: str, config: TwoTowersConfig) -> None:
        super().__init__()
        self.name, self.config, hidden = name, config, config.hidden
        self.conv = SlimConv2d(3, hidden, 3, 2)
        self.of_image = SlimLinear(hidden, hidden)
        self.words = nn.Embedding(config.vocabulary, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.of_text = SlimLinear(hidden, hidden)
        self.fusion = SlimLinear(2 * hidden, hidden)
        self.neck = nn.Linear(hidden, hidden)
        labels = config.labels.items()
        self.heads = nn.ModuleDict({name: SlimLinear(hidden, len(n)) for name, n in labels})
        self.vector = nn.Linear(hidden, hidden)

    def attach(self, folder: Path) -> None:
        self._text = TextInput.load(self.config.text, folder)

    @property
    def inputs(self) -> Inputs:
        return Inputs({"image": Slot(self.config.image), "text": Slot(self._text, required=False)})

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        heads = {name: Task(name, "classes", n) for name, n in self.config.labels.items()}
        return {**heads, "vector": Task("vector", "embedding", metric="spearman")}

    @cached_property
    def space(self) -> Space:
        given = Axis("inputs", ("image", "image+text"), kind="given")
        widths = [Axis(name, self.config.widths) for name in ("image", "text", "neck")]
        dims = (self.config.hidden // 2, self.config.hidden)
        return Space((given, *widths, Axis("vector.dim", dims, kind="output", task="vector")))

    def run_conv(self, width: int, x: Tensor) -> Tensor:
        return F.relu(self.conv(x, width)).mean((2, 3))

    def run_text(self, width: int, tokens: Ragged) -> Tensor:
        x = self.words(tokens.values)
        x = F.relu(F.linear(x, self.mix.weight[:width], self.mix.bias[:width]))
        return self.of_text(tokens.layout.mean(x))  # type: ignore[no-any-return]

    def run_fusion(self, *towers: Tensor) -> Tensor:
        return F.relu(self.fusion(torch.cat(towers, 1)))

    def run_neck(self, width: int, x: Tensor) -> Tensor:
        return F.relu(F.linear(x, self.neck.weight[:width], self.neck.bias[:width]))

    def run_raw(self, dim: int, x: Tensor) -> Tensor:
        return F.linear(x, self.vector.weight[:dim], self.vector.bias[:dim])

    def run_vector(self, dim: int, x: Tensor) -> Tensor:
        return F.normalize(self.run_raw(dim, x), dim=1)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        wanted, hidden = wanted_tasks(self.tasks, tasks), self.config.hidden
        subnet = self.space.select({None, *wanted}).check(subnet)
        if subnet["inputs"] != "+".join(sorted(shapes)):
            raise ValueError(f"inputs={subnet['inputs']!r} are not those of shapes={dict(shapes)}")
        image, text, neck = (round(float(subnet[a]) * hidden) for a in ("image", "text", "neck"))
        pixels = -(-shapes["image"][1] // 2) * -(-shapes["image"][2] // 2)
        run = partial(self.run_conv, image)
        x = Step(("conv", image), run, ("image",), Cost(27 * image * pixels))
        towers = [Step("of image", self.of_image, (x,), Cost(image * hidden))]
        if "text" in shapes:
            cost = Cost((shapes["text"][0] + 1) * hidden * text)
            towers.append(Step(("text", text), partial(self.run_text, text), ("text",), cost))
        x = Step("fusion", self.run_fusion, tuple(towers), Cost(len(towers) * hidden**2))
        narrow = Step(("neck", neck), partial(self.run_neck, neck), (x,), Cost(hidden * neck))
        answers = {}
        for task in wanted:
            if task == "vector":
                dim, cost = int(subnet["vector.dim"]), Cost(hidden * int(subnet["vector.dim"]))
                run, raw = partial(self.run_vector, dim), partial(self.run_raw, dim)
                answers[task] = Step((task, dim), run, (x,), cost, raw)
            else:
                cost = Cost(neck * len(self.config.labels[task]))
                answers[task] = Step(("head", task), self.heads[task], (narrow,), cost)
        return Plan(answers)


FAMILY = Family(TwoTowersConfig, TwoTowers)
