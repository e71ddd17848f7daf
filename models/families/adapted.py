"""Adapters on a shared trunk: small low-rank weights per client or task, chosen item by item.

An item names its adapter as an input of its own. So items with different adapters run every step
of the trunk in one call, and differ only in which factors their rows take inside it. An item
without an adapter runs the trunk alone, by the wrapped model's own plan.

Axes: those of the wrapped model, and ``rank``: the leading part of each adapter's factors. It
changes nothing where no adapter is named.

Sources: Hu et al. 2021, LoRA, arXiv 2106.09685; Sung et al. 2022, VL-Adapter, arXiv 2112.06825, for
adapters on one trunk for several tasks; Valipour et al. 2022, DyLoRA, arXiv 2210.07558, for nested
ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

from pydantic import ConfigDict
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs.adapter import KIND
from models.nn.architecture import TransformerConfig
from models.nn.low_rank import LowRank
from models.nn.ragged import Ragged
from models.nn.transformer import PLACES, Layer, Place, layers_of
from models.space import Axis, Space, Subnet, Value, check_ascending
from models.wrapped import NamingModel, layer_call

MAX_ADAPTERS = 64  # of a model: each is a label of metrics, and a name in errors
_MAX_NAME = 100


@dataclass(frozen=True)
class AdaptedConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        family: Of the wrapped model.
        model: Its configuration, as in the manifest of its own checkpoint.
        adapters: Their names, at most 64.
        ranks: Ascending; the last is that of the factors that are kept.
        places: Linear maps of every layer that adapters add to.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    model: Mapping[str, Any]
    adapters: tuple[str, ...]
    ranks: tuple[int, ...]
    places: tuple[Place, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be built; ValueError naming the field and what is allowed."""
        names = self.adapters
        if not 1 <= len(names) <= MAX_ADAPTERS or len(set(names)) < len(names):
            raise ValueError(f"adapters: {len(names)} names; 1 to {MAX_ADAPTERS}, each once")
        for name in names:
            if not name.strip() or len(name) > _MAX_NAME:
                raise ValueError(f"adapters: {name[:80]!r} must have 1 to {_MAX_NAME} characters")
        check_ascending("ranks", self.ranks, self.ranks[-1] if self.ranks else 0)
        if not self.places or len(set(self.places)) < len(self.places):
            raise ValueError(f"places={list(self.places)} must be some of {list(PLACES)}, once")


class Adapted(NamingModel):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    config: AdaptedConfig
    named = KIND

    def __init__(self, name: str, config: AdaptedConfig) -> None:
        """Build the wrapped model.

        Raises:
            ValueError: If its family is unknown, or it has no layers that adapters could add to.
        """
        super().__init__(name, config)
        layers = layers_of(self.base)
        self.check_one_set_of_weights()
        self.low = nn.ModuleList(
            nn.ModuleDict(
                {place: self._low_rank(layer.attention.config, place) for place in config.places}
            )
            for layer in layers
        )

    def _low_rank(self, encoder: TransformerConfig, place: Place) -> LowRank:
        if place == "gate" and not encoder.gated:
            raise ValueError("places: 'gate' is of gated layers, which the model's are not")
        rank, count = self.config.ranks[-1], len(self.config.adapters)
        return LowRank(count, rank, *sizes(encoder)[place])

    @property
    def names(self) -> Sequence[str]:
        """The adapters."""
        return self.config.adapters

    @cached_property
    def space(self) -> Space:
        """Whether there is an adapter, its rank, and the wrapped model's axes."""
        own = (self.inputs_axis, Axis("rank", self.config.ranks))
        space: Space = self.base.space
        return Space((*own, *space.axes), lambda subnet: space.has(self.of_base(subnet)))

    def vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return what tells the trunk's vectors apart and, of an adapter's, the rank."""
        own = ("inputs", "rank") if self.is_named(subnet) else ("inputs",)
        return {**self.base_vector_space(subnet), **{axis: subnet[axis] for axis in own}}

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the wrapped model's plan, with an adapter's factors in its layers."""
        subnet, length = self.space.check(subnet), self.tokens(shapes)
        plan = self.base_plan(subnet, shapes, tasks)
        if not self.is_named(subnet):
            return plan
        rank = int(subnet["rank"])
        return plan.rewritten(lambda step, takes: self._step(step, takes, rank, length))

    def _step(self, step: Step, takes: tuple[Step | str, ...], rank: int, length: int) -> Step:
        call = layer_call(step)
        if call is None:
            return replace(step, takes=takes)
        layer, groups, units, maps = call
        low = self.low[layers_of(self.base).index(layer)]
        assert isinstance(low, nn.ModuleDict)
        cost, found = step.cost, sizes(layer.attention.config, groups, units)
        for place in self.config.places:
            part = low[place]
            assert isinstance(part, LowRank)
            taken_given = found[place]
            cost += Cost(part.macs(rank, *taken_given, length), part.bytes(rank, *taken_given))
        run = partial(_adapted, layer, low, rank, groups, units, **maps)
        return Step((step.key, "rank", rank), run, (*takes, KIND), cost, tolerance=step.tolerance)


def _adapted(
    layer: Layer,
    low: nn.ModuleDict,
    rank: int,
    groups: int,
    units: int,
    x: Ragged,
    which: Tensor,
    **maps: nn.Module,
) -> Ragged:
    """Run a layer with what each row's adapter adds to its maps."""

    def plus(place: Place, taken: Tensor, given: Tensor) -> Tensor:
        if place not in low:
            return given
        added: Tensor = low[place](rank, which, x.layout, taken, given)
        return added

    found: Ragged = layer(groups, units, x, plus=plus, **maps)
    return found


def sizes(
    encoder: TransformerConfig, groups: int | None = None, units: int | None = None
) -> dict[Place, tuple[int, int]]:
    """Return the inputs and outputs of each linear map of a layer.

    Args:
        encoder: Of the layer.
        groups: Of heads that are run; None for all.
        units: Of the feed-forward part that are run; likewise.
    """
    hidden = encoder.hidden
    keys = (encoder.kv_heads if groups is None else groups) * encoder.head_dim
    inner, units = keys * encoder.group, encoder.ffn if units is None else units
    return {
        "query": (hidden, inner),
        "key": (hidden, keys),
        "value": (hidden, keys),
        "out": (inner, hidden),
        "up": (hidden, units),
        "gate": (hidden, units),
        "down": (units, hidden),
    }


FAMILY = Family(AdaptedConfig, Adapted)
