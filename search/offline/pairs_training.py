"""What `rheostat train pairs` does around its recipe: encoder in, checkpoint and table out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from models import checkpoint, formats
from models.backends.torch import TorchBackend
from models.families.exits import Exits
from models.families.pairs import EMBEDDING, INTERACTIONS, SCORE, Pairs, PairsConfig
from models.formats.vocabulary import prune
from models.inputs.text import TOKENIZER, TextInput, text_input
from models.inputs.text_config import TextConfig
from models.nn.meeting import CosineScore, PairScore
from models.space import Subnet
from models.train import texts
from models.train.pairs import RankedTexts, train_pairs
from models.train.pairs_recipe import PairsRecipe
from models.train.projections import fit_projections
from models.train.run import load_state
from search.offline import pairs_data
from search.offline.text_training import with_projections
from search.offline.training import CARD, RECORD, RUN, machine, training_log
from search.quality.embeddings import Measured, scores, table_of
from search.quality.pair_ranking import PairRankingQuality
from search.quality.table import TABLE
from search.quality.whole_agreement import whole_answers

QUERY_TOKENS, DOCUMENT_TOKENS = 64, 256
_FITTED_ON = 3000  # texts, for the first exits
_SCALE, _BIAS = 20.0, -10.0  # of the cosine, as a logit
_START = "start.pt"


def train_pairs_from(
    source: Path,
    root: Path,
    out: Path,
    name: str,
    recipe: PairsRecipe,
    report: Callable[[str], None],
) -> dict[Subnet, Measured]:
    """Make a public text encoder score pairs, and write a checkpoint.

    Args:
        source: A folder that `models.formats.read` reads.
        root: Folder of the data sets.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        The score of each subnet on the split that the table is measured on.

    Raises:
        FileNotFoundError: If a data set is not there.
        FormatError: If the folder cannot be read exactly.
        ValueError: If the encoder has other positions or norms than the family, or ``out`` holds a
            run with another recipe.
    """
    lessons = pairs_data.lessons(root, recipe.seed)
    model, base = untrained(source, name, out)
    for reach in model.reach:
        reach.fill_(recipe.reach)
    report("embedding texts, which finds the wrong documents")
    data = _start(model, base, lessons, recipe, out / RUN)
    report("training")
    train_pairs(model, data, recipe, out / RUN)
    record: dict[str, object] = {
        "recipe": asdict(recipe),
        "texts": {
            one.name: {
                "queries": len(one.data.queries),
                "documents": len(one.data.documents),
                "share": one.share,
            }
            for one in lessons
        },
        "steps": training_log(out),
        "machine": machine(),
    }
    report("measuring the table")
    return write(model, root, out, record)


def write(model: Pairs, root: Path, out: Path, record: dict[str, object]) -> dict[Subnet, Measured]:
    """Write a trained model's checkpoint, table, record and card; return the table's scores.

    The table is measured with the weights as they are stored, on TREC QA's dev split. Its test
    split is only reported.
    """
    checkpoint.save(out, model, "pairs", files=[TOKENIZER])
    stored: Pairs = checkpoint.load(out).model
    backend = TorchBackend()
    backend.prepare(stored)
    subnets = list(stored.space)
    found, tested = (
        scores(stored, backend, PairRankingQuality(texts.trecqa(root, split), "map"), subnets)
        for split in ("dev", "test")
    )
    measured = dict(zip(subnets, found, strict=True))
    # By cosine, documents rank as by the score of both texts apart.
    apart = [measured[stored.space.check(one | {"interaction": "bi"})] for one in subnets]
    table = table_of(stored, subnets, {SCORE: found, EMBEDDING: apart})
    table.save(out / TABLE, stored.space)
    record["result"] = [
        {"subnet": dict(subnet), "validation": one._asdict(), "test": other._asdict()}
        for subnet, one, other in zip(subnets, found, tested, strict=True)
    ]
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    (out / CARD).write_text(_card(stored, dict(zip(subnets, tested, strict=True))))
    for file in (TABLE, RECORD, CARD):
        checkpoint.cover(out, file)
    return measured


def untrained(source: Path, name: str, out: Path) -> tuple[Pairs, Exits]:
    """Return a model whose scores are all a line of an encoder's own cosine, and the encoder.

    Args:
        source: A folder that `models.formats.read` reads.
        name: Of the model.
        out: Folder where the tokenizer is written.

    Raises:
        FormatError: If the folder cannot be read exactly.
        ValueError: If the encoder has other positions, norms or pooling than the family.
    """
    base = _exits_of(source, name, out)
    model = _pairs_of(base)
    model.attach(out)
    return model.eval().requires_grad_(False), base


def _exits_of(source: Path, name: str, out: Path) -> Exits:
    """Return the encoder with a projection per exit; write its tokenizer to ``out``."""
    base = formats.read(source, name)
    encoder = base.config.encoder
    config = replace(
        base.config,
        depths=tuple(range(1, encoder.layers + 1)),
        dims=(encoder.hidden,),
        projection=encoder.hidden,
        text=replace(base.config.text, max_length=min(DOCUMENT_TOKENS, encoder.max_positions)),
    )
    if config.pooling not in ("mean", "cls"):
        raise ValueError(f"{source}: pooling={config.pooling!r} must be 'mean' or 'cls'")
    model = with_projections(base, config)
    model.take(TextInput.load(config.text, source), source)
    smaller = prune(model, out)
    smaller.attach(out)
    return smaller.eval().requires_grad_(False)


def _pairs_of(base: Exits) -> Pairs:
    """Return a model whose scores are all a line of the encoder's own cosine."""
    config = base.config
    assert config.projection is not None
    assert isinstance(config.pooling, str)
    text = config.text
    made = Pairs(
        base.name,
        PairsConfig(
            encoder=config.encoder,
            query=replace(text, max_length=min(QUERY_TOKENS, text.max_length)),
            document=TextConfig(text.max_length, text.prompts, text.default_prompt),
            depths=config.depths,
            projection=config.projection,
            pooling=config.pooling,
        ),
    )
    made.load_state_dict(base.state_dict(), strict=False)
    for head in made.scores.values():
        assert isinstance(head, CosineScore | PairScore)
        head.start(_SCALE, _BIAS)
    return made


