"""Channels of a convolutional network: what they are worth, in which order, and how many are kept.

A *group* is the channels that one dense unit makes and only the next dense unit reads; depthwise
units between keep them. Channels that a shortcut carries are in no group: all blocks share them.

Sources: He, Zhang and Sun 2017, Channel Pruning, arXiv 1707.06168; Cai et al. 2020, Once-for-All,
arXiv 1908.09791, section 3.2, for the order by the next layer's weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from models.families.convnet import Convnet
from models.nn.blocks import BlockChoice, SizeTable
from models.nn.conv_unit import ConvUnit
from models.nn.convolution import ConvBlock

ChannelRanking: TypeAlias = Literal["contribution", "magnitude", "random"]
CHANNEL_RANKINGS: tuple[ChannelRanking, ...] = get_args(ChannelRanking)
Sizes: TypeAlias = tuple[int, ...]
"""Channels that are kept of each group."""
_CHUNKS = 24  # that a group is cut in, at the most
_SMALL = 32  # channels


@dataclass(frozen=True)
class Group:
    """Channels that can be left out.

    Attributes:
        block: Number of the block.
        unit: That makes them.
        through: Depthwise units that keep them.
        reader: Unit that mixes them; None: the head.
        size: Their number.
        alone: Whether the block adds nothing but what it makes of them, so that without any it can
            be left out.
    """

    block: int
    unit: int
    through: tuple[int, ...]
    reader: int | None
    size: int
    alone: bool = False

    @property
    def last(self) -> int:
        """The unit whose output is read."""
        return self.through[-1] if self.through else self.unit

    @property
    def chunk(self) -> int:
        """Channels that are left out together: a multiple of eight, of small groups less."""
        if self.size < _SMALL:
            return max(1, self.size // 4)
        return -(-self.size // (_CHUNKS * 8)) * 8


def groups_of(model: Convnet) -> list[Group]:
    """Return the groups of a model; ValueError if its sizes can be chosen already."""
    found = []
    blocks = model.config.blocks
    for b, block in enumerate(blocks):
        dense = [u for u, unit in enumerate(block.units) if unit.out is not None]
        alone = block.shortcut == "identity" and not block.pool and len(dense) == 2
        for u, reader in zip(dense, [*dense[1:], None], strict=True):
            out = block.units[u].out
            assert out is not None
            if len(set(out.values)) > 1:
                raise ValueError(f"{model.name}: block {b} has a choice of channels already")
            end = len(block.units) if reader is None else reader
            is_last = b + 1 == len(blocks) and block.shortcut == "none"
            if reader is not None or is_last:
                found.append(Group(b, u, tuple(range(u + 1, end)), reader, out.values[0], alone))
    return found


@torch.no_grad()
def importance(
    ranking: ChannelRanking,
    model: Convnet,
    groups: Sequence[Group],
    batches: Sequence[Tensor],
    generator: torch.Generator,
) -> list[Tensor]:
    """Return what each channel of each group is worth.

    Args:
        ranking: ``contribution``: variance that a channel adds to what reads it, its mean aside,
            which the next normalisation removes. ``magnitude``: sum of the absolute weights that
            read it. ``random``: the control.
        model: The whole one, with statistics.
        groups: Of the model.
        batches: Images, each of shape [rows, 3, height, width], normalised.
        generator: Of random numbers.
    """
    if ranking == "random":
        return [torch.rand(group.size, generator=generator) for group in groups]
    weights = [reading_weight(model, group) for group in groups]
    if ranking == "magnitude":
        return [weight.abs().sum(0) for weight in weights]
    spreads = _spreads(model, groups, batches)
    return [
        weight.double().pow(2).sum(0).float() * spread
        for weight, spread in zip(weights, spreads, strict=True)
    ]


def reading_weight(model: Convnet, group: Group) -> Tensor:
    """Return the weights that read a group's channels, shape [readers, channels]."""
    if group.reader is None:
        head = model.head
        return (head.classifier if head.mix is None else head.mix).weight
    kernel = _kernel(model.block(group.block).unit(group.reader))
    return kernel.permute(0, 2, 3, 1).flatten(0, 2)


