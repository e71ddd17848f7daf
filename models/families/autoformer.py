"""Vision transformer of which embedding, heads, units and layers can be chosen, weights entangled.

Axes: ``embed`` (width of the embedding), ``depth`` (layers, the first ones), ``heads`` and
``ratio`` (feed-forward units by the width of the embedding), each one value for all layers. A
subnet reads leading slices of all weights; norms need no statistics.

Source: Chen et al. 2021, AutoFormer, arXiv 2107.00651.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs
from models.nn.entangled import EntangledLayer, PatchTokens, SlicedNorm
from models.nn.patches import PatchConfig
from models.space import Axis, Space, Subnet
from models.tasks import Metric, Task, wanted_tasks


@dataclass(frozen=True)
class AutoFormerConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        labels: Class names.
        image: How an image becomes tokens; as many patches high as wide.
        embeds: Widths of the embedding, ascending.
        depths: Numbers of layers, ascending.
        heads: Of each layer, ascending.
        ratios: Feed-forward units by the width of the embedding, ascending; cut off to a number.
        head_dim: Of each head.
        farthest: Distance in patches from which positions are told apart no more.
        pooled: Whether the mean over patches is classified; else the first token.
        task: Name of the one task.
        metric: What the table scores.
        eps: Of the norms.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    labels: tuple[str, ...]
    image: PatchConfig
    embeds: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]
    head_dim: int = 64
    farthest: int = 14
    pooled: bool = True
    task: str = "label"
    metric: Metric = "accuracy"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        for name in ("embeds", "depths", "heads", "ratios"):
            told = list(getattr(self, name))
            if not told or told != sorted(set(told)) or told[0] <= 0:
                raise ValueError(f"{name}={told} must be above 0 and ascend")
        if self.image.prefix != 1:
            raise ValueError(f"image.prefix={self.image.prefix} must be 1")
        if self.image.input.height != self.image.input.width:
            raise ValueError(f"image={self.image.input.shape} must be as high as wide")


class AutoFormer(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    def __init__(self, name: str, config: AutoFormerConfig) -> None:
        super().__init__()
        self.name, self.config = name, config
        embed, heads = config.embeds[-1], config.heads[-1]
        units = int(embed * config.ratios[-1])
        self.embedding = PatchTokens(embed, config.image.size, config.image.tokens)
        self.layers = nn.ModuleList(
            EntangledLayer(embed, heads, config.head_dim, units, config.farthest, config.eps)
            for _ in range(config.depths[-1])
        )
        self.norm = SlicedNorm(embed, config.eps)
        self.classifier = nn.Linear(embed, len(config.labels))

    @cached_property
    def inputs(self) -> Inputs:
        """An image."""
        return Inputs.of("image", self.config.image.input)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """One classification task."""
        name, config = self.config.task, self.config
        return {name: Task(name, "classes", tuple(config.labels), config.metric)}

    @cached_property
    def space(self) -> Space:
        """Embed, depth, heads and ratio."""
        config = self.config
        values = {
            "embed": config.embeds,
            "depth": config.depths,
            "heads": config.heads,
            "ratio": config.ratios,
        }
        return Space(tuple(Axis(name, own) for name, own in values.items()))

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the embedding, a step per layer and the head; see `models.elastic.Elastic`."""
        wanted = wanted_tasks(self.tasks, tasks)
        subnet, expected = self.space.check(subnet), {"image": self.config.image.input.shape}
        if dict(shapes) != expected:
            raise ValueError(f"shapes={dict(shapes)} must be {expected}")
        embed, heads = int(subnet["embed"]), int(subnet["heads"])
        units, tokens = int(embed * float(subnet["ratio"])), self.config.image.tokens
        cost = Cost(self.embedding.macs(embed), self.embedding.bytes(embed))
        step = Step(("embed", embed), partial(self.embedding, embed), ("image",), cost)
        for i in range(int(subnet["depth"])):
            layer = self.layers[i]
            assert isinstance(layer, EntangledLayer)
            cost = Cost(layer.macs(embed, heads, units, tokens), layer.bytes(embed, heads, units))
            run = partial(layer, heads, units)
            step = Step(("layer", i, embed, heads, units), run, (step,), cost)
        labels = len(self.config.labels)
        cost = Cost(embed * labels, 4 * (embed * labels + labels + 2 * embed))
        answer = Step(("head", embed), self.classify, (step,), cost)
        return Plan(dict.fromkeys(wanted, answer))

    def classify(self, x: Tensor) -> Tensor:
        """Map [batch, tokens, embed] to logits [batch, labels]."""
        x = self.norm(x)
        x = x[:, 1:].mean(1) if self.config.pooled else x[:, 0]
        return F.linear(x, self.classifier.weight[:, : x.shape[1]], self.classifier.bias)


FAMILY = Family(AutoFormerConfig, AutoFormer)
