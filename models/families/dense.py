"""Slimmable multi-task network for images: answers per pixel, and classes beside them.

One shared encoder at several scales; one decoder per task, which reads all scales, or, for a class
of the whole image, the coarsest. Every width is elastic: the encoder's per stage, the decoders' per
task. So a preference moves compute between tasks, and a budget between all of them.

Source: Aich et al. 2023, Efficient Controllable Multi-Task Architectures, arXiv 2308.11744, for a
shared slimmable encoder with a slimmable decoder per task. The layers are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import ClassVar, TypeVar

from pydantic import ConfigDict
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs
from models.inputs.image import ImageInput
from models.nn.dense import EncoderStage, MapDecoder, narrowed
from models.nn.layers import GROUP_SIZE
from models.nn.residual import TaskDecoder
from models.space import Axis, Space, Subnet, Value, check_ascending
from models.tasks import Task, wanted_tasks

T = TypeVar("T")
_MAX_BLOCKS, _MAX_STRIDE, _MAX_COSTS = 1000, 64, 65536


@dataclass(frozen=True)
class DenseConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        tasks: Maps, and classes of the whole image.
        input: Size and normalisation of the images.
        channels: Full width of each encoder stage.
        blocks: Residual blocks in each stage; the first, which begins with a convolution of the
            image, may have none.
        strides: Of each stage.
        decoder_channels: Full width of a decoder at each stage's scale, finest first. A decoder of
            classes has the last one.
        widths: Width multipliers of stages, ascending, the last 1. Channels are rounded up to whole
            groups of normalisation.
        decoder_widths: Of decoders, likewise.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    tasks: tuple[Task, ...]
    input: ImageInput
    channels: tuple[int, ...] = (32, 32, 64, 128)
    blocks: tuple[int, ...] = (0, 1, 2, 2)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    decoder_channels: tuple[int, ...] = (16, 32, 48, 64)
    widths: tuple[float, ...] = (0.25, 0.5, 1.0)
    decoder_widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        parts = ("channels", "blocks", "strides", "decoder_channels")
        sizes = {name: len(getattr(self, name)) for name in parts}
        if len(set(sizes.values())) > 1 or not self.channels:
            raise ValueError(f"{', '.join(parts)} must have one entry per stage, not {sizes}")
        for stage, blocks in enumerate(self.blocks):
            if not (stage > 0) <= blocks <= _MAX_BLOCKS:
                raise ValueError(f"blocks={list(self.blocks)} must be 1 to {_MAX_BLOCKS}")
        for stride in self.strides:
            if not 1 <= stride <= _MAX_STRIDE:
                raise ValueError(f"strides={list(self.strides)} must be 1 to {_MAX_STRIDE}")
        check_ascending("widths", self.widths, 1)
        check_ascending("decoder_widths", self.decoder_widths, 1)
        for full in (*self.channels, *self.decoder_channels):
            if full < GROUP_SIZE or full % GROUP_SIZE:
                raise ValueError(f"channels: {full} must be a multiple of {GROUP_SIZE}")
        for full in self.channels:
            self._check_distinct("widths", self.widths, (full,))
        self._check_distinct("decoder_widths", self.decoder_widths, self.decoder_channels)
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"tasks: {names} must be one or more, each named once")
        for task in self.tasks:
            if task.kind not in ("map", "classes"):
                raise ValueError(f"tasks.{task.name}: kind={task.kind!r} must be map or classes")

    def _check_distinct(
        self, name: str, widths: tuple[float, ...], channels: tuple[int, ...]
    ) -> None:
        found = [tuple(narrowed(full, width) for full in channels) for width in widths]
        if any(one == other for one, other in pairwise(found)):
            raise ValueError(f"{name}={list(widths)}: two of them give {channels} the same size")


def axis_of_stage(stage: int) -> str:
    """Return the name of a stage's width axis; stages count from 1."""
    return f"encoder.stage{stage}"


def axis_of_task(task: str) -> str:
    """Return the name of a decoder's width axis."""
    return f"decoder.{task}"