def _spreads(model: Convnet, groups: Sequence[Group], batches: Sequence[Tensor]) -> list[Tensor]:
    """Return the variance of each channel as it is read."""
    places = {(group.block, group.last): i for i, group in enumerate(groups)}
    sums = [torch.zeros(2, group.size, dtype=torch.float64) for group in groups]
    counts = [0] * len(groups)

    def note(i: int, read: Tensor) -> None:
        if groups[i].reader is None:
            read = read.mean((2, 3), keepdim=True)
        rows = read.transpose(0, 1).flatten(1).double()
        sums[i] += torch.stack([rows.sum(1), rows.pow(2).sum(1)])
        counts[i] += rows.shape[1]

    for images in batches:
        x = images
        for one in model.path(model.space.largest):
            block = model.block(one.block)

            def total(
                u: int, y: Tensor, block: ConvBlock = block, one: BlockChoice = one
            ) -> Tensor:
                y = block.totals(one.choices, one.number)(u, y)
                if (i := places.get((one.block, u))) is not None:
                    note(i, block.unit(u).activate(one.choices[u], y))
                return y

            x = block.run(one.choices, total, x)
    return [
        (total[1] / n - (total[0] / n).pow(2)).clamp(min=0).float()
        for total, n in zip(sums, counts, strict=True)
    ]


@torch.no_grad()
def ranked(model: Convnet, groups: Sequence[Group], worth: Sequence[Tensor]) -> Convnet:
    """Return a copy with each group's channels in the order of what they are worth.

    All channels together give what they did: sums are permuted.
    """
    made = copy.deepcopy(model)
    for group, own in zip(groups, worth, strict=True):
        order = own.argsort(descending=True, stable=True)
        block = made.block(group.block)
        for u in (group.unit, *group.through):
            unit = block.unit(u)
            for kernel in unit.kernels.values():
                kernel.copy_(kernel[order])
            unit.affine.copy_(unit.affine[:, :, order])
            unit.statistics.copy_(unit.statistics[:, :, order])
            if unit.reduce is not None and unit.expand is not None:
                unit.reduce.weight.copy_(unit.reduce.weight[:, order])
                unit.expand.weight.copy_(unit.expand.weight[order])
                unit.expand.bias.copy_(unit.expand.bias[order])
        if group.reader is None:
            reader = made.head.classifier if made.head.mix is None else made.head.mix
            reader.weight.copy_(reader.weight[:, order])
        else:
            for kernel in block.unit(group.reader).kernels.values():
                kernel.copy_(kernel[:, order])
    return made


def with_cuts(
    model: Convnet,
    axis: str,
    groups: Sequence[Group],
    cuts: Mapping[float, Sizes],
    *,
    fitted: bool = True,
) -> Convnet:
    """Return the model with an axis whose values are cuts, and 1, the whole; weights are shared.

    Args:
        model: With its channels in order, of one subnet.
        axis: Its name; the model has it, with the one value 1.
        groups: Of the model.
        cuts: Channels of each group by value, under 1; of a group that is `Group.alone`, 0 leaves
            its block out.
        fitted: Whether what reads a group has weights for each cut: at first those of the whole
            model, until `models.elasticize.channel_refit` fits them. Statistics are the whole
            model's. False: the cuts have no statistics and weights of their own.
    """
    values = (*sorted(cuts), 1.0)
    rows = [*(cuts[value] for value in values[:-1]), tuple(group.size for group in groups)]
    blocks = list(model.config.blocks)
    for i, group in enumerate(groups):
        sizes = SizeTable(tuple(row[i] for row in rows), (axis,))
        block = blocks[group.block]
        units = list(block.units)
        units[group.unit] = replace(units[group.unit], out=sizes)
        if group.reader is not None and fitted:
            units[group.reader] = replace(units[group.reader], fitted=True)
        active = SizeTable(tuple(min(1, size) for size in sizes.values), (axis,))
        block = replace(block, active=active) if group.alone else block
        blocks[group.block] = replace(block, units=tuple(units))
    config = replace(
        model.config,
        axes={axis: values},
        blocks=tuple(blocks),
        subnets=tuple((i,) for i in range(len(values))) if fitted else (),
    )
    with torch.device("meta"):
        made = Convnet(model.name, config)
    known = model.state_dict()
    state = {name: known[name] for name in made.state_dict() if name in known}
    for b in range(len(blocks)):
        for u, unit in enumerate(made.block(b).all_units):
            place, whole = f"blocks.{b}.units.{u}", model.block(b).unit(u)
            if not unit.config.fitted:
                state[f"{place}.statistics"] = whole.statistics.repeat(len(unit.statistics), 1, 1)
                continue
            weight, bias = whole.folded(unit.config.kernel.values[0], 0, model.config.eps)
            for number in range(len(unit.maps)):
                out, inputs = unit.map(number).weight.shape[:2]
                state[f"{place}.maps.{number}.weight"] = weight[:out, :inputs].clone()
                state[f"{place}.maps.{number}.bias"] = bias[:out].clone()
    made.load_state_dict(state, assign=True)
    return made.eval().requires_grad_(False)


def _kernel(unit: ConvUnit) -> Tensor:
    kernel: Tensor
    (kernel,) = unit.kernels.values()
    return kernel
