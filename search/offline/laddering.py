"""What `rheostat ladder` does: checkpoints that were trained apart in, one checkpoint out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import checkpoint
from models.checkpoint import Checkpoint, Manifest
from models.families.ladder import AXIS, Ladder, LadderConfig, Member
from models.files import replacing
from models.space import Subnet
from models.variants import exact_dtype
from search.offline.rewriting import table_in
from search.quality.table import TABLE, Cells, Score, Table


@dataclass(frozen=True)
class _Rung:
    """A member with what it costs and is worth, by task."""

    checkpoint: Checkpoint
    macs: int
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        return self.checkpoint.manifest.name


def ladder(folders: Sequence[Path], out: Path, name: str) -> Manifest:
    """Write checkpoints as one, whose budget chooses among them.

    Each answers with its largest subnet, at the score that its own table has. What a member costs
    decides its place.

    Args:
        folders: Of the checkpoints, two or more.
        out: Folder of the ladder; made if needed.
        name: What clients will ask for.

    Raises:
        CheckpointError: If one cannot be trusted.
        ValueError: If one has no table, two share a name, a file that they need differs, they do
            not take or answer the same, or their scores are not of the same number of inputs.
    """
    rungs = sorted(map(_rung, folders), key=lambda rung: rung.macs)
    names = [rung.name for rung in rungs]
    if len(set(names)) != len(names):
        raise ValueError(f"names={names}: members must have names of their own")
    config = LadderConfig(
        {
            rung.name: Member(rung.checkpoint.manifest.family, rung.checkpoint.manifest.config)
            for rung in rungs
        }
    )
    made = Ladder(name, config)
    for one, rung in zip(made.members, rungs, strict=True):
        one.load_state_dict(rung.checkpoint.model.state_dict(), assign=True)
    out.mkdir(parents=True, exist_ok=True)
    for asset in made.assets:
        _copy_shared(asset, [rung.checkpoint.folder for rung in rungs], out)
    if made.assets:
        made.attach(out)
    _ = made.inputs  # refused here if they do not take the same
    table = _table(made, rungs)
    table.save(out / TABLE, made.space)
    return checkpoint.save(out, made.eval(), "ladder", exact_dtype(made), (TABLE, *made.assets))


def _rung(folder: Path) -> _Rung:
    loaded = checkpoint.load(folder)
    model = loaded.model
    table = table_in(loaded)
    macs = model.plan(model.space.largest, model.inputs.plan_shapes()).cost.macs
    return _Rung(loaded, macs, {task: table.at(task, -1, -1) for task in model.tasks})


def _table(made: Ladder, rungs: Sequence[_Rung]) -> Table:
    cells = {}
    for task in made.tasks:
        found = [rung.scores[task] for rung in rungs]
        if len({score.n for score in found}) > 1:
            told = {rung.name: rung.scores[task].n for rung in rungs}
            raise ValueError(f"task {task!r}: scores are of different data: n={told}")
        cells[task] = Cells(
            columns=(Subnet({}),),
            value=np.array([[score.value] for score in found]),
            n=np.array([[score.n] for score in found]),
            stderr=np.array([[score.stderr] for score in found]),
            measured=np.array([[score.measured] for score in found]),
            smoothed=np.array([[score.expected] for score in found]),
            lower_is_better=made.tasks[task].lower_is_better,
        )
    return Table(tuple(Subnet({AXIS: rung.name}) for rung in rungs), cells)


def _copy_shared(file: str, folders: Sequence[Path], out: Path) -> None:
    """Copy a file that members need; ValueError if it is not the same for all that have it."""
    holders = [folder for folder in folders if (folder / file).is_file()]
    contents = {folder: (folder / file).read_bytes() for folder in holders}
    first = contents[holders[0]]
    for folder, content in contents.items():
        if content != first:
            raise ValueError(f"{folder / file} differs from {holders[0] / file}; it must not")
    with replacing(out / file) as part:
        part.write_bytes(first)
