"""Which form each layer gets: a knapsack over predicted damage, and measured trials around it.

The damage of a cut is predicted as the sum over layers of what their forms leave unexplained, times
a weight per layer and part. A knapsack gives the cut of least damage within a share of the MACs.
The weights start from one measured probe each. Trials then draw weights around those of the best
cut found so far, and the user's own measure says which cut is kept: an evolution strategy over the
weights, whose every candidate spends the whole budget.

Sources: Kurtic, Frantar and Alistarh 2023, ZipLM, arXiv 2302.04089, for layer-wise errors in a
structured knapsack; Rechenberg 1973, Evolutionsstrategie, for (1 + 1) steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.elasticize.damage import Unexplained
from models.families.pruned import LayerForm
from models.nn.linear_layer import LinearLayer
from models.nn.transformer import Layer
from search.quality.table import FloatArray

_BUCKETS = 1000  # of the knapsack: costs are rounded up to this part of the whole
_STEPS = 24  # numbers of units on offer
_SPREAD = 0.5  # of the logarithms of weights
_LEAST = 1e-9
PARTS = ("heads", "units", "linear")

Forms: TypeAlias = tuple[LayerForm, ...]


class Candidate(NamedTuple):
    """A form of a layer.

    Attributes:
        form: The form.
        macs: Multiply-accumulates of one row.
        heads: Unexplained with the heads it has.
        units: Likewise with its units.
        linear: Likewise with one map.
    """

    form: LayerForm
    macs: int
    heads: float
    units: float
    linear: float


def menu(layer: Layer, left: Unexplained, length: int) -> list[Candidate]:
    """Return the forms of a layer: every number of heads with many numbers of units, and one map.

    Args:
        layer: The layer.
        left: What its forms leave unexplained.
        length: Tokens of a typical row.
    """
    config = layer.attention.config
    sizes = sorted({max(1, round(config.ffn * s / _STEPS)) for s in range(1, _STEPS + 1)})
    base = float(left.heads[-1]), float(left.units[-1])  # what the penalty alone costs
    found = [
        Candidate(
            LayerForm("narrow", groups, units),
            layer.macs(groups, units, length),
            float(left.heads[groups - 1]) - base[0],
            float(left.units[units - 1]) - base[1],
            0.0,
        )
        for groups in range(1, config.kv_heads + 1)
        for units in sizes
    ]
    linear = Candidate(LayerForm("linear"), LinearLayer(config).macs(length), 0.0, 0.0, left.linear)
    return [linear, *found]


def cheapest_damage(
    menus: Sequence[Sequence[Candidate]], weights: FloatArray, most: float
) -> Forms:
    """Return the cut of least predicted damage.

    Args:
        menus: Per layer, its forms.
        weights: Of heads, units and linear per layer, shape [layers, 3].
        most: MACs that it may take.

    Raises:
        ValueError: If not even the cheapest forms fit.
    """
    least = np.zeros(_BUCKETS + 1)
    picks: list[NDArray[np.intp]] = []
    costs = [np.array([_buckets(choice.macs, most) for choice in own]) for own in menus]
    for own, cost, weight in zip(menus, costs, weights, strict=True):
        damage = np.array([[c.heads, c.units, c.linear] for c in own]) @ weight
        # Of choices that cost the same, the best is enough.
        best = np.full((len(own), _BUCKETS + 1), np.inf)
        for n, (price, loss) in enumerate(zip(cost, damage, strict=True)):
            if price <= _BUCKETS:
                best[n, price:] = least[: _BUCKETS + 1 - price] + loss
        picks.append(best.argmin(axis=0))
        least = best.min(axis=0)
    if not np.isfinite(least[-1]):
        floor = sum(min(choice.macs for choice in own) for own in menus)
        raise ValueError(f"at most {most:.0f} MACs are asked for, the least that there are {floor}")
    forms: list[LayerForm] = []
    room = _BUCKETS
    for own, cost, pick in zip(reversed(menus), reversed(costs), reversed(picks), strict=True):
        number = int(pick[room])
        forms.append(own[number].form)
        room -= int(cost[number])
    return as_whole(tuple(reversed(forms)), menus)


def as_whole(forms: Forms, menus: Sequence[Sequence[Candidate]]) -> Forms:
    """Return a cut whose first layers, as far as all is kept of them, are those of the model.

    Later ones are refitted to what the narrower ones before them left.
    """
    full = [own[-1].form for own in menus]
    start = next((i for i, form in enumerate(forms) if form != full[i]), len(forms))
    return (*([LayerForm("whole")] * start), *forms[start:])


def _buckets(macs: int, most: float) -> int:
    return int(np.ceil(macs / most * _BUCKETS))


def macs_of(forms: Forms, layers: Sequence[Layer], length: int) -> int:
    """Return the MACs of a cut's layers for one row."""
    total = 0
    for form, layer in zip(forms, layers, strict=True):
        config = layer.attention.config
        if form.kind == "linear":
            total += LinearLayer(config).macs(length)
        elif form.kind == "whole":
            total += layer.macs(config.kv_heads, config.ffn, length)
        else:
            total += layer.macs(form.groups, form.units, length)
    return total