class Dense(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    def __init__(self, name: str, config: DenseConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        inputs = (3, *config.channels[:-1])
        self.stages = nn.ModuleList(
            EncoderStage(inputs[i], full, config.blocks[i], config.strides[i], i == 0)
            for i, full in enumerate(config.channels)
        )
        self.decoders = nn.ModuleList(self._decoder(task) for task in config.tasks)
        self._position = {task.name: i for i, task in enumerate(config.tasks)}
        # Planning is on the path of requests, and sizes are few.
        self._stage_cost = lru_cache(_MAX_COSTS)(self._count_stage)
        self._decoder_cost = lru_cache(_MAX_COSTS)(self._count_decoder)

    def _decoder(self, task: Task) -> MapDecoder | TaskDecoder:
        channels, own = self.config.channels, self.config.decoder_channels
        if task.kind == "classes":
            return TaskDecoder(channels[-1], own[-1], len(task.labels))
        outputs = len(task.labels or task.channels)
        return MapDecoder(channels, own, outputs, task.metric == "mean_angular_error")

    @cached_property
    def inputs(self) -> Inputs:
        """An image."""
        return Inputs.of("image", self.config.input)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """One per decoder."""
        return {task.name: task for task in self.config.tasks}

    @cached_property
    def space(self) -> Space:
        """One width axis per encoder stage, one per task."""
        stages = range(1, len(self.config.channels) + 1)
        own = self.config.decoder_widths
        return Space(
            tuple(Axis(axis_of_stage(stage), self.config.widths) for stage in stages)
            + tuple(Axis(axis_of_task(task), own, task=task) for task in self.tasks)
        )

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each stage's feature."""
        height, width = self.config.input.height, self.config.input.width
        found = []
        for stride in self.config.strides:
            height, width = -(-height // stride), -(-width // stride)
            found.append((height, width))
        return tuple(found)

    def stage_widths(self, subnet: Mapping[str, Value]) -> tuple[int, ...]:
        """Return the channels of each encoder stage under a subnet."""
        return tuple(
            narrowed(full, float(subnet[axis_of_stage(i)]))
            for i, full in enumerate(self.config.channels, start=1)
        )

    def decoder_widths(self, task: str, subnet: Mapping[str, Value]) -> tuple[int, ...]:
        """Return the channels of a task's decoder at each scale it has, finest first."""
        width = float(subnet[axis_of_task(task)])
        full = self.config.decoder_channels
        own = full[-1:] if self.tasks[task].kind == "classes" else full
        return tuple(narrowed(one, width) for one in own)

    def encode(self, image: Tensor, subnet: Mapping[str, Value]) -> list[Tensor]:
        """Return the feature of each stage, finest first, shape [batch, channels, h, w]."""
        features = []
        for stage, width in zip(self.stages, self.stage_widths(subnet), strict=True):
            image = stage(image, width)
            features.append(image)
        return features

    def decode(self, task: str, features: Sequence[Tensor], subnet: Mapping[str, Value]) -> Tensor:
        """Return a task's answer: logits [batch, classes], or [batch, channels, height, width]."""
        run = self._run(task, self.decoder_widths(task, subnet))
        answer: Tensor = run(*self._taken(task, features))
        return answer

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return one step per encoder stage, then one per task; see `models.elastic.Elastic`."""
        wanted = wanted_tasks(self.tasks, tasks)
        subnet = self.space.select({None, *wanted}).check(subnet)
        expected = {"image": self.config.input.shape}
        if dict(shapes) != expected:
            raise ValueError(f"shapes={dict(shapes)} must be {expected}")
        widths = self.stage_widths(subnet)
        steps: list[Step] = []
        for i, channels in enumerate(widths):
            steps.append(
                Step(
                    ("stage", i + 1, channels),
                    partial(self.stages[i], width=channels),
                    (steps[-1] if steps else "image",),
                    self._stage_cost(i, widths[i - 1] if i else 3, channels),
                )
            )
        answers = {}
        for task in wanted:
            own = self.decoder_widths(task, subnet)
            answers[task] = Step(
                ("decoder", task, own),
                self._run(task, own),
                tuple(self._taken(task, steps)),
                self._decoder_cost(task, widths, own),
            )
        return Plan(answers)

    def decoder(self, task: str) -> MapDecoder | TaskDecoder:
        """Return a task's decoder."""
        found = self.decoders[self._position[task]]
        assert isinstance(found, MapDecoder | TaskDecoder)
        return found

    def _taken(self, task: str, stages: Sequence[T]) -> Sequence[T]:
        return stages[-1:] if self.tasks[task].kind == "classes" else stages

    def _run(self, task: str, widths: tuple[int, ...]) -> Callable[..., Tensor]:
        decoder = self.decoder(task)
        if isinstance(decoder, TaskDecoder):
            return partial(decoder, width=widths[0])
        image = self.config.input
        return partial(decoder, widths=widths, size=(image.height, image.width))

    def _count_stage(self, stage: int, in_channels: int, width: int) -> Cost:
        own = self.stages[stage]
        assert isinstance(own, EncoderStage)
        height, across = self.sizes[stage]
        return Cost(own.macs(in_channels, width, height * across), own.bytes(in_channels, width))

    def _count_decoder(self, task: str, stages: tuple[int, ...], widths: tuple[int, ...]) -> Cost:
        decoder, pixels = self.decoder(task), [height * width for height, width in self.sizes]
        if isinstance(decoder, TaskDecoder):
            macs = decoder.macs(stages[-1], widths[0], pixels[-1])
            return Cost(macs, decoder.bytes(stages[-1], widths[0], 32))
        return Cost(decoder.macs(stages, widths, pixels), decoder.bytes(stages, widths))


FAMILY = Family(DenseConfig, Dense)
