"""Ridge regression of a narrower stack of layers onto the whole one, layer after layer.

Each output map is fitted to the whole layer's sum from what the narrower stack gives up to there,
so a layer also repairs what earlier ones lost.

Sources: He, Zhang and Sun 2017, Channel Pruning, arXiv 1707.06168, section 3.1, for least squares
onto the whole layer's output; Hoerl and Kennard 1970, Ridge Regression, Technometrics 12(1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.elasticize.streams import (
    Streams,
    after_attention,
    after_ffn,
    read_by_heads,
    read_by_units,
)
from models.families.pruned import LayerForm
from models.nn.ragged import Ragged
from models.nn.transformer import Layer

RIDGE = 1e-3  # of the mean variance of what is read
_LEAST_VARIANCE = 1e-6
_MAX_KEPT = 12  # stacks of some first layers, whose streams are kept


class Map(NamedTuple):
    """A linear map.

    Attributes:
        weight: Shape [out, in].
        bias: Shape [out].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        return F.linear(x, self.weight, self.bias)


Maps: TypeAlias = tuple[Map, ...]
"""What a layer's form has of its own: nothing, output maps of both parts, or one linear map."""


class Regression:
    """Sums over rows from which a ridge regression follows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._n = 0.0
        # About these: what varies less than it is large would be lost in the rounding of squares.
        self._about: tuple[Tensor, Tensor] | None = None
        self._x = torch.zeros(inputs, dtype=torch.float64)
        self._y = torch.zeros(outputs, dtype=torch.float64)
        self._yy = torch.zeros(outputs, dtype=torch.float64)
        self._xx = torch.zeros(inputs, inputs, dtype=torch.float64)
        self._xy = torch.zeros(inputs, outputs, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Take rows.

        Args:
            x: Shape [rows, inputs].
            y: Shape [rows, outputs].
            weights: Of the rows, shape [rows]; None for 1 each.
        """
        if self._about is None:
            self._about = x.mean(0), y.mean(0)
        x, y = x - self._about[0], y - self._about[1]
        self._n += len(x) if weights is None else float(weights.sum())
        wx, wy = (x, y) if weights is None else (x * weights[:, None], y * weights[:, None])
        self._x += wx.sum(0, dtype=torch.float64)
        self._y += wy.sum(0, dtype=torch.float64)
        self._yy += (wy * y).sum(0, dtype=torch.float64)
        self._xx += wx.T @ x
        self._xy += wx.T @ y

    def solve(self, ridge: float, prior: Tensor | None = None) -> Map:
        """Return the map from inputs to outputs.

        Args:
            ridge: Penalty on the weights, relative to the mean variance of the inputs.
            prior: Weights, shape [outputs, inputs], the difference to which is penalised; None for
                zero.
        """
        gram, cross, penalty = self._centred(ridge)
        if prior is not None:
            cross += penalty * prior.double().T
        weight = torch.linalg.solve(gram, cross).T
        assert self._about is not None, "no rows were added"
        mean = self._x / self._n + self._about[0]
        aim = self._y / self._n + self._about[1]
        return Map(weight.float(), (aim - weight @ mean).float())

    def residuals(self, ridge: float) -> Tensor:
        """Return the variance of the outputs that the first k inputs leave, shape [inputs]."""
        gram, cross, _ = self._centred(ridge)
        parts = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), cross, upper=False)
        explained = parts.pow(2).sum(1).cumsum(0) / self._n
        left: Tensor = (self.variance() - explained).clamp_min(0)
        return left

    def variance(self) -> float:
        """Return the variance of the outputs, summed over them."""
        return float((self._yy / self._n - (self._y / self._n).pow(2)).sum())

    def _centred(self, ridge: float) -> tuple[Tensor, Tensor, float]:
        """Return the inputs' products, with the penalty, those with the outputs, the penalty."""
        mean, aim = self._x / self._n, self._y / self._n
        gram = self._xx - self._n * torch.outer(mean, mean)
        cross = self._xy - self._n * torch.outer(mean, aim)
        penalty = ridge * float(gram.diagonal().mean()) or 1.0  # 1: none varies
        gram.diagonal().add_(penalty)
        return gram, cross, penalty


