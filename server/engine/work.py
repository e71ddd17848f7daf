"""What the engine is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import inf
from typing import Any, NamedTuple

from torch import Tensor

from models.core import KeyPath, Plan, plan_cost
from models.inputs.image import ModelInput
from search.timing.profile import Profile, Workload
from server.engine.predict import Share
from server.engine.schedule import Ticket

_TOGETHER = 8  # works of the batch in which what one adds is predicted
_MAX_SHARES = 128  # of one plan: lengths, and versions of the profile


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan with what batches of it need; made once per plan and kept.

    Attributes:
        model_name: Name in the catalogue.
        plan: Steps of a model whose weights are on the engine's device.
        input: How the inputs of a batch are put together.
        resume: Path of the step whose values the inputs are; empty for a plan from its start.
        keep: Path of an inner step whose value is wanted with the answer, to resume from; or empty.
        profile: Predicts the steps; None where nothing was measured.
        owner: The model that the steps are of, held for as long as the plan is.
        leaves: Path of the step that answers each task.
        flops: Of the plan, for an input of the shape it was made for.
    """

    model_name: str
    plan: Plan
    input: ModelInput
    resume: KeyPath = ()
    keep: KeyPath = ()
    profile: Profile | None = None
    owner: object = None
    leaves: Mapping[str, KeyPath] = field(init=False)
    flops: float = field(init=False)

    def __post_init__(self) -> None:
        """Find the leaves and price the plan."""
        object.__setattr__(self, "flops", float(plan_cost(self.plan).flops))
        parents = {step.after for step in self.plan}
        leaves = {step.emits: step.path for step in self.plan if step not in parents}
        object.__setattr__(self, "leaves", leaves)

    def share(self, num_tokens: int) -> Share:
        """Predict one input of a length."""
        if self.profile is None:
            return Share()
        return self._share(num_tokens, self.profile.corrections.version)

    @cached_property
    def _share(self) -> Callable[[int, int], Share]:
        def predict(num_tokens: int, _version: int) -> Share:
            assert self.profile is not None
            alone = self.profile.total(self.plan, Workload(1, num_tokens))
            together = self.profile.total(self.plan, Workload(_TOGETHER, num_tokens))
            return Share(alone, max(0.0, together - alone) / (_TOGETHER - 1))

        return lru_cache(_MAX_SHARES)(predict)


@dataclass(frozen=True, eq=False)
class Work:
    """One input to be run through one plan.

    Attributes:
        prepared: The plan.
        item: The input, without a batch dimension, or what an earlier work kept.
        deadline: When an answer is of no use any more, on the engine's clock.
        flops: Of the plan on this input; None for those of the plan's own shape.
        client: Whose it is.
        weight: The client's share of what its class gets.
        priority: Class; lower ones go first.
    """

    prepared: Prepared
    item: Any
    deadline: float = inf
    flops: float | None = None
    client: str = ""
    weight: float = 1.0
    priority: int = 0

    @cached_property
    def share(self) -> Share:
        """Predicted seconds."""
        return self.prepared.share(self.prepared.input.num_tokens(self.item))

    @property
    def ticket(self) -> Ticket:
        """What the scheduler goes by; all works of one model that start at one place may mix.

        Two models of one name, as while one replaces the other, have the same keys of steps and
        other weights.
        """
        prepared = self.prepared
        return Ticket(
            key=(
                prepared.model_name,
                id(prepared.owner),
                prepared.resume,
                prepared.input.bucket(self.item),
            ),
            num_tokens=prepared.input.num_tokens(self.item),
            flops=prepared.flops if self.flops is None else self.flops,
            client=self.client,
            weight=self.weight,
            priority=self.priority,
            deadline=self.deadline,
        )


class Result(NamedTuple):
    """The answer to one work.

    Attributes:
        outputs: Per task, without the batch dimension.
        kept: The row that the inner step to keep emitted; None if there is none.
        queue_s: From submission until its batch was taken, seconds.
        run_s: From then until its own steps were done, seconds.
        batch_size: Works in its batch.
        shared: Part of its FLOPs, 0..1, that were computed for others as well, or before.
    """

    outputs: dict[str, Tensor]
    kept: Any
    queue_s: float
    run_s: float
    batch_size: int
    shared: float = 0.0
