"""Expected retention of cells and its error: measured cells with their noise taken out.

The best of many measured cells is the luckiest one. What differs between neighbours that differ
little is mostly noise, so each cell is drawn towards what its neighbours say: a Gaussian process
over the positions on the axes, of retentions, in which the largest subnet is 1 for certain. So the
corner that all is compared with stays where it is, however much the others are smoothed. How rough
a surface is, and how noisy, is what makes the measured cells most likely.

Several tasks measured on inputs of their own share most of their surface. It is estimated from
their mean, and what is left of each task with a second process, the same for all tasks.

The error of a retention has two parts: what the process leaves open, and the luck of the inputs
that all cells share. The second is that of a ratio of two paired scores, which is the smaller the
more the answers agree: variance (s^2 + r^2 s0^2 - 2 a r s s0) / score0^2, for a score with error s
at retention r, the whole model's with s0, and agreement a in place of their correlation.

Sources: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, sections 2.2 and 5.4;
Efron and Morris 1973, Stein's Estimation Rule and Its Competitors, JASA 68(341), for drawing
towards what is common.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from models.space import Axis, Space
from search.quality.cells import Cells, FloatArray
from search.quality.table import Table

_CERTAIN = 1e-6  # standard deviation of the largest subnet's retention, over itself
_MOST_CELLS = 600  # that choose the process's parameters; of more every so-manieth
_START = (0.3, 0.1, 0.6, 0.02)
_BOUNDS = ((1e-3, 3.0), (1e-3, 1.0), (0.1, 5.0), (1e-4, 0.2))


@dataclass(frozen=True)
class Surface:
    """What a process says of all cells.

    Attributes:
        mean: By cell, one column a task, shape [cells, tasks].
        error: Standard error, shape [cells].
    """

    mean: FloatArray
    error: FloatArray


def expected(table: Table, space: Space) -> Table:
    """Return a table with expected scores and the errors of retentions.

    Args:
        table: Measured; rows of other inputs are of surfaces of their own.
        space: Of the model.
    """
    cells = dict(table.cells)
    for rows in _by_inputs(table):
        for names in _alike(table):
            values = np.stack([_retention(table, name)[rows].ravel() for name in names], axis=1)
            part = table.cells[names[0]]
            places = _places(table, rows, part, space)
            surface = _surface(values, places)
            for number, name in enumerate(names):
                own = surface.mean[:, number].reshape(len(rows), -1)
                error = surface.error.reshape(len(rows), -1)
                cells[name] = _with(cells[name], table, rows, own, error)
    return replace(table, cells=cells)


def _surface(values: FloatArray, places: FloatArray) -> Surface:
    """Return the common surface and each task's own part of it."""
    common = _process(values.mean(axis=1, keepdims=True) - 1, places)
    if values.shape[1] == 1:
        return Surface(1 + common.mean, common.error)
    own = _process(values - 1 - common.mean, places)
    error = np.sqrt(common.error**2 + own.error**2)
    return Surface(1 + common.mean + own.mean, error)


