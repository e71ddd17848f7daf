"""What `rheostat extract` does: a checkpoint of experts in, one with those of a skill out."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import torch

from models import checkpoint
from models.checkpoint import Manifest
from models.families.experts import RESIDENT, ExpertModel, extracted
from models.space import Subnet
from search.offline.rewriting import table_in
from search.quality.table import TABLE, Table


def extract(source: Path, skill: str, out: Path, name: str) -> Manifest:
    """Write a checkpoint without the experts that a skill does not use.

    It answers that skill as before, bit for bit, where no more experts are read than it has.

    Args:
        source: Folder of a checkpoint of family ``experts``.
        skill: One of those that may be there alone.
        out: Folder of the new checkpoint; made if needed.
        name: What clients will ask for.

    Raises:
        CheckpointError: If the checkpoint cannot be trusted.
        ValueError: If its family is another, it has no table, or it has no such skill.
    """
    loaded = checkpoint.load(source)
    model = loaded.model
    if not isinstance(model, ExpertModel):
        raise ValueError(f"{source}: family {loaded.manifest.family!r} has no experts")
    table = table_in(loaded)
    made = extracted(model, skill)
    made.name = name
    rows = [r for r, row in enumerate(table.rows) if row[RESIDENT] == skill]
    cells = {task: own.part(rows, slice(None)) for task, own in table.cells.items()}
    kept = Table(tuple(Subnet(table.rows[r]) for r in rows), cells, table.given)
    out.mkdir(parents=True, exist_ok=True)
    for asset in made.assets:
        copyfile(source / asset, out / asset)
    kept.save(out / TABLE, made.space)
    return checkpoint.save(out, made, "experts", torch.float32, (TABLE, *made.assets))
