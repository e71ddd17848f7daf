"""What the engine is given and what it gives back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from models.core import KeyPath, Plan
from models.inputs import ModelInput


class BatchKey:
    """Equal for works that may share a batch. Its hash, over many nested keys, is taken once."""

    __slots__ = ("_hash", "_parts")

    def __init__(self, *parts: Hashable) -> None:
        self._parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, BatchKey) and self._parts == other._parts)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan with what batches of it need; made once per plan and kept.

    Attributes:
        model_name: Name in the catalogue.
        plan: Steps of a model whose weights are on the engine's device.
        input: How the inputs of a batch are put together.
        resume: Path of the step whose values the inputs are; empty for a plan from its start.
        keep: Path of an inner step whose value is wanted with the answer, to resume from; or empty.
        key: The model's name and the paths of the plan's steps.
        leaves: Path of the step that answers each task.
    """

    model_name: str
    plan: Plan
    input: ModelInput
    resume: KeyPath = ()
    keep: KeyPath = ()
    key: BatchKey = field(init=False)
    leaves: Mapping[str, KeyPath] = field(init=False)

    def __post_init__(self) -> None:
        """Take the key and find the leaves."""
        paths = tuple(step.path for step in self.plan)
        object.__setattr__(self, "key", BatchKey(self.model_name, paths, self.keep))
        parents = {step.after for step in self.plan}
        leaves = {step.emits: step.path for step in self.plan if step not in parents}
        object.__setattr__(self, "leaves", leaves)


@dataclass(frozen=True, eq=False)
class Work:
    """One input to be run through one plan.

    Attributes:
        prepared: The plan.
        item: The input, without a batch dimension, or what an earlier work kept.
    """

    prepared: Prepared
    item: Any

    @property
    def key(self) -> Hashable:
        """Equal for works that can run as one call."""
        return (self.prepared.key, self.prepared.input.bucket(self.item))

    @property
    def num_tokens(self) -> int:
        """What it adds to a batch's token budget."""
        return self.prepared.input.num_tokens(self.item)


class Result(NamedTuple):
    """The answer to one work.

    Attributes:
        outputs: Per task, without the batch dimension.
        kept: The row that the inner step to keep emitted; None if there is none.
        queue_s: From submission until its batch was taken, seconds.
        run_s: Of its batch, seconds.
        batch_size: Works in its batch.
    """

    outputs: dict[str, Tensor]
    kept: Any
    queue_s: float
    run_s: float
    batch_size: int
