"""What a batch is asked for, row by row, and what is there of the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from models.core import KeyPath, Plan
from models.nn.ragged import Value
from models.run.tree import Node


@dataclass(frozen=True, slots=True)
class Job:
    """One plan to be run on one row of a batch.

    Attributes:
        plan: All its steps, or those still to run from ``resume`` on.
        row: Index of its input; jobs with equal inputs may name the same one.
        resume: Path of the step that made the input; empty for a plan from its start.
        keep: Path of an inner step whose value is wanted too; or empty.
    """

    plan: Plan
    row: int
    resume: KeyPath = ()
    keep: KeyPath = ()


class Done(NamedTuple):
    """What a job gave.

    Attributes:
        outputs: By path of the answering step, on the CPU, without the batch dimension.
        kept: What the step to keep emitted for this row, on the device; None if there is none.
        shared: Part of the job's MACs, 0..1, that jobs on the same row took off it.
    """

    outputs: dict[KeyPath, Tensor]
    kept: Any
    shared: float = 0.0


@dataclass(slots=True)
class Pending:
    """A job and what is there of its answer.

    Attributes:
        nodes: Of its plan in the merged tree, by path.
        job: What is asked.
        leaves: Nodes that answer tasks.
        outputs: There so far, by path of the leaf.
        kept: What the step to keep emitted, once it has.
        has_failed: Whether a step that it takes failed.
        shared: See `Done`.
    """

    nodes: dict[KeyPath, Node]
    job: Job
    leaves: list[Node] = field(init=False)
    outputs: dict[KeyPath, Tensor] = field(default_factory=dict)
    kept: Any = None
    has_failed: bool = False
    shared: float = 0.0

    def __post_init__(self) -> None:
        parents = {step.after.path for step in self.job.plan if step.after}
        self.leaves = [node for path, node in self.nodes.items() if path not in parents]

    @property
    def wanted(self) -> list[Node]:
        """Nodes whose values it needs."""
        keep = [self.nodes[self.job.keep]] if self.job.keep else []
        return [*self.leaves, *keep]

    @property
    def is_done(self) -> bool:
        """Whether everything is there."""
        has_kept = not self.job.keep or self.kept is not None
        return has_kept and not self.has_failed and len(self.outputs) == len(self.leaves)

    @property
    def answer(self) -> Done:
        """What the job gave; once it is done."""
        return Done(self.outputs, self.kept, self.shared)

    def collect(self, path: KeyPath, value: Value) -> None:
        """Add what a step that it wants emitted for its row."""
        if path == self.job.keep:
            self.kept = value
        else:
            assert isinstance(value, Tensor)
            self.outputs[path] = value


def share_out(waiting: Sequence[Pending], rows: Sequence[int]) -> None:
    """Divide what jobs on one row compute together among them."""
    takers = {row: [one for one in waiting if one.job.row == row] for row in rows}
    for together in takers.values():
        count = Counter(node for one in together for node in one.nodes.values())
        for one in together:
            macs = [(node.step.cost.macs, count[node]) for node in one.nodes.values()]
            whole = sum(cost for cost, _ in macs)
            if whole:
                one.shared = 1 - sum(cost / number for cost, number in macs) / whole
