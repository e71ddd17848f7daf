"""Fewer tokens for the later layers of an encoder: a summary of each row takes their place.

After some layers a step leaves a fixed number of tokens of each row (`models.nn.selectors`), and
the layers after it run on these alone. All tokens are the wrapped model's own plan, whose first
layers the others share.

Axes: ``tokens``, and those of the wrapped model. A summary of more tokens than a row has costs more
than the row: the search sees what each costs at the lengths of a request.

Sources: De Min et al. 2024, MULTI-LANE, arXiv 2407.17228; Bolya et al. 2023, Token Merging, arXiv
2210.09461, for merging in place of learned selection.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

from pydantic import ConfigDict

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.nn.selectors import Selectors
from models.nn.transformer import layers_of
from models.space import Axis, Space, Subnet, Value
from models.wrapped import Wrapped, layer_call

ALL = "all"


@dataclass(frozen=True)
class FewerTokensConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        family: Of the wrapped model.
        model: Its configuration, as in the manifest of its own checkpoint.
        after: Layers that see all tokens, 1 or more.
        counts: Tokens that the later layers may see, ascending, 2 or more; all are offered too.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    model: Mapping[str, Any]
    after: int
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be built; ValueError naming the field and what is allowed."""
        if self.after < 1:
            raise ValueError(f"after={self.after} must be 1 or more")
        counts = list(self.counts)
        if not counts or counts != sorted(set(counts)) or counts[0] < 2:
            raise ValueError(f"counts={counts} must ascend, from 2 on")


class FewerTokens(Wrapped):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    config: FewerTokensConfig

    def __init__(self, name: str, config: FewerTokensConfig) -> None:
        """Build the wrapped model.

        Raises:
            ValueError: If its family is unknown, or its layers cannot do with a summary.
        """
        super().__init__(name, config)
        layers = layers_of(self.base)
        encoder = layers[0].attention.config
        if encoder.positions != "absolute" or encoder.causal or encoder.window is not None:
            raise ValueError("model: its layers look at where tokens are, which a summary has not")
        if config.after >= len(layers):
            raise ValueError(f"after={config.after} must be below {len(layers)}, the layers")
        self.check_one_set_of_weights()
        self.selectors = Selectors(config.counts[-1], encoder.hidden)

    @cached_property
    def space(self) -> Space:
        """Tokens, and the wrapped model's axes."""
        space: Space = self.base.space
        tokens = Axis("tokens", (*self.config.counts, ALL))
        return Space((tokens, *space.axes), lambda subnet: space.has(self.of_base(subnet)))

    def vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return the tokens, and what tells the wrapped model's vectors apart."""
        return {"tokens": subnet["tokens"], **self.base_vector_space(subnet)}

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the wrapped model's plan, its later layers on a summary of each row."""
        subnet, length = self.space.check(subnet), self.tokens(shapes)
        plan: Plan = self.base.plan(self.of_base(subnet), shapes, tasks)
        if subnet["tokens"] == ALL:
            return plan
        count, run = int(subnet["tokens"]), 0

        def own(step: Step, takes: tuple[Step | str, ...]) -> Step:
            nonlocal run
            call = layer_call(step)
            if call is None:
                return replace(step, takes=takes)
            run += 1
            if run <= self.config.after:
                return replace(step, takes=takes)
            (before,) = takes
            assert isinstance(before, Step)
            if run == self.config.after + 1:
                cost = Cost(self.selectors.macs(count, length), self.selectors.bytes(count))
                selected = partial(self.selectors, count)
                before = Step(("select", count), selected, (before,), cost)
            cost = Cost(call.layer.macs(call.groups, call.units, count), step.cost.bytes)
            return replace(step, key=(step.key, "tokens", count), takes=(before,), cost=cost)

        return plan.rewritten(own)


FAMILY = Family(FewerTokensConfig, FewerTokens)
