"""What `rheostat train text` does around a recipe: public encoder in, elastic checkpoint out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models import checkpoint, formats
from models.backends.torch import TorchBackend
from models.families.exits import Exits, ExitsConfig
from models.formats.vocabulary import is_unused, prune, rare
from models.inputs.text import TOKENIZER, TextInput
from models.nn.ragged import Ragged
from models.space import Subnet
from models.train.examples import (
    Distances,
    Examples,
    Partners,
    Rated,
    base_loss,
    tokens_of,
)
from models.train.projections import fit_projections
from models.train.ranking import Importance, first_order_importance, rank_units
from models.train.run import STATE_FILE, load_state
from models.train.text import TextRecipe, pooled_exits, recipe_json, train
from models.train.texts import ScoredPair
from search.offline.text_data import TextData, TextPairs
from search.offline.training import CARD, RECORD, RUN, earlier_record, machine, training_log
from search.quality.embeddings import Measured, scores, table_of
from search.quality.table import TABLE
from search.quality.whole_agreement import scores_and_agreement

Pairs = Rated | Partners

DIMS = (32, 64, 128, 256)
HEADS = (0.5, 0.75, 1.0)
FFN = (0.25, 0.5, 0.75, 1.0)
_RANKING_BATCHES = 16
_START = "start.pt"


def train_text(
    source: Path,
    data: TextData,
    out: Path,
    name: str,
    recipe: TextRecipe,
    init: Path | None = None,
) -> None:
    """Make a public encoder elastic: rank its units, fit an exit per layer, train, measure.

    The encoder as it comes is the teacher of free texts: its distances between them are taught to
    every exit, width and dimension. Pairs are taught beside them, or alone.

    Args:
        source: A folder that `models.formats.read` reads.
        data: Texts and pairs.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        init: The ``out`` of an earlier run from the same source, to start from its last weights
            instead; None to start afresh.

    Raises:
        FormatError: If the folder cannot be read exactly.
        StateError: If the earlier run's state or record is not there, or damaged.
        ValueError: If ``out`` holds a run with another recipe.
    """
    student = elastic(formats.read(source, name), source, out, data)
    text = student.config.text
    length = min(text.max_length, recipe.max_tokens)
    text_input = TextInput.load(replace(text, max_length=length), out)
    pairs = tokens_of_pairs(text_input, data.pairs)
    free = _tokens(text_input, data.free)
    teacher = _start(student, pairs, free, recipe, out / RUN)
    if init is not None and not (out / RUN / STATE_FILE).exists():
        state = load_state(init / RUN / STATE_FILE)
        student.load_state_dict(state["model"])
    lessons: list[tuple[Examples, float]] = [(pairs, data.share)]
    if data.share < 1:
        lessons.append((Distances(free, teacher), 1 - data.share))
    train(student, lessons, recipe, out / RUN)
    record: dict[str, object] = {
        "recipe": recipe_json(recipe),
        "texts": {"free": len(data.free), "removed": data.removed, "pairs": len(data.pairs)},
        "steps": training_log(out),
        "machine": machine(),
    }
    if init is not None:
        record["earlier"] = earlier_record(init)
    finish(student, data, out, record)


def _start(
    model: Exits, pairs: Pairs, free: Sequence[Tensor], recipe: TextRecipe, run: Path
) -> Tensor:
    """Rank units and fit projections, once per run; return the teacher's vectors of free texts."""
    path = run / _START
    if path.exists():
        found = load_state(path)
        model.load_state_dict(found["model"])
    else:
        rank_units(model, importance(model, pairs, recipe))
        found = {"teacher": fit_projections(model, free), "model": model.state_dict()}
        run.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        torch.save(found, partial)
        partial.replace(path)
    teacher: Tensor = found["teacher"]
    return teacher


def elastic(base: Exits, source: Path, out: Path, data: TextData) -> Exits:
    """Return a model with the weights of ``base`` and everything that can be elastic about it.

    Each exit gets a projection, at first the identity; tokens that no text has are left out, and
    the tokenizer without them is written to ``out``.
    """
    hidden = base.config.encoder.hidden
    config = replace(
        base.config,
        tasks={data.task: data.metric},
        depths=tuple(range(1, base.config.encoder.layers + 1)),
        dims=(*(dim for dim in DIMS if dim < hidden), hidden),
        heads=HEADS,
        ffn=FFN,
        projection=hidden,
    )
    model = with_projections(base, config)
    words = (text for pair in data.pairs for text in pair[:2])
    drop = rare(base.text, words) if data.own_words else is_unused
    model.take(base.text, source)
    smaller = prune(model, out, drop)
    smaller.attach(out)
    return smaller


