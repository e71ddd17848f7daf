"""What `rheostat train text` does around a recipe: public encoder in, elastic checkpoint out."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from tqdm import tqdm

from models import checkpoint, formats
from models.backends.torch import TorchBackend
from models.core import Subnet
from models.families.exits import Exits
from models.formats.vocabulary import prune
from models.ragged import Ragged
from models.ranking import Importance, first_order_importance, rank_units
from models.text import TOKENIZER
from models.train import losses, texts
from models.train.projections import fit_projections
from models.train.text import Distances, Rated, TextRecipe, pooled_exits, recipe_json, train
from models.train.texts import ScoredPair
from search.embeddings import Measured, Similarity, scores, table_of
from search.table import TABLE
from server.training import CARD, RECORD, RUN, training_log

DIMS = (32, 64, 128, 256)
HEADS = (0.5, 0.75, 1.0)
FFN = (0.25, 0.5, 0.75, 1.0)
_RANKING_BATCHES = 16


@dataclass(frozen=True, slots=True)
class TextData:
    """What a general encoder is trained, measured and reported on.

    Attributes:
        free: Texts to distil on, each once.
        rated: Rated pairs to train on.
        validation: Rated pairs that the table is measured on.
        test: Rated pairs that are only reported.
        removed: Number of free texts left out because an evaluation split has them.
    """

    free: list[str]
    rated: list[ScoredPair]
    validation: list[ScoredPair]
    test: list[ScoredPair]
    removed: int


def load(root: Path) -> TextData:
    """Read the data sets; a free text that stands in a dev or test split is left out.

    Raises:
        FileNotFoundError: If a data set is not there.
    """
    validation, test = texts.stsb(root, "dev"), texts.stsb(root, "test")
    held_out = [text for pair in (*validation, *test) for text in pair[:2]]
    known = {texts.normal(text) for text in held_out}
    free = dict.fromkeys(text for part in texts.free_texts(root).values() for text in part)
    clean = [text for text in free if text and texts.normal(text) not in known]
    rated = [
        pair
        for pair in texts.stsb(root, "train")
        if not {texts.normal(pair.first), texts.normal(pair.second)} & known
    ]
    return TextData(clean, rated, validation, test, len(free) - len(clean))


def train_text(source: Path, data: TextData, out: Path, name: str, recipe: TextRecipe) -> None:
    """Make a public encoder elastic: rank its units, fit an exit per layer, distil, measure.

    The encoder as it comes is the teacher: its distances between texts are taught to every exit,
    width and dimension. Rated pairs come on top.

    Args:
        source: A folder that `models.formats.read` reads.
        data: Texts and pairs.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.

    Raises:
        FormatError: If the folder cannot be read exactly.
        ValueError: If ``out`` holds a run with another recipe.
    """
    student = elastic(formats.read(source, name), source, out)
    rated = _tokens_of_pairs(student, data.rated)
    rank_units(student, importance(student, rated, recipe))
    free = [student.input.encode(text, truncate="right") for text in data.free]
    teacher = fit_projections(student, free)
    train(student, [(Distances(free, teacher), 0.8), (rated, 0.2)], recipe, out / RUN)
    record: dict[str, object] = {
        "recipe": recipe_json(recipe),
        "texts": {"free": len(data.free), "removed": data.removed, "rated": len(data.rated)},
        "steps": training_log(out),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }
    finish(student, data, out, record)


def elastic(base: Exits, source: Path, out: Path) -> Exits:
    """Return a model with the weights of ``base`` and everything that can be elastic about it.

    Each exit gets a projection, at first the identity; tokens that no text has are left out, and
    the tokenizer without them is written to ``out``.
    """
    hidden = base.config.encoder.hidden
    config = replace(
        base.config,
        depths=tuple(range(1, base.config.encoder.layers + 1)),
        dims=(*(dim for dim in DIMS if dim < hidden), hidden),
        heads=HEADS,
        ffn=FFN,
        projection=hidden,
    )
    model = Exits(base.name, config)
    model.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        for depth in config.depths:
            torch.nn.init.eye_(model.projection(depth).weight)
            torch.nn.init.zeros_(model.projection(depth).bias)
    folder = formats.tokenizer_folder(source)
    smaller = prune(model, folder, out)
    smaller.attach(out)
    return smaller


def importance(model: Exits, rated: Rated, recipe: TextRecipe) -> list[Importance]:
    """Return what each head and unit is worth to the rating of pairs, over a few batches."""
    rng = Random(recipe.seed)
    model.requires_grad_(True)
    total: list[Importance] = []
    for _ in range(_RANKING_BATCHES):
        picked = rng.sample(range(len(rated.first)), min(recipe.batch_size, len(rated.first)))
        batch = Ragged.pack([rated.first[i] for i in picked] + [rated.second[i] for i in picked])
        groups, units = model.widths(model.space.largest)
        pooled = pooled_exits(model, batch, groups, units)[model.config.depths[-1]]
        first, second = F.normalize(pooled, dim=1).chunk(2)
        loss = losses.cosent((first * second).sum(dim=1), rated.score[picked])
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        found = first_order_importance(model)
        total = [
            Importance(a.groups + b.groups, a.units + b.units)
            for a, b in zip(total or found, found, strict=True)
        ]
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    return total


def finish(model: Exits, data: TextData, out: Path, record: dict[str, object]) -> None:
    """Write the checkpoint of a trained model, its table, the record of its training and a card.

    The table is measured with the weights as they are stored, on the validation pairs. The test
    pairs are only reported.
    """
    checkpoint.save(out, model, "exits", files=[TOKENIZER])
    stored: Exits = checkpoint.load(out).model
    backend = TorchBackend()
    backend.prepare(stored)
    subnets = list(stored.space)
    with tqdm(desc="table", unit="batch") as progress:
        found = _scores(stored, backend, data.validation, subnets, progress.update)
        table_of(subnets, dict.fromkeys(stored.tasks, found)).save(out / TABLE, stored.space)
        full = [s for s in subnets if s["heads"] == 1 and s["ffn"] == 1]
        tested = _scores(stored, backend, data.test, full, progress.update)
    validation = dict(zip(subnets, found, strict=True))
    record["result"] = [
        {
            "subnet": dict(subnet),
            "validation_spearman": validation[subnet].value,
            "test_spearman": measured.value,
        }
        for subnet, measured in zip(full, tested, strict=True)
    ]
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    (out / CARD).write_text(card(stored, dict(zip(full, tested, strict=True)), data))
    for file in (TABLE, RECORD, CARD):
        checkpoint.cover(out, file)


def card(model: Exits, tested: dict[Subnet, Measured], data: TextData) -> str:
    """Return the card of a checkpoint, in Markdown."""
    dims = model.config.dims
    cells = {(s["depth"], s["dim"]): measured.value for s, measured in tested.items()}
    rows = [
        f"| {depth} | " + " | ".join(f"{100 * cells[depth, dim]:.1f}" for dim in dims) + " |"
        for depth in model.config.depths
    ]
    return _CARD.format(
        name=model.name,
        num_layers=model.config.encoder.layers,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_free=len(data.free),
        num_rated=len(data.rated),
        removed=data.removed,
        num_test=len(data.test),
        record=RECORD,
        dims=" | ".join(str(dim) for dim in dims),
        rule="|".join(["---"] * (len(dims) + 1)),
        rows="\n".join(rows),
    )


def _scores(
    model: Exits,
    backend: TorchBackend,
    pairs: Sequence[ScoredPair],
    subnets: Sequence[Subnet],
    report: Callable[[], object],
) -> list[Measured]:
    return scores(model, backend, model.input, Similarity(pairs), subnets, report)


def _tokens_of_pairs(model: Exits, pairs: Sequence[ScoredPair]) -> Rated:
    first = [model.input.encode(pair.first, truncate="right") for pair in pairs]
    second = [model.input.encode(pair.second, truncate="right") for pair in pairs]
    return Rated(first, second, torch.tensor([pair.score for pair in pairs]))


_CARD = """# {name}

Text encoder with an exit after each of its {num_layers} layers; heads, feed-forward units and
dimensions are elastic as well. {num_parameters:,} parameters.

- **Data**: {num_free:,} free texts (train splits of CLINC150, CC BY 3.0; BANKING77, CC BY 4.0;
  docstrings of BSD-licensed Python packages; SciFact claims, CC BY 4.0; STS-Benchmark sentences,
  CC BY-SA 4.0) and {num_rated:,} rated pairs of STS-Benchmark's train split. {removed:,} texts
  that also stand in its dev or test split were left out. The table is measured on its dev split.
- **Recipe**: `rheostat train text`; the starting model teaches its distances between texts to
  every exit, width and dimension. Hyper-parameters, machine and losses are in `{record}`.

Spearman's rank correlation x 100 on STS-Benchmark's test split, {num_test:,} pairs that chose
nothing, by exit layer and dimensions, all heads and units:

| depth | {dims} |
|{rule}|
{rows}
"""
