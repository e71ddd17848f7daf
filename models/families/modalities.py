"""Maps of a scene from any of several maps of it: an image, its depth, its edges.

One transformer reads tokens of whatever an item has, some or all patches of each input; a decoder
for each task draws a whole map. What is not there or not bought takes no step.

Axes: ``inputs``, given: which of them an item has. ``tokens``: share of the patches of each input
that become tokens, an order that spreads them. ``width``: share of each layer's heads and
feed-forward units.

Source: Bachmann et al. 2022, MultiMAE: Multi-modal Multi-task Masked Autoencoders, arXiv
2204.01678, for one transformer over few tokens of any subset of several kinds of maps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import ClassVar

import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs, Slot
from models.inputs.image import ImageInput
from models.inputs.tensor import TensorInput
from models.nn.architecture import TransformerConfig
from models.nn.dense import MapDecoder
from models.nn.layers import SlimConv2d
from models.nn.quantized import bytes_of
from models.nn.token_maps import KeptPatches, TokenGrid, joined, run_layer
from models.nn.transformer import Layer
from models.space import Axis, Space, Subnet, Value, check_ascending
from models.tasks import Task, wanted_tasks

_MOST_INPUTS = 6  # there are 63 sets of these
_HEAD_DIM = 16  # of the attention from places to tokens


@dataclass(frozen=True)
class Modality:
    """One kind of map.

    Attributes:
        name: Of the input.
        input: An image, or numbers of shape [channels, height, width].
        middle: Subtracted from the numbers.
        spread: Then they are divided by it.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: str
    input: ImageInput | TensorInput
    middle: float = 0.0
    spread: float = 1.0


