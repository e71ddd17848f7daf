"""Experts in the layers of a transformer: what skill and tokens of an item do not need is not run.

The wrapped model's feed-forward parts are what all items share; experts stand beside them in every
layer. An item may name its skill as an input of its own, as it would name an adapter. Items of
different skills run every step in one call, and inside of it each expert once on the rows that
read it.

Axes: ``experts``, how many of a layer's experts an item reads; ``tasks_resident``, a load axis,
which experts there are at all: those that a skill uses, or all; and those of the wrapped model. An
item of a skill whose experts are all there is answered as if all experts were, bit for bit, where
it reads no more of them than it uses.

Sources: Ye and Xu 2023, TaskExpert, arXiv 2307.15324, for experts read per task; Chen et al. 2023,
arXiv 2306.17165, for taking out what a task uses; Dai et al. 2022, SkillNet, arXiv 2205.06126, for
skills that are given.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from torch import nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.nn.experts import Experts, with_experts
from models.nn.transformer import layers_of
from models.space import Axis, Space, Subnet, Value
from models.variants import not_built
from models.wrapped import NamingModel, layer_call

SKILL = "skill"
RESIDENT, COUNT = "tasks_resident", "experts"
ALL = "all"
_MOST = 64  # skills, each a label of metrics; and experts of a layer
_MAX_NAME = 100


@dataclass(frozen=True)
class ExpertsConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        family: Of the wrapped model.
        model: Its configuration, as in the manifest of its own checkpoint.
        experts: Of each layer, at most 64.
        units: Feed-forward units of an expert.
        counts: Experts that an item may read in each layer, ascending.
        uses: By skill, at most 64, the experts of each layer that are its own.
        resident: Skills whose experts may be there alone, and ``all``; the checkpoint has those of
            the last.
        routing: ``given``: an item's experts follow from its skill. ``content``: from its skill
            and its tokens.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    model: Mapping[str, Any]
    experts: int
    units: int
    counts: tuple[int, ...]
    uses: Mapping[str, tuple[tuple[int, ...], ...]]
    resident: tuple[str, ...] = (ALL,)
    routing: Literal["given", "content"] = "content"

    def __post_init__(self) -> None:
        """Refuse what cannot be built; ValueError naming the field and what is allowed."""
        for field, count in (("experts", self.experts), ("uses", len(self.uses))):
            if not 1 <= count <= _MOST:
                raise ValueError(f"{field}: {count}; 1 to {_MOST}")
        if self.units < 1:
            raise ValueError(f"units={self.units} must be 1 or more")
        counts = list(self.counts)
        if not counts or counts != sorted(set(counts)) or not 0 < counts[0] <= self.experts:
            raise ValueError(f"counts={counts} must ascend, from 1 to {self.experts}")
        for skill, layers in self.uses.items():
            if not skill.strip() or len(skill) > _MAX_NAME or skill == ALL:
                raise ValueError(f"uses: {skill[:80]!r} must have 1 to {_MAX_NAME} characters")
            for own in layers:
                if list(own) != sorted(set(own)) or not set(own) <= set(range(self.experts)):
                    raise ValueError(f"uses.{skill}: {list(own)} must ascend below {self.experts}")
        names = self.resident
        if not names or len(set(names)) < len(names) or not set(names) <= {*self.uses, ALL}:
            raise ValueError(f"resident={list(names)} must be of {[*self.uses, ALL]}, each once")
        if counts[0] > min(self.least(name) for name in names):
            raise ValueError(f"uses: a skill needs {counts[0]} experts or more in each layer")
        if counts[-1] > self.least(names[-1]):
            raise ValueError(f"counts={counts}: {self.least(names[-1])} experts in some layer")

    def held(self, name: str, layer: int) -> Sequence[int]:
        """Return the experts of a layer that are there where those of a skill, or all, are."""
        return range(self.experts) if name == ALL else self.uses[name][layer]

    def least(self, name: str) -> int:
        """Return how many experts there are at least in each layer; see `held`."""
        return self.experts if name == ALL else min(map(len, self.uses[name]), default=0)


class ExpertModel(NamingModel):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    config: ExpertsConfig
    named = SKILL

    def __init__(self, name: str, config: ExpertsConfig) -> None:
        """Build the wrapped model and the experts that are there.

        Raises:
            ValueError: If its family is unknown, or its layers are not those that ``uses`` has.
        """
        super().__init__(name, config)
        layers = layers_of(self.base)
        self.check_one_set_of_weights()
        for skill, own in config.uses.items():
            if len(own) != len(layers):
                raise ValueError(f"uses.{skill} has {len(own)} layers, the model {len(layers)}")
        self.resident = config.resident[-1]
        self.experts = nn.ModuleList(
            Experts(
                layer.attention.config,
                config.units,
                [own[i] for own in config.uses.values()],
                config.held(self.resident, i),
                config.counts,
                experts=config.experts,
                by_content=config.routing == "content",
            )
            for i, layer in enumerate(layers)
        )

    @property
    def parts(self) -> Sequence[Experts]:
        """The experts of each layer."""
        return list(self.experts)  # type: ignore[arg-type]  # torch says modules

    @property
    def names(self) -> Sequence[str]:
        """The skills."""
        return tuple(self.config.uses)

    @cached_property
    def space(self) -> Space:
        """Which experts are there, whether a skill is given, how many are read; and the rest."""
        config = self.config
        axes = (
            Axis(RESIDENT, config.resident, when="load"),
            self.inputs_axis,
            Axis(COUNT, config.counts),
        )
        base: Space = self.base.space

        def go_together(subnet: Subnet) -> bool:
            is_there = int(subnet[COUNT]) <= config.least(str(subnet[RESIDENT]))
            return is_there and base.has(self.of_base(subnet))

        return Space((*axes, *base.axes), go_together)

    def vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return what tells vectors apart: all but the skill, which the item names."""
        own = (RESIDENT, "inputs", COUNT)
        return {**self.base_vector_space(subnet), **{axis: subnet[axis] for axis in own}}

    def variant(self, choices: Mapping[str, Value]) -> ExpertModel:
        """Return the model with some experts only: the same tensors, and none of the others."""
        made = copy.copy(self)
        made.resident = str(choices[RESIDENT])
        made._modules = {**self._modules, "experts": nn.ModuleList()}
        uses = self.config.uses.values()
        for i, part in enumerate(self.parts):
            held = self.config.held(made.resident, i)
            made.experts.append(part.only([own[i] for own in uses], held))
        return made

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the wrapped model's plan, with experts in its layers."""
        subnet, length = self.space.check(subnet), self.tokens(shapes)
        plan = self.base_plan(subnet, shapes, tasks)
        given = (SKILL,) if SKILL in shapes else ()
        count, resident = int(subnet[COUNT]), str(subnet[RESIDENT])
        layers = layers_of(self.base)

        def own(step: Step, takes: tuple[Step | str, ...]) -> Step:
            call = layer_call(step)
            if call is None:
                return replace(step, takes=takes)
            layer, groups, units, maps = call
            i = layers.index(layer)
            part, held = self.parts[i], len(self.config.held(resident, i))
            cost = Cost(part.macs(count, length), part.bytes(held, bool(given)))
            key = (step.key, COUNT, count)
            run = partial(with_experts, layer, part, count, groups, units, **maps)
            return Step(
                (*key, resident),
                run if resident == self.resident else not_built,
                (*takes, *given),
                step.cost + cost,
                timed_as=(*key, self.config.resident[-1]),
                tolerance=step.tolerance,
            )

        return plan.rewritten(own)


def extracted(model: ExpertModel, resident: str) -> ExpertModel:
    """Return a model of some experts only, whose checkpoint has no others; tensors are shared.

    Args:
        model: With all experts.
        resident: The skill that uses them; of the model's ``resident``.

    Raises:
        ValueError: If that is none.
    """
    config = model.config
    if resident not in config.resident:
        raise ValueError(f"{resident!r} is not known; one of {list(config.resident)}")
    counts = tuple(count for count in config.counts if count <= config.least(resident))
    made = model.variant({RESIDENT: resident})
    made.config = replace(config, resident=(resident,), counts=counts)
    made.__dict__.pop("space", None)
    return made


FAMILY = Family(ExpertsConfig, ExpertModel)
