"""A model as it is served: its checkpoint, and what is needed to search and run it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from models.checkpoint import Manifest
from models.elastic import Elastic, nesting_axis
from models.inputs import Inputs
from models.space import Axis, Subnet, Value
from models.tasks import Kind
from models.variants import loaded
from models.vectors import space_id
from search.find import Finder, Selection
from search.finders import Finders
from search.quality.sides import default_tasks
from search.quality.table import Table, inputs_of
from search.timing.profile import LatencyProfile
from server.engine.item import PreparedPlan
from server.inputs.sources import Source

_MAX_PLANS = 4096  # per model; a plan is a few kilobytes of steps, without weights


@dataclass(frozen=True)
class Served:
    """One model as it is served.

    Attributes:
        folder: Of its checkpoint.
        name: What clients ask for.
        manifest: Of its checkpoint.
        model: An `Elastic` that is an nn.Module; Python cannot spell the intersection.
        table: Scores of its subnets.
        created_s: When its checkpoint was written, Unix time.
        profile: How long its steps take here; None until that is measured.
    """

    folder: Path
    name: str
    manifest: Manifest
    model: Any
    table: Table
    created_s: int
    profile: LatencyProfile | None = None

    @property
    def elastic(self) -> Elastic:
        """The model without its weights' interface."""
        elastic: Elastic = self.model
        return elastic

    @cached_property
    def inputs(self) -> Inputs:
        """What items must have."""
        return self.elastic.inputs

    @cached_property
    def finders(self) -> Finders:
        """The searches for items of any shapes; ValueError if the table is not of the model."""
        return Finders(self.elastic, self.table)

    @property
    def finder(self) -> Finder:
        """The search for an item of the model's usual shapes; for text, the longest allowed."""
        return self.finders.at()

    @cached_property
    def front(self) -> tuple[Selection, ...]:
        """The Pareto front of a request that names nothing but a budget, cheapest first."""
        shapes = self.inputs.plan_shapes(names=[n for n in self.inputs if n != self.inputs.adapter])
        finder = self.finders.at(shapes, self.whole_outputs)
        return tuple(finder.front(self.default_tasks))

    @cached_property
    def default_tasks(self) -> tuple[str, ...]:
        """The tasks that a request means that names none."""
        return default_tasks(self.elastic.tasks)

    @cached_property
    def whole_outputs(self) -> Mapping[str, Value]:
        """The largest value of each output axis, where it goes with every other choice.

        What a client gets that asks for no size of its own: a shorter answer is not chosen for it
        only because the table scores it higher.
        """
        found: dict[str, Value] = {}
        for axis in self.elastic.space.axes:
            rest = [{**row, axis.name: axis.values[-1]} for row in self.table.rows]
            if axis.kind == "output" and all(Subnet(row) in self._rows for row in rest):
                found[axis.name] = axis.values[-1]
        return found

    def space_of(self, subnet: Subnet, adapters: Sequence[str] = ()) -> str | None:
        """Return the id of the space of a subnet's vectors; None where it gives none.

        Args:
            subnet: Of the model.
            adapters: Of the items; vectors of several are of no one space.
        """
        if len(adapters) > 1:
            return None
        return space_id(self.elastic, self.manifest.vectors, subnet, *adapters)

    @cached_property
    def exits(self) -> Axis | None:
        """The axis along which an answer can be deepened; None if there is none."""
        return nesting_axis(self.elastic, self.inputs.plan_shapes())

    @cached_property
    def maps(self) -> frozenset[str]:
        """The tasks whose answers are maps."""
        return frozenset(name for name, task in self.elastic.tasks.items() if task.kind == "map")

    @cached_property
    def output_axis(self) -> Axis | None:
        """The axis of the size of every task's vectors; None where they are not cut together."""
        axes = (axis for axis in self.elastic.space.axes if axis.kind == "output")
        return next((axis for axis in axes if axis.task is None and len(axis.values) > 1), None)

    def gives(self, kinds: tuple[Kind, ...]) -> bool:
        """Return whether an answer is of one of some kinds; of no kinds any is."""
        return not kinds or any(task.kind in kinds for task in self.elastic.tasks.values())

    @cached_property
    def pair(self) -> tuple[str, str] | None:
        """Names of the two texts that are compared, the query first; None where none are."""
        required = [name for name, slot in self.inputs.items() if slot.required]
        kinds = [self.inputs[name].type.kind for name in required]
        return (required[0], required[1]) if kinds == ["text", "text"] else None

    def named(self, kind: str, sources: Iterable[Source]) -> list[dict[str, Source]]:
        """Return items of one input each, under the name that the model has for the kind."""
        name = self.inputs.name_for(kind)
        return [{name: source} for source in sources]

    @cached_property
    def _rows(self) -> frozenset[Subnet]:
        return frozenset(self.table.rows)

    def timed(self, profile: LatencyProfile) -> Served:
        """Return the model with its profile, and with the searches made so far: they need none."""
        timed = replace(self, profile=profile)
        timed.__dict__["finders"] = self.finders  # where the cached property looks
        return timed

    def prepare(self, subnet: Subnet, tasks: Collection[str], raw: bool = False) -> PreparedPlan:
        """Return the plan of a subnet, from a cache of the last few thousand.

        Args:
            subnet: Chosen.
            tasks: To answer.
            raw: Whether vectors keep the length that they had before they became unit vectors.
        """
        return self._prepare(subnet, tuple(tasks), raw)

    @cached_property
    def _prepare(self) -> Callable[[Subnet, tuple[str, ...], bool], PreparedPlan]:
        return lru_cache(_MAX_PLANS)(
            lambda subnet, tasks, raw: self.prepare_with(self.elastic, subnet, tasks, raw)
        )

    def prepare_with(
        self, model: Elastic, subnet: Subnet, tasks: Collection[str], raw: bool
    ) -> PreparedPlan:
        """Return the plan of a subnet by the weights of a variant, made anew."""
        # Only costs depend on lengths, and a plan to run is not asked for its cost.
        shapes = self.inputs.plan_shapes(names=self.names(subnet))
        plan = model.plan(subnet, shapes, tasks)
        plan = plan.with_raw() if raw else plan
        return PreparedPlan(
            self.name,
            plan,
            self.inputs,
            profile=self.profile,
            owner=self.model,
            subnet=subnet,
            is_raw=raw,
        )

    def bound(
        self, is_whole: bool, tasks: frozenset[str], names: tuple[str, ...]
    ) -> tuple[PreparedPlan, Mapping[str, int]]:
        """Return the plan of one end of the space, and the greatest length of each of its inputs.

        Args:
            is_whole: Of the largest subnet, else of the smallest.
            tasks: Of the model, to answer.
            names: Of the inputs that are there.
        """
        return self._bound(is_whole, tasks, names)

    @cached_property
    def _bound(self) -> Callable[..., tuple[PreparedPlan, Mapping[str, int]]]:
        def find(
            is_whole: bool, tasks: frozenset[str], names: tuple[str, ...]
        ) -> tuple[PreparedPlan, Mapping[str, int]]:
            space = self.elastic.space
            end = space.largest if is_whole else space.smallest
            asked = {axis.name for axis in space.axes if axis.task is None or axis.task in tasks}
            subnet = Subnet(
                {name: value for name, value in end.items() if name in asked}
                | self.inputs.given_choices(space.axes, names)
                | loaded(space)
            )
            lengths = self.inputs.lengths(self.inputs.plan_shapes(names=names))
            longest = {name: lengths.get(name, 0) for name in names}
            return self.prepare(subnet, [t for t in self.elastic.tasks if t in tasks]), longest

        return lru_cache(_MAX_PLANS)(find)

    def names(self, subnet: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the names of the inputs that a subnet is for."""
        return inputs_of(self.elastic.space.axes, subnet) or tuple(self.inputs)