@dataclass(frozen=True)
class ModalitiesConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        modalities: Inputs, all of one height and width, of which an item has one or more.
        tasks: Maps.
        encoder: The transformer; pre-norm, without positions of its own.
        patch: Side of a patch, pixels.
        finer: Decoders also see a grid with this many places for each patch, along each side.
        decoder_channels: Of a decoder on that grid and on that of patches.
        tokens: Shares of the patches, ascending, the last 1.
        widths: Of heads and feed-forward units, likewise.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    modalities: tuple[Modality, ...]
    tasks: tuple[Task, ...]
    encoder: TransformerConfig
    patch: int = 8
    finer: int = 4
    decoder_channels: tuple[int, int] = (8, 32)
    tokens: tuple[float, ...] = (0.25, 0.5, 1.0)
    widths: tuple[float, ...] = (0.25, 0.5, 1.0)

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        names = [one.name for one in self.modalities]
        if not 1 <= len(set(names)) == len(names) <= _MOST_INPUTS or "+" in "".join(names):
            raise ValueError(f"modalities={names}: 1 to {_MOST_INPUTS}, each once, without +")
        for one in self.modalities:
            if not one.spread > 0:
                raise ValueError(f"modalities.{one.name}.spread={one.spread} must be above 0")
            of, shape = f"modalities.{one.name}: shape {one.input.shape}", one.input.shape
            if len(shape) != 3 or one.input.has_length:
                raise ValueError(f"{of} must be [channels, height, width]")
            if shape[1:] != self.size:
                raise ValueError(f"{of} must end with {self.size}")
        if self.patch < 1 or any(side % self.patch for side in self.size):
            raise ValueError(f"patch={self.patch} must divide {self.size}")
        tasks = [task.name for task in self.tasks]
        if not tasks or len(set(tasks)) < len(tasks) or {t.kind for t in self.tasks} != {"map"}:
            raise ValueError(f"tasks={tasks} must be one or more maps, each named once")
        if self.encoder.norm != "pre" or self.encoder.positions != "absolute":
            raise ValueError("encoder: norm must be 'pre', and positions 'absolute'")
        for name, least in (("tokens", 1 / self.places), ("widths", 1 / self.encoder.kv_heads)):
            values = getattr(self, name)
            check_ascending(name, values, 1)
            if values[0] < least:
                raise ValueError(f"{name}={list(values)} must be {least:g} or more")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all maps."""
        _, height, width = self.modalities[0].input.shape
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def places(self) -> int:
        """Patches of a map."""
        return self.grid[0] * self.grid[1]


class Modalities(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    def __init__(self, name: str, config: ModalitiesConfig) -> None:
        super().__init__()
        self.name, self.config, encoder = name, config, config.encoder
        self.patches = nn.ModuleDict(
            {
                one.name: KeptPatches(
                    one.input.shape[0],
                    config.grid,
                    config.patch,
                    encoder.hidden,
                    shift,
                    (one.middle, one.spread),
                )
                for shift, one in enumerate(config.modalities)
            }
        )
        self.layers = nn.ModuleList(Layer(encoder, i) for i in range(encoder.layers))
        self.grid = TokenGrid(
            config.grid, encoder.hidden, encoder.kv_heads, _HEAD_DIM, encoder.norm_eps
        )
        channels, finer = config.decoder_channels, config.finer
        self.fine = SlimConv2d(encoder.hidden, channels[0] * finer**2, 1)
        self.decoders = nn.ModuleDict(
            {
                task.name: MapDecoder(
                    (channels[0], encoder.hidden),
                    channels,
                    len(task.labels or task.channels),
                    task.metric == "mean_angular_error",
                )
                for task in config.tasks
            }
        )

    @cached_property
    def inputs(self) -> Inputs:
        """The modalities, none of which every item must have."""
        return Inputs({one.name: Slot(one.input, False) for one in self.config.modalities})

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """One per decoder."""
        return {task.name: task for task in self.config.tasks}

    @cached_property
    def space(self) -> Space:
        """Which inputs there are, the tokens of each, and the layers' width."""
        names = [one.name for one in self.config.modalities]
        sizes = range(1, len(names) + 1)
        sets = tuple("+".join(own) for size in sizes for own in combinations(names, size))
        bought = (Axis("tokens", self.config.tokens), Axis("width", self.config.widths))
        return Space((Axis("inputs", sets, kind="given"), *bought))

    def widths(self, subnet: Mapping[str, Value]) -> tuple[int, int]:
        """Return the groups of heads and the feed-forward units of each layer."""
        encoder, width = self.config.encoder, float(subnet["width"])
        return round(width * encoder.kv_heads), round(width * encoder.ffn)

    def kept(self, subnet: Mapping[str, Value]) -> int:
        """Return the patches of each input that become tokens."""
        return round(float(subnet["tokens"]) * self.config.places)

    def named(self, subnet: Mapping[str, Value]) -> list[str]:
        """Return the inputs that a subnet reads."""
        return str(subnet["inputs"]).split("+")

    def patches_of(self, name: str) -> KeptPatches:
        """Return what makes tokens of an input."""
        found = self.patches[name]
        assert isinstance(found, KeptPatches)
        return found

    def run_fine(self, grid: Tensor) -> Tensor:
        """Map [batch, hidden, rows, columns] to the finer grid, [batch, channels, ...]."""
        return F.pixel_shuffle(self.fine(grid, len(self.fine.weight)), self.config.finer)

    def run_grid(self, names: Sequence[str], kept: int, x: Tensor) -> Tensor:
        """Map tokens of inputs, the first patches of each, to the grid of all places."""
        return self.grid([self.patches_of(name).order[:kept] for name in names], x)  # type: ignore[no-any-return]

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return steps of the inputs, then of all tokens; see `models.elastic.Elastic`."""
        wanted, subnet = wanted_tasks(self.tasks, tasks), self.space.check(subnet)
        names, config = self.named(subnet), self.config
        expected = {m.name: m.input.shape for m in config.modalities if m.name in names}
        if dict(shapes) != expected:
            raise ValueError(f"inputs={subnet['inputs']!r}: {dict(shapes)} must be {expected}")
        kept, widths = self.kept(subnet), self.widths(subnet)
        parts = []
        for name in names:
            own = self.patches_of(name)
            key, cost = ("patches", name, kept), Cost(own.macs(kept), own.bytes(kept))
            parts.append(Step(key, partial(own, kept), (name,), cost))
        step, length = Step("tokens", joined, tuple(parts)), kept * len(names)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            cost = Cost(layer.macs(*widths, length), layer.bytes(*widths, 32))
            step = Step(("layer", i, *widths), partial(run_layer, layer, *widths), (step,), cost)
        cost = Cost(self.grid.macs(length), bytes_of(self.grid) + 8 * length)
        grid = Step(("grid", *names, kept), partial(self.run_grid, names, kept), (step,), cost)
        cost = Cost(config.places * self.fine.weight.numel(), bytes_of(self.fine))
        fine = Step("fine", self.run_fine, (grid,), cost)
        return Plan({task: self._answer(task, fine, grid) for task in wanted})

    def _answer(self, task: str, fine: Step, grid: Step) -> Step:
        decoder, config = self.decoders[task], self.config
        assert isinstance(decoder, MapDecoder)
        widths, places = config.decoder_channels, config.places
        features = (widths[0], config.encoder.hidden)
        macs = decoder.macs(features, widths, (places * config.finer**2, places))
        run = partial(decoder, widths=widths, size=config.size)
        return Step(("map", task), run, (fine, grid), Cost(macs, decoder.bytes(features, widths)))


FAMILY = Family(ModalitiesConfig, Modalities)
