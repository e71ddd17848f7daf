"""`rheostat export`: one subnet of a model as a plain ONNX file and a public folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from models.checkpoint import MANIFEST
from models.space import Subnet
from models.variants import loaded
from search.budget import Budget, InfeasibleBudgetError
from server.catalog import CatalogError, find_checkpoints, load_one
from server.cli.failing import failing, missing
from server.served import Served
from server.settings import Settings

_EXTRA = ("onnx", "onnxruntime", "onnxscript")


def export(
    model: Annotated[
        str, typer.Argument(help="Folder of a checkpoint, or the name of a model that is shipped.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; empty, or not there.")],
    subnet: Annotated[
        str | None,
        typer.Option(help='JSON of every axis, as in a receipt: {"depth": 3, "heads": 0.5, ...}.'),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Or the best subnet for this part of the largest one's MACs, such as 0.5; "
            "both for the longest input, as on the model's page."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks to answer, such as fish,flowers. Default: all.")
    ] = None,
) -> None:
    """Write one subnet as plain ONNX and as a folder of its public library, to be run elsewhere."""
    try:
        with failing():
            served = _served(model)
            asked = None if tasks is None else tasks.split(",")
            chosen = _chosen(served, subnet, budget, asked)
            remarks = write(served, chosen, out, asked)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise missing(error.name, "cpu") from None
    for remark in remarks:
        typer.echo(f"note: {remark}")
    typer.echo(f"done: {chosen} in {out}")


def write(
    served: Served, subnet: Subnet, out: Path, tasks: Sequence[str] | None = None
) -> list[str]:
    """Write a subnet; as `models.export.write`."""
    # It needs the extra for ONNX, which other commands do without.
    from models.export import Facts
    from models.export import write as write_folder

    cost = served.elastic.plan(subnet, served.inputs.plan_shapes(), tasks).cost
    facts = Facts(served.manifest.version, cost.macs, _scores(served, subnet, tasks))
    return write_folder(served.model, subnet, out, facts, tasks)


def _served(model: str) -> Served:
    """Return a model by its folder, or by the name of one that is shipped."""
    if (Path(model) / MANIFEST).is_file():
        return load_one(Path(model))
    shipped = {path.name: path for path in find_checkpoints(Settings.of().models_folder)}
    if model not in shipped:
        raise CatalogError(
            f"MODEL={model}: neither a folder with {MANIFEST} nor one of {list(shipped)}"
        )
    return load_one(shipped[model])


def _chosen(
    served: Served, subnet: str | None, budget: float | None, tasks: Sequence[str] | None
) -> Subnet:
    """Return the subnet that the options mean.

    Raises:
        ValueError: Naming the option.
    """
    if (subnet is None) == (budget is None):
        raise ValueError("one of --subnet and --budget is needed")
    space = served.elastic.space
    if subnet is not None:
        try:
            choices = json.loads(subnet)
        except ValueError as error:
            raise ValueError(f"--subnet={subnet} is no JSON: {error}") from None
        if not isinstance(choices, dict):
            raise ValueError(f"--subnet={subnet} must be a JSON object, an axis by name")
        part = space if tasks is None else space.select({None, *tasks})
        try:
            return part.check(choices)
        except ValueError as error:
            raise ValueError(f"--subnet: {error}") from None
    finder = served.finders.at(fixed={**loaded(space), **served.whole_outputs})
    try:
        return finder.find(tasks=tasks, budget=Budget(fraction=budget), tolerance=0).subnet
    except InfeasibleBudgetError as error:
        raise ValueError(f"--budget={budget}: {error}") from None


def _scores(
    served: Served, subnet: Subnet, tasks: Sequence[str] | None
) -> dict[str, dict[str, object]]:
    """Return what the table says of a subnet, by task; nothing of one that it does not have."""
    table, space = served.table, served.elastic.space
    row = Subnet({axis.name: subnet[axis.name] for axis in space.select({None}).axes})
    found = {}
    for task in tasks or served.elastic.tasks:
        own = Subnet({axis.name: subnet[axis.name] for axis in space.select({task}).axes})
        columns = table.cells[task].columns
        if row in table.rows and own in columns:
            score = table.at(task, table.rows.index(row), columns.index(own))
            found[task] = {
                "metric": served.elastic.tasks[task].metric,
                "score": score.value,
                **{k: v for k, v in score._asdict().items() if k != "value"},
            }
    return found
