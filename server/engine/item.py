"""What the engine is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import inf
from typing import NamedTuple

from torch import Tensor

from models.core import Plan, Step, plan_cost
from models.inputs import Inputs, Item, num_tokens
from models.nn.ragged import Value
from models.space import Subnet
from search.timing.profile import LatencyProfile, Workload
from server.engine.predict import Share
from server.engine.schedule import Ticket

_TOGETHER = 8  # items of the batch in which what one adds is predicted
_MAX_SHARES = 1024  # of one plan: lengths, and versions of the profile


@dataclass(frozen=True, eq=False)
class PreparedPlan:
    """A plan with what batches of it need; made once per plan and kept.

    Attributes:
        model_name: Name in the catalogue.
        plan: Steps of a model whose weights are on the engine's device.
        inputs: How the inputs of a batch are put together.
        known: Identities of values that an earlier run kept; nothing that only they need is run.
        keep: Identities of inner values that are wanted with the answer, to go on from.
        profile: Predicts the steps; None where nothing was measured.
        owner: The model that the steps are of, held for as long as the plan is.
        subnet: That was planned; None where nobody asks.
        is_raw: Whether vectors keep the length that they had before they became unit vectors.
        steps: Those that must run.
        macs: Of these, for an item of the shapes that the plan was made for.
    """

    model_name: str
    plan: Plan
    inputs: Inputs
    known: frozenset[bytes] = frozenset()
    keep: frozenset[bytes] = frozenset()
    profile: LatencyProfile | None = None
    owner: object = None
    subnet: Subnet | None = None
    is_raw: bool = False
    steps: tuple[Step, ...] = field(init=False)
    macs: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the steps and price them."""
        steps = tuple(self.plan.rest(self.known)) if self.known else self.plan.steps
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "macs", plan_cost(steps).macs)

    def share(self, lengths: Mapping[str, int]) -> Share:
        """Predict one item whose inputs have some lengths, 0 for those that have none."""
        if self.profile is None:
            return Share()
        return self._share(tuple(lengths.items()), self.profile.corrections.version)

    @cached_property
    def _share(self) -> Callable[[tuple[tuple[str, int], ...], int], Share]:
        def predict(lengths: tuple[tuple[str, int], ...], _version: int) -> Share:
            assert self.profile is not None
            one = Workload.of(self.steps, 1, dict(lengths))
            alone, together = (
                self.profile.total(self.steps, one._replace(rows=rows)) for rows in (1, _TOGETHER)
            )
            return Share(alone, max(0.0, together - alone) / (_TOGETHER - 1))

        return lru_cache(_MAX_SHARES)(predict)


@dataclass(frozen=True, eq=False)
class QueueItem:
    """One item to be run through one plan.

    Attributes:
        prepared: The plan.
        inputs: By name.
        known: What an earlier run kept of the item, by identity.
        deadline: When an answer is of no use any more, on the engine's clock.
        flops: Of the plan on this item; None for those of the plan's own shapes.
        client: Whose it is.
        weight: The client's share of what its class gets.
        priority: Class; lower ones go first.
        longest_s: Where it only makes an answer better that is there already, what a batch with it
            may be predicted to take; such items go after all that are due at some time. Infinity
            for all other items.
    """

    prepared: PreparedPlan
    inputs: Item
    known: Mapping[bytes, Value] = field(default_factory=dict)
    deadline: float = inf
    flops: float | None = None
    client: str = ""
    weight: float = 1.0
    priority: int = 0
    longest_s: float = inf

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of its inputs together; 0 where they have no length."""
        return num_tokens(self.inputs)

    @cached_property
    def share(self) -> Share:
        """Predicted seconds."""
        return self.prepared.share({name: one.size for name, one in self.inputs.items()})

    @cached_property
    def contents(self) -> Mapping[str, Hashable]:
        """By input, what is equal for equal contents."""
        return {name: one.digest for name, one in self.inputs.items()}

    @property
    def ticket(self) -> Ticket:
        """What the scheduler goes by; all items of one model may mix.

        Two models of one name, as while one replaces the other, have the same keys of steps and
        other weights.
        """
        prepared = self.prepared
        return Ticket(
            key=(prepared.model_name, id(prepared.owner), prepared.inputs.bucket(self.inputs)),
            num_tokens=self.num_tokens,
            flops=2.0 * prepared.macs if self.flops is None else self.flops,
            client=self.client,
            weight=self.weight,
            priority=self.priority,
            deadline=self.deadline,
            due=self.due,
        )

    @property
    def due(self) -> float:
        """When it has to be done; infinity for what only makes an answer better."""
        return self.deadline if self.longest_s == inf else inf


def shared_part(computed: float, whole: float) -> float:
    """Return the part of an amount, 0..1, that was not computed for it alone.

    Equal parts of what several share may add up to a hair more than the whole.
    """
    return max(0.0, 1 - computed / whole) if whole else 0.0


class ItemResult(NamedTuple):
    """The answer to one item.

    Attributes:
        outputs: Per task, without the batch dimension.
        kept: By identity, the inner values that were to be kept.
        queue_s: From submission until its batch was taken, seconds.
        run_s: From then until its own steps were done, seconds.
        batch_size: Items in its batch.
        macs: Its part of what was computed; of values that several share, an equal part each.
        shared: Part of its FLOPs, 0..1, that were computed for others as well, or before.
    """

    outputs: dict[str, Tensor]
    kept: Mapping[bytes, Value]
    queue_s: float
    run_s: float
    batch_size: int
    macs: float = 0.0
    shared: float = 0.0
