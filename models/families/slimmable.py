"""Slimmable multi-task image classifier: one shared encoder, one decoder per task.

Every width is elastic: the encoder's per stage, the decoder's per task. A decoder's cost depends on
the encoder's last stage, whose channels it reads.

Source: Aich et al. 2023, Efficient Controllable Multi-Task Architectures, arXiv 2308.11744, for the
shared slimmable encoder with slimmable task decoders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar

import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from models.bits import axis_of, bits_of, check_bits, step_of, variant_of
from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs
from models.inputs.image import ImageInput
from models.nn.calibrated import RangesByName, check_ranges, take_ranges
from models.nn.layers import GROUP_SIZE, SlimConv2d, SlimGroupNorm, bytes_of_norm
from models.nn.residual import Block, TaskDecoder
from models.space import Axis, Space, Subnet, Value
from models.tasks import Task, wanted_tasks

_MAX_BLOCKS, _MAX_STRIDE = 1000, 64


@dataclass(frozen=True)
class SlimmableConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        tasks: Class names of each task.
        input: Size and normalisation of the images.
        channels: Full width of each encoder stage.
        blocks: Residual blocks in each stage.
        strides: Stride of the first convolution of each stage; the first is the stem's.
        decoder_channels: Full width of each decoder.
        widths: Width multipliers, ascending, the last 1.
        bits: Of the weights of convolutions and classifiers: 32, or 8 and 32.
        ranges: Of what each convolution takes and gives, by its name in the model: its least and
            greatest value taken, and the greatest magnitude given. For 8 bits.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    tasks: Mapping[str, tuple[str, ...]]
    input: ImageInput
    channels: tuple[int, ...] = (32, 64, 128, 192)
    blocks: tuple[int, ...] = (2, 2, 2, 1)
    strides: tuple[int, ...] = (2, 2, 2, 1)
    decoder_channels: int = 64
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    bits: tuple[int, ...] = (32,)
    ranges: RangesByName = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        if not len(self.channels) == len(self.blocks) == len(self.strides) > 0:
            raise ValueError(
                "channels, blocks and strides must have one entry per stage, not "
                f"{len(self.channels)}, {len(self.blocks)} and {len(self.strides)}"
            )
        for name, most in (("blocks", _MAX_BLOCKS), ("strides", _MAX_STRIDE)):
            for value in getattr(self, name):
                if not 1 <= value <= most:
                    raise ValueError(f"{name}={value} must be 1 to {most}")
        if list(self.widths) != sorted(set(self.widths)) or self.widths[-1] != 1:
            raise ValueError(f"widths={self.widths} must ascend and end at 1")
        check_bits(self.bits)
        check_ranges(self.ranges)
        if not self.tasks:
            raise ValueError("tasks is empty; at least one is needed")
        for task, labels in self.tasks.items():
            if len(labels) < 2 or len(set(labels)) != len(labels):
                raise ValueError(f"tasks.{task}={list(labels)} must be two or more distinct labels")
        for full in (*self.channels, self.decoder_channels):
            for width in self.widths:
                if full * width % GROUP_SIZE or full * width < GROUP_SIZE:
                    raise ValueError(
                        f"{full} channels x width {width} is not a multiple of {GROUP_SIZE}"
                    )


def axis_of_stage(stage: int) -> str:
    """Return the name of a stage's width axis; stages count from 1."""
    return f"encoder.stage{stage}"


def axis_of_task(task: str) -> str:
    """Return the name of a decoder's width axis."""
    return f"decoder.{task}"