def probes(layers: Sequence[Layer]) -> list[list[LayerForm]]:
    """Return the forms that are tried in each layer alone: of `PARTS`, one each."""
    found = []
    for layer in layers:
        config = layer.attention.config
        found.append(
            [
                LayerForm("narrow", max(1, config.kv_heads // 2), config.ffn),
                LayerForm("narrow", config.kv_heads, max(1, round(0.3 * config.ffn))),
                LayerForm("linear"),
            ]
        )
    return found


def weights_of(
    tried: Sequence[Sequence[LayerForm]],
    damages: FloatArray,
    left: Sequence[Unexplained],
) -> FloatArray:
    """Return the weights that give the damages that probes did, shape [layers, 3].

    Args:
        tried: What `probes` gives.
        damages: What was measured, shape [layers, 3].
        left: What each layer's forms leave unexplained.
    """
    found = np.empty_like(damages)
    for i, (forms, own) in enumerate(zip(tried, left, strict=True)):
        heads, units, _ = forms
        unexplained = (
            float(own.heads[heads.groups - 1] - own.heads[-1]),
            float(own.units[units.units - 1] - own.units[-1]),
            own.linear,
        )
        found[i] = [
            max(d, _LEAST) / max(u, _LEAST) for d, u in zip(damages[i], unexplained, strict=True)
        ]
    return found


@dataclass
class BestCut:
    """The best cut of one budget so far.

    Attributes:
        forms: Of the layers.
        score: By the measure that chooses.
        weights: That the knapsack gave it with, shape [layers, 3].
        trials: Cuts measured for this budget.
    """

    forms: Forms
    score: float
    weights: FloatArray
    trials: int = 1


def try_more(
    best: BestCut,
    menus: Sequence[Sequence[Candidate]],
    most: float,
    measure: Callable[[Forms], float],
    known: Callable[[Forms], bool],
    rng: np.random.Generator,
    draws: int = 20,
) -> BestCut:
    """Measure one more cut within the budget, drawn around the best one, and return the better.

    Args:
        best: So far.
        menus: Per layer, its forms.
        most: MACs that a cut may take.
        measure: Scores a cut, more is better.
        known: Whether a cut has been measured.
        rng: Draws the weights.
        draws: How often to draw until the cut is a new one; the best comes back if none is.
    """
    for _ in range(draws):
        weights = best.weights * np.exp(_SPREAD * rng.standard_normal(best.weights.shape))
        forms = cheapest_damage(menus, weights, most)
        if known(forms):
            continue
        score = measure(forms)
        if score > best.score:
            return BestCut(forms, score, weights, best.trials + 1)
        best.trials += 1
        return best
    return best