def _process(values: FloatArray, places: FloatArray) -> Surface:
    """Condition a process on noisy values; the last place has the value 0 for certain.

    Args:
        values: Shape [cells, tasks].
        places: On the axes, 0 to 1, shape [cells, axes].
    """
    spread = float(values.std())
    if len(values) < 3 or spread < _CERTAIN:
        return Surface(values, np.zeros(len(values)))
    step = -(-len(values) // _MOST_CELLS)
    some = np.arange(len(values))[::-step]  # with the last one

    def misfit(logs: FloatArray) -> float:
        return _misfit(np.exp(logs), values[some], places[some])

    bounds = [(np.log(low), np.log(high)) for low, high in _BOUNDS]
    found = minimize(misfit, np.log(_START), method="L-BFGS-B", bounds=bounds)
    parameters = np.exp(found.x)
    prior = _kernel(places, places, parameters)
    noisy = prior + np.diag(_noise(len(values), parameters, len(values) - 1))
    factor = cho_factor(noisy, lower=True)
    mean: FloatArray = prior @ cho_solve(factor, values)
    variance = np.diag(prior) - (prior * cho_solve(factor, prior).T).sum(axis=1)
    return Surface(mean, np.sqrt(variance.clip(0, None)))


def _misfit(parameters: FloatArray, values: FloatArray, places: FloatArray) -> float:
    """Return minus the log likelihood of the values, up to a constant."""
    noise = _noise(len(values), parameters, 0)  # the largest is first here
    try:
        factor = cho_factor(_kernel(places, places, parameters) + np.diag(noise), lower=True)
    except np.linalg.LinAlgError:
        return 1e12
    fit = float((values * cho_solve(factor, values)).sum())
    return 0.5 * fit + values.shape[1] * float(np.log(np.diag(factor[0])).sum())


def _noise(count: int, parameters: FloatArray, certain: int) -> FloatArray:
    noise = np.full(count, parameters[3] ** 2)
    noise[certain] = _CERTAIN**2
    return noise


def _kernel(one: FloatArray, other: FloatArray, parameters: FloatArray) -> FloatArray:
    """Return the covariance: a plane and a smooth surface; both are small near the corner."""
    slope, height, length, _ = parameters
    away, off = 1 - one, 1 - other
    squares = ((one[:, None] - other[None]) ** 2).sum(axis=2)
    found: FloatArray = slope**2 * away @ off.T + height**2 * np.exp(-0.5 * squares / length**2)
    return found


def _retention(table: Table, task: str) -> FloatArray:
    """Return what measured cells keep of the measured score of the largest."""
    bare = replace(table, cells={task: replace(table.cells[task], smoothed=None)})
    return bare.retention(task)


def _by_inputs(table: Table) -> list[FloatArray]:
    """Return the rows of each set of inputs, the largest row of each last."""
    full = table.full_rows
    return [np.array([*(set(np.flatnonzero(full == f)) - {f}), f]) for f in np.unique(full)]


def _alike(table: Table) -> list[list[str]]:
    """Return the tasks whose cells are of the same choices, apart from their names."""
    groups: dict[Any, list[str]] = {}
    for name, own in table.cells.items():
        shape = tuple(tuple(column.values()) for column in own.columns)
        groups.setdefault((shape, own.lower_is_better), []).append(name)
    return list(groups.values())


def _places(table: Table, rows: FloatArray, cells: Cells, space: Space) -> FloatArray:
    """Return the position of each cell on each axis, 0 to 1; shape [cells, axes]."""
    axes = {axis.name: axis for axis in space.axes if axis.kind != "given"}
    found = []
    for row in rows:
        for column in cells.columns:
            choices = {**table.rows[int(row)], **column}
            found.append(
                [_place(axes[name], value) for name, value in choices.items() if name in axes]
            )
    return np.array(found)


def _place(axis: Axis, value: Any) -> float:
    return axis.index(value) / max(1, len(axis.values) - 1)


def _with(
    cells: Cells, table: Table, rows: FloatArray, mean: FloatArray, open_: FloatArray
) -> Cells:
    """Return a task's cells with what is expected of some rows."""
    smoothed = cells.expected.copy()
    error = np.full(cells.value.shape, np.nan) if cells.error is None else cells.error.copy()
    full = int(rows[-1])
    whole, of_whole = cells.value[full, -1], cells.stderr[full, -1]
    own = mean.clip(1e-6, None)
    smoothed[rows] = whole / own if cells.lower_is_better else (whole * own).clip(None, 1.0)
    value, stderr = cells.value[rows], cells.stderr[rows]
    alike = np.nan_to_num(cells.known_agreement[rows], nan=0.0).clip(0.0, 1.0)
    base = value if cells.lower_is_better else np.full(value.shape, whole)
    luck = stderr**2 + (own * of_whole) ** 2 - 2 * alike * own * stderr * of_whole
    if cells.lower_is_better:
        luck = of_whole**2 + (own * stderr) ** 2 - 2 * alike * own * stderr * of_whole
    error[rows] = np.sqrt(open_**2 + luck.clip(0, None) / np.maximum(base, 1e-9) ** 2)
    error[full, -1] = 0.0
    return replace(cells, smoothed=smoothed, error=error)
