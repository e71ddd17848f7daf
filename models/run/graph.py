"""The distinct values of a batch: which items need each, in which order, and from what.

Items whose inputs have equal contents share the values that depend on those inputs alone. The items
are put in such an order that the rows of most values lie side by side: those that are answered
first come first, as exits do before deeper layers, and items of one size are neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence

from models.core import Step
from models.inputs import Item, num_tokens
from models.nn.ragged import Value
from models.run.jobs import Job, Pending


class Node:
    """A value of a batch.

    Attributes:
        step: What computes it.
        operands: The values it takes, each once.
        users: The values that take it, each once.
        rows: Items for which it is computed, ascending; of equal ones the first.
        known: By item, what is there already.
        concerned: Positions of the jobs that want it.
        answers: Whether it answers a task of one of them.
    """

    __slots__ = ("answers", "concerned", "groups", "known", "operands", "rows", "step", "users")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.operands: list[Node] = []
        self.users: list[Node] = []
        self.rows: list[int] = []
        self.known: dict[int, Value] = {}
        self.concerned: list[int] = []
        self.answers = False
        self.groups: list[int] = []

    def below(self) -> set[Node]:
        """Return this value and all that need it."""
        found, stack = {self}, [self]
        while stack:
            new = [user for user in stack.pop().users if user not in found]
            found.update(new)
            stack += new
        return found


class Graph:
    """The values of a batch.

    Attributes:
        pending: The jobs, in the order given.
        items: Of the jobs, in the order of the batch: rows count these.
        nodes: Values by identity.
        order: Those that must be computed, operands before users.
        place_of: Of each job, the item's number in the order of the batch.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Number the values and order the items."""
        self.pending = [Pending(job) for job in jobs]
        self.nodes: dict[bytes, Node] = {}
        group_of, rests = self._grouped(jobs)
        for group, rest in enumerate(rests):
            for step in rest:
                self._computed(step).groups.append(group)
        self.order = list(self._ordered())
        number = {node.step.identity: i for i, node in enumerate(self.order)}
        first = [min(number.get(end, -1) for end in one.wanted) for one in self.pending]
        sizes = [num_tokens(job.item) for job in jobs]
        in_order = sorted(range(len(jobs)), key=lambda j: (first[j], sizes[j], j))
        self.place_of = [0] * len(jobs)
        for place, j in enumerate(in_order):
            self.place_of[j] = place
        self.items: list[Item] = [jobs[j].item for j in in_order]
        self._leader = self._leaders({node.step.inputs for node in self.nodes.values()})
        self._fill(jobs, group_of, rests)

    def row(self, inputs: tuple[str, ...], place: int) -> int:
        """Return the first item whose contents of some inputs are those of an item."""
        leader = self._leader[inputs]
        return place if leader is None else leader[place]

    def rows(self, inputs: tuple[str, ...], places: Sequence[int]) -> Sequence[int]:
        """Return the same for several items."""
        leader = self._leader[inputs]
        return places if leader is None else [leader[place] for place in places]

    def _grouped(self, jobs: Sequence[Job]) -> tuple[list[int], list[tuple[Step, ...]]]:
        """Return the group of each job, and of each group the steps that must run."""
        groups: dict[Hashable, int] = {}
        group_of: list[int] = []
        rests: list[tuple[Step, ...]] = []
        for job in jobs:
            key = (id(job.plan), frozenset(job.known), job.keep)
            group = groups.setdefault(key, len(groups))
            if group == len(rests):
                rests.append(job.rest)
            group_of.append(group)
        return group_of, rests

    def _computed(self, step: Step) -> Node:
        """Return the value of a step that some job needs computed."""
        node = self._node(step)
        if not node.groups:
            for operand in dict.fromkeys(self._node(one) for one in step.operands):
                node.operands.append(operand)
                operand.users.append(node)
        return node

    def _node(self, step: Step) -> Node:
        """Return the value of a step; one that nobody computes is known to whoever needs it."""
        node = self.nodes.get(step.identity)
        if node is None:
            node = self.nodes[step.identity] = Node(step)
        return node

    def _ordered(self) -> Iterator[Node]:
        """Yield the values to compute so that answers come early: ends before what goes on."""
        waiting = {
            node: sum(bool(one.groups) for one in node.operands)
            for node in self.nodes.values()
            if node.groups
        }
        stack = _ends_last(node for node, count in waiting.items() if not count)
        while stack:
            node = stack.pop()
            yield node
            ready = []
            for user in node.users:
                waiting[user] -= 1
                if not waiting[user]:
                    ready.append(user)
            stack += _ends_last(ready)

    def _leaders(
        self, needed: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], list[int] | None]:
        """Return by inputs, of each item the first of the same contents; None: all differ."""
        found: dict[tuple[str, ...], list[int] | None] = {}
        names = {name for inputs in needed for name in inputs}
        for inputs in {*needed, *((name,) for name in names)}:
            firsts: dict[Hashable, int] = {}
            leader = []
            for place, item in enumerate(self.items):
                # An item without the input needs no value of it: any number will do.
                key: Hashable = tuple(
                    item[name].digest if name in item else place for name in inputs
                )
                leader.append(firsts.setdefault(key, place))
            found[inputs] = leader if len(firsts) < len(leader) else None
        return found

    def _fill(
        self, jobs: Sequence[Job], group_of: Sequence[int], rests: Sequence[tuple[Step, ...]]
    ) -> None:
        """Say which rows each value has, and whom it concerns."""
        places: list[list[int]] = [[] for _ in rests]
        for j, group in enumerate(group_of):
            places[group].append(self.place_of[j])
        rows: dict[tuple[tuple[str, ...], tuple[int, ...]], list[int]] = {}
        for j, one in enumerate(self.pending):
            for identity, value in jobs[j].known.items():
                if (node := self.nodes.get(identity)) is not None:
                    node.known[self.row(node.step.inputs, self.place_of[j])] = value
                if identity in one.wanted:
                    one.collect(identity, value)
            for identity in one.wanted:
                if identity in jobs[j].known:
                    continue
                if (node := self.nodes.get(identity)) is not None:
                    node.concerned.append(j)
                else:
                    raise ValueError(f"job {j}: what it wants to keep is not of its plan")
        for plan in {id(job.plan): job.plan for job in jobs}.values():
            for identity in plan.tasks_at:
                if identity in self.nodes:
                    self.nodes[identity].answers = True
        for node in self.nodes.values():
            key = (node.step.inputs, tuple(node.groups))
            if key not in rows:
                every = [place for group in node.groups for place in places[group]]
                rows[key] = sorted({*self.rows(node.step.inputs, every)})
            node.rows = rows[key]
            if node.known:
                node.rows = [row for row in node.rows if row not in node.known]
        self._share_out(group_of, rests)

    def _share_out(self, group_of: Sequence[int], rests: Sequence[tuple[Step, ...]]) -> None:
        """Divide what jobs compute together among them."""
        whole = [float(sum(step.cost.macs for step in rest)) for rest in rests]
        if all(leader is None for leader in self._leader.values()):
            for one, group in zip(self.pending, group_of, strict=True):
                one.macs = whole[group]
            return
        takers: Counter[tuple[bytes, int]] = Counter()
        keys = []
        for j, group in enumerate(group_of):
            own = [
                (step.identity, self.row(step.inputs, self.place_of[j])) for step in rests[group]
            ]
            keys.append(own)
            takers.update(own)
        for j, group in enumerate(group_of):
            self.pending[j].macs = sum(
                step.cost.macs / takers[key]
                for step, key in zip(rests[group], keys[j], strict=True)
            )


def _ends_last(nodes: Iterable[Node]) -> list[Node]:
    """Return values in reverse, those that nothing takes at the end."""
    return sorted(list(nodes)[::-1], key=lambda node: not node.users)
