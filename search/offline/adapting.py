"""What `rheostat adapt` does: a checkpoint and PEFT's LoRA folders in, one checkpoint out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import torch

from models import checkpoint
from models.checkpoint import Manifest
from models.elastic import Elastic
from models.families.adapted import Adapted
from models.formats import peft
from models.nn.low_rank import LowRank
from models.space import Subnet
from models.variants import load_axes, loaded
from search.offline.rewriting import check_table, table_in
from search.quality.table import TABLE, BoolArray, Cells, FloatArray, Table, given_axes


def adapt(
    source: Path,
    adapters: Mapping[str, Path],
    out: Path,
    name: str,
    ranks: Sequence[int] | None = None,
) -> Manifest:
    """Write a checkpoint of a trunk and adapters.

    Args:
        source: Folder of the trunk's checkpoint.
        adapters: Folders of the adapters, by name.
        out: Folder of the new checkpoint; made if needed.
        name: What clients will ask for.
        ranks: As for `models.formats.peft.with_adapters`.

    Raises:
        CheckpointError: If the trunk cannot be trusted.
        FormatError: If an adapter cannot be read exactly.
        ValueError: If the trunk has no table, or its family or the ranks do not fit.
    """
    trunk = checkpoint.load(source)
    family, model = trunk.manifest.family, trunk.model
    check_table(trunk)
    encoder = getattr(model.config, "encoder", None)
    if encoder is None:
        raise ValueError(f"{source}: a model of family {family!r} is no single encoder")
    factors = {key: peft.read(folder, encoder) for key, folder in adapters.items()}
    made = peft.with_adapters(model, family, name, factors, source, ranks)
    table = widened(table_in(trunk), model, made)
    out.mkdir(parents=True, exist_ok=True)
    for asset in made.assets:
        copyfile(source / asset, out / asset)
    table.save(out / TABLE, made.space)
    # Adapters are small, and were trained in single precision.
    return checkpoint.save(out, made, "adapted", torch.float32, (TABLE, *made.assets))


def widened(table: Table, trunk: Elastic, model: Adapted) -> Table:
    """Return a table of a model with adapters, from that of its trunk.

    Scores with adapters are predicted: those of the trunk, less the part of what adapters add that
    a rank leaves out (the share of the squared singular values). On data of the adapters' own tasks
    they should be measured.

    Args:
        table: Of the trunk.
        trunk: Perhaps with axes of weights, of which the loaded values stay.
        model: With adapters.
    """
    kept = loaded(trunk.space)
    dropped = {axis.name for axis in load_axes(trunk.space)}
    places = [r for r, row in enumerate(table.rows) if all(row[a] == v for a, v in kept.items())]
    rows = [
        Subnet((axis, value) for axis, value in table.rows[r].items() if axis not in dropped)
        for r in places
    ]
    alone, together = model.space.axes[0].values
    energy = energies(model)
    choices: list[Subnet] = []
    keeps: list[float] = []
    for inputs in (alone, together):
        for rank in model.config.ranks:
            choices += [Subnet({"inputs": inputs, "rank": rank}) | row for row in rows]
            keeps += [1.0 if inputs == alone else energy[rank]] * len(rows)
    kept_share = np.array(keeps)[:, None]
    is_alone = np.array([row["inputs"] == alone for row in choices])[:, None]
    again = places * (len(choices) // len(rows))
    cells = {}
    for task, own in table.cells.items():
        part = own.part(again, slice(None))
        cells[task] = _predicted(part, kept_share, is_alone)
    return Table(tuple(choices), cells, given_axes(model.space.axes))


def _predicted(cells: Cells, kept: FloatArray, is_alone: BoolArray) -> Cells:
    factor = 1 / kept if cells.lower_is_better else kept
    return replace(
        cells,
        value=cells.value * factor,
        smoothed=None if cells.smoothed is None else cells.smoothed * factor,
        n=np.where(is_alone, cells.n, 0),
        measured=cells.measured & is_alone,
        agreement=None,
    )


def energies(model: Adapted) -> dict[int, float]:
    """Return by rank the share of all adapters' squared singular values that it keeps."""
    parts = [part for part in model.modules() if isinstance(part, LowRank)]
    squares = torch.stack([(one.down.norm(dim=2) * one.up.norm(dim=2)) ** 2 for one in parts])
    each = squares.sum((0, 1))
    total = float(each.sum())
    return {rank: float(each[:rank].sum()) / total if total else 1.0 for rank in model.config.ranks}
