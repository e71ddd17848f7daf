"""A checkpoint with the same weights and another configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import checkpoint, families
from models.checkpoint import Checkpoint, Manifest
from search.quality.table import TABLE, Table


def check_table(loaded: Checkpoint) -> None:
    """Refuse a checkpoint without a table; ValueError that names its folder."""
    if TABLE not in loaded.manifest.files:
        raise ValueError(f"{loaded.folder} has no {TABLE} in its manifest")


def table_in(loaded: Checkpoint) -> Table:
    """Return the table of a checkpoint; ValueError if it has none, or one of another model."""
    check_table(loaded)
    return Table.load(loaded.folder / TABLE, loaded.model.space, loaded.model.tasks)


def with_config(model: Any, config: Any, folder: Path) -> Any:
    """Return a model with the same weights, shared, and another configuration.

    Args:
        model: Of any family.
        config: With the same parameters.
        folder: That has the files which the model reads besides its weights.
    """
    made: Any = type(model)(model.name, config)
    made.load_state_dict(model.state_dict(), assign=True)
    if getattr(made, "assets", ()):
        made.attach(folder)
    return made.eval().requires_grad_(False)


def rewrite(folder: Path, before: Manifest, model: Any, table: Table) -> None:
    """Write the configuration and the table of a model anew; its weights stay as they are.

    Args:
        folder: Of the checkpoint.
        before: Its manifest.
        model: With the new configuration.
        table: Of the model.
    """
    config = families.as_json(model.config)
    checkpoint.write_manifest(folder, before.model_copy(update={"config": config}))
    table.save(folder / TABLE, model.space)
    checkpoint.cover(folder, TABLE)
