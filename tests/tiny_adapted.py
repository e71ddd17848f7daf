"""A servable checkpoint of a small encoder with adapters, as `rheostat adapt` writes it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from models import checkpoint
from models.families.exits import Exits
from models.formats import peft
from models.inputs.text import TOKENIZER
from search.offline.adapting import adapt
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from tests.tiny_text import exits_config, randomise, write_tokenizer

ADAPTED = "tiny-adapted"
NAMES = ("legal", "medical", "code")
_MAPS = ("attention.self.query", "attention.self.value", "intermediate.dense", "output.dense")


def write_lora_folder(folder: Path, model: Exits, seed: int, rank: int = 4) -> Path:
    """Write a folder as the PEFT library does for a BERT; return it."""
    encoder = model.config.encoder
    generator = torch.Generator().manual_seed(seed)
    sizes = {"intermediate.dense": (encoder.hidden, encoder.ffn)}
    sizes["output.dense"] = sizes["intermediate.dense"][::-1]
    tensors = {}
    for i in range(encoder.layers):
        for name in _MAPS:
            inputs, outputs = sizes.get(name, (encoder.hidden, encoder.hidden))
            start = f"base_model.model.encoder.layer.{i}.{name}.lora"
            tensors[f"{start}_A.weight"] = 0.3 * torch.randn(rank, inputs, generator=generator)
            tensors[f"{start}_B.weight"] = 0.3 * torch.randn(outputs, rank, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / peft.WEIGHTS)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none"}
    (folder / peft.CONFIG).write_text(json.dumps(config))
    return folder


def write_trunk(folder: Path) -> Exits:
    """Write a checkpoint of an encoder with made-up scores; return its model."""
    write_tokenizer(folder)
    model = Exits("trunk", exits_config("post", heads=(1.0,), ffn=(1.0,), depths=(2, 4)))
    randomise(model)
    checkpoint.save(folder, model, "exits", torch.float32, [TOKENIZER])
    model.attach(folder)
    subnets = list(model.space)
    worth = [
        Measured(0.2 + int(one["depth"]) * 0.1 + int(one["dim"]) * 0.01, 50, 0.01)
        for one in subnets
    ]
    table_of(model, subnets, {"similarity": worth}).save(folder / TABLE, model.space)
    checkpoint.cover(folder, TABLE)
    return model.eval().requires_grad_(False)


def write_adapted_checkpoint(folder: Path, scratch: Path) -> Path:
    """Write a servable checkpoint; return the folder."""
    trunk = write_trunk(scratch / "trunk")
    folders = {
        name: write_lora_folder(scratch / name, trunk, seed) for seed, name in enumerate(NAMES)
    }
    adapt(scratch / "trunk", folders, folder, ADAPTED, (1, 2, 4))
    return folder