def _start(
    model: Pairs,
    base: Exits,
    lessons: Sequence[pairs_data.Lesson],
    recipe: PairsRecipe,
    run: Path,
) -> list[tuple[RankedTexts, float]]:
    """Fit the first exits and embed all texts, once per run; return what is learned from."""
    every = pairs_data.words_of(lessons)
    path, read = run / _START, blake2b("\n".join(every).encode()).hexdigest()
    found: dict[str, Any] = load_state(path) if path.exists() else {}
    if found.get("texts") != read:  # of none, or of other data
        some = Random(recipe.seed).sample(every, min(_FITTED_ON, len(every)))
        length = recipe.max_tokens
        base.take(_shorter(base, length), path)
        with torch.autocast("cpu", torch.bfloat16, recipe.bfloat16):
            ids = [text_input(base.inputs).encode(text, truncate="right") for text in some]
            fit_projections(base, ids)
            backend = TorchBackend()
            backend.prepare(base)
            vectors = whole_answers(base, backend, every)
        found = {
            "texts": read,
            "exits": base.exits.state_dict(),
            "vectors": torch.from_numpy(vectors).float(),
        }
        run.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        torch.save(found, partial)
        partial.replace(path)
    model.exits.load_state_dict(found["exits"])
    vectors = found["vectors"].double().numpy()
    place = {text: i for i, text in enumerate(every)}
    query, document = (slot.type for slot in model.inputs.values())
    assert isinstance(query, TextInput)
    assert isinstance(document, TextInput)
    return [
        (
            pairs_data.ranked(
                one.data,
                vectors[np.array([place[text] for text in one.data.queries])],
                vectors[np.array([place[text] for text in one.data.documents])],
                query,
                document,
            ),
            one.share,
        )
        for one in lessons
    ]


def _shorter(base: Exits, length: int) -> TextInput:
    """Return the encoder's tokenizer for texts of some tokens."""
    text = base.text
    own = replace(text.config, max_length=min(length, text.config.max_length))
    return TextInput(own, Tokenizer.from_str(text.to_json()))


def _card(model: Pairs, tested: dict[Subnet, Measured]) -> str:
    """Return the card of a checkpoint, in Markdown."""
    ways, depths = INTERACTIONS, model.config.depths
    cells = {(s["interaction"], s["depth"]): one.value for s, one in tested.items()}
    rows = [
        f"| {depth} | " + " | ".join(f"{100 * cells[way, depth]:.1f}" for way in ways) + " |"
        for depth in depths
    ]
    return _CARD.format(
        name=model.name,
        num_layers=model.config.encoder.layers,
        num_parameters=sum(p.numel() for p in model.parameters()),
        licences=pairs_data.LICENCES,
        record=RECORD,
        n=next(iter(tested.values())).n,
        stderr=100 * max(one.stderr for one in tested.values()),
        ways=" | ".join(ways),
        rule="|".join(["---"] * (len(ways) + 1)),
        rows="\n".join(rows),
    )


_CARD = """# {name}

Scores a query and a document with one encoder of {num_layers} layers and {num_parameters:,}
parameters, in three ways: apart (`bi`), the query reading a document that is encoded once for all
queries (`once`), and both reading each other (`cross`). There is an exit after each layer.

- **Data**: {licences}. The table is measured on TREC QA's dev split.
- **Recipe**: `rheostat train pairs`. Hyper-parameters, machine and losses are in `{record}`.

Mean average precision x 100 on TREC QA's test split (n = {n}, standard error {stderr:.1f} or less),
which chose nothing, by exit layer and way:

| depth | {ways} |
|{rule}|
{rows}
"""