def weights_of(layer: Layer, sums: Tensor) -> Tensor | None:
    """Return what the rows of a fit to a layer's sums count, shape [tokens].

    A norm that follows divides a sum by its standard deviation, and its error with it.
    """
    return 1 / sums.var(1).clamp_min(_LEAST_VARIANCE) if layer.is_post else None


class Refit:
    """Fits cuts of one stack of layers; what cuts have in common from the start is fitted once."""

    def __init__(self, layers: Sequence[Layer], streams: Streams, ridge: float = RIDGE) -> None:
        self._layers = layers
        self._streams = streams
        self._ridge = ridge
        self._kept: OrderedDict[tuple[LayerForm, ...], tuple[tuple[Maps, ...], list[Ragged]]] = (
            OrderedDict()
        )

    @torch.no_grad()
    def fit(self, forms: Sequence[LayerForm]) -> tuple[Maps, ...]:
        """Return the maps of every layer's form."""
        maps, streams, start = self._longest_kept(tuple(forms))
        for i in range(start, len(forms)):
            own = self._fit_layer(i, forms[i], streams)
            maps = (*maps, own)
            if i + 1 < len(forms):
                layer = self._layers[i]
                streams = [run_form(layer, forms[i], own, x) for x in streams]
                self._keep(tuple(forms[: i + 1]), maps, streams)
        return maps

    def _longest_kept(
        self, forms: tuple[LayerForm, ...]
    ) -> tuple[tuple[Maps, ...], list[Ragged], int]:
        for n in range(len(forms) - 1, 0, -1):
            if all(form.kind == "whole" for form in forms[:n]):
                return ((),) * n, self._streams.after(self._layers, n), n
            if forms[:n] in self._kept:
                self._kept.move_to_end(forms[:n])
                maps, streams = self._kept[forms[:n]]
                return maps, streams, n
        return (), list(self._streams.entry), 0

    def _keep(self, forms: tuple[LayerForm, ...], maps: tuple[Maps, ...], x: list[Ragged]) -> None:
        self._kept[forms] = (maps, x)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)

    def _fit_layer(self, i: int, form: LayerForm, streams: Sequence[Ragged]) -> Maps:
        layer, whole = self._layers[i], self._streams
        hidden = layer.attention.config.hidden
        if form.kind == "whole":
            return ()
        if form.kind == "linear":
            one = Regression(hidden, hidden)
            for x, aim in zip(streams, whole.ffn[i], strict=True):
                read = read_by_heads(layer, x).values
                one.add(read, aim if layer.is_post else aim - x.values, weights_of(layer, aim))
            return (one.solve(self._ridge),)
        config = layer.attention.config
        first = Regression(form.groups * config.group * config.head_dim, hidden)
        said = [layer.attention(read_by_heads(layer, x), form.groups) for x in streams]
        for x, heads, aim in zip(streams, said, whole.attention[i], strict=True):
            first.add(heads, aim - x.values, weights_of(layer, aim))
        out = first.solve(self._ridge)
        second = Regression(form.units, hidden)
        for x, heads, aim in zip(streams, said, whole.ffn[i], strict=True):
            h = after_attention(layer, x.values + out(heads))
            inner = layer.ffn(read_by_units(layer, h), form.units)
            second.add(inner, aim - h, weights_of(layer, aim))
        return out, second.solve(self._ridge)


def run_form(layer: Layer, form: LayerForm, maps: Maps, x: Ragged) -> Ragged:
    """Run one layer in one of its forms."""
    if form.kind == "whole":
        config = layer.attention.config
        return layer(config.kv_heads, config.ffn, x)  # type: ignore[no-any-return]
    if form.kind == "linear":
        said = maps[0](read_by_heads(layer, x).values)
        return x.replace(after_ffn(layer, said) if layer.is_post else x.values + said)
    h = x.values + maps[0](layer.attention(read_by_heads(layer, x), form.groups))
    h = after_attention(layer, h)
    h = h + maps[1](layer.ffn(read_by_units(layer, h), form.units))
    return x.replace(after_ffn(layer, h))


def run_forms(
    layers: Sequence[Layer], forms: Sequence[LayerForm], maps: Sequence[Maps], x: Ragged
) -> Ragged:
    """Run a stack of layers, each in one of its forms."""
    for layer, form, own in zip(layers, forms, maps, strict=True):
        x = run_form(layer, form, own, x)
    return x
