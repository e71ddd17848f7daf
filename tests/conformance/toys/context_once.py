"""Two interleaved stacks: candidate layer l attends over its own tokens and context layer l's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs, Slot
from models.inputs.tensor import TensorInput
from models.nn.ragged import Ragged
from models.space import Axis, Space, Subnet
from models.tasks import Task, wanted_tasks

SIDES = ("context", "candidate")


@dataclass(frozen=True)
class ContextOnceConfig:
    features: int = 6
    hidden: int = 8
    layers: int = 3
    max_length: int = 24


class Block(nn.Module):
    """One layer of one stack; of the context it also makes the keys and values of candidates."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.memory = nn.Linear(hidden, 2 * hidden)

    def remember(self, x: Ragged) -> Ragged:
        """Return keys and values of tokens, packed, [tokens, 2 * hidden]."""
        return x.replace(self.memory(x.values))

    def forward(self, x: Ragged, *others: Ragged) -> Ragged:
        """Attend over own tokens and over memories of others, of other lengths."""
        query = x.layout.pad(self.query(x.values))[:, None]
        parts = [self.remember(x), *others]
        key, value = torch.cat([one.layout.pad(one.values) for one in parts], 1).chunk(2, -1)
        mask = torch.cat([one.layout.present for one in parts], 1)[:, None, None]
        mask = mask.expand(-1, -1, x.layout.longest, -1)
        found = F.scaled_dot_product_attention(query, key[:, None], value[:, None], attn_mask=mask)
        return x.replace((x.values + self.out(x.layout.unpad(found[:, 0]))).tanh())


class ContextOnce(nn.Module):
    def __init__(self, name: str, config: ContextOnceConfig) -> None:
        super().__init__()
        self.name, self.config = name, config
        hidden, layers = config.hidden, range(config.layers)
        self.enter = nn.ModuleDict({side: nn.Linear(config.features, hidden) for side in SIDES})
        self.context = nn.ModuleList(Block(hidden) for _ in layers)
        self.candidate = nn.ModuleList(Block(hidden) for _ in layers)
        self.score = nn.Linear(hidden, 1)

    @cached_property
    def inputs(self) -> Inputs:
        numbers = TensorInput((self.config.features,), max_length=self.config.max_length)
        return Inputs({side: Slot(numbers) for side in SIDES})

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        return {"relevance": Task("relevance", "score", metric="ndcg@10")}

    @cached_property
    def space(self) -> Space:
        return Space((Axis("depth", tuple(range(1, self.config.layers + 1))),))

    def run_enter(self, side: str, x: Ragged) -> Ragged:
        return x.replace(self.enter[side](x.values))

    def run_score(self, x: Ragged) -> Tensor:
        return self.score(x.layout.mean(x.values))[:, 0]  # type: ignore[no-any-return]

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        depth, hidden = int(self.space.check(subnet)["depth"]), self.config.hidden
        lengths = {side: shapes[side][0] for side in SIDES}
        context, candidate = (
            Step(
                ("enter", side),
                partial(self.run_enter, side),
                (side,),
                Cost(length * self.config.features * hidden),
            )
            for side, length in lengths.items()
        )
        for i in range(depth):
            block: Block = self.context[i]  # type: ignore[assignment]
            context = Step(("context", i), block, (context,), self._cost(lengths["context"], 0))
            cost = Cost(2 * lengths["context"] * hidden**2)
            memory = Step(("memory", i), block.remember, (context,), cost)
            cost = self._cost(lengths["candidate"], lengths["context"])
            candidate = Step(("candidate", i), self.candidate[i], (candidate, memory), cost)
        answer = Step("score", self.run_score, (candidate,), Cost(hidden))
        return Plan(dict.fromkeys(wanted_tasks(self.tasks, tasks), answer))

    def _cost(self, own: int, others: int) -> Cost:
        hidden = self.config.hidden
        return Cost(4 * own * hidden**2 + 2 * own * (own + others) * hidden)


FAMILY = Family(ContextOnceConfig, ContextOnce)
