"""What computes plans on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from models.core import Plan, Step
from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.execution import Observe, execute, never, run_plans
from models.run.jobs import Done, Job
from models.run.operands import Collate


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
        """Return a value of a batch, or a single row, on the device."""

    @abstractmethod
    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps one after the other and return what the last one gives.

        Args:
            chain: The steps.
            inputs: What the chain takes, in the order of ``chain.externals``, on the device, all
                of the same number of rows.
            stop: Asked between steps.

        Raises:
            StoppedError: If ``stop`` said so.
        """

    def wait(self) -> None:  # noqa: B027  # on the CPU a call is done when it returns
        """Return once everything asked of the device is done."""

    def expect(  # noqa: B027
        self, plan: Plan, inputs: Mapping[str, Value], build: bool = True
    ) -> None:
        """Make ready for a plan that will be run often; nothing where nothing is built ahead.

        What is built for plans that were not expected is given up first, and little of it is kept.

        Args:
            plan: Of a prepared model.
            inputs: As for `run_all`, any small batch.
            build: Whether to build now, not only once it is called for.
        """

    def take_built(self, model: nn.Module) -> Sequence[Built]:
        """Return what of a model runs faster since this was last asked, and how fast."""
        return ()

    def forget(  # noqa: B027  # most keep nothing
        self, model: nn.Module, beside: nn.Module | None = None
    ) -> None:
        """Give up what is kept for a model, which is not run any more.

        Args:
            model: The model.
            beside: One that stays; what is kept for what the two share is kept on.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to end
        """End what the back end does beside runs; it is not used any more."""

    def run(self, plan: Plan, inputs: Mapping[str, Value]) -> dict[str, Tensor]:
        """Run one plan on a whole batch; see `run_all`. Returns the answers by task."""
        (answers,) = self.run_all([plan], inputs)
        return answers

    def run_all(
        self, plans: Sequence[Plan], inputs: Mapping[str, Value]
    ) -> list[dict[str, Tensor]]:
        """Run plans on a batch of which every item takes every step; what they share runs once.

        Args:
            plans: Of one prepared model.
            inputs: By name, each of shape [batch, ...] or packed rows, on any device.

        Returns:
            Of each plan its answers by task, on the CPU, each of shape [batch, ...].
        """
        return run_plans(self, plans, inputs)

    def execute(
        self,
        jobs: Sequence[Job],
        collate: Collate,
        stop: Callable[[], bool] = never,
        observe: Observe | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> Iterator[list[tuple[int, Done | Exception]]]:
        """Run jobs of one model.

        Args:
            jobs: With plans of a prepared model.
            collate: Puts inputs together; see `models.inputs.Inputs.collate`.
            stop: Asked between steps.
            observe: Told of each chain, if the back end is synchronous.
            clock: Times them.

        Yields:
            Whatever jobs are done, as soon as they are: the index of each and what it gave, or the
            error of a value that it needs; other jobs go on.

        Raises:
            StoppedError: If ``stop`` said so; jobs not yet yielded have no answer.
        """
        return execute(self, jobs, collate, stop, observe, clock)
