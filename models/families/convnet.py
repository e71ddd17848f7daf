"""Convolutional classifier of which channels, kernels and blocks can be chosen.

The configuration says how every number of channels, every kernel size and the presence of every
block follows from the axes, so each public format with its own rules of rounding is one
configuration: once-for-all networks, slimmable and universally slimmable ones. Statistics of batch
normalisation belong to what was chosen. So a model that can run lists its subnets, each with its
statistics. One that lists none can be planned with, until `models.train.statistics` estimates them.

Sources: Cai et al. 2020, Once-for-All, arXiv 1908.09791, for elastic kernels, expansion and depth;
Yu et al. 2019, Slimmable Neural Networks, arXiv 1812.08928, for normalisation per width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar, Literal, NoReturn

from pydantic import ConfigDict
from torch import nn

from models.bits import AXIS, axis_of, bits_of, check_bits, step_of, variant_of
from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs
from models.inputs.image import ImageInput
from models.nn.blocks import (
    Activation,
    BlockChoice,
    BlockConfig,
    Places,
    UnitChoice,
    unit_parameters,
)
from models.nn.calibrated import RangesByName, check_ranges, take_ranges
from models.nn.convolution import ConvBlock, PooledHead
from models.space import Axis, Space, Subnet, Value
from models.tasks import Metric, Task, wanted_tasks

MAX_SUBNETS = 4096  # with statistics of their own


@dataclass(frozen=True)
class ConvnetConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        labels: Class names.
        input: Size and normalisation of the images.
        axes: Values by name, cheapest first.
        blocks: From the image on.
        task: Name of the one task.
        metric: What the table scores.
        hidden: Width of a linear layer before the classifier; None for none.
        hidden_activation: After it.
        eps: Added to variances.
        subnets: Of the subnets that have statistics, positions on the axes; the largest one last.
        statistics: ``path``: a block's statistics follow from what was chosen up to it, so subnets
            that begin alike share them. ``subnet``: each subnet has its own in every block.
        private_affine: Whether a set of statistics has a scale and shift of its own too.
        bits: Of the weights of convolutions and the classifier: 32, or 8 and 32, of a model that
            lists its subnets.
        ranges: Of what each convolution takes and gives after its normalisation, by its name in
            the model (`models.nn.quantized.Ranges`). For 8 bits.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    labels: tuple[str, ...]
    input: ImageInput
    axes: Mapping[str, tuple[int | float, ...]]
    blocks: tuple[BlockConfig, ...]
    task: str = "label"
    metric: Metric = "accuracy"
    hidden: int | None = None
    hidden_activation: Activation = "none"
    eps: float = 1e-5
    subnets: tuple[tuple[int, ...], ...] = ()
    statistics: Literal["path", "subnet"] = "path"
    private_affine: bool = False
    bits: tuple[int, ...] = (32,)
    ranges: RangesByName = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        if not self.blocks:
            raise ValueError("blocks is empty; at least one is needed")
        for i, block in enumerate(self.blocks):
            for name, size in block.sizes:
                size.check(f"blocks.{i}.{name}", self.axes)
        if len(self.subnets) > MAX_SUBNETS:
            raise ValueError(f"{len(self.subnets)} subnets; at most {MAX_SUBNETS} are allowed")
        shape = [len(values) for values in self.axes.values()]
        for subnet in self.subnets:
            if len(subnet) != len(shape) or not all(
                0 <= i < n for i, n in zip(subnet, shape, strict=True)
            ):
                raise ValueError(f"subnets: {list(subnet)} must be a position on each axis")
        if len(set(self.subnets)) != len(self.subnets):
            raise ValueError("subnets must be distinct")
        if self.is_fitted and self.statistics != "path":
            raise ValueError(f"statistics={self.statistics!r} must be 'path' of fitted units")
        check_bits(self.bits)
        check_ranges(self.ranges)
        if len(self.bits) > 1 and not self.subnets:
            raise ValueError(f"bits={list(self.bits)} needs subnets with statistics")

    @property
    def is_fitted(self) -> bool:
        """Whether some unit has weights for each set of statistics."""
        return any(unit.fitted for block in self.blocks for unit in block.units)


class NotEstimatedError(RuntimeError):
    """A subnet was run that has no statistics."""


def not_estimated(*_: object) -> NoReturn:
    """Run in place of a block without statistics."""
    raise NotEstimatedError("this subnet has no statistics yet: estimate them on images first")


class Convnet(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    def __init__(self, name: str, config: ConvnetConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.blocks = nn.ModuleList()
        channels = 3
        for block, sets in zip(config.blocks, self._paths[0], strict=True):
            affines = len(sets) if config.private_affine else 1
            made = ConvBlock(block, channels, sets, affines, config.eps)
            self.blocks.append(made)
            channels = made.out_max
        self.head = PooledHead(
            channels, config.hidden, config.hidden_activation, len(config.labels)
        )
        self.bits = config.bits[-1]
        take_ranges(self, config.ranges, config.bits)

    def variant(self, choices: Mapping[str, Value]) -> Convnet:
        """Return the model with its weights in other bits; its statistics are shared."""
        return variant_of(self, choices)

    @cached_property
    def inputs(self) -> Inputs:
        """An image."""
        return Inputs.of("image", self.config.input)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """One classification task."""
        name, config = self.config.task, self.config
        return {name: Task(name, "classes", tuple(config.labels), config.metric)}

    @cached_property
    def choices(self) -> Space:
        """Every subnet that could be, whether or not it has statistics."""
        axes = tuple(Axis(name, tuple(values)) for name, values in self.config.axes.items())
        return Space((*axis_of(self.config.bits), *axes))

    @cached_property
    def listed(self) -> tuple[Subnet, ...]:
        """The subnets that have statistics, without their bits."""
        axes = self.config.axes.items()
        return tuple(
            Subnet((name, values[i]) for (name, values), i in zip(axes, positions, strict=True))
            for positions in self.config.subnets
        )

    @cached_property
    def space(self) -> Space:
        """The subnets that have statistics, in all bits; every one if none has any yet."""
        listed = self.listed
        for axis in axis_of(self.config.bits):
            listed = tuple(Subnet({axis.name: v, **own}) for v in axis.values for own in listed)
        return Space(self.choices.axes, listed=listed) if listed else self.choices

    def canonical(self, choices: Mapping[str, object]) -> Subnet:
        """Return a subnet with its least value on every axis that makes no difference to it.

        Raises:
            ValueError: As `models.space.Space.check`.
        """
        subnet = self.choices.check(choices)
        used = self.used(subnet)
        return Subnet(
            (axis.name, subnet[axis.name] if axis.name in used else axis.values[0])
            for axis in self.choices.axes
        )

    def used(self, subnet: Mapping[str, Value]) -> set[str]:
        """Return the names of the axes that make a difference to a subnet."""
        found = {AXIS, *(axis for block in self.config.blocks for axis in block.active.axes)}
        for block in self.config.blocks:
            if block.active.at(subnet, self._places):
                found |= {axis for _, size in block.sizes for axis in size.axes}
        return found

    def chosen(self, subnet: Mapping[str, Value]) -> list[BlockChoice]:
        """Return the blocks that a subnet runs; ValueError if an identity shortcut cannot be."""
        found, channels = [], 3
        for i, block in enumerate(self.config.blocks):
            if not block.active.at(subnet, self._places):
                continue
            inputs, choices = channels, []
            for unit in block.units:
                choices.append(unit.choice(channels, subnet, self._places))
                channels = choices[-1].out
            if block.shortcut == "identity" and inputs != channels:
                raise ValueError(f"block {i}: identity shortcut from {inputs} to {channels}")
            if block.shortcut_unit is not None:
                choices.append(block.shortcut_unit.choice(inputs, subnet, self._places))
            found.append(BlockChoice(i, tuple(choices)))
        return found

    def parameters_of(self, subnet: Mapping[str, object]) -> int:
        """Return the parameters of a subnet cut out of the model."""
        total, channels = 0, 3
        for one in self.chosen(self.canonical(subnet)):
            units = self.config.blocks[one.block].normalised
            total += sum(map(unit_parameters, units, one.choices))
            channels = self._out(one)
        return total + self.head.parameters_of(channels)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return a step per block that is run, then the head; see `models.elastic.Elastic`."""
        wanted = wanted_tasks(self.tasks, tasks)
        subnet = self.space.check(self.canonical(subnet))
        expected = {"image": self.config.input.shape}
        if dict(shapes) != expected:
            raise ValueError(f"shapes={dict(shapes)} must be {expected}")
        step: Step | str = "image"
        (_, height, width), channels, bits = shapes["image"], 3, bits_of(subnet)
        for one in self.path(subnet) if self.listed else self.chosen(subnet):
            block = self.block(one.block)
            macs, height, width = block.macs(one.choices, height, width)
            key = ("block", one.block, one.choices)
            run = not_estimated if one.number < 0 else partial(block, one.choices, one.number)
            cost = Cost(macs, block.bytes(one.choices, bits))
            step = step_of(bits, self.bits, (*key, one.number), run, (step,), cost, timed_as=key)
            channels = self._out(one)
        cost = Cost(self.head.macs(channels), self.head.bytes(channels, bits))
        answer = step_of(bits, self.bits, ("head", channels), self.head, (step,), cost)
        return Plan(dict.fromkeys(wanted, answer))

    @cached_property
    def _paths(
        self,
    ) -> tuple[list[list[tuple[UnitChoice, ...]]], dict[Subnet, list[BlockChoice]]]:
        """Choices of each set of statistics by block, and by subnet the blocks that it runs."""
        by_subnet = self.config.statistics == "subnet"
        sets: list[list[tuple[UnitChoice, ...]]] = [[] for _ in self.config.blocks]
        nodes: dict[tuple[object, ...], int] = {}
        paths = {}
        for s, subnet in enumerate(self.listed):
            path, before = [], (-1, -1)
            for one in self.chosen(subnet):
                known = sets[one.block]
                if by_subnet:
                    number = s
                    known[:] = [one.choices] * len(self.config.subnets)
                elif (number := nodes.setdefault((before, *one[:2]), len(known))) == len(known):
                    known.append(one.choices)
                before = (one.block, number)
                path.append(one._replace(number=number))
            paths[subnet] = path
        return sets, paths

    def path(self, subnet: Subnet) -> Sequence[BlockChoice]:
        """Return the blocks that a listed subnet runs, with their sets of statistics."""
        return self._paths[1][Subnet((name, subnet[name]) for name in self.config.axes)]

    def block(self, i: int) -> ConvBlock:
        """Return a block by its number."""
        block = self.blocks[i]
        assert isinstance(block, ConvBlock)
        return block

    def _out(self, one: BlockChoice) -> int:
        return one.choices[len(self.config.blocks[one.block].units) - 1].out

    @cached_property
    def _places(self) -> Places:
        return {axis.name: {v: i for i, v in enumerate(axis.values)} for axis in self.choices.axes}


FAMILY = Family(ConvnetConfig, Convnet)
