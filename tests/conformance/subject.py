"""A model under test: how it is made, and what a family says of its slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from models.core import Plan, Shapes
from models.families import Family
from models.inputs import Inputs, Item
from models.nn.ragged import Value
from models.space import Space, Subnet
from models.variants import all_choices, build, choices_of

Tasks: TypeAlias = Collection[str]
Kept: TypeAlias = dict[str, tuple[slice, ...]]
"""By the name of a parameter or buffer, the part that is read; what is not named is not read."""
Answers: TypeAlias = Callable[[Mapping[str, Value]], dict[str, Tensor]]

LONGEST = 9


@dataclass(frozen=True)
class Subject:
    """A model of a family.

    Attributes:
        name: Of the test.
        family: Its name in checkpoints.
        made_by: The family itself.
        make: Function of a folder; writes what the model needs beside its weights, and returns it,
            with the same weights each time.
        kept: Function of the model, a subnet and tasks.
        cut: Function of the same; a copy of the subnet that is written apart from the family. None:
            the kit cuts the weights to what is kept.
        on_onnx: Whether all of its steps can be exported.
    """

    name: str
    family: str
    made_by: Family
    make: Callable[[Path], Any]
    kept: Callable[[Any, Subnet, Tasks], Kept]
    cut: Callable[[Any, Subnet, Tasks], Answers] | None = None
    on_onnx: bool = True


class Made:
    """A subject's model with its variants, and random items and subnets for it."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject = subject
        self.folder = folder
        self.model: Any = subject.make(folder)
        self.variants = {choices: build(self.model, choices) for choices in all_choices(self.space)}

    @property
    def inputs(self) -> Inputs:
        """Of the model."""
        found: Inputs = self.model.inputs
        return found

    @property
    def space(self) -> Space:
        """Of the model, all tasks together."""
        found: Space = self.model.space
        return found

    @property
    def tasks(self) -> list[str]:
        """All of the model."""
        return list(self.model.tasks)

    def of(self, subnet: Mapping[str, Any]) -> Any:
        """Return the model that a subnet needs."""
        return self.variants[choices_of(self.space, subnet)]

    def copy_of(self, subnet: Mapping[str, Any]) -> Any:
        """Return the same with weights of its own."""
        return build(self.subject.make(self.folder), choices_of(self.space, subnet))

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Tasks | None = None) -> Plan:
        """Return a plan of the variant that a subnet needs."""
        plan: Plan = self.of(subnet).plan(subnet, shapes, tasks)
        return plan

    def names(self) -> list[tuple[str, ...]]:
        """Return every set of inputs that an item may have."""
        for axis in self.space.axes:
            if axis.kind == "given":
                return [tuple(str(value).split("+")) for value in axis.values]
        return [tuple(self.inputs)]

    def item(self, rng: Random, names: Collection[str], length: int | None = None) -> Item:
        """Return an item of random contents, each of a random length unless one is given."""
        values = {name: self.value(rng, name, length) for name in names}
        return self.inputs.item(values)

    def value(self, rng: Random, name: str, length: int | None = None) -> Tensor:
        """Return a random input."""
        of = self.inputs[name].type
        generator = torch.Generator().manual_seed(rng.randrange(2**32))
        shape = of.plan_shape((length or rng.randint(1, LONGEST)) if of.has_length else None)
        if of.kind == "text":
            words: int = of.vocab_size  # type: ignore[attr-defined]
            return torch.randint(4, words, shape, generator=generator)
        if of.kind == "adapter":
            return torch.tensor(rng.randrange(len(of.names)))  # type: ignore[attr-defined]
        return torch.randn(shape, generator=generator)

    def subnet(self, rng: Random, names: Collection[str], tasks: Tasks | None = None) -> Subnet:
        """Return a random subnet for an item with some inputs and for some tasks."""
        space = self.space if tasks is None else self.part(tasks)
        return space.sample(rng) | self.given(names)

    def part(self, tasks: Tasks) -> Space:
        """Return the space that a request for some tasks chooses from."""
        return self.space if set(tasks) == set(self.tasks) else self.space.select({None, *tasks})

    def given(self, names: Collection[str]) -> dict[str, Any]:
        """Return what an item's inputs fix."""
        return self.inputs.given_choices(self.space.axes, names)

    def subnets(self, rng: Random, most: int, names: Collection[str]) -> list[Subnet]:
        """Return every subnet that goes with some inputs, or the smallest, the largest and some."""
        given = self.given(names)
        size = math.prod(len(axis.values) for axis in self.space.axes if axis.name not in given)
        if size <= most:
            return list(dict.fromkeys(subnet | given for subnet in self.space))
        ends = [self.space.smallest | given, self.space.largest | given]
        return ends + [self.subnet(rng, names) for _ in range(most - 2)]

    def some_tasks(self, rng: Random) -> list[str]:
        """Return one task or more; all where a rule ties the axes together."""
        if len(self.tasks) == 1:
            return self.tasks
        return rng.sample(self.tasks, rng.randint(1, len(self.tasks)))

    def batch(self, item: Item) -> dict[str, Value]:
        """Return an item as a batch of one row."""
        return {name: self.inputs.collate(name, [one.value]) for name, one in item.items()}


def cut_to(model: nn.Module, kept: Kept) -> None:
    """Replace each parameter by a copy of what is kept of it, and by nothing if nothing is."""
    for name, whole in list(model.named_parameters()):
        part = whole[kept[name]].clone() if name in kept else whole.new_empty(0)
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._parameters[own] = nn.Parameter(part, requires_grad=False)


def spoil(model: nn.Module, kept: Kept) -> None:
    """Write NaN over all weights that are not kept; over whole ones what no rounding gives."""
    for name, whole in model.named_parameters():
        part = whole[kept[name]].clone() if name in kept else None
        whole.fill_(float("nan") if whole.is_floating_point() else -128)
        if part is not None:
            whole[kept[name]] = part
