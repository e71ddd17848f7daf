"""Merged plans as a tree of steps, and which rows of a batch take each."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

from models.core import KeyPath, Plan, Step
from models.nn.ragged import Ragged, Value


class Node:
    """A step in the tree of merged plans, and the rows that take it."""

    def __init__(self, step: Step | None) -> None:
        self._step = step
        self.children: dict[Hashable, Node] = {}
        self.rows: list[int] = []
        self.is_wanted = False

    @property
    def step(self) -> Step:
        """What it runs; the root has none."""
        assert self._step is not None, "the root has no step"
        return self._step

    @property
    def path(self) -> KeyPath:
        """The keys from the root down."""
        return self.step.path

    def insert(self, plan: Plan) -> dict[KeyPath, Node]:
        """Add a plan below this root; return its nodes."""
        nodes: dict[KeyPath, Node] = {}
        for step in plan:
            # A parent outside the plan has run before: what follows it starts at the root.
            parent = nodes.get(step.after.path, self) if step.after else self
            if step.key not in parent.children:
                parent.children[step.key] = Node(step)
            nodes[step.path] = parent.children[step.key]
        return nodes

    def take(self, nodes: dict[KeyPath, Node], row: int) -> dict[KeyPath, Node]:
        """Let a row take a plan's nodes; return them."""
        self.rows.append(row)
        for node in nodes.values():
            node.rows.append(row)
        return nodes

    def in_order(self) -> list[Node]:
        """Return the children, those that end there first."""
        return sorted(self.children.values(), key=lambda child: bool(child.children))

    def number(self) -> dict[Node, int]:
        """Return every node below in the order of the walk."""
        found: dict[Node, int] = {}
        stack = self.in_order()[::-1]
        while stack:
            node = stack.pop()
            found[node] = len(found)
            stack += node.in_order()[::-1]
        return found

    def subtree(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.subtree()

    def arrange(self, place: Mapping[int, int]) -> None:
        """Replace the rows' numbers by their places in the batch, ascending, each once."""
        stack = [self]
        while stack:
            node = stack.pop()
            node.rows = sorted({place[row] for row in node.rows})
            stack += node.children.values()

    def needs(self) -> set[str]:
        """Return the names of values that this node and those below take from above."""
        below = set().union(*(child.needs() for child in self.children.values()))
        return set(self.step.takes) | (below - {self.step.emits})

    def chain(self) -> list[Node]:
        """Return this node and those after it that run on the same rows, as one call."""
        chain = [self]
        while len(chain[-1].children) == 1 and not chain[-1].is_wanted:
            (child,) = chain[-1].children.values()
            later = set().union(*(c.needs() for c in child.children.values()))
            # Of a chain only the last value is left for what comes after it.
            lost = {node.step.emits for node in chain} - {child.step.emits}
            if child.rows != self.rows or later & lost:
                break
            chain.append(child)
        return chain


def narrowed(values: dict[str, Value], node: Node, rows: Sequence[int]) -> dict[str, Value]:
    """Return what a node and those below it take, for its own rows only."""
    if node.rows == rows:
        return values
    needed = node.needs()
    return {n: _select(v, rows, node.rows) for n, v in values.items() if n in needed}


def _select(value: Value, rows: Sequence[int], wanted: Sequence[int]) -> Value:
    """Return some rows of a value that has ``rows``; a view where they lie side by side."""
    place = {row: i for i, row in enumerate(rows)}
    chosen = [place[row] for row in wanted]
    start, stop = chosen[0], chosen[-1] + 1
    if stop - start == len(chosen):
        return value[start:stop]
    return value.select(chosen) if isinstance(value, Ragged) else value[chosen]
