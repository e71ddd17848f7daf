"""Statistics of batch normalisation for subnets, estimated on images and kept with the model.

Running statistics of the whole network are wrong for a slice of it, and so are those of another
subnet: what comes in is distributed otherwise. So each subnet is run on images with the statistics
of the batch itself, and their means over all batches are kept. They depend on the images that were
drawn, so they are estimated once and stored, never when a model is loaded.

Sources: Cai et al. 2020, Once-for-All, arXiv 1908.09791; Yu and Huang 2019, Universally Slimmable
Networks, arXiv 1903.05134 (post-statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.convnet import Convnet
from models.nn.blocks import UnitChoice
from models.nn.conv_unit import MEAN, SCALE, SHIFT, VARIANCE
from models.nn.convolution import ConvBlock
from models.space import Subnet

_Key = tuple[int, tuple[UnitChoice, ...]]


@dataclass(frozen=True)
class _Node:
    """A block after all that was chosen before it, and the blocks that come next in some subnet."""

    number: int
    next: dict[_Key, _Node] = field(default_factory=dict)


def estimated(
    model: Convnet,
    subnets: Sequence[Subnet],
    batches: Iterable[Tensor],
    report: Callable[[], object] = lambda: None,
) -> Convnet:
    """Return the model with statistics for more subnets, and for its smallest and largest one.

    Those that it has already stay as they are. Weights are shared.

    Args:
        model: Without private scales and shifts, or maps, of its sets of statistics.
        subnets: To be added; axes that make no difference may have any value.
        batches: Images, each of shape [rows, 3, height, width], normalised.
        report: Called after each batch.

    Raises:
        ValueError: If there is no image, or the model's scales and shifts belong to its statistics.
    """
    if model.config.private_affine or model.config.is_fitted:
        raise ValueError(f"{model.name}: its weights belong to its statistics; none can be added")
    made = _with_subnets(model, [*(model.space.listed or ()), *subnets])
    keeps = model.config.statistics == "path"
    tree, there = _tree(made), _tree(model) if keeps else _Node(-1)
    rows = 0
    with torch.inference_mode():
        for batch in batches:
            _visit(made, tree, there, batch)
            rows += len(batch)
            report()
        if not rows:
            raise ValueError("no image to estimate statistics on")
        for i in range(len(made.blocks)):
            for unit in made.block(i).all_units:
                unit.statistics.div_(rows)
        _copy(made, tree, model, there)
    return made.eval().requires_grad_(False)


def only(model: Convnet, subnets: Sequence[Subnet]) -> Convnet:
    """Return the model with the statistics of some subnets, and of its ends, alone.

    Args:
        model: With statistics for them, found by `estimated`.
        subnets: To be kept.

    Raises:
        ValueError: If the model has none for one of them.
    """
    made = _with_subnets(model, subnets)
    if missing := [subnet for subnet in made.space if subnet not in set(model.space.listed or ())]:
        raise ValueError(f"{model.name} has no statistics for {missing[0]}")
    with torch.inference_mode():
        _copy(made, _tree(made), model, _tree(model))
    return made.eval().requires_grad_(False)


def _with_subnets(model: Convnet, subnets: Sequence[Subnet]) -> Convnet:
    """Return a model with room for the statistics of subnets; all other weights are shared.

    Raises:
        ValueError: If it offers 8 bits, for which what it lists is calibrated.
    """
    if len(model.config.bits) > 1:
        raise ValueError(f"{model.name}: bits={list(model.config.bits)} fix the subnets it lists")
    ends = (model.choices.smallest, model.choices.largest)
    asked = [model.canonical(subnet) for subnet in (*subnets, *ends)]
    listed = sorted(dict.fromkeys(asked), key=ends[1].__eq__)  # the largest last
    positions = tuple(
        tuple(axis.index(subnet[axis.name]) for axis in model.choices.axes) for subnet in listed
    )
    config = replace(model.config, subnets=positions, statistics="path")
    with torch.device("meta"):
        made = Convnet(model.name, config)
    state = {
        name: torch.zeros(tensor.shape)
        if name.endswith(".statistics")
        else model.get_parameter(name)
        for name, tensor in made.state_dict().items()
    }
    made.load_state_dict(state, assign=True)
    return made


def _tree(model: Convnet) -> _Node:
    root = _Node(-1)
    for subnet in model.space.listed or ():
        node = root
        for one in model.path(subnet):
            node = node.next.setdefault((one.block, one.choices), _Node(one.number))
    return root


def _visit(model: Convnet, node: _Node, known: _Node | None, x: Tensor) -> None:
    """Add a batch's statistics to every block after a node that has none yet.

    Args:
        model: Whose statistics these are.
        node: Of the model.
        known: The same of what is known, if it is.
        x: What comes out of the node.
    """
    for key, after in node.next.items():
        own = None if known is None else known.next.get(key)
        if own is not None and not _adds(after, own):
            continue
        number, choices = key
        _visit(model, after, own, _run(model.block(number), choices, after.number, x))


def _adds(node: _Node, known: _Node) -> bool:
    """Return whether there is something after a node that is not known."""
    return any(
        key not in known.next or _adds(after, known.next[key]) for key, after in node.next.items()
    )


def _run(block: ConvBlock, choices: tuple[UnitChoice, ...], number: int, x: Tensor) -> Tensor:
    def total(i: int, y: Tensor) -> Tensor:
        unit = block.unit(i)
        y = unit.convolve(choices[i], y)
        channels = y.shape[1]
        mean = y.mean((0, 2, 3))
        variance = y.var((0, 2, 3), correction=0)
        unit.statistics[number, MEAN, :channels] += len(y) * mean
        unit.statistics[number, VARIANCE, :channels] += len(y) * variance
        scale, shift = unit.affine[0, SCALE, :channels], unit.affine[0, SHIFT, :channels]
        return F.batch_norm(y, mean, variance, scale, shift, False, 0.0, block.eps)

    return block.run(choices, total, x)


def _copy(made: Convnet, node: _Node, model: Convnet, known: _Node) -> None:
    """Write the statistics that were known before."""
    for key, own in known.next.items():
        if (after := node.next.get(key)) is None:
            continue
        blocks = (one.block(key[0]).all_units for one in (made, model))
        for unit, old in zip(*blocks, strict=True):
            unit.statistics[after.number] = old.statistics[own.number]
        _copy(made, after, model, own)
