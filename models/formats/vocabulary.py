"""Leaving out tokens that a model never meets: smaller embeddings, the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from models.families.exits import Exits
from models.formats.folder import FormatError
from models.inputs.text import TOKENIZER, TextInput


def is_unused(token: str) -> bool:
    """Return whether a token is one of BERT's reserved places, which no text contains."""
    return token.startswith("[unused") and token.endswith("]")


def rare(model_input: TextInput, texts: Iterable[str]) -> Callable[[str], bool]:
    """Return what `prune` may drop so that these texts, and any spelling, stay as they are.

    Tokens that the texts use stay, and single characters and their continuations, so that every
    word can still be spelled.
    """
    tokenizer = Tokenizer.from_str(model_input.to_json())
    used: set[str] = set()
    for text in texts:
        used.update(tokenizer.encode(text).tokens)
    return lambda token: token not in used and len(token.removeprefix("##")) > 1


def prune(model: Exits, out: Path, drop: Callable[[str], bool] = is_unused) -> Exits:
    """Return the model without some tokens and without positions beyond its longest input.

    Args:
        model: With its tokenizer.
        out: Where the new ``tokenizer.json`` is written; made if needed.
        drop: Says which tokens go. Special tokens stay.

    Raises:
        FormatError: If the tokenizer is not a list of whole words or word pieces.
    """
    tokenizer = json.loads(model.text.to_json())
    vocabulary = tokenizer["model"].get("vocab")
    if tokenizer["model"].get("type") not in ("WordPiece", "WordLevel"):
        raise FormatError(
            f"{TOKENIZER}: model.type={tokenizer['model'].get('type')!r}; only WordPiece "
            "and WordLevel vocabularies can be pruned"
        )
    special = {entry["content"] for entry in tokenizer.get("added_tokens", ())}
    kept = sorted((i, t) for t, i in vocabulary.items() if t in special or not drop(t))
    renumbered = {old: new for new, (old, _) in enumerate(kept)}
    tokenizer["model"]["vocab"] = {token: renumbered[old] for old, token in kept}
    for entry in tokenizer.get("added_tokens", ()):
        entry["id"] = renumbered[entry["id"]]
    _renumber(tokenizer.get("post_processor"), renumbered)
    out.mkdir(parents=True, exist_ok=True)
    (out / TOKENIZER).write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")))
    return _select(model, [old for old, _ in kept])


def _renumber(processor: Any, renumbered: dict[int, int]) -> None:
    """Change the ids of the special tokens that stand around a text, in place."""
    if not processor:
        return
    if processor["type"] == "Sequence":
        for part in processor["processors"]:
            _renumber(part, renumbered)
    for entry in processor.get("special_tokens", {}).values():  # TemplateProcessing
        entry["ids"] = [renumbered[i] for i in entry["ids"]]
    for side in ("sep", "cls"):  # BertProcessing, RobertaProcessing
        if side in processor:
            token, old = processor[side]
            processor[side] = [token, renumbered[old]]


def _select(model: Exits, rows: Sequence[int]) -> Exits:
    config = model.config
    positions = min(config.encoder.max_positions, config.text.max_length)
    encoder = replace(config.encoder, vocab_size=len(rows), max_positions=positions)
    smaller = Exits(model.name, replace(config, encoder=encoder))
    state = model.state_dict()
    state["embedding.token.weight"] = state["embedding.token.weight"][torch.tensor(rows)]
    if "embedding.position.weight" in state:
        state["embedding.position.weight"] = state["embedding.position.weight"][:positions]
    smaller.load_state_dict(state)
    return smaller.eval().requires_grad_(False)
