"""Ridge regression of what reads the channels that are kept onto the whole network's sums.

Block after block, from the image on: inputs are those of the narrower network, aims are what the
whole one gives there, so a block also repairs what earlier ones lost. Penalised is the difference
to the whole network's weights: few images then change them little. The normalisation is part of
what is fitted; statistics need not be estimated again.

Sources: He, Zhang and Sun 2017, Channel Pruning, arXiv 1707.06168, sections 3.1 and 3.2, for least
squares onto the whole layer's output, and onto a residual block's sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.elasticize.refit import Map, Regression
from models.families.convnet import Convnet
from models.nn.blocks import BlockChoice, UnitChoice
from models.nn.conv_unit import ConvUnit
from models.space import Subnet

RIDGE = 0.1  # of the mean variance of what is read
_LEAST_ROWS, _ROWS_PER_INPUT = 10_000, 20  # pixels of a regression; more cost time alone
_Place = tuple[int, int]


@dataclass(frozen=True)
class Observed:
    """The whole network on some images, batch by batch.

    Attributes:
        images: Each of shape [rows, 3, height, width], normalised.
        aims: By block and unit, what the whole network gives there: before the activation, of a
            block's last unit with what the shortcut adds.
    """

    images: Sequence[Tensor]
    aims: dict[_Place, list[Tensor]]

    @property
    def rows(self) -> int:
        """Images."""
        return sum(map(len, self.images))

    @property
    def bytes_per_image(self) -> float:
        """What it takes, with one more network's streams beside."""
        most = max(sum(x.nbytes for x in own) for own in (self.images, *self.aims.values()))
        kept = sum(x.nbytes for own in (self.images, *self.aims.values()) for x in own)
        return (kept + 4 * most) / self.rows


@torch.no_grad()
def observe(model: Convnet, cut: Convnet, batches: Iterable[Tensor]) -> Observed:
    """Run the whole network on images.

    Args:
        model: The whole one, its channels in order.
        cut: What `models.elasticize.channels.with_cuts` makes of it: says what is fitted.
        batches: Images, each of shape [rows, 3, height, width], normalised.
    """
    images: list[Tensor] = []
    places = [
        (b, u)
        for b, block in enumerate(cut.config.blocks)
        for u, unit in enumerate(block.units)
        if unit.fitted
    ]
    aims: dict[_Place, list[Tensor]] = {place: [] for place in places}
    for batch in batches:
        images.append(batch)
        x = batch
        for one in model.path(model.space.largest):
            block = model.block(one.block)
            total, last = block.totals(one.choices, one.number), len(block.config.units) - 1
            y, added = x, block.shortcut(total, x)
            for u in range(last + 1):
                y = total(u, y)
                if (one.block, u) in aims:
                    aim = y if u < last or added is None else y + added
                    aims[one.block, u].append(aim)
                y = block.unit(u).activate(one.choices[u], y)
            x = block.leave(y, added)
    return Observed(images, aims)


class ChannelRefit:
    """Fits the cuts of one model; the whole one keeps its weights."""

    def __init__(self, cut: Convnet, observed: Observed, ridge: float = RIDGE) -> None:
        """Take what is fitted.

        Args:
            cut: What `models.elasticize.channels.with_cuts` gives; its weights are replaced.
            observed: The whole network on the images that fit.
            ridge: Penalty on the change of weights, relative to the mean variance of what is read.
        """
        self._cut, self._observed, self._ridge = cut, observed, ridge
        # By block, the set of the whole network, which stays as it is.
        self._done = {(one.block, one.number) for one in cut.path(cut.space.largest)}

    @torch.no_grad()
    def fit(self, subnet: Subnet, *, alone: bool = False) -> None:
        """Fit a cut.

        Args:
            subnet: Of the model.
            alone: Whether only the first block that is cut is fitted, and later ones stay.
        """
        xs: Sequence[Tensor] = self._observed.images
        for one in self._cut.path(subnet):
            is_new = (one.block, one.number) not in self._done
            xs = self._through(one, xs, is_new)
            self._done.add((one.block, one.number))
            if alone and is_new:
                return

    def _through(self, one: BlockChoice, xs: Sequence[Tensor], fits: bool) -> list[Tensor]:
        """Return what leaves a block, which is fitted before if it is to be."""
        block = self._cut.block(one.block)
        total, count = block.totals(one.choices, one.number), len(block.config.units)
        if not fits:
            return [block(one.choices, one.number, x) for x in xs]
        added = [block.shortcut(total, x) for x in xs]
        ys = list(xs)
        for u in range(count):
            unit, choice = block.unit(u), one.choices[u]
            if unit.config.fitted:
                aims = self._observed.aims[one.block, u]
                if u + 1 == count:
                    aims = [
                        aim if own is None else aim - own
                        for aim, own in zip(aims, added, strict=True)
                    ]
                self._fit_unit(unit, choice, one.number, ys, aims)
            ys = [unit.activate(choice, total(u, y)) for y in ys]
        return [block.leave(y, own) for y, own in zip(ys, added, strict=True)]

    def _fit_unit(
        self,
        unit: ConvUnit,
        choice: UnitChoice,
        number: int,
        ys: Sequence[Tensor],
        aims: Sequence[Tensor],
    ) -> None:
        own = unit.map(number)
        bias = own.bias
        assert bias is not None
        inputs = choice.inputs * choice.kernel**2
        pixels = sum(aim.numel() // aim.shape[1] for aim in aims)
        step = max(1, pixels // max(_LEAST_ROWS, _ROWS_PER_INPUT * inputs))
        sums = Regression(inputs, choice.out)
        for y, aim in zip(ys, aims, strict=True):
            rows = aim[:, : choice.out].permute(0, 2, 3, 1).flatten(0, 2)
            sums.add(read_by(unit, choice, y)[::step], rows[::step])
        found: Map = sums.solve(self._ridge, own.weight.flatten(1))
        own.weight.copy_(found.weight.view_as(own.weight))
        bias.copy_(found.bias)


def read_by(unit: ConvUnit, choice: UnitChoice, x: Tensor) -> Tensor:
    """Return what each pixel of a dense convolution is made of, shape [pixels, inputs].

    Args:
        unit: The convolution.
        choice: Of it.
        x: What it takes, shape [batch, channels, height, width].
    """
    stride = unit.config.stride
    if choice.kernel == 1:
        return x[:, :, ::stride, ::stride].permute(0, 2, 3, 1).flatten(0, 2)
    x, padding = unit.padded(choice, x)
    patches = F.unfold(x, choice.kernel, padding=padding, stride=stride)
    return patches.transpose(1, 2).flatten(0, 1)
