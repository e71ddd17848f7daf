"""Rankings of heads and feed-forward units by what they are worth on calibration inputs.

Each gives a number per group of heads and per unit; `models.train.ranking.rank_units` then puts the
most important first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.elasticize.streams import (
    Stack,
    Streams,
    after_attention,
    after_ffn,
    read_by_heads,
    read_by_units,
)
from models.nn.ragged import Ragged
from models.nn.transformer import Layer
from models.train.ranking import Importance, first_order_importance

Ranking: TypeAlias = Literal["contribution", "magnitude", "first-order", "trajectory", "random"]
_TRAJECTORY_ROWS = 12
_TRAJECTORY_UNITS = 96  # masked together, neighbours by contribution
_FIRST_ORDER_ROWS, _FIRST_ORDER_BATCH = 128, 32
_DIRECTIONS = 2  # random ones per batch


@torch.no_grad()
def contribution(layers: Sequence[Layer], streams: Streams) -> list[Importance]:
    """Count the mean square of what a head or unit adds to the stream, less its mean.

    What is constant is made up for by the bias of the map that is fitted later.
    """
    found = []
    for i, layer in enumerate(layers):
        config = layer.attention.config
        inner = config.group * config.head_dim
        out = layer.attention.out.weight.view(config.hidden, config.kv_heads, inner)
        heads, units, n = _Spread((config.kv_heads, inner)), _Spread((config.ffn,)), 0
        for x, total in zip(streams.after(layers, i), streams.attention[i], strict=True):
            said = layer.attention(read_by_heads(layer, x), config.kv_heads)
            heads.add(said.view(-1, config.kv_heads, inner))
            units.add(layer.ffn(read_by_units(layer, after_attention(layer, total)), config.ffn))
            n += len(said)
        products = torch.einsum("hgi,hgj->gij", out.double(), out.double())
        found.append(
            Importance(
                (products * heads.covariance()).sum((1, 2)).float(),
                (layer.ffn.down.weight.double().pow(2).sum(0) * units.variance()).float(),
            )
        )
    return found


class _Spread:
    """Mean products of values over rows, less those of their means."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._n = 0
        self._sum = torch.zeros(shape, dtype=torch.float64)
        self._squares = torch.zeros(
            shape if len(shape) == 1 else (*shape, shape[-1]), dtype=torch.float64
        )

    def add(self, values: Tensor) -> None:
        self._n += len(values)
        self._sum += values.sum(0, dtype=torch.float64)
        if values.ndim == 2:
            self._squares += values.pow(2).sum(0, dtype=torch.float64)
        else:
            by_head = values.transpose(0, 1)
            self._squares += by_head.transpose(1, 2) @ by_head

    def variance(self) -> Tensor:
        return self._squares / self._n - (self._sum / self._n).pow(2)

    def covariance(self) -> Tensor:
        mean = self._sum / self._n
        return self._squares / self._n - mean[:, :, None] * mean[:, None, :]


def magnitude(layers: Sequence[Layer]) -> list[Importance]:
    """Count the square norm of the weights that make and read a head or unit; no input is seen."""
    found = []
    for layer in layers:
        config, ffn = layer.attention.config, layer.ffn
        out = layer.attention.out.weight.view(config.hidden, config.kv_heads, -1)
        made = [ffn.up] if ffn.gate is None else [ffn.up, ffn.gate]
        found.append(
            Importance(
                layer.attention.qkv.detach().pow(2).sum((1, 2)) + out.detach().pow(2).sum((0, 2)),
                sum(
                    (one.weight.detach().pow(2).sum(1) for one in made),
                    ffn.down.weight.detach().pow(2).sum(0),
                ),
            )
        )
    return found


def at_random(layers: Sequence[Layer], generator: torch.Generator) -> list[Importance]:
    """Draw every number: the control."""
    return [
        Importance(
            torch.rand(layer.attention.config.kv_heads, generator=generator),
            torch.rand(layer.attention.config.ffn, generator=generator),
        )
        for layer in layers
    ]


def first_order(
    stack: Stack, entry: Sequence[Ragged], generator: torch.Generator
) -> list[Importance]:
    """Count, to first order, the squared change of the answers without a head or unit.

    The expected square of a change's product with a random direction is its squared length, so the
    gradients of such products do.
    """
    weights = [weight for layer in stack.layers for weight in layer.parameters()]
    total: list[Importance] = []
    for weight in weights:
        weight.requires_grad_(True)
    rows = _first_rows(entry, _FIRST_ORDER_ROWS)
    for start in range(0, len(rows), _FIRST_ORDER_BATCH):
        for _ in range(_DIRECTIONS):
            with torch.enable_grad():
                y = rows[start : min(start + _FIRST_ORDER_BATCH, len(rows))]
                for layer in stack.layers:
                    y = layer(layer.attention.config.kv_heads, layer.attention.config.ffn, y)
                answers = stack.leave(y)
                loss = (answers * torch.randn(answers.shape, generator=generator)).sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            found = first_order_importance(stack)
            squares = [Importance(one.groups.pow(2), one.units.pow(2)) for one in found]
            total = [
                Importance(a.groups + b.groups, a.units + b.units)
                for a, b in zip(total or squares, squares, strict=True)
            ]
            for weight in weights:
                weight.grad = None
    for weight in weights:
        weight.requires_grad_(False)
    return total