class Slimmable(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    def __init__(self, name: str, config: SlimmableConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.stem = SlimConv2d(3, config.channels[0], 3, config.strides[0])
        self.stem_norm = SlimGroupNorm(config.channels[0])
        self.stages = nn.ModuleList()
        inputs = config.channels[0]
        for i, (full, blocks) in enumerate(zip(config.channels, config.blocks, strict=True)):
            first = Block(inputs, full, config.strides[i] if i else 1)
            rest = [Block(full, full, 1) for _ in range(blocks - 1)]
            self.stages.append(nn.ModuleList([first, *rest]))
            inputs = full
        self.decoders = nn.ModuleList(
            TaskDecoder(inputs, config.decoder_channels, len(labels))
            for labels in config.tasks.values()
        )
        self._position = {task: i for i, task in enumerate(config.tasks)}
        self.bits = config.bits[-1]
        take_ranges(self, config.ranges, config.bits)

    def variant(self, choices: Mapping[str, Value]) -> Slimmable:
        """Return the model with its weights in other bits; its norms are shared."""
        return variant_of(self, choices)

    @cached_property
    def inputs(self) -> Inputs:
        """An image."""
        return Inputs.of("image", self.config.input)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """One classification task per decoder."""
        return {
            name: Task(name, "classes", tuple(labels)) for name, labels in self.config.tasks.items()
        }

    @cached_property
    def space(self) -> Space:
        """One width axis per encoder stage, one per task. Bits where they are offered."""
        widths = self.config.widths
        stages = range(1, len(self.config.channels) + 1)
        return Space(
            axis_of(self.config.bits)
            + tuple(Axis(axis_of_stage(stage), widths) for stage in stages)
            + tuple(Axis(axis_of_task(task), widths, task=task) for task in self.config.tasks)
        )

    def run_stage(self, stage: int, width: int, x: Tensor) -> Tensor:
        """Run one encoder stage, counted from 1; the first includes the stem.

        Args:
            stage: 1..number of stages.
            width: Channels to compute.
            x: Shape [batch, channels of the stage before, h, w].

        Returns:
            Shape [batch, width, h / stride, w / stride].
        """
        if stage == 1:
            x = F.relu(self.stem_norm(self.stem(x, width)))
        blocks = self.stages[stage - 1]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            x = block(x, width)
        return x

    def stage_widths(self, subnet: Mapping[str, object]) -> list[int]:
        """Return the channels of each encoder stage under a subnet."""
        return [
            self._channels(full, subnet[axis_of_stage(i)])
            for i, full in enumerate(self.config.channels, start=1)
        ]

    def decoder_width(self, task: str, subnet: Mapping[str, object]) -> int:
        """Return the channels of a task's decoder under a subnet."""
        return self._channels(self.config.decoder_channels, subnet[axis_of_task(task)])

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return one step per encoder stage, then one per task; see `models.elastic.Elastic`."""
        wanted = wanted_tasks(self.tasks, tasks)
        subnet = self.space.select({None, *wanted}).check(subnet)
        expected = {"image": self.config.input.shape}
        if dict(shapes) != expected:
            raise ValueError(f"shapes={dict(shapes)} must be {expected}")
        feature: Step | str = "image"
        in_channels, (_, height, width), bits = 3, shapes["image"], bits_of(subnet)
        for stage, channels in enumerate(self.stage_widths(subnet), start=1):
            stride = self.config.strides[stage - 1]
            height, width = -(-height // stride), -(-width // stride)
            where = (stage, in_channels, channels, height * width, bits)
            feature = step_of(
                bits,
                self.bits,
                key=("stage", stage, channels),
                run=partial(self.run_stage, stage, channels),
                takes=(feature,),
                cost=self._cost(self._stage_cost, *where),
            )
            in_channels = channels
        answers = {}
        for task in wanted:
            channels = self.decoder_width(task, subnet)
            at = (task, in_channels, channels, height * width, bits)
            answers[task] = step_of(
                bits,
                self.bits,
                key=("decoder", task, channels),
                run=partial(self.decoder(task), width=channels),
                takes=(feature,),
                cost=self._cost(self._decoder_cost, *at),
            )
        return Plan(answers)

    def decoder(self, task: str) -> TaskDecoder:
        """Return a task's decoder."""
        decoder = self.decoders[self._position[task]]
        assert isinstance(decoder, TaskDecoder)
        return decoder

    @staticmethod
    def _channels(full: int, width: object) -> int:
        assert isinstance(width, int | float)
        return round(full * width)

    @cached_property
    def _costs(self) -> dict[tuple[object, ...], Cost]:
        """Costs known so far: planning is on the path of requests, and sizes are few."""
        return {}

    def _cost(self, count: Callable[..., Cost], *where: int | str) -> Cost:
        key = (count.__name__, *where)
        if key not in self._costs:
            self._costs[key] = count(*where)
        return self._costs[key]

    def _stage_cost(self, stage: int, in_channels: int, width: int, pixels: int, bits: int) -> Cost:
        macs = held = 0
        if stage == 1:
            macs += self.stem.macs(in_channels, width, pixels)
            held += self.stem.bytes(in_channels, width, bits) + bytes_of_norm(width)
            in_channels = width
        blocks = self.stages[stage - 1]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            assert isinstance(block, Block)
            macs += block.macs(in_channels, width, pixels)
            held += block.bytes(in_channels, width, bits)
            in_channels = width
        return Cost(macs, held)

    def _decoder_cost(
        self, task: str, in_channels: int, width: int, pixels: int, bits: int
    ) -> Cost:
        decoder = self.decoder(task)
        macs = decoder.macs(in_channels, width, pixels)
        return Cost(macs, decoder.bytes(in_channels, width, bits))


FAMILY = Family(SlimmableConfig, Slimmable)
