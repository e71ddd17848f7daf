"""What `rheostat quantize` does: int8 weights beside the others, with scores of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from tqdm import tqdm

from models import checkpoint, families
from models.backends.torch import TorchBackend
from models.checkpoint import MANIFEST
from models.space import Subnet
from search.quality.embeddings import Evaluation, Measured, scores
from search.quality.table import TABLE, Cells, Table

_BITS = (8, 32)


def quantize(folder: Path, evaluation: Evaluation) -> tuple[Measured, Measured]:
    """Offer 8 bits beside 32 in a checkpoint of a family that has them.

    The weights stay as they are: they are rounded when they are loaded. Every subnet is scored with
    rounded weights. It is not expected to be better than with whole ones: that would be chance.

    Args:
        folder: Of the checkpoint; its manifest and its table are written anew.
        evaluation: What the table was measured on.

    Returns:
        The scores of the largest subnet, with 32 and with 8 bits.

    Raises:
        ValueError: If its family knows no bits, it has no table or offers 8 bits already.
    """
    loaded = checkpoint.load(folder)
    model = loaded.model
    if not hasattr(model.config, "bits"):
        raise ValueError(f"{folder}: family {loaded.manifest.family!r} has no axis of bits")
    if TABLE not in loaded.manifest.files:
        raise ValueError(f"{folder} has no {TABLE} in its manifest")
    if len(model.config.bits) > 1:
        raise ValueError(f"{folder}: bits={list(model.config.bits)} are on offer already")
    table = Table.load(folder / TABLE, model.space, model.tasks)
    config = replace(model.config, bits=_BITS)
    both: Any = families.get(loaded.manifest.family).build(model.name, config)
    both.load_state_dict(model.state_dict(), assign=True)
    if getattr(both, "assets", ()):
        both.attach(folder)
    both.eval().requires_grad_(False)
    few = [Subnet({"bits": _BITS[0], **row}) for row in table.rows]
    whole = [Subnet({"bits": _BITS[1], **row}) for row in table.rows]
    with tqdm(desc="table", unit="batch") as progress:
        found = scores(both, TorchBackend(), evaluation, few, progress.update)
    cells = {task: _joined(own, found) for task, own in table.cells.items()}
    dumped = TypeAdapter(type(config)).dump_python(config, mode="json")
    manifest = loaded.manifest.model_copy(update={"config": dumped})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1, exclude_none=True) + "\n")
    Table((*few, *whole), cells, table.given).save(folder / TABLE, both.space)
    checkpoint.cover(folder, TABLE)
    own = next(iter(table.cells.values()))
    best = Measured(float(own.value[-1, -1]), int(own.n[-1, -1]), float(own.stderr[-1, -1]))
    return best, found[-1]


def _joined(whole: Cells, found: list[Measured]) -> Cells:
    """Return the scores with 8 bits above those with 32."""
    value = np.array([[one.value] for one in found])
    bound = np.maximum if whole.lower_is_better else np.minimum
    return replace(
        whole,
        value=np.concatenate([value, whole.value]),
        n=np.concatenate([[[one.n] for one in found], whole.n]),
        stderr=np.concatenate([[[one.stderr] for one in found], whole.stderr]),
        measured=np.concatenate([np.ones_like(value, dtype=np.bool_), whole.measured]),
        smoothed=np.concatenate([bound(value, whole.expected), whole.expected]),
    )
