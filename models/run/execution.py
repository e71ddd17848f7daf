"""Runs a batch of plans: equal functions are one call, equal values are computed once.

The values of all plans form one graph (`models.run.graph`). It is walked along chains. Operands
reach a chain as views where their rows lie side by side, else by one index. An item is answered as
soon as its own values are there: exits come before deeper layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from time import perf_counter
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from models.core import Plan, Step
from models.inputs import Given
from models.nn.ragged import Value, rows_of, tokens_of
from models.run.chain import Chain
from models.run.gather import joined
from models.run.graph import Graph, Node
from models.run.jobs import Done, Job
from models.run.operands import Collate, Operands

Observe: TypeAlias = Callable[[Sequence[Step], int, int, float], None]
"""Told of a call: its steps, rows, tokens of all rows together (0 without length), seconds."""


class NotFiniteError(ArithmeticError):
    """A model gave a number that is none. The message names the task."""


class StoppedError(Exception):
    """Nobody waits for the run any more, so it was left between two steps."""


def never() -> bool:
    """Return that a run goes on."""
    return False


class Runner(Protocol):
    """What computes chains; the part of a back end that a run needs."""

    is_synchronous: bool

    def place(self, value: Value) -> Value: ...  # noqa: D102

    def run_chain(  # noqa: D102
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value: ...


class _Call(NamedTuple):
    """Values that are computed as one chain."""

    nodes: list[Node]
    chain: Chain


def execute(
    runner: Runner,
    jobs: Sequence[Job],
    collate: Collate,
    stop: Callable[[], bool] = never,
    observe: Observe | None = None,
    clock: Callable[[], float] = perf_counter,
) -> Iterator[list[tuple[int, Done | Exception]]]:
    """Run jobs of one model; see `models.run.backend.Backend.execute`."""
    graph = Graph(jobs)
    yield [(j, one.answer) for j, one in enumerate(graph.pending) if one.is_done]
    run = _Run(runner, graph, collate)
    for node in run.known():
        yield from run.deliver([node])
    for call in run.calls():
        try:
            run.compute(call, stop, observe, clock)
        except StoppedError:
            raise
        except Exception as error:  # noqa: BLE001  # it is for those who need the value
            yield run.fail(call, error)
            continue
        yield from run.deliver(call.nodes)


def run_plans(
    runner: Runner, plans: Sequence[Plan], inputs: Mapping[str, Value]
) -> list[dict[str, Tensor]]:
    """Run plans on a batch of which every item takes every step; errors are raised.

    Args:
        runner: Computes.
        plans: Of one model.
        inputs: By name, each of shape [batch, ...] or packed rows, on any device.

    Returns:
        Of each plan its answers by task, on the CPU, each of shape [batch, ...].
    """
    batch = {name: runner.place(value) for name, value in inputs.items()}
    # One job for each plan, all on one item, which stands for the batch.
    item = {name: Given(None, name, 0) for name in inputs}
    graph = Graph([Job(plan, item) for plan in plans])
    found: list[dict[str, Tensor]] = [{} for _ in plans]
    run = _Run(runner, graph, lambda name, _: batch[name])
    for call in run.calls():
        with torch.inference_mode():
            result = runner.run_chain(call.chain, run.inputs(call))
        node = call.nodes[-1]
        run.values[node] = result
        for j in node.concerned:
            for task, step in plans[j].answers.items():
                if step.identity == node.step.identity:
                    found[j][task] = _on_cpu(result)
        run.release(call.nodes)
    return found


class _Run:
    """A walk over a graph, with the values that are still needed."""

    def __init__(self, runner: Runner, graph: Graph, collate: Collate) -> None:
        self._runner = runner
        self._graph = graph
        self.values: dict[Node, Value] = {}
        self._rows: dict[Node, Sequence[int]] = {}
        self._operands = Operands(graph, collate, runner.place, self.values, self._rows)
        self._needed = {node: len(node.users) for node in graph.nodes.values()}
        self._is_gone: set[Node] = set()

    def known(self) -> Iterator[Node]:
        """Yield the values of which nothing must be computed, once they have been entered."""
        for node in self._graph.nodes.values():
            if node.known and not node.rows:
                self._enter(node, None)
                yield node

    def calls(self) -> Iterator[_Call]:
        """Yield chains; each when what it takes has been entered."""
        computed: set[Node] = set()
        for node in self._graph.order:
            if node in computed or node in self._is_gone or not node.rows:
                continue
            nodes = self._chain(node, computed)
            computed.update(nodes)
            yield _Call(nodes, Chain([one.step for one in nodes]))

    def _chain(self, node: Node, computed: set[Node]) -> list[Node]:
        """Return a value and those after it that run on the same rows, as one call."""
        chain = [node]
        while len(node.users) == 1 and not (node.concerned or node.known):
            (user,) = node.users
            others = [one for one in user.operands if one is not node]
            if user.rows != node.rows or not all(one in computed or not one.rows for one in others):
                break
            chain.append(user)
            node = user
        return chain

    def compute(
        self,
        call: _Call,
        stop: Callable[[], bool],
        observe: Observe | None,
        clock: Callable[[], float],
    ) -> None:
        """Run a chain and take in what it gives; arguments as for `execute`.

        A function of its own, so that nothing here keeps values that the walk has let go of.
        """
        # Entered for each chain, not around the walk: others run between two of them.
        with torch.inference_mode():
            start = clock()
            inputs = self.inputs(call)
            result = self._runner.run_chain(call.chain, inputs, stop)
            if observe is not None and self._runner.is_synchronous:
                observe(call.chain.steps, len(inputs[0]), tokens_of(inputs), clock() - start)
            self.enter(call, result)

    def inputs(self, call: _Call) -> list[Value]:
        """Return what a chain takes, for its rows."""
        return self._operands.take(call.chain.externals, call.nodes[0].rows)

    def enter(self, call: _Call, result: Value) -> None:
        """Take in what a chain gave.

        Raises:
            ValueError: If it has another number of rows.
        """
        node = call.nodes[-1]
        if len(result) != len(node.rows):
            raise ValueError(f"{len(node.rows)} rows gave {len(result)} rows of {node.step.key}")
        self._enter(node, result)

    def _enter(self, node: Node, result: Value | None) -> None:
        """Keep a value's computed rows together with those that were known."""
        if node.known:
            known = [self._runner.place(value) for value in node.known.values()]
            self.values[node] = joined(result, known)
            self._rows[node] = [*node.rows, *node.known]
        else:
            assert result is not None
            self.values[node] = result

    def deliver(self, nodes: Sequence[Node]) -> Iterator[list[tuple[int, Done | Exception]]]:
        """Yield the jobs that a chain completes or breaks; let go of what nobody needs."""
        pending, graph, node = self._graph.pending, self._graph, nodes[-1]
        if node.concerned:
            value, rows = self.values[node], self._rows.get(node, node.rows)
            if node.answers:
                value = _on_cpu(value)
                if broken := _broken(value, rows):
                    yield self._refused(node, broken)
            row_at = dict(zip(rows, rows_of(value), strict=True))
            for j in node.concerned:
                row = graph.row(node.step.inputs, graph.place_of[j])
                pending[j].collect(node.step.identity, row_at[row])
            yield [(j, pending[j].answer) for j in node.concerned if pending[j].is_done]
        self.release(nodes)

    def release(self, nodes: Sequence[Node]) -> None:
        """Let go of the values that only a chain still needed."""
        for node in nodes:
            for operand in node.operands:
                self._needed[operand] -= 1
                if not self._needed[operand]:
                    self.values.pop(operand, None)
        if not self._needed[nodes[-1]]:
            self.values.pop(nodes[-1], None)

    def fail(self, call: _Call, error: Exception) -> list[tuple[int, Done | Exception]]:
        """Give up a chain and all that needs it; return the jobs that this breaks."""
        gone = call.nodes[0].below()
        self._is_gone |= gone
        concerned = {j for node in gone for j in node.concerned}
        return self._broken_jobs(sorted(concerned), error)

    def _refused(self, node: Node, broken: set[int]) -> list[tuple[int, Done | Exception]]:
        """Fail the jobs that asked for an answer that is no number."""
        graph = self._graph
        inputs, places = node.step.inputs, graph.place_of
        hit = [j for j in node.concerned if graph.row(inputs, places[j]) in broken]
        tasks = {
            task
            for j in hit
            for task, step in graph.pending[j].job.plan.answers.items()
            if step.identity == node.step.identity
        }
        named = ", ".join(map(repr, sorted(tasks)))
        return self._broken_jobs(hit, NotFiniteError(f"task {named}: the answer is not finite"))

    def _broken_jobs(
        self, jobs: Sequence[int], error: Exception
    ) -> list[tuple[int, Done | Exception]]:
        new = [j for j in jobs if not self._graph.pending[j].has_failed]
        for j in new:
            self._graph.pending[j].has_failed = True
        return [(j, error) for j in new]


def _broken(value: Tensor, rows: Sequence[int]) -> set[int]:
    """Return the rows, of an answer on the CPU, that are not all numbers."""
    if isfinite(value.sum().item()):  # which it is nearly always, and one look is cheap
        return set()
    is_sound = value.isfinite().reshape(len(value), -1).all(1).tolist()
    return {row for row, sound in zip(rows, is_sound, strict=True) if not sound}


def _on_cpu(value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("what answers a task must be a tensor")
    return value.cpu()
