"""Reads slimmable networks (S-Net) and universally slimmable ones (US-Net) by one width.

S-Net has a whole normalisation for each width, US-Net one scale and shift and statistics for each
width that it lists. Which widths these are is not in the file: their order is that of the numbers
in the names. A US-Net runs at other widths too, once statistics are estimated for them
(`models.train.statistics`). In MobileNetV2 the last convolution keeps its channels, and its
normalisation is one for all widths.

Sources: Yu et al. 2019, Slimmable Neural Networks, arXiv 1812.08928; Yu and Huang 2019, Universally
Slimmable Networks, arXiv 1903.05134.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from models.families.convnet import Convnet, ConvnetConfig
from models.formats.convolutional import (
    IMAGENET,
    Names,
    Norm,
    StateDict,
    build,
    labels_of,
    make_divisible,
    read_state,
)
from models.formats.folder import FormatError
from models.inputs.image import ImageInput
from models.nn.blocks import Activation, BlockConfig, SizeTable, UnitConfig

Architecture: TypeAlias = Literal["mobilenet-v1", "mobilenet-v2", "resnet-50"]
AXIS = "width"
_V1 = ((1, 1), (2, 2), (2, 2), (6, 2), (2, 2))  # blocks of each stage, and its stride
_V2 = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))  # and expansion
_RESNET = ((3, 1), (4, 2), (6, 2), (3, 2))


@dataclass
class _Draft:
    """What a file's names say, block by block.

    Attributes:
        state: Of the file.
        widths: Multipliers on offer.
        blocks: So far.
        names: Of their tensors.
        channels: Of each normalisation, at each width.
        last: Channels that leave the last block, at each width.
        plain: Names of normalisations that are one for all widths.
    """

    state: StateDict
    widths: Sequence[float]
    blocks: list[BlockConfig] = field(default_factory=list)
    names: list[list[Names]] = field(default_factory=list)
    channels: dict[str, list[int]] = field(default_factory=dict)
    last: list[int] = field(default_factory=list)
    plain: set[str] = field(default_factory=set)

    def full(self, conv: str) -> int:
        """Return the channels of a convolution at the full width."""
        return self.state.rows(f"{conv}.weight")

    def unit(
        self,
        names: Names,
        out: list[int] | None,
        kernel: int,
        stride: int = 1,
        activation: Activation = "none",
    ) -> UnitConfig:
        """Return a unit and note its channels at each width; None for those that come in."""
        self.channels[names.norm] = self.last if out is None else out
        if out is not None:
            self.last = out
        size = None if out is None else SizeTable(tuple(out), (AXIS,))
        return UnitConfig(size, SizeTable((kernel,)), stride, activation)

    def add(self, block: BlockConfig, names: list[Names]) -> None:
        """Add a block."""
        self.blocks.append(block)
        self.names.append(names)


def read(
    path: Path,
    name: str,
    architecture: Architecture,
    widths: Sequence[float],
    universal: bool = False,
    offered: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
    image: ImageInput = IMAGENET,
) -> Convnet:
    """Read an S-Net or a US-Net.

    Args:
        path: Of the state dict.
        name: What clients call the model.
        architecture: Of the file.
        widths: Multipliers in the order of the file's normalisations, ascending, the last 1.
        universal: Whether it is a US-Net.
        offered: Widths of the model, ascending, the last 1; of a US-Net only. Unless they are those
            of the file, the model has no statistics until they are estimated.
        labels: Class names; None for numbers.
        image: Size and normalisation of the images.

    Raises:
        FormatError: If a tensor is missing, of another shape or not part of the model, or the
            widths are not those of the file.
    """
    own = _offered(path, architecture, widths, universal, offered)
    state = read_state(path)
    draft = _Draft(state, own)
    _READERS[architecture](draft)
    first = draft.names[0][0].norm
    if (count := state.count(f"{first}.bn.")) != len(widths):
        raise FormatError(f"{path}: widths={list(widths)}; the file has statistics of {count}")
    listed = own == tuple(widths)
    config = ConvnetConfig(
        labels_of(labels, state.rows("classifier.0.weight")),
        image,
        {AXIS: own},
        tuple(draft.blocks),
        subnets=tuple((i,) for i in range(len(own))) if listed else (),
        statistics="subnet" if listed else "path",
        private_affine=not universal,
    )
    norm = _Norms(state, draft, widths, universal, listed)
    count, last = len(config.labels), max(draft.last)
    head = {
        "classifier.weight": state.take("classifier.0.weight", count, last),
        "classifier.bias": state.take("classifier.0.bias", count),
    }

    def kernels(unit: UnitConfig, names: Names, shape: tuple[int, ...]) -> Mapping[int, Tensor]:
        return {unit.kernel.values[0]: state.take(f"{names.conv}.weight", *shape)}

    return build(name, config, state, draft.names, kernels, norm.read, head)


def _offered(
    path: Path,
    architecture: Architecture,
    widths: Sequence[float],
    universal: bool,
    offered: Sequence[float] | None,
) -> tuple[float, ...]:
    """Return the widths on offer; FormatError if they cannot be."""
    own = tuple(widths) if offered is None else tuple(offered)
    for what, values in (("widths", tuple(widths)), ("offered", own)):
        if list(values) != sorted(set(values)) or not values or values[0] <= 0 or values[-1] != 1:
            raise FormatError(f"{path}: {what}={list(values)}; allowed: ascending, the last 1")
    if universal and architecture == "resnet-50":
        raise FormatError(f"{path}: resnet-50 with universal=True; allowed: the MobileNets")
    if offered is not None and not universal:
        raise FormatError(f"{path}: offered={list(own)}; allowed: none without universal=True")
    return own


@dataclass(frozen=True)
class _Norms:
    """Reads normalisations.

    Attributes:
        state: Of the file.
        draft: Of the model.
        widths: Of the file.
        universal: Whether scale and shift are one for all widths.
        keeps: Whether the model has the file's statistics.
    """

    state: StateDict
    draft: _Draft
    widths: Sequence[float]
    universal: bool
    keeps: bool

    def read(self, unit: UnitConfig, names: Names, full: int) -> Norm:
        """Return a unit's normalisation, narrow statistics filled up."""
        state, norm, sets = self.state, names.norm, len(self.widths)
        if norm in self.draft.plain:
            affine = state.pair(norm, "weight", "bias", full)[None]
            statistics = state.pair(norm, "running_mean", "running_var", full)[None]
            if not self.universal:
                affine = affine.repeat(sets, 1, 1)
            return Norm(affine, statistics.repeat(sets if self.keeps else 0, 1, 1))
        found: dict[str, list[Tensor]] = {"affine": [], "statistics": []}
        for i in range(sets):
            if self.keeps:
                channels = self.draft.channels[norm][i]
            else:  # widths of the file that are not on offer
                channels = state.rows(f"{norm}.bn.{i}.running_mean")
            pairs = {"statistics": ("running_mean", "running_var")}
            if not self.universal:
                pairs["affine"] = ("weight", "bias")
            for what, parts in pairs.items():
                narrow = state.pair(f"{norm}.bn.{i}", *parts, channels)
                whole = torch.stack([torch.zeros(full), torch.ones(full)])
                whole[:, :channels] = narrow
                found[what].append(whole)
        if self.universal:
            found["affine"] = [state.pair(norm, "weight", "bias", full)]
        statistics = torch.stack(found["statistics"])
        return Norm(torch.stack(found["affine"]), statistics if self.keeps else statistics[:0])


