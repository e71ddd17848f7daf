"""Small multi-exit encoders of every architecture with random weights, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from models import checkpoint
from models.families.exits import Exits, ExitsConfig
from models.inputs import Given, Item
from models.inputs.digest import digest_of
from models.inputs.text import TOKENIZER
from models.inputs.text_config import TextConfig
from models.nn.architecture import TransformerConfig
from models.nn.ragged import Ragged
from models.space import Space, Subnet
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from tests.walking import answers_of

VOCABULARY = 60
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LENGTHS = (5, 1, 9, 9, 3)

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden": 16,
    "layers": 4,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 4,
    "ffn": 24,
    "max_positions": 32,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "post": {},
    "relative": {"positions": "relative"},
    "grouped": {
        "norm": "pre",
        "positions": "rotary",
        "kv_heads": 2,
        "head_dim": 6,
        "embedding_norm": False,
        "activation": "gelu_tanh",
        "causal": True,
    },
    "gated": {
        "norm": "pre",
        "positions": "rotary",
        "gated": True,
        "norm_bias": False,
        "attention_bias": False,
        "ffn_bias": False,
        "first_attention_norm": False,
        "window": 2,
        "global_every": 3,
        "local_theta": 100.0,
    },
}


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of words ``w0`` .. ``w55`` after four special tokens; return the folder."""
    words = [*SPECIAL, *(f"w{i}" for i in range(VOCABULARY - len(SPECIAL)))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # Public files often hold these; a reader must switch them off.
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(6)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER))
    return folder


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a value of its own, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_norm else 0.0, 0.3, generator=generator)


def exits_config(
    architecture: str, encoder: dict[str, Any] | None = None, **fields: Any
) -> ExitsConfig:
    """Return a small configuration of a named architecture."""
    shape = TransformerConfig(**{**_SIZES, **ARCHITECTURES[architecture], **(encoder or {})})
    defaults: dict[str, Any] = {
        "encoder": shape,
        "text": TextConfig(max_length=32),
        "tasks": {"similarity": "spearman"},
        "depths": (1, 2, 4),
        "dims": (4, 8, fields.get("projection") or shape.hidden),
        "heads": (0.5, 1.0),
        "ffn": (0.25, 0.5, 1.0),
        "exit_norm": "final" if shape.norm == "pre" else "none",
    }
    return ExitsConfig(**{**defaults, **fields})


def tiny_exits(
    architecture: str = "post", encoder: dict[str, Any] | None = None, **fields: Any
) -> Exits:
    """Return a model with random weights, without a tokenizer."""
    model = Exits("tiny", exits_config(architecture, encoder, **fields))
    randomise(model)
    return model.eval().requires_grad_(False)


def token_rows(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Tensor]:
    """Return rows of random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, VOCABULARY, (n,), generator=generator) for n in lengths]


def items_of(rows: Sequence[Tensor]) -> list[Item]:
    """Return items of one text each."""
    return [{"text": Given(row, digest_of(row), len(row))} for row in rows]


def collate(name: str, values: Sequence[object]) -> Ragged:
    """Pack texts, as the model's own input does once it has a tokenizer."""
    return Ragged.pack([value for value in values if isinstance(value, Tensor)])


def embed(
    model: Exits, rows: Sequence[Tensor], depth: int, dim: int, heads: float = 1, ffn: float = 1
) -> Tensor:
    """Run one subnet's plan on a packed batch."""
    subnet = model.space.check({"depth": depth, "heads": heads, "ffn": ffn, "dim": dim})
    plan = model.plan(subnet, {"text": (max(map(len, rows)),)})
    return answers_of(plan, {"text": Ragged.pack(rows)})[next(iter(model.tasks))]


def write_text_weights(folder: Path, name: str = "tiny-text") -> Exits:
    """Write a checkpoint without scores; return its model."""
    write_tokenizer(folder)
    model = Exits(name, exits_config("post", text=_PROMPTED))
    randomise(model)
    checkpoint.save(folder, model, "exits", torch.float32, [TOKENIZER])
    return model


def write_text_checkpoint(folder: Path, name: str = "tiny-text") -> Path:
    """Write a servable checkpoint with made-up scores; return the folder."""
    model = write_text_weights(folder, name)
    subnets = list(model.space)
    # Deeper and wider is better, but the last dimensions only hurt.
    worth = [
        Measured(0.4 + 0.1 * _extent(model.space, s) - 0.2 * (s["dim"] == 16), 50, 0.01)
        for s in subnets
    ]
    table_of(model, subnets, {"similarity": worth}).save(folder / TABLE, model.space)
    checkpoint.cover(folder, TABLE)
    return folder


def _extent(space: Space, subnet: Subnet) -> float:
    """Return how much of each axis a subnet has, 0 to 1, summed."""
    return sum(axis.index(subnet[axis.name]) / max(1, len(axis.values) - 1) for axis in space.axes)


_PROMPTED = TextConfig(max_length=32, prompts={"query": "w0 w1 {text}"})
