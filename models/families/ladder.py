"""Separately trained models behind one name; the budget chooses which of them answers.

The one axis, ``member``, names them, cheapest first. A member answers with its largest subnet. All
weights are in one checkpoint, so a ladder is verified, loaded, counted and reloaded like any model.
Members share no values, so no answer is deepened by another member.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from models import families
from models.core import Plan, Shapes, Step
from models.elastic import Elastic
from models.families import Family
from models.inputs import Inputs
from models.space import Axis, Space, Subnet
from models.tasks import Task, wanted_tasks

AXIS = "member"


@dataclass(frozen=True)
class Member:
    """One model of a ladder.

    Attributes:
        family: Of the model; no ladder.
        config: As in the manifest of its own checkpoint.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse a ladder of ladders."""
        if self.family == __name__.rpartition(".")[2]:
            raise ValueError(f"family={self.family!r}: a ladder's member must be no ladder")


@dataclass(frozen=True)
class LadderConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        members: By name, cheapest first.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    members: Mapping[str, Member]

    def __post_init__(self) -> None:
        """Refuse a ladder without a choice."""
        if len(self.members) < 2:
            raise ValueError(f"members={list(self.members)} must be two or more")


class Ladder(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    def __init__(self, name: str, config: LadderConfig) -> None:
        """Build every member.

        Raises:
            ValueError: If a family is unknown or a member's configuration cannot be built, or the
                members do not have the same tasks.
        """
        super().__init__()
        self.name = name
        self.config = config
        self.members = nn.ModuleList(_built(key, one) for key, one in config.members.items())
        self._position = {key: i for i, key in enumerate(config.members)}
        files = (file for one in self.members for file in getattr(one, "assets", ()))
        self.assets = tuple(dict.fromkeys(files))
        _check_equal("tasks", {key: dict(self.member(key).tasks) for key in config.members})

    def attach(self, folder: Path) -> None:
        """Let the members that need files read them."""
        for key in self.config.members:
            member: Any = self.member(key)
            if getattr(member, "assets", ()):
                member.attach(folder)

    def member(self, name: str) -> Elastic:
        """Return a member by name; KeyError if there is none."""
        found: Any = self.members[self._position[name]]
        member: Elastic = found
        return member

    @cached_property
    def inputs(self) -> Inputs:
        """What all members take.

        Raises:
            ValueError: If they do not take the same.
        """
        found = {key: self.member(key).inputs for key in self.config.members}
        _check_equal("inputs", {key: described(one) for key, one in found.items()})
        return found[next(iter(found))]

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What all members answer."""
        return self.member(next(iter(self.config.members))).tasks

    @cached_property
    def space(self) -> Space:
        """The members."""
        return Space((Axis(AXIS, tuple(self.config.members)),))

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the plan of a member, under keys of its own; see `models.elastic.Elastic`."""
        name = str(self.space.check(subnet)[AXIS])
        member, wanted = self.member(name), wanted_tasks(self.tasks, tasks)
        axes = (a for a in member.space.axes if a.task is None or a.task in wanted)
        whole = Subnet((axis.name, axis.values[-1]) for axis in axes)

        def own(step: Step, takes: tuple[Step | str, ...]) -> Step:
            timed_as = None if step.timed_as is None else (AXIS, name, step.timed_as)
            return replace(step, key=(AXIS, name, step.key), takes=takes, timed_as=timed_as)

        return member.plan(whole, shapes, wanted).rewritten(own)


def described(inputs: Inputs) -> dict[str, Any]:
    """Return what must be equal for models to take the same items."""
    return {name: (slot.type.describe(), slot.required) for name, slot in inputs.items()}


def _built(name: str, member: Member) -> nn.Module:
    family = families.get(member.family)
    config: Any = TypeAdapter(family.config).validate_python(dict(member.config))
    return family.build(name, config)


def _check_equal(what: str, found: Mapping[str, Any]) -> None:
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise ValueError(
                f"members.{other}: {what}={found[other]} must be those of {first!r}: {found[first]}"
            )


FAMILY = Family(LadderConfig, Ladder)
