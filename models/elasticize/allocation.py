"""How many channels of each group are kept within a number of multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.elasticize.channels import Group, Sizes
from models.families.convnet import Convnet

_TINY = 1e-30


class Costs:
    """Multiply-accumulates of a model by the channels of its groups."""

    def __init__(self, model: Convnet, groups: Sequence[Group]) -> None:
        """Take the whole model and its groups."""
        self._model, self._groups = model, groups
        self._input = model.config.input.shape
        self._path = model.chosen(model.space.largest)
        self._known: dict[tuple[int, Sizes], int] = {}
        self._by_block: dict[int, list[int]] = {}
        for i, group in enumerate(groups):
            self._by_block.setdefault(group.block, []).append(i)
        self._pixels = self._sizes()

    def _sizes(self) -> list[tuple[int, int]]:
        _, height, width = self._input
        found = []
        for one in self._path:
            found.append((height, width))
            block = self._model.block(one.block)
            _, height, width = block.macs(one.choices, height, width)
        return found

    def of(self, sizes: Sizes) -> int:
        """Return the multiply-accumulates of one image."""
        total = sum(self._block(b, sizes) for b in range(len(self._path)))
        channels = self._path[-1].choices[len(self._model.config.blocks[-1].units) - 1].out
        last = next((i for i, group in enumerate(self._groups) if group.reader is None), None)
        return total + self._model.head.macs(channels if last is None else sizes[last])

    def _block(self, b: int, sizes: Sizes) -> int:
        own = self._by_block.get(b, [])
        key = b, tuple(sizes[i] for i in own)
        if any(self._groups[i].alone and not sizes[i] for i in own):
            return 0
        if key not in self._known:
            choices = list(self._path[b].choices)
            for i in own:
                group = self._groups[i]
                choices[group.unit] = choices[group.unit]._replace(out=sizes[i])
                for u in group.through:
                    choices[u] = choices[u]._replace(inputs=sizes[i], out=sizes[i])
                if group.reader is not None:
                    choices[group.reader] = choices[group.reader]._replace(inputs=sizes[i])
            self._known[key] = self._model.block(b).macs(choices, *self._pixels[b])[0]
        return self._known[key]


def allocate(
    costs: Costs,
    groups: Sequence[Group],
    losses: Sequence[Tensor],
    weights: Sequence[float],
    keep: float,
    left_out: Sequence[float] | None = None,
) -> Sizes:
    """Return the channels of each group within a share of the MACs, by least predicted loss.

    Chunks of channels go one after the other, that of the least loss per multiply-accumulate
    first. Channels lie most important first, so each next chunk of a group loses no less.

    Args:
        costs: Of the model.
        groups: Of the model.
        losses: Per group, what each channel is worth, descending.
        weights: Per group, of its relative loss.
        keep: Share of the whole model's MACs.
        left_out: Per group, the loss where its block is left out, by the measure of the weights;
            None: no block is.

    Raises:
        ValueError: If not even the smallest sizes fit.
    """
    sizes = tuple(group.size for group in groups)
    lost = []  # by group and the channels that are left of it
    for i, (weight, own) in enumerate(zip(weights, losses, strict=True)):
        tails = float(weight) * (own.sum() - own.cumsum(0)) / own.sum().clamp(min=_TINY)
        lost.append([float(weight) if left_out is None else left_out[i], *tails.tolist()])
    total = whole = costs.of(sizes)
    most = keep * whole
    while total > most:
        best: tuple[float, Sizes, int] | None = None
        for i, group in enumerate(groups):
            for fewer in (sizes[i] - group.chunk, 0) if sizes[i] else ():
                if fewer < 1 and (fewer < 0 or left_out is None or not group.alone):
                    continue
                tried = (*sizes[:i], fewer, *sizes[i + 1 :])
                macs = costs.of(tried)
                price = (lost[i][fewer] - lost[i][sizes[i]]) / max(1, total - macs)
                if best is None or price < best[0]:
                    best = price, tried, macs
        if best is None:
            raise ValueError(f"keep={keep} is too small: at least {total / whole:.3f} is left")
        _, sizes, total = best
    return sizes