def with_projections(base: Exits, config: ExitsConfig) -> Exits:
    """Return a model with the weights of another, and a projection per exit that changes nothing.

    Args:
        base: Without projections.
        config: Of the new model: the same encoder, vectors as wide as it.
    """
    model = Exits(base.name, config)
    model.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        for depth in config.depths:
            torch.nn.init.eye_(model.projection(depth).weight)
            torch.nn.init.zeros_(model.projection(depth).bias)
    return model


def importance(model: Exits, pairs: Pairs, recipe: TextRecipe) -> list[Importance]:
    """Return what each head and unit is worth to the pairs, over a few batches."""
    rng = Random(recipe.seed)
    model.requires_grad_(True)
    total: list[Importance] = []
    for _ in range(_RANKING_BATCHES):
        picked = rng.sample(range(len(pairs.first)), min(recipe.batch_size, len(pairs.first)))
        groups, units = model.widths(model.space.largest)
        pooled = pooled_exits(model, Ragged.pack(tokens_of(pairs, picked)), groups, units)
        vectors = F.normalize(pooled[model.config.depths[-1]], dim=1)
        loss = base_loss(vectors, pairs, picked)
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

    The table is measured with the weights as they are stored, on the validation texts. The test
    texts are only reported.
    """
    checkpoint.save(out, model, "exits", files=[TOKENIZER])
    stored: Exits = checkpoint.load(out).model
    backend = TorchBackend()
    backend.prepare(stored)
    subnets = list(stored.space)
    with tqdm(desc="table", unit="batch") as progress:
        found, agreed = scores_and_agreement(
            stored, backend, data.validation, subnets, report=progress.update
        )
        table = table_of(stored, subnets, {data.task: found}, {data.task: agreed})
        table.save(out / TABLE, stored.space)
        full = [s for s in subnets if s["heads"] == 1 and s["ffn"] == 1]
        tested = scores(stored, backend, data.test, full, progress.update)
    validation = dict(zip(subnets, found, strict=True))
    record["result"] = [
        {"subnet": dict(subnet), "validation": validation[subnet].value, "test": measured.value}
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
        num_tokens=model.config.encoder.vocab_size,
        num_free=len(data.free),
        num_pairs=len(data.pairs),
        licences=data.licences,
        removed=data.removed,
        metric=_METRICS[data.metric],
        num_test=next(iter(tested.values())).n,
        record=RECORD,
        dims=" | ".join(str(dim) for dim in dims),
        rule="|".join(["---"] * (len(dims) + 1)),
        rows="\n".join(rows),
    )


def tokens_of_pairs(text_input: TextInput, pairs: TextPairs) -> Pairs:
    """Return pairs as examples: rated ones, or partners."""
    first = _tokens(text_input, [pair[0] for pair in pairs])
    second = _tokens(text_input, [pair[1] for pair in pairs])
    ratings = [pair.score for pair in pairs if isinstance(pair, ScoredPair)]
    return Rated(first, second, torch.tensor(ratings)) if ratings else Partners(first, second)


def _tokens(text_input: TextInput, texts: Sequence[str]) -> list[Tensor]:
    return [text_input.encode(text, truncate="right") for text in texts]


_METRICS = {"spearman": "Spearman's rank correlation", "mrr@10": "Mean reciprocal rank at 10"}

_CARD = """# {name}

Text encoder with an exit after each of its {num_layers} layers; heads, feed-forward units and
dimensions are elastic as well. {num_parameters:,} parameters, {num_tokens:,} tokens.

- **Data**: {num_pairs:,} pairs and {num_free:,} free texts ({licences}). {removed:,} that also
  stand in an evaluation split were left out. The table is measured on the dev split.
- **Recipe**: `rheostat train text`; the starting model places the exits and, where there are texts
  beside the pairs, teaches its distances to every exit, width and dimension. Hyper-parameters,
  machine and losses are in `{record}`.

{metric} x 100 on the test split (n = {num_test:,}), which chose nothing, by exit layer and
dimensions, all heads and units:

| depth | {dims} |
|{rule}|
{rows}
"""
