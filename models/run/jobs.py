"""What a batch is asked for, item by item, and what it gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from models.core import Plan, Step, distinct
from models.inputs import Item
from models.nn.ragged import Value


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One plan to be run on one item of a batch.

    Attributes:
        plan: Of the item.
        item: Its inputs; equal digests are equal contents.
        known: Values that are there already, by identity: tensors without a batch dimension, or
            packed values of one row; answers on the CPU. Nothing that only they need is run.
        keep: Identities of inner values that are wanted too.
    """

    plan: Plan
    item: Item
    known: Mapping[bytes, Value] = field(default_factory=dict)
    keep: frozenset[bytes] = frozenset()

    @property
    def rest(self) -> tuple[Step, ...]:
        """The steps that must run for it, those that others take first."""
        if not self.known:
            return self.plan.steps
        kept = (step for step in self.plan if step.identity in self.keep)
        return tuple(distinct((*self.plan.answers.values(), *kept), self.known))


class Done(NamedTuple):
    """What a job gave.

    Attributes:
        outputs: By task, on the CPU, without the batch dimension.
        kept: By identity, what was to be kept, on the device.
        macs: Its part of what the batch computed: of values that several share, an equal part each.
    """

    outputs: dict[str, Tensor]
    kept: dict[bytes, Value]
    macs: float


@dataclass(slots=True)
class Pending:
    """A job and what is there of its answer.

    Attributes:
        job: What is asked.
        macs: See `Done`.
        outputs: There so far, by task.
        kept: There so far, by identity.
        has_failed: Whether a value that it needs cannot be had.
    """

    job: Job
    macs: float = 0.0
    outputs: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[bytes, Value] = field(default_factory=dict)
    has_failed: bool = False

    @property
    def wanted(self) -> Collection[bytes]:
        """Identities of the values that are for it."""
        answers, keep = self.job.plan.tasks_at, self.job.keep
        return answers.keys() | keep if keep else answers.keys()

    @property
    def is_done(self) -> bool:
        """Whether everything is there."""
        return (
            len(self.outputs) == len(self.job.plan.answers)
            and len(self.kept) == len(self.job.keep)
            and not self.has_failed
        )

    @property
    def answer(self) -> Done:
        """What the job gave; once it is done."""
        return Done(self.outputs, self.kept, self.macs)

    def collect(self, identity: bytes, value: Value) -> None:
        """Add a value that it wants."""
        if identity in self.job.keep:
            self.kept[identity] = value
        for task in self.job.plan.tasks_at.get(identity, ()):
            assert isinstance(value, Tensor)
            self.outputs[task] = value
