"""One set of weights between several skills: a base, and what fine-tuning for each has changed.

A *mix* says how much of each skill's change every block of weights gets. Mixes are a load axis:
their weights are built when a request wants them, at no MACs more. The table has the score of each
task under each mix, so that preferences choose the mix. Where a mix takes a skill in full and no
other, its weights are the skill's own, bit for bit; where it takes none, they are the base's.

Axes: ``mix``, the last of which is the base alone, and those of the wrapped model.

Sources: Ilharco et al. 2023, Editing Models with Task Arithmetic, arXiv 2212.04089, for sums of
changes; Zhang et al. 2024, aTLAS, arXiv 2407.02880, for a coefficient per block.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from models.core import Plan, Shapes, Step
from models.families import Family
from models.nn.replaced import with_weights
from models.space import Axis, Space, Subnet, Value
from models.variants import not_built
from models.wrapped import Wrapped

AXIS = "mix"


@dataclass(frozen=True)
class MixedConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        family: Of the wrapped model.
        model: Its configuration, as in the manifest of its own checkpoint.
        skills: Names of what it was fine-tuned for.
        blocks: What the names of parameters begin with that are mixed, each a block; all others
            are the base's.
        mixes: By name, of each skill the coefficient of each block; the last has none but 0.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    model: Mapping[str, Any]
    skills: tuple[str, ...]
    blocks: tuple[str, ...]
    mixes: Mapping[str, tuple[tuple[float, ...], ...]]

    def __post_init__(self) -> None:
        """Refuse what cannot be built; ValueError naming the field and what is allowed."""
        for name in ("skills", "blocks"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)} must be one or more, each once")
        for name, mix in self.mixes.items():
            if len(mix) != len(self.skills) or any(len(own) != len(self.blocks) for own in mix):
                raise ValueError(
                    f"mixes.{name} must have {len(self.blocks)} numbers for each of "
                    f"{len(self.skills)} skills"
                )
        if not self.mixes or any(map(any, list(self.mixes.values())[-1])):
            raise ValueError("mixes: the last one must be of zeros: the base alone")


class Mixed(Wrapped):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    config: MixedConfig

    def __init__(self, name: str, config: MixedConfig) -> None:
        """Build the wrapped model, and room for each skill's weights.

        Raises:
            ValueError: If the family is unknown, a block has no weights, or the wrapped model has
                variants of its own.
        """
        super().__init__(name, config)
        self.check_one_set_of_weights()
        self.mix = list(config.mixes)[-1]
        mixed = {key: p for key, p in self.base.named_parameters() if self._block(key) is not None}
        found = {self._block(key) for key in mixed}
        if missing := [block for i, block in enumerate(config.blocks) if i not in found]:
            raise ValueError(f"blocks: no weights begin with {missing[0]!r}")
        self.names = tuple(mixed)
        self.skills = nn.ModuleList(
            nn.ParameterList(torch.empty_like(one) for one in mixed.values()) for _ in config.skills
        )

    def _block(self, parameter: str) -> int | None:
        """Return the number of a parameter's block; None if it is not mixed."""
        blocks = enumerate(self.config.blocks)
        return next((i for i, own in blocks if f"{parameter}.".startswith(f"{own}.")), None)

    @cached_property
    def space(self) -> Space:
        """The mix, and the wrapped model's axes."""
        space: Space = self.base.space
        mix = Axis(AXIS, tuple(self.config.mixes), when="load")
        return Space((mix, *space.axes), lambda subnet: space.has(self.of_base(subnet)))

    def vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return the mix, and what tells the wrapped model's vectors apart."""
        return {AXIS: subnet[AXIS], **self.base_vector_space(subnet)}

    @torch.no_grad()
    def variant(self, choices: Mapping[str, Value]) -> Mixed:
        """Return the model with the weights of a mix; all that are not mixed are shared."""
        name = str(choices[AXIS])
        base: Any = self.base
        weights: dict[str, Tensor] = dict(base.named_parameters())
        found = {}
        for number, key in enumerate(self.names):
            block = self._block(key)
            assert block is not None
            shares = [own[block] for own in self.config.mixes[name]]
            skills = [own.get_parameter(f"{number}") for own in self.skills]
            parts = [(s, skill) for s, skill in zip(shares, skills, strict=True) if s]
            if parts:
                found[key] = mixture(weights[key], parts)
        made = copy.copy(self)
        made.mix = name
        made._modules = {**self._modules, "base": with_weights(base, found)}
        made.__dict__.pop("_mixed", None)
        return made

    @cached_property
    def _mixed(self) -> frozenset[int]:
        """Of the parameters that are mixed, their identities."""
        own = dict(self.base.named_parameters())
        return frozenset(id(own[key]) for key in self.names)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the wrapped model's plan, under keys of the mix where its weights matter."""
        subnet = self.space.check(subnet)
        name = str(subnet[AXIS])
        plan: Plan = self.base.plan(self.of_base(subnet), shapes, tasks)

        def own(step: Step, takes: tuple[Step | str, ...]) -> Step:
            if not any(
                id(one) in self._mixed for part in _parts(step) for one in part.parameters()
            ):
                return replace(step, takes=takes)
            key, raw = (step.key, AXIS, name), step.raw
            is_there = name == self.mix
            return replace(
                step,
                key=key,
                takes=takes,
                run=step.run if is_there else not_built,
                raw=raw if is_there or raw is None else not_built,
                timed_as=step.time_key,
            )

        return plan.rewritten(own)


def mixture(base: Tensor, parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Return a base and a share of what each skill has changed of it.

    Sums are of double precision, in which a base and a difference to it give back the skill.

    Args:
        base: Weights of any shape.
        parts: Shares with skills' weights of the same shape.
    """
    whole = base.double()
    total = whole + sum(share * (skill.double() - whole) for share, skill in parts)
    return total.to(base.dtype)


def _parts(step: Step) -> list[nn.Module]:
    """Return the modules that a step's function has."""
    run = step.run
    bound = (run.func, *run.args) if isinstance(run, partial) else (run,)
    bound = (*bound, *(getattr(one, "__self__", None) for one in bound))
    return [one for one in bound if isinstance(one, nn.Module)]


FAMILY = Family(MixedConfig, Mixed)
