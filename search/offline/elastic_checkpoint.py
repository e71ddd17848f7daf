"""What `rheostat elasticize` writes: a checkpoint, its measured table, a card and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import checkpoint, formats
from models.elasticize.assembling import write
from models.families.exits import Exits
from models.families.pruned import LayerForm, Pruned
from models.space import Subnet
from models.tasks import Metric
from search.offline import card
from search.offline.cuts import macs_of
from search.offline.elasticizing import Run
from search.offline.front_page import Point
from search.offline.material import Material, Reading
from search.offline.measuring import Texts, digest, write_table
from search.offline.options import Found, RunOptions
from search.offline.quantizing import quantize
from search.offline.record import TRIALS, Record
from search.offline.training import RUN
from search.offline.whole import TABLE_PART, whole_of
from search.quality.table import TABLE, Table

log = logging.getLogger(__name__)
_ENOUGH = 5  # tokens for each input of a map that is fitted


def elasticize(
    source: Path,
    out: Path,
    name: str,
    read: Reading,
    options: RunOptions,
    about: Mapping[str, Any],
    clock: Callable[[], float],
    report: Callable[[str], None],
    pair: bool = False,
) -> list[Point]:
    """Make a public model elastic on a user's data and write a checkpoint.

    Args:
        source: A folder that `models.formats.read` reads.
        out: Folder of the checkpoint. A run goes on from the trials of an earlier one there.
        name: What clients will ask for.
        read: What `search.offline.material.read_material` gives.
        options: See `RunOptions`.
        about: What the data is; an earlier run in ``out`` must have had the same.
        clock: In seconds.
        report: Told what is being done, often.
        pair: Whether a classifier of texts compares two of them.

    Returns:
        The front, cheapest first.

    Raises:
        FormatError: If the folder cannot be read exactly.
        RecordError: If ``out`` holds a run of something else.
        ValueError: If not even the cheapest forms fit the smallest budget.
    """
    started = clock()
    report("reading the model")
    base = whole_model(source, name, pair=pair)
    report("answering held-out items")
    material = read(whole_of(base, options, clock))
    base = whole_model(source, name, (material.task, material.metric), pair)
    told = {
        "model": digest(tensor.numpy() for tensor in base.state_dict().values()),
        "metric": material.metric,
        "keep": list(options.keep),
        **about,
    }
    record = Record(out / RUN / TRIALS, told)
    seconds = (1 - TABLE_PART) * options.seconds - (clock() - started)
    left = replace(options, seconds=max(1.0, seconds))
    found = Run(base, _family(base), material, left, record, clock, report).run()
    _warn_of_few(found)
    report("measuring the table")
    write(found.model, out)
    front = _measured(out, material, found)
    took = clock() - started
    card.write(out, _CARD, name, source, front, material, found, took, length=found.length)
    return front


def _warn_of_few(found: Found) -> None:
    """Say so where maps were fitted on too few tokens for what they read, as on a busy machine."""
    config = found.model.base.layers[0].attention.config
    inputs = max(config.ffn, config.hidden)
    if found.fitted_on < _ENOUGH * inputs:
        log.warning(
            "the cuts were fitted on %d tokens, fewer than %d for each of the %d inputs of a map: "
            "with more --minutes or more texts they keep more",
            found.fitted_on,
            _ENOUGH,
            inputs,
        )


def whole_model(
    source: Path, name: str, task: tuple[str, Metric] | None = None, pair: bool = False
) -> Any:
    """Read a public folder without anything elastic but the size of its vectors.

    Args:
        source: The folder.
        name: Of the model.
        task: Name and metric of its one task; None if they are not known yet.
        pair: Whether a classifier of texts compares two of them.
    """
    model = formats.read_any(source, name, pair)
    if isinstance(model, Exits):
        choices: dict[str, Any] = {"depths": (model.config.depths[-1],)}
        if task is not None:
            choices["tasks"] = dict([task])
        return formats.read(source, name, **choices).requires_grad_(False)
    if task is not None:
        model.config = replace(model.config, task=task[0], metric=task[1])
    return model.requires_grad_(False)


def _family(base: Any) -> str:
    return "exits" if isinstance(base, Exits) else "headed"


def _measured(out: Path, material: Material, found: Found) -> list[Point]:
    """Measure every cut as stored, with weights of 32 and of 8 bits; return the front."""
    write_table(out, checkpoint.load(out).model, material.task, material.report)
    quantize(out, Texts(material.report))
    model: Pruned = checkpoint.load(out).model
    table = Table.load(out / TABLE, model.space, model.tasks)
    return points(model, table, material.task, found.length)


def points(model: Pruned, table: Table, task: str, length: int) -> list[Point]:
    """Return the rows of a table with whole vectors."""
    layers = list(model.base.layers)
    whole = macs_of(tuple(model.config.cut(1.0)), layers, length)
    best = float(table.cells[task].value[-1, 0])
    found = []
    for r, row in enumerate(table.rows):
        if not _is_whole_answer(model, row):
            continue
        keep = float(row["keep"])
        forms = model.config.cut(keep)
        score = table.at(task, r, 0)
        found.append(
            Point(
                keep,
                int(row.get("bits", 32)),
                macs_of(tuple(forms), layers, length) / whole,
                score.value,
                score.stderr,
                score.n,
                score.value / best,
                " ".join(_spelled(form) for form in forms),
            )
        )
    return sorted(found, key=lambda point: (point.keep, point.bits))


def _is_whole_answer(model: Pruned, row: Subnet) -> bool:
    outputs = [axis for axis in model.space.axes if axis.kind == "output"]
    return all(row[axis.name] == axis.values[-1] for axis in outputs)


def _spelled(form: LayerForm) -> str:
    if form.kind == "narrow":
        return f"{form.groups},{form.units}"
    return form.kind


_CARD = """# {name}

{source} made elastic without training: in each layer the heads and feed-forward units that matter
least are left out, or the whole layer becomes one linear map, and what is left is fitted by ridge
regression to what the whole layers gave.

{metric} on {n} held-out examples, which neither ranked, fitted nor chose anything:

{rows}

`keep` is the most of the layers' multiply-accumulates that a cut may take, `MACs` what it takes, at
{length} tokens. `kept` is the share of the whole model's score.

![front]({picture})

- **Data**: {sizes}. The three parts share no text.
- **Ranking**: {ranking}. Agreement with the whole model at one uniform cut, by ranking, on the
  texts that choose:

| ranking | agreement |
|---|---|
{rankings}

- **Search**: cuts measured: {trials}.
- **Fit**: on {fitted_on} tokens. Time: {seconds} s on {threads} threads ({parts}); {machine}, torch
  {torch}.
"""