@torch.no_grad()
def trajectory(layers: Sequence[Layer], streams: Streams) -> list[Importance]:
    """Count how far the similarities between tokens move in all later layers without a part.

    One head, or a few units that contribute alike, is left out at a time. A few rows are run.

    Source: Khaki and Plataniotis 2024, OPTIN, arXiv 2403.17921, section 3.2 (manifold
    distillation); units there are left out one by one.
    """
    known = contribution(layers, streams)
    rows = _first_rows(streams.entry, _TRAJECTORY_ROWS)
    inputs, whole = [rows], []
    for layer in layers:
        inputs.append(_run(layer, inputs[-1], None, None))
        whole.append(_similarities(inputs[-1]))

    def moved(i: int, heads: Tensor | None, units: Tensor | None) -> float:
        x = _run(layers[i], inputs[i], heads, units)
        total = _distance(x, whole[i])
        for j in range(i + 1, len(layers)):
            x = _run(layers[j], x, None, None)
            total += _distance(x, whole[j])
        return total

    found = []
    for i, layer in enumerate(layers):
        config = layer.attention.config
        groups = torch.tensor([moved(i, torch.tensor([g]), None) for g in range(config.kv_heads)])
        order = known[i].units.argsort(descending=True, stable=True)
        units = torch.empty(config.ffn)
        for part in torch.split(order, _TRAJECTORY_UNITS):
            units[part] = moved(i, None, part) / len(part)
        found.append(Importance(groups, units))
    return found


def _first_rows(entry: Sequence[Ragged], most: int) -> Ragged:
    """Return some rows, of all lengths that there are."""
    each = max(1, most // len(entry))
    return Ragged.join([x.select(range(min(each, len(x)))) for x in entry[-most:]])


def _run(layer: Layer, x: Ragged, heads: Tensor | None, units: Tensor | None) -> Ragged:
    """Run a layer without some groups of heads or units."""
    config = layer.attention.config
    said = layer.attention(read_by_heads(layer, x), config.kv_heads)
    if heads is not None:
        said = said.view(len(said), config.kv_heads, -1).index_fill(1, heads, 0).flatten(1)
    h = after_attention(layer, x.values + layer.attention.out(said))
    inner = layer.ffn(read_by_units(layer, h), config.ffn)
    if units is not None:
        inner = inner.index_fill(1, units, 0)
    return x.replace(after_ffn(layer, h + layer.ffn.down(inner)))


def _similarities(x: Ragged) -> list[Tensor]:
    """Return the cosines between the tokens of each row."""
    unit = F.normalize(x.values, dim=1)
    return [part @ part.T for part in torch.split(unit, list(x.layout.lengths))]


def _distance(x: Ragged, whole: Sequence[Tensor]) -> float:
    found = zip(_similarities(x), whole, strict=True)
    return float(sum((a - b).pow(2).mean() for a, b in found))


def work(ranking: Ranking, layers: Sequence[Layer], streams: Streams) -> float:
    """Return what a ranking takes: tokens that run through all layers once, more or less."""
    if ranking in ("magnitude", "random"):
        return 0.0
    if ranking == "first-order":  # a backward pass is two forward ones
        return 3.0 * _DIRECTIONS * len(_first_rows(streams.entry, _FIRST_ORDER_ROWS).values)
    own = float(streams.tokens)
    if ranking == "trajectory":
        config = layers[0].attention.config
        parts = config.kv_heads + -(-config.ffn // _TRAJECTORY_UNITS)
        passes = parts * (len(layers) + 1) / 2
        own += passes * len(_first_rows(streams.entry, _TRAJECTORY_ROWS).values)
    return own


def rank(
    ranking: Ranking, stack: Stack, streams: Streams, generator: torch.Generator
) -> list[Importance]:
    """Return what heads and units are worth by a ranking of that name."""
    layers = stack.layers
    ways: dict[Ranking, Callable[[], list[Importance]]] = {
        "contribution": lambda: contribution(layers, streams),
        "magnitude": lambda: magnitude(layers),
        "first-order": lambda: first_order(stack, streams.entry, generator),
        "trajectory": lambda: trajectory(layers, streams),
        "random": lambda: at_random(layers, generator),
    }
    return ways[ranking]()
