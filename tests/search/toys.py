"""Small models that cost what they say and compute next to nothing, for tests of the search."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from models.core import Cost, Plan, Shapes, Step
from models.inputs import Inputs, Slot
from models.inputs.tensor import TensorInput
from models.space import Axis, Space, Subnet, Value
from models.tasks import Task, wanted_tasks
from search.quality.table import Cells, Table, given_axes
from search.timing.profile import Function, LatencyProfile

TASKS = {
    "title": Task("title", "embedding", metric="spearman"),
    "topic": Task("topic", "classes", ("a", "b")),
    "distance": Task("distance", "score", metric="rmse"),
}
MAX_LENGTH = 40


def first(*values: Any) -> Any:
    """Return the first of what a step takes."""
    return values[0]


class Necked(nn.Module):
    """Two texts, each encoded by one function, crossed; two of three tasks share a neck.

    Axes: ``encoder`` and ``neck``, shared by tasks; a ``head`` of each task; on demand ``inputs``,
    by which the second text may be missing, and ``bits``, whose weights must be built.
    """

    def __init__(
        self,
        with_given: bool = False,
        with_load: bool = False,
        has_neck_by_task: bool = False,
        is_keyed_by_length: bool = False,
        window: int = 10**9,
        scale: int = 1,
        are_narrow_heads_large: bool = False,
    ) -> None:
        super().__init__()
        self.name = "necked"
        self.with_given, self.with_load = with_given, with_load
        self.has_neck_by_task, self.is_keyed_by_length = has_neck_by_task, is_keyed_by_length
        self.window, self.scale = window, scale
        self.are_narrow_heads_large = are_narrow_heads_large
        self.num_plans = 0
        self.variants: list[Mapping[str, Value]] = []

    @cached_property
    def inputs(self) -> Inputs:
        text = TensorInput((1,), max_length=MAX_LENGTH)
        return Inputs({"query": Slot(text), "document": Slot(text, required=not self.with_given)})

    @property
    def tasks(self) -> Mapping[str, Task]:
        return TASKS

    @cached_property
    def space(self) -> Space:
        axes = [Axis("encoder", (2, 3, 5)), Axis("neck", (1, 4))]
        if self.with_given:
            axes.append(Axis("inputs", ("query", "query+document"), kind="given"))
        if self.with_load:
            axes.append(Axis("bits", (4, 8, 32), when="load"))
        heads = {"title": (1, 2, 9), "topic": (3, 7), "distance": (1, 6, 8)}
        axes += [Axis(f"head.{task}", widths, task=task) for task, widths in heads.items()]
        return Space(tuple(axes))

    def variant(self, choices: Mapping[str, Value]) -> Necked:
        self.variants.append(choices)
        return Necked(self.with_given, self.with_load)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        self.num_plans += 1
        wanted = wanted_tasks(self.tasks, tasks)
        chosen = self.space.select({None, *wanted}).check(subnet)
        bits = chosen.get("bits")
        encoder_bytes = 10 * int(chosen["encoder"]) * int(bits or 32)
        width, neck = int(chosen["encoder"]), int(chosen["neck"])
        lengths = {name: shape[0] for name, shape in shapes.items()}
        encoded = [
            Step(
                ("encode", width, bits, n if self.is_keyed_by_length else None),
                first,
                (name,),
                Cost(width * n * (7 + n) + min(n, self.window) * n, encoder_bytes),
            )
            for name, n in lengths.items()
        ]
        mixed = encoded[0]
        if len(encoded) == 2:
            n, m = lengths["query"], lengths["document"]
            mixed = Step(
                ("cross", width),
                first,
                tuple(encoded),
                Cost(5 * self.scale * width * n * m + n, 70),
            )
        by_task = chosen.get("head.title") if self.has_neck_by_task else None
        total = sum(lengths.values())
        shared = Step(
            ("neck", neck, by_task), first, (mixed,), Cost(9 * neck * width * total, 90 * neck)
        )
        answers = {}
        for task in wanted:
            source = mixed if task == "distance" else shared
            head = int(chosen[f"head.{task}"])
            macs = head * (100 * width + (total if task == "title" else 0))
            of_head = (40 if task == "topic" else 160) * head
            cost = Cost(macs, 4000 - of_head if self.are_narrow_heads_large else of_head)
            answers[task] = Step(("head", task, head), first, (source,), cost)
        return Plan(answers)


def random_table(
    model: Necked, seed: int = 0, is_noisy: bool = True, tasks: Collection[str] = tuple(TASKS)
) -> Table:
    """Return a table in which wider is better, but for noise; errors fall."""
    rng = np.random.default_rng(seed)
    rows = tuple(model.space.select({None}))
    size = np.array([_size(model.space, row) for row in rows])
    cells = {}
    for task in tasks:
        columns = tuple(model.space.select({task}))
        own = np.array([_size(model.space, column) for column in columns])
        value = 0.3 + 0.4 * np.sqrt(size)[:, None] + 0.2 * np.sqrt(own)[None, :]
        value = value + rng.normal(0, 0.02 * is_noisy, value.shape)
        if TASKS[task].lower_is_better:
            value = 7 * (1.2 - value)
        cells[task] = Cells(
            columns=columns,
            value=value,
            n=np.full(value.shape, 100),
            stderr=np.full(value.shape, 0.01),
            measured=np.ones(value.shape, dtype=np.bool_),
            lower_is_better=TASKS[task].lower_is_better,
        )
    return Table(rows, cells, given_axes(model.space.axes))


def _size(space: Space, choices: Subnet) -> float:
    """Return where choices stand on their axes, 0..1 on average."""
    axes = [axis for axis in space.axes if axis.name in choices]
    places = [axis.index(choices[axis.name]) / (len(axis.values) - 1) for axis in axes]
    return sum(places) / len(places)


def random_profile(functions: Collection[Function], seed: int = 0) -> LatencyProfile:
    """Return times that grow with length and rows and do not follow MACs."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.2e-3, 2e-3, (len(functions), 1, 1))
    grows = np.array([1.0, 3.0])[None, :, None] * np.array([1.0, 4.0, 9.0])[None, None, :]
    curves = {function: i for i, function in enumerate(sorted(functions, key=repr))}
    return LatencyProfile(curves, (1, 4), (4, 16, 40), base * grows)
