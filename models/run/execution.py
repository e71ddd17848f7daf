"""Runs a batch whose rows follow different plans: a path that rows share is run once for all.

Plans of one model merge into a tree. Rows are put in the tree's order, so that those of any path
lie side by side and leaving the others behind costs a view, not a copy. A row is answered as soon
as its own steps are done: exits come before deeper layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from time import perf_counter
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from models.core import KeyPath, Step
from models.nn.ragged import Ragged, rows_of
from models.nn.ragged import Value as Value  # what back ends pass on
from models.run.jobs import Done, Job, Pending, share_out
from models.run.tree import Node, narrowed

Collate: TypeAlias = Callable[[Sequence[Any]], Mapping[str, Value]]
Observe: TypeAlias = Callable[[Sequence[Step], int, int, float], None]
"""Told of a call: its steps, rows, tokens of all rows together (0 without length), seconds."""


class NotFiniteError(ArithmeticError):
    """A model gave a number that is none. The message names the task."""


class StoppedError(Exception):
    """Nobody waits for the run any more, so it was left between two steps."""


def never() -> bool:
    """Return that a run goes on."""
    return False


class Built(NamedTuple):
    """A faster way to run steps that a back end has found, as timed.

    Attributes:
        steps: One after the other.
        rows: Of the batch.
        num_tokens: Of all rows together; 0 where inputs have no length.
        seconds: They take now.
    """

    steps: tuple[Step, ...]
    rows: int
    num_tokens: int
    seconds: float


class Backend(ABC):
    """What computes the steps of plans on one device. Not for several threads at once.

    Attributes:
        is_synchronous: Whether a call has been computed when it returns, so that it can be timed.
        levels: Fields of `stats` that may fall.
    """

    is_synchronous = True
    levels: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def name(self) -> str:
        """What receipts call it, for example ``torch-cpu``."""

    @property
    def hardware(self) -> str:
        """What is known of the device beyond its kind; empty where that is the processor."""
        return ""

    @property
    def stats(self) -> NamedTuple | None:
        """Counters and levels of what it keeps beside the models, if it keeps anything."""
        return None

    @property
    def baseline(self) -> Backend:
        """What runs steps from the first call on: profiles start from its times."""
        return self

    @abstractmethod
    def prepare(self, model: nn.Module) -> None:
        """Put a model's weights where the steps will run."""

    @abstractmethod
    def place(self, value: Value) -> Value:
        """Return a value of a batch on the device."""

    @abstractmethod
    def run_chain(
        self, steps: Sequence[Step], values: Mapping[str, Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps one after the other and return what the last one emitted.

        Args:
            steps: Each the parent of the next.
            values: By name, what the request gave and what ancestors emitted, on the device.
            stop: Asked between steps.

        Raises:
            KeyError: If a step takes a value that is not there.
            StoppedError: If ``stop`` said so.
        """

    def wait(self) -> None:  # noqa: B027  # on the CPU a call is done when it returns
        """Return once everything asked of the device is done."""

    def take_built(self, model: nn.Module) -> Sequence[Built]:
        """Return what of a model runs faster since this was last asked, and how fast."""
        return ()

    def forget(self, model: nn.Module) -> None:  # noqa: B027  # most keep nothing
        """Give up what is kept for a model, which is not run any more."""

    def close(self) -> None:  # noqa: B027  # most have nothing to end
        """End what the back end does beside runs; it is not used any more."""

    def run(self, steps: Iterable[Step], inputs: Mapping[str, Value]) -> dict[KeyPath, Tensor]:
        """Run a plan, or several merged, on a batch of which every row takes every step.

        Args:
            steps: Of prepared models, parents before children.
            inputs: By name, each of shape [batch, ...] or packed rows, on any device.

        Returns:
            What every leaf emitted, by path, on the CPU, each of shape [batch, ...].
        """
        root = Node(None)
        nodes = root.insert(tuple(steps))
        root.rows = list(range(len(next(iter(inputs.values())))))
        for node in nodes.values():
            node.rows = root.rows
        leaves: dict[KeyPath, Tensor] = {}
        for node, value in self._walk(root, self._placed(inputs), never):
            if isinstance(value, Exception):
                raise value
            if not node.children:
                leaves[node.path] = _on_cpu(value)
        return leaves

    def execute(
        self,
        jobs: Sequence[Job],
        items: Sequence[Any],
        collate: Collate,
        stop: Callable[[], bool] = never,
        observe: Observe | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> Iterator[list[tuple[int, Done | Exception]]]:
        """Run jobs of one model that start, or go on, at the same place.

        Args:
            jobs: With steps of a prepared model.
            items: The rows' inputs, without a batch dimension, or what an earlier run kept.
            collate: Puts items together; see `models.inputs.image.ModelInput.collate`.
            stop: Asked between steps.
            observe: Told of each call of several steps, if the back end is synchronous.
            clock: Times them.

        Yields:
            Whatever jobs are done, as soon as they are: the index of each and what it gave, or the
            error of a step that it takes; other jobs go on.

        Raises:
            ValueError: If the jobs do not start at one place.
            StoppedError: If ``stop`` said so; jobs not yet yielded have no answer.
        """
        if len({job.resume for job in jobs}) != 1:
            raise ValueError("the jobs of a batch must start at the same step")
        root = Node(None)
        plans: dict[int, dict[KeyPath, Node]] = {}
        waiting = []
        for job in jobs:
            if id(job.plan) not in plans:
                plans[id(job.plan)] = root.insert(job.plan)
            waiting.append(Pending(root.take(plans[id(job.plan)], job.row), job))
        number = root.number()
        first_leaf = {one.job.row: number[one.leaves[0]] for one in reversed(waiting)}
        # Rows of one length side by side are computed without padding.
        order = sorted(first_leaf, key=lambda row: (first_leaf[row], _length(items[row]), row))
        place_of = {row: place for place, row in enumerate(order)}
        root.arrange(place_of)
        inputs = self._placed(collate([items[row] for row in order]))
        concerned: dict[Node, list[int]] = {}
        for i, one in enumerate(waiting):
            for node in one.wanted:
                node.is_wanted = True
                concerned.setdefault(node, []).append(i)
        if len(order) < len(jobs):
            share_out(waiting, order)
        for node, value in self._walk(root, inputs, stop, observe, clock):
            if isinstance(value, Exception):
                below = {i for n in node.subtree() for i in concerned.get(n, ())}
                failed = sorted(i for i in below if not waiting[i].has_failed)
                for i in failed:
                    waiting[i].has_failed = True
                yield [(i, value) for i in failed]
                continue
            if not node.children:
                value = _on_cpu(value)
                if broken := _broken(value, node.rows):
                    yield _refused(node, concerned[node], waiting, place_of, broken)
            row_at = dict(zip(node.rows, rows_of(value), strict=True))
            path = node.path
            for i in concerned[node]:
                waiting[i].collect(path, row_at[place_of[waiting[i].job.row]])
            done = [i for i in concerned[node] if waiting[i].is_done]
            yield [(i, waiting[i].answer) for i in done]

    def _placed(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {name: self.place(value) for name, value in values.items()}

    def _walk(
        self,
        root: Node,
        inputs: Mapping[str, Value],
        stop: Callable[[], bool],
        observe: Observe | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> Iterator[tuple[Node, Value | Exception]]:
        """Yield each leaf and each wanted node with what it emitted.

        An error is yielded with the first node of its chain; nothing below that is run.
        """
        stack = [(child, root.rows, dict(inputs)) for child in root.in_order()[::-1]]
        while stack:
            node, rows, values = stack.pop()
            chain = node.chain()
            try:
                # Entered for each chain, not around the yield: others run between two of them.
                with torch.inference_mode():
                    values = narrowed(values, node, rows)
                    steps = [n.step for n in chain]
                    start = clock()
                    result = self.run_chain(steps, values, stop)
                if observe is not None and self.is_synchronous:
                    first = values[steps[0].takes[0]]
                    num_tokens = len(first.values) if isinstance(first, Ragged) else 0
                    observe(steps, len(first), num_tokens, clock() - start)
            except StoppedError:
                raise
            except Exception as error:  # noqa: BLE001  # it is for those who asked for the step
                yield node, error
                continue
            last = chain[-1]
            if len(result) != len(last.rows):
                lost = f"{len(last.rows)} rows gave {len(result)} rows of {last.path}"
                yield node, ValueError(lost)
                continue
            if last.is_wanted or not last.children:
                yield last, result
            values = {**values, last.step.emits: result}
            stack += [(child, last.rows, values) for child in last.in_order()[::-1]]


def _length(item: Any) -> int:
    if isinstance(item, Ragged):
        return item.layout.longest
    return item.shape[0] if isinstance(item, Tensor) and item.ndim else 0


def _broken(value: Tensor, places: Sequence[int]) -> set[int]:
    """Return the places of the rows, of an answer on the CPU, that are not all numbers."""
    if isfinite(value.sum().item()):  # which it is nearly always, and one look is cheap
        return set()
    is_sound = value.isfinite().flatten(1).all(1).tolist()
    return {place for place, sound in zip(places, is_sound, strict=True) if not sound}


def _refused(
    node: Node,
    concerned: Sequence[int],
    waiting: Sequence[Pending],
    place_of: Mapping[int, int],
    broken: Collection[int],
) -> list[tuple[int, Done | Exception]]:
    """Fail the jobs that asked for an answer that is no number."""
    error = NotFiniteError(f"task {node.step.emits!r}: the answer is not finite")
    refused: list[tuple[int, Done | Exception]] = []
    for i in concerned:
        if place_of[waiting[i].job.row] in broken and not waiting[i].has_failed:
            waiting[i].has_failed = True
            refused.append((i, error))
    return refused


def _on_cpu(value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("the last step of a plan must emit a tensor")
    return value.cpu()
