"""What `rheostat train cuts` does: cuts of a text encoder learn what the whole model answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

from models import checkpoint
from models.elasticize.assembling import write
from models.families.pruned import Pruned
from models.inputs.text import text_input
from models.train.cuts import CutsRecipe, train_cuts
from search.offline.measuring import Texts, write_table
from search.offline.measuring_tasks import with_tasks
from search.offline.quantizing import quantize
from search.offline.rewriting import with_config
from search.offline.training import RECORD, RUN, machine, training_log
from search.offline.whole import answers_of
from search.quality.agreement import AgreementQuality
from search.quality.embeddings import Measured

HELD_OUT = 400
_TASK = "similarity"


def train_cuts_of(
    source: Path,
    texts: Sequence[str],
    out: Path,
    recipe: CutsRecipe,
    report: Callable[[str], None] = lambda _: None,
) -> Mapping[float, Measured]:
    """Train the cuts of a checkpoint, and write another one.

    Args:
        source: Folder of a checkpoint of family ``pruned`` that embeds texts; it stays as it is.
        texts: To learn from. `HELD_OUT` of them measure the new table instead: how far the
            similarities between texts agree with the whole model's.
        out: Folder of the new checkpoint; an interrupted run goes on when called again.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        By value of ``keep``, the agreement of whole vectors with weights of 32 bits.

    Raises:
        ValueError: If the checkpoint has no cuts of a text encoder, there are too few texts, or
            ``out`` holds a run with another recipe.
    """
    if len(texts) < HELD_OUT + recipe.batch_size:
        raise ValueError(
            f"{len(texts)} texts; needed are {HELD_OUT + recipe.batch_size} or more, of which "
            f"{HELD_OUT} are held out"
        )
    model, has_bits = _student(source)
    shuffled = list(texts)
    Random(recipe.seed).shuffle(shuffled)
    held_out, taught = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    encoder = text_input(model.inputs)
    report("reading texts")
    ids = [encoder.encode(text, truncate="right", max_tokens=recipe.max_tokens) for text in taught]
    report("training")
    train_cuts(model, ids, recipe, out / RUN)
    report("measuring the table")
    write(model, out)
    found = _measured(out, held_out, has_bits)
    record = {
        "recipe": asdict(recipe),
        "texts": {"taught": len(taught), "held out": len(held_out)},
        "steps": training_log(out),
        "agreement": {str(keep): one._asdict() for keep, one in found.items()},
        "machine": machine(),
    }
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    checkpoint.cover(out, RECORD)
    return found


def _student(source: Path) -> tuple[Pruned, bool]:
    """Return the model of a checkpoint with weights of 32 bits, and whether it has others too."""
    loaded = checkpoint.load(source)
    family = loaded.manifest.family
    if not isinstance(loaded.model, Pruned):
        raise ValueError(f"{source}: family {family!r} has no cuts")
    model = with_tasks(loaded.model, family, {_TASK: "agreement"}, source)
    return with_config(model, replace(model.config, bits=(32,)), source), len(model.config.bits) > 1


def _measured(out: Path, texts: Sequence[str], has_bits: bool) -> dict[float, Measured]:
    """Write the table of a checkpoint by what keeps similarities; return that of whole vectors."""
    model: Any = checkpoint.load(out).model
    whole = answers_of(model.base, texts)
    quality = AgreementQuality(texts, whole)
    measured = write_table(out, model, _TASK, quality, whole)
    if has_bits:
        quantize(out, Texts(quality))
    largest = model.space.largest
    return {
        float(subnet["keep"]): one
        for subnet, one in zip(model.space, measured, strict=True)
        if all(subnet[axis] == largest[axis] for axis in subnet if axis != "keep")
    }
