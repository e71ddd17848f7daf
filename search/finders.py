"""The searches over one model's table: planned once, then priced for items of any shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from models.core import Shape, Shapes
from models.elastic import Elastic
from models.space import Value
from search.build import build_grid
from search.find import Finder
from search.grid import Grid
from search.quality.table import Table, given_axes, inputs_of
from search.request import RequestReader
from search.timing.profile import Function

_ShapesKey: TypeAlias = tuple[tuple[str, Shape], ...]
_Choices: TypeAlias = tuple[tuple[str, Value], ...]

_MAX_FINDERS = 256  # for shapes and fixed values; half a megabyte each at most
_MAX_FIXED = 32  # sets of fixed values of which the rows are kept, a megabyte each at most


class Finders:
    """The searches over one model's table, for items of any shapes.

    Every row is planned once, here. A length that was never seen only evaluates polynomials. For
    one thread, as that of an event loop. Kept are the last 256 finders, each with its last 128
    answers, and of the last 32 sets of fixed values the rows.
    """

    def __init__(self, model: Elastic, table: Table) -> None:
        """Plan the table.

        Args:
            model: Plans.
            table: Of the model.

        Raises:
            ValueError: As `search.build.build_grid`; or if an input may be missing and no axis
                says so.
        """
        self._model = model
        self._reader = RequestReader(tuple(model.tasks))
        self._axes = model.space.axes
        self._grids = {
            names: build_grid(model, table, names) for names in _sets_of_inputs(model, table)
        }
        self._rows = lru_cache(_MAX_FIXED)(self._rows_of)
        self._finders = lru_cache(_MAX_FINDERS)(self._finder)
        for names in self._grids:
            self._rows(names, ())  # now, not when somebody waits

    @property
    def functions(self) -> set[Function]:
        """What the steps of every subnet compute."""
        return {function for grid in self._grids.values() for function in grid.functions}

    def at(self, shapes: Shapes | None = None, fixed: Mapping[str, Value] | None = None) -> Finder:
        """Return the search for items of some shapes.

        Args:
            shapes: Of the inputs that are there; None for the largest of all inputs.
            fixed: Values on shared axes that every answer must have; None for any.

        Raises:
            InvalidInputError: If the inputs do not go together, or one cannot have this length.
            ValueError: If the model takes other shapes, or no subnet has the fixed values.
        """
        if shapes is None:
            shapes = self._model.inputs.plan_shapes()
        return self._finders(tuple(sorted(shapes.items())), _key(fixed))

    def _finder(self, shapes: _ShapesKey, fixed: _Choices) -> Finder:
        inputs, of_item = self._model.inputs, dict(shapes)
        inputs.check(of_item)
        inputs.given_choices(self._axes, of_item)
        names = tuple(name for name in inputs if name in of_item)
        if names not in self._grids:
            raise ValueError(f"the table has no row for the inputs {list(names)}")
        whole, lean = self._rows(names, fixed)
        lengths = inputs.lengths(of_item)
        if (expected := whole.lengths.at(lengths)) != of_item:
            raise ValueError(f"shapes={of_item} must be {expected}")
        return Finder(whole, lean, lengths, self._reader)

    def _rows_of(self, names: tuple[str, ...], fixed: _Choices) -> tuple[Grid, Grid]:
        """Return the rows with the fixed values, and those of them that none other beats."""
        whole = self._grids[names]
        if fixed:
            rows = [
                r
                for r, row in enumerate(whole.rows)
                if all(row.get(axis) == value for axis, value in fixed)
            ]
            if not rows:
                raise ValueError(f"no row has the values {dict(fixed)}")
            whole = whole.part(np.array(rows))
        return whole, whole.without_dominated(with_loaded=True)


def _key(choices: Mapping[str, Value] | None) -> _Choices:
    return tuple(sorted(choices.items())) if choices else ()


def _sets_of_inputs(model: Elastic, table: Table) -> list[tuple[str, ...]]:
    """Return the sets of inputs that an item may have, each in the model's order."""
    axes = model.space.axes
    if not given_axes(axes):
        if optional := [name for name, slot in model.inputs.items() if not slot.required]:
            raise ValueError(f"input {optional[0]!r} may be missing, and no given axis says so")
        return [tuple(model.inputs)]
    return list(dict.fromkeys(inputs_of(axes, row) or () for row in table.rows))
