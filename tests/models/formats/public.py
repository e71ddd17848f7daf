"""Small public folders with random weights, written by transformers itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_text import VOCABULARY, randomise, write_tokenizer

transformers = pytest.importorskip("transformers")

BY_FILE = "PreTrainedTokenizerFast"  # the class that leaves tokenizer.json as it is
_USUAL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_MORE: dict[str, dict[str, Any]] = {
    "bert": {"layer_norm_eps": 1e-5},
    "roberta": {"pad_token_id": 1, "hidden_act": "relu"},
    "xlm-roberta": {"pad_token_id": 1},
    "distilbert": {"dim": 16, "n_layers": 4, "n_heads": 4, "hidden_dim": 24},
    "mpnet": {"pad_token_id": 1},
    "starcoder2": {"num_key_value_heads": 2},
    "modernbert": {"local_attention": 6, "cls_token_id": 2, "sep_token_id": 3},
}
MODEL_TYPES = tuple(_MORE)
PRE_NORM = ("starcoder2", "modernbert")


def write_folder(folder: Path, model_type: str, **fields: Any) -> Any:
    """Write a folder of a bare encoder and return the public model."""
    usual = {} if model_type == "distilbert" else _USUAL
    config = transformers.AutoConfig.for_model(
        model_type, **{**usual, "vocab_size": VOCABULARY, **_MORE[model_type], **fields}
    )
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    randomise(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    # By itself a BERT would take this vocabulary for one of word pieces.
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": BY_FILE}))
    return model


def change_json(path: Path, **fields: object) -> None:
    """Set fields of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@torch.no_grad()
def hidden_states(public: Any, rows: Sequence[Tensor], side: str = "right") -> list[list[Tensor]]:
    """Return the public model's hidden states by depth and row, computed on a padded batch."""
    longest = max(map(len, rows))
    ids = torch.ones(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    places = [
        slice(longest - len(row), None) if side == "left" else slice(len(row)) for row in rows
    ]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        ids[i, place], mask[i, place] = row, 1
    states = public(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    return [[state[i, place] for i, place in enumerate(places)] for state in states]


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


def pool(states: Sequence[Tensor], pooling: str, dim: int | None = None) -> Tensor:
    """Return a unit vector of each row's hidden states, cut to ``dim`` before it is normalised."""
    pooled = torch.stack([POOLINGS[pooling](state)[:dim] for state in states])
    return torch.nn.functional.normalize(pooled, dim=1)
