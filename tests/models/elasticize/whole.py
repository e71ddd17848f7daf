"""A small whole model, what it does on random texts, and its parts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from models.elasticize.streams import Stack, Streams, observe
from models.families.exits import Exits
from models.inputs.text import TextInput
from models.nn.ragged import Ragged
from tests.tiny_text import tiny_exits, token_rows, write_tokenizer


class Parts(NamedTuple):
    """A model without anything elastic."""

    model: Exits
    stack: Stack
    batches: list[Ragged]
    streams: Streams


def parts_of(architecture: str, rows: int = 40) -> Parts:

    model = tiny_exits(architecture, depths=(4,), heads=(1.0,), ffn=(1.0,), dims=(16,))
    with tempfile.TemporaryDirectory() as folder:
        path = write_tokenizer(Path(folder))
        model.take(TextInput.load(model.config.text, path), path)
    stack = Stack(model)
    batches = [
        Ragged.pack(token_rows([(7 * i + seed) % 9 + 1 for i in range(rows)], seed))
        for seed in (1, 2, 3)
    ]
    streams = observe(stack.layers, [stack.enter(batch) for batch in batches])
    return Parts(model, stack, batches, streams)
