"""What the chains of a batch take: values and inputs, for the rows that a chain runs on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeAlias

from models.nn.ragged import Layout, Ragged, Value
from models.run.chain import External
from models.run.gather import gathered
from models.run.graph import Graph, Node

Collate: TypeAlias = Callable[[str, Sequence[object]], Value]
"""Puts several inputs of one name together; see `models.inputs.Inputs.collate`."""


class Operands:
    """Gathers rows. Inputs are put together once, when a chain first takes them.

    Packed values that have the same tokens come with the same layout, however each was gathered.
    """

    def __init__(
        self,
        graph: Graph,
        collate: Collate,
        place: Callable[[Value], Value],
        values: Mapping[Node, Value],
        rows: Mapping[Node, Sequence[int]],
    ) -> None:
        """Gather nothing yet.

        Args:
            graph: Of the batch.
            collate: Puts inputs together.
            place: Moves them to the device.
            values: That are there.
            rows: Of those values that have others than the graph says.
        """
        self._graph = graph
        self._collate = collate
        self._place = place
        self._values = values
        self._rows = rows
        self._inputs: dict[str, tuple[Value, Sequence[int]]] = {}
        self._layouts: dict[tuple[Hashable, tuple[int, ...]], Layout] = {}
        self._users: dict[str, list[Node]] = {}
        for node in graph.order:
            for one in node.step.takes:
                if isinstance(one, str):
                    self._users.setdefault(one, []).append(node)

    def take(self, externals: Iterable[External], rows: Sequence[int]) -> list[Value]:
        """Return what a chain takes, for its rows."""
        found = []
        for external in externals:
            if isinstance(external, str):
                value, own = self._input(external)
                wanted = self._graph.rows((external,), rows)
            else:
                node = self._graph.nodes[external]
                value, own = self._values[node], self._rows.get(node, node.rows)
                wanted = self._graph.rows(node.step.inputs, rows)
            found.append(self._aligned(gathered(value, own, wanted)))
        return found

    def _input(self, name: str) -> tuple[Value, Sequence[int]]:
        """Return an input and its rows, each distinct content once."""
        if name not in self._inputs:
            every = (self._graph.rows((name,), node.rows) for node in self._users[name])
            rows = sorted({row for some in every for row in some})
            given = [self._graph.items[row][name].value for row in rows]
            value = self._place(self._collate(name, given))
            if isinstance(value, Ragged):
                layout = Layout(value.layout.lengths, value.layout.device, origin=name)
                value = Ragged(value.values, layout)
            self._inputs[name] = (value, rows)
        return self._inputs[name]

    def _aligned(self, value: Value) -> Value:
        if not isinstance(value, Ragged):
            return value
        own = value.layout
        layout = self._layouts.setdefault((own.origin, own.lengths), own)
        return value if layout is own else Ragged(value.values, layout)