def _rounded(full: int, widths: Sequence[float]) -> list[int]:
    return [make_divisible(full * width, 1) for width in widths]


def _stem(draft: _Draft, kernel: int, activation: Activation, out: list[int], pool: bool) -> None:
    names = Names("features.0.0", "features.0.1")
    unit = draft.unit(names, out, kernel, 2, activation)
    draft.add(BlockConfig((unit,), pool=pool), [names])


def _mobilenet_v1(draft: _Draft) -> None:
    _stem(draft, 3, "relu6", _rounded(draft.full("features.0.0"), draft.widths), False)
    number = 1
    for count, first in _V1:
        for i in range(count):
            own = f"features.{number}.body"
            names = [Names(f"{own}.0", f"{own}.1"), Names(f"{own}.3", f"{own}.4")]
            out = _rounded(draft.full(f"{own}.3"), draft.widths)
            units = (
                draft.unit(names[0], None, 3, first if i == 0 else 1, "relu6"),
                draft.unit(names[1], out, 1, 1, "relu6"),
            )
            draft.add(BlockConfig(units), names)
            number += 1


def _mobilenet_v2(draft: _Draft) -> None:
    _stem(draft, 3, "relu6", _rounded(draft.full("features.0.0"), draft.widths), False)
    number = 1
    for ratio, count, first in _V2:
        for i in range(count):
            own, stride, inputs = f"features.{number}.body", first if i == 0 else 1, draft.last
            places = ((0, 1), (3, 4), (6, 7)) if ratio > 1 else ((0, 1), (3, 4))
            names = [Names(f"{own}.{conv}", f"{own}.{norm}") for conv, norm in places]
            units = []
            if ratio > 1:
                inner = [ratio * channels for channels in inputs]
                units.append(draft.unit(names[0], inner, 1, 1, "relu6"))
            units.append(draft.unit(names[-2], None, 3, stride, "relu6"))
            out = _rounded(draft.full(names[-1].conv), draft.widths)
            units.append(draft.unit(names[-1], out, 1))
            is_same = stride == 1 and inputs == out
            draft.add(BlockConfig(tuple(units), "identity" if is_same else "none"), names)
            number += 1
    last = Names(f"features.{number}.0", f"features.{number}.1")
    draft.plain.add(last.norm)
    full = [draft.full(last.conv)] * len(draft.widths)
    draft.add(BlockConfig((draft.unit(last, full, 1, 1, "relu6"),)), [last])


def _resnet_50(draft: _Draft) -> None:
    full = draft.full("features.0.0")
    _stem(draft, 7, "relu", [int(full * width) for width in draft.widths], True)
    number = 1
    for count, first in _RESNET:
        for i in range(count):
            own, stride, inputs = f"features.{number}", first if i == 0 else 1, draft.last
            names = [Names(f"{own}.body.{conv}", f"{own}.body.{conv + 1}") for conv in (0, 3, 6)]
            quarter = draft.full(names[-1].conv) // 4
            out = [int(quarter * width * 4) for width in draft.widths]
            inner = [channels // 4 for channels in out]
            units = (
                draft.unit(names[0], inner, 1, 1, "relu"),
                draft.unit(names[1], inner, 3, stride, "relu"),
                draft.unit(names[2], out, 1),
            )
            is_same = stride == 1 and inputs == out
            if not is_same:
                names.append(Names(f"{own}.shortcut.0", f"{own}.shortcut.1"))
                draft.channels[names[-1].norm] = out
            shortcut: Literal["identity", "conv"] = "identity" if is_same else "conv"
            draft.add(BlockConfig(units, shortcut, "relu"), names)
            number += 1


_READERS: dict[Architecture, Callable[[_Draft], None]] = {
    "mobilenet-v1": _mobilenet_v1,
    "mobilenet-v2": _mobilenet_v2,
    "resnet-50": _resnet_50,
}
